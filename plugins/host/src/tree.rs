//! A program with all that descends from it, as its supervisor ends it (Linux).

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, kill_process_group, prlimit};

use crate::processes::{all, below};

/// First pause between two looks at what is left, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];
/// How often a group that nobody supervises any more is looked at until it is gone.
const LOOKS: usize = 500;

/// A program that this process started, and adopts the orphans of (`PR_SET_CHILD_SUBREAPER`).
pub(crate) struct Tree {
    /// Its number, which is that of its group too.
    program: u32,
    /// Whether the number is still the program's: until it is collected.
    uncollected: Mutex<bool>,
}

impl Tree {
    /// That of a child of this process, the first of its process group.
    pub(crate) fn of(program: u32) -> Self {
        Self { program, uncollected: Mutex::new(true) }
    }

    /// Waits until the program has ended, and collects those that it left behind meanwhile.
    pub(crate) fn wait_for_program(&self) {
        loop {
            match next_ended() {
                Some(id) if id != self.program => drop(collect(id)),
                _ => return,
            }
        }
    }

    /// Kills all of it that lives now. Its group gets the signal at once, so that nothing in it starts anything more.
    pub(crate) fn kill(&self) {
        self.kill_group(&self.uncollected());
        kill_below();
    }

    /// Kills all of it and collects it, until this process has no child: then nothing of it is left, whatever `/proc`
    /// shows. Gives how the program ended.
    pub(crate) fn end(&self) -> Option<ExitStatus> {
        let status = {
            let mut uncollected = self.uncollected();
            self.kill_group(&uncollected);
            *uncollected = false;
            collect(self.program)
        };
        let [mut pause, longest] = PAUSES;
        loop {
            kill_below();
            match collect_ended() {
                Left::Nothing => return status,
                Left::Some => {}
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
    }

    fn uncollected(&self) -> MutexGuard<'_, bool> {
        self.uncollected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As long as the program is not collected, no other group can have its number.
    fn kill_group(&self, uncollected: &MutexGuard<'_, bool>) {
        if **uncollected && let Some(group) = pid(self.program) {
            // One that has ended is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Kills a group that nobody supervises, and waits until nothing of it lives.
pub(crate) fn kill_abandoned(group: u32) {
    let Some(id) = pid(group) else { return };
    for _ in 0..LOOKS {
        let left = all().unwrap_or_default();
        if !left.iter().any(|process| process.group == group && !process.ended) {
            return;
        }
        let _ = kill_process_group(id, Signal::KILL);
        std::thread::sleep(PAUSES[0] * 10);
    }
    tracing::warn!("processes of a custom stage are still there: kill the process group {group}");
}

/// Kills all that descends from this process and is found.
fn kill_below() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let left = below(std::process::id()).unwrap_or_default();
    let living = || left.iter().filter(|process| !process.ended).filter_map(|process| pid(process.id));
    for process in living() {
        // What is stopped, or may start no other (of which root is free), is found next time with all that it started.
        let _ = prlimit(Some(process), Resource::Nproc, none);
        let _ = kill_process(process, Signal::STOP);
    }
    for process in living() {
        // One that has ended meanwhile is as good.
        let _ = kill_process(process, Signal::KILL);
    }
}

/// Whether this process has children.
enum Left {
    Nothing,
    Some,
}

/// Collects all children that have ended.
fn collect_ended() -> Left {
    loop {
        let mut status = 0;
        // SAFETY: the call writes to the integer that it is given.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) } {
            0 => return Left::Some,
            -1 => match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                _ => return Left::Nothing,
            },
            _ => {}
        }
    }
}

/// Waits for a child that has ended, whichever, and leaves it to be collected. None where there is no child.
fn next_ended() -> Option<u32> {
    loop {
        // SAFETY: all bytes of the structure may be zero, and the call writes to it.
        let (done, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
            (libc::waitid(libc::P_ALL, 0, &raw mut info, options), info)
        };
        if done == 0 {
            // SAFETY: the call has filled in the fields of a child.
            return u32::try_from(unsafe { info.si_pid() }).ok();
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}

/// Waits for a child that has ended or is about to, and says how.
fn collect(id: u32) -> Option<ExitStatus> {
    let id = i32::try_from(id).ok()?;
    let mut status = 0;
    loop {
        // SAFETY: the call writes to the integer that it is given.
        if unsafe { libc::waitpid(id, &raw mut status, libc::__WALL) } == id {
            return Some(ExitStatus::from_raw(status));
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}
