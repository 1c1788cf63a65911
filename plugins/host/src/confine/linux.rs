//! Landlock for files; which system calls are denied is in [`calls`].

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope, path_beneath_rules,
};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};
use seccompiler::BpfProgram;

use super::calls;
use super::toolchain::holds_a_home;

/// The newest interface of Landlock that was tried; older kernels enforce what they know.
const TRIED: ABI = ABI::V6;

/// Programs, libraries and settings of the system, read and executed.
const SYSTEM: &[&str] = &[
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/gnu", "/etc", "/proc",
    "/sys",
];

/// Devices that hold nothing of anybody's, and accelerators.
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/dri",
    "/dev/kfd",
    "/dev/nvidia0",
    "/dev/nvidia1",
    "/dev/nvidia2",
    "/dev/nvidia3",
    "/dev/nvidia4",
    "/dev/nvidia5",
    "/dev/nvidia6",
    "/dev/nvidia7",
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-caps",
];

/// Has the command confine itself between fork and exec. False where the kernel cannot confine files; the
/// network is closed all the same.
///
/// # Errors
/// If the kernel refuses the rules.
pub(super) fn confine(command: &mut Command, read: &[PathBuf], write: &[PathBuf]) -> io::Result<bool> {
    let path: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let path = path.into_iter().filter(|dir| dir.is_absolute() && !holds_a_home(dir));
    let read: Vec<PathBuf> = path.chain(read.iter().cloned()).collect();
    let rules = Rules {
        files: files(&read, write).map_err(io::Error::other)?,
        calls: calls::for_programs().map_err(io::Error::other)?,
    };
    let confined = rules.files.is_some();
    // SAFETY: between fork and exec, `enter` makes system calls on what was made before; it neither
    // allocates nor locks.
    unsafe {
        command.pre_exec(move || rules.enter());
    }
    Ok(confined)
}

/// Confines this process, which has one thread, for the rest of its life; it can also start no other.
/// False where the kernel cannot confine files.
///
/// # Errors
/// If the kernel refuses the rules.
pub(super) fn confine_this_process(read: &[PathBuf], write: &[PathBuf]) -> io::Result<bool> {
    let rules = Rules {
        files: files(read, write).map_err(io::Error::other)?,
        calls: calls::for_workers().map_err(io::Error::other)?,
    };
    rules.enter()?;
    Ok(rules.files.is_some())
}

/// What a process puts itself under.
struct Rules {
    files: Option<OwnedFd>,
    calls: Vec<BpfProgram>,
}

impl Rules {
    fn enter(&self) -> io::Result<()> {
        drop_capabilities()?;
        if let Some(files) = &self.files {
            restrict(files)?;
        }
        for filter in &self.calls {
            // This also keeps the process from gaining rights by executing programs.
            seccompiler::apply_filter(filter)
                .map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
        }
        Ok(())
    }
}

/// The rules for files, and for signals to others; none on a kernel without Landlock.
fn files(read: &[PathBuf], write: &[PathBuf]) -> Result<Option<OwnedFd>, landlock::RulesetError> {
    let all = AccessFs::from_all(TRIED);
    let look = AccessFs::from_read(TRIED);
    let devices: BitFlags<AccessFs> =
        AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::ReadDir | AccessFs::IoctlDev;
    let created = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(TRIED))?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, look))?
        .add_rules(path_beneath_rules(read, look))?
        .add_rules(path_beneath_rules(DEVICES, devices))?
        .add_rules(path_beneath_rules(write.iter().map(Path::new), all))?;
    Ok(created.into())
}

/// Gives up what root may do beyond other users, and keeps programs that it executes from getting it back.
/// With `CAP_PERFMON`, for one, a process may read the memory of others in spite of Landlock.
fn drop_capabilities() -> io::Result<()> {
    let root = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    // Refused to those who have no capabilities in the first place.
    let _ = set_capabilities_secure_bits(root);
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Puts this process under the rules for files.
fn restrict(files: &OwnedFd) -> io::Result<()> {
    set_no_new_privs(true)?;
    // SAFETY: the call takes a file descriptor, which is open, and flags, of which there are none.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, files.as_raw_fd(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
