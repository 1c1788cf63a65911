//! Process groups that must not outlive this process.
//!
//! Every program runs in its own process group. There are three ways in which it ends with
//! this process:
//!
//! | this process ends | the group is killed by |
//! | --- | --- |
//! | a stage ends, fails, is cancelled or runs past its limit | [`Process`](crate::process::Process), when dropped |
//! | by itself, with stages that still run (second Ctrl-C) | [`kill_all`], which commands call before they exit |
//! | at once: `kill -9`, SIGTERM without a handler, a crash | the watcher: a shell of a few lines that waits for the end of its standard input |
//!
//! On Linux the kernel also kills the program itself, though not what it started, when the thread
//! that started it ends (`PR_SET_PDEATHSIG`).
//!
//! What remains possible: a process that leaves the group (`setsid`) is not followed. Where there is
//! no `sh`, what a program started survives a `kill -9` of this process, and the log says so once;
//! on systems other than Linux, so does the program. On systems without process groups the program
//! alone is killed.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long [`kill_all`] waits for killed groups to be gone.
const GONE: Duration = Duration::from_secs(1);

/// Keeps a list of groups by lines `+ ID` and `- ID`; when its input ends, kills those left.
const WATCHER: &str = r#"
trap '' HUP INT QUIT TERM
live=' '
while read -r op id; do
  case $op in
    +) live="$live$id " ;;
    -) case $live in *" $id "*) live=${live%%" $id "*}" "${live#*" $id "} ;; esac ;;
  esac
done
for id in $live; do kill -9 "-$id" 2>/dev/null; done
"#;

static LIVE: Mutex<Live> =
    Mutex::new(Live { groups: BTreeSet::new(), closed: false, watcher: Watcher::Idle });

struct Live {
    groups: BTreeSet<u32>,
    /// This process is about to exit: nothing is started any more.
    closed: bool,
    watcher: Watcher,
}

enum Watcher {
    Idle,
    Runs(Child, ChildStdin),
    Unavailable,
}

fn live() -> MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A live process group. Dropping it takes it off the list; [`Group::kill`] comes before.
#[derive(Debug)]
pub(crate) struct Group(u32);

impl Group {
    /// Kills every process of the group.
    pub(crate) fn kill(&self) {
        signal_group(self.0);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut live = live();
        live.groups.remove(&self.0);
        live.tell('-', self.0);
    }
}

/// Starts a command in its own process group.
///
/// # Errors
/// Any of starting it; [`io::ErrorKind::Interrupted`] when this process is about to exit.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Group)> {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(target_os = "linux")]
    die_with_parent(command);
    // Held while the program starts: `kill_all` must not miss it.
    let mut live = live();
    if live.closed {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "this process is about to exit"));
    }
    let child = command.spawn()?;
    live.groups.insert(child.id());
    live.tell('+', child.id());
    let group = Group(child.id());
    Ok((child, group))
}

/// Kills all groups, and lets no other start: for the last moment before this process exits. Waits
/// until they are gone, a second at most.
pub fn kill_all() {
    let groups: Vec<u32> = {
        let mut live = live();
        live.closed = true;
        live.groups.iter().copied().collect()
    };
    groups.iter().for_each(|group| signal_group(*group));
    let by = Instant::now() + GONE;
    while Instant::now() < by && groups.iter().any(|group| exists(*group)) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Blocks for ever once [`kill_all`] was called: what happens to a program from then on is the end
/// of this process, and must not be recorded as a failure of its stage.
pub(crate) fn hold_while_exiting() {
    while live().closed {
        std::thread::park();
    }
}

impl Live {
    /// Tells the watcher of a group. Starts it when there is the first group, and again where
    /// somebody has ended it.
    fn tell(&mut self, op: char, group: u32) {
        if let Watcher::Runs(_, stdin) = &mut self.watcher
            && writeln!(stdin, "{op} {group}").is_ok()
        {
            return;
        }
        let idle = matches!(self.watcher, Watcher::Idle);
        if matches!(self.watcher, Watcher::Unavailable) || (idle && self.groups.is_empty()) {
            return;
        }
        match watcher(&self.groups) {
            Ok((child, stdin)) => {
                if let Watcher::Runs(mut old, _) =
                    std::mem::replace(&mut self.watcher, Watcher::Runs(child, stdin))
                {
                    let _ = old.wait();
                }
            }
            Err(e) => {
                self.watcher = Watcher::Unavailable;
                tracing::warn!(
                    "cannot start `sh`: a `kill -9` of this process may leave processes of custom stages behind: {e}"
                );
            }
        }
    }
}

/// A watcher that knows these groups. It is in a separate group, so that a Ctrl-C in the terminal
/// does not reach it.
fn watcher(groups: &BTreeSet<u32>) -> io::Result<(Child, ChildStdin)> {
    let mut command = Command::new("sh");
    command.args(["-c", WATCHER]).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn()?;
    let Some(mut stdin) = child.stdin.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
    for group in groups {
        writeln!(stdin, "+ {group}")?;
    }
    Ok((child, stdin))
}

/// The kernel kills the program when the thread that started it ends.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
    use std::os::unix::process::CommandExt;
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

#[cfg(unix)]
fn pid(group: u32) -> Option<rustix::process::Pid> {
    i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw)
}

#[cfg(unix)]
fn signal_group(group: u32) {
    if let Some(group) = pid(group) {
        // Gone already is as good.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

#[cfg(unix)]
fn exists(group: u32) -> bool {
    pid(group).is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
}

#[cfg(not(unix))]
fn signal_group(_group: u32) {}

#[cfg(not(unix))]
fn exists(_group: u32) -> bool {
    false
}
