//! What a program has of the process that starts it (Linux): it ends with it, and gets three streams of it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// The kernel kills the program when the thread that started it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let arm = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the signal was armed.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    };
    // SAFETY: between fork and exec, `arm` makes two system calls and neither allocates nor locks.
    unsafe {
        command.pre_exec(arm);
    }
}

/// The program gets its standard streams, and no other descriptor that somebody has left open.
pub(crate) fn inherit_nothing(command: &mut Command) {
    let close = || {
        // SAFETY: the call takes three numbers. The descriptors stay open until the program is executed.
        let done =
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        let error = io::Error::last_os_error();
        // What kernels before 5.11 say, and containers that do not know the call.
        let unknown = matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EPERM));
        if done == 0 || unknown { Ok(()) } else { Err(error) }
    };
    // SAFETY: between fork and exec, `close` makes one system call and neither allocates nor locks.
    unsafe {
        command.pre_exec(close);
    }
}
