//! A program that ends with whoever started it (Linux).

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
