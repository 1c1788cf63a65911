//! What a program may touch: its own folders, what it was given, and the system's programs and libraries.
//!
//! Every program starts with a cleared environment ([`environment`]). On Linux it is confined as well, with
//! all that it starts, by the kernel: files by Landlock, the network by a seccomp filter.
//!
//! | | may |
//! | --- | --- |
//! | the copy of the program's folder, artifacts and paths among the arguments | read |
//! | its working folder, which is also its home and holds its temporary files | read, write |
//! | programs and libraries of the system, its interpreter, `/etc`, `/proc`, `/sys` | read, execute |
//! | `/dev/null` and its kind, accelerators | use |
//! | anything else: home folders, the workspace, a device's data | not open |
//! | sockets of any kind, but for connected pairs within itself | not make |
//! | its process group and session | not leave |
//! | other processes | neither signal nor look into |
//! | what root may do beyond other users | not do, if the runner is root |
//!
//! On other systems, and on kernels without Landlock (before 5.13), programs are not confined, and that is
//! said once. `--unconfined-stages` turns it off.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod linux;
mod toolchain;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

/// What a confined program may touch beside the system's programs and libraries.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// Files and folders that it may read, with all that lies in them.
    pub read: Vec<PathBuf>,
    /// Folders that it may write into.
    pub write: Vec<PathBuf>,
}

/// Variables that a program gets from its runner's environment.
const KEPT: &[&str] = &["PATH", "LANG", "LANGUAGE", "TZ", "PYENV_ROOT", "CUDA_VISIBLE_DEVICES"];

/// Clears the environment of a command but for what finds programs and says how to write and which time
/// it is. Home and temporary files are in its working folder.
pub(crate) fn environment(command: &mut Command, work: &Path) {
    command.env_clear();
    let kept = |name: &str| KEPT.contains(&name) || name.starts_with("LC_");
    command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(kept)));
    command.env("HOME", work).env("TMPDIR", work);
    if let Some(packages) = toolchain::user_packages() {
        command.env("PYTHONUSERBASE", packages);
    }
}

static UNCONFINED: Once = Once::new();

/// Confines a command that is about to start. `program` is what it executes.
///
/// # Errors
/// If this system can confine programs, but not this one.
#[cfg(target_os = "linux")]
pub(crate) fn confine(command: &mut Command, program: &Path, to: &Confinement) -> io::Result<()> {
    if !confine_to(command, &readable(program, to), &to.write)? {
        say_unconfined("this kernel has no Landlock");
    }
    Ok(())
}

/// What a confined program may read beside the system's programs and libraries.
#[cfg(target_os = "linux")]
pub(crate) fn readable(program: &Path, to: &Confinement) -> Vec<PathBuf> {
    to.read.iter().cloned().chain(toolchain::folders(program)).collect()
}

/// Confines a command to exactly these. False where the kernel cannot confine files.
///
/// # Errors
/// If the kernel refuses the rules.
#[cfg(target_os = "linux")]
pub(crate) fn confine_to(command: &mut Command, read: &[PathBuf], write: &[PathBuf]) -> io::Result<bool> {
    linux::confine(command, read, write)
}

/// As there is no way to confine programs on this system, says so once.
///
/// # Errors
/// None here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn confine(_command: &mut Command, _program: &Path, _to: &Confinement) -> io::Result<()> {
    say_unconfined("Headstart has no way to do it on this system");
    Ok(())
}

/// Confines this process, which has one thread, for the rest of its life: as [`confine`], and it can start
/// no other process. False where this system or its kernel cannot confine files.
///
/// # Errors
/// If this system can confine processes, but not this one.
#[cfg(target_os = "linux")]
pub fn confine_this_process(to: &Confinement) -> io::Result<bool> {
    linux::confine_this_process(&to.read, &to.write)
}

/// As there is no way to confine processes on this system, does nothing.
///
/// # Errors
/// None here.
#[cfg(not(target_os = "linux"))]
pub fn confine_this_process(_to: &Confinement) -> io::Result<bool> {
    Ok(false)
}

pub(crate) fn say_unconfined(why: &str) {
    UNCONFINED.call_once(|| {
        tracing::warn!(
            "custom stages are not confined: {why}; they can read what you can read and use the network"
        );
    });
}
