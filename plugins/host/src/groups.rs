//! Programs that must not outlive this process.
//!
//! | this process ends | what a program started is killed by |
//! | --- | --- |
//! | a stage ends, fails, is cancelled or runs past its limit | [`Process`](crate::process::Process), when dropped |
//! | by itself, with stages that still run (second Ctrl-C) | [`kill_all`], which commands call before they exit |
//! | at once: `kill -9`, SIGTERM without a handler, a crash | on Linux its supervisor ([`crate::supervise`]); elsewhere the watcher, a shell of a few lines that waits for the end of its standard input |
//!
//! A supervisor ends all that descends from the program, also what has left its process group. Without one (other
//! systems; executables that do not call `supervise_if_asked`) a program runs in a process group, which is killed: a
//! process that leaves the group is then not followed. Where there is no `sh` either, what a program started
//! survives a `kill -9` of this process, and the log says so once. On systems without process groups the
//! program alone is killed.

use std::collections::BTreeMap;
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

/// How a supervisor is reached.
#[cfg(target_os = "linux")]
pub(crate) type Supervisor = std::sync::Arc<std::os::unix::net::UnixStream>;
/// There are none.
#[cfg(not(target_os = "linux"))]
#[derive(Clone, Debug)]
pub(crate) enum Supervisor {}

static LIVE: Mutex<Live> =
    Mutex::new(Live { groups: BTreeMap::new(), closed: false, watcher: Watcher::Idle });

struct Live {
    /// By number; with their supervisors, which are then in the group, and their programs in others.
    groups: BTreeMap<u32, Option<Supervisor>>,
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
pub(crate) struct Group {
    id: u32,
    supervisor: Option<Supervisor>,
}

impl Group {
    /// Kills every process of the group; or has the supervisor kill what it keeps, and then end.
    pub(crate) fn kill(&self) {
        end(self.id, self.supervisor.as_ref());
    }

    pub(crate) fn is_supervised(&self) -> bool {
        self.supervisor.is_some()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut live = live();
        live.groups.remove(&self.id);
        if self.supervisor.is_none() {
            live.tell('-', self.id);
        }
    }
}

/// Starts a command in its own process group. One that is a supervisor is reached by `supervisor`; any other ends with
/// this process.
///
/// # Errors
/// Any of starting it; [`io::ErrorKind::Interrupted`] when this process is about to exit.
pub(crate) fn spawn(command: &mut Command, supervisor: Option<Supervisor>) -> io::Result<(Child, Group)> {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(target_os = "linux")]
    if supervisor.is_none() {
        crate::parent::die_with_parent(command);
        crate::parent::inherit_nothing(command);
    }
    // Held while the program starts: `kill_all` must not miss it.
    let mut live = live();
    if live.closed {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "this process is about to exit"));
    }
    let child = command.spawn()?;
    let id = child.id();
    live.groups.insert(id, supervisor.clone());
    if supervisor.is_none() {
        live.tell('+', id);
    }
    Ok((child, Group { id, supervisor }))
}

/// Kills all groups, and lets no other start: for the last moment before this process exits. Waits
/// until they are gone, a second at most.
pub fn kill_all() {
    let groups = {
        let mut live = live();
        live.closed = true;
        live.groups.clone()
    };
    groups.iter().for_each(|(group, supervisor)| end(*group, supervisor.as_ref()));
    let by = Instant::now() + GONE;
    while Instant::now() < by && groups.keys().any(|group| exists(*group)) {
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
        let watched = self.groups.iter().filter(|(_, supervisor)| supervisor.is_none());
        let watched: Vec<u32> = watched.map(|(group, _)| *group).collect();
        if matches!(self.watcher, Watcher::Unavailable) || (idle && watched.is_empty()) {
            return;
        }
        match watcher(&watched) {
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
fn watcher(groups: &[u32]) -> io::Result<(Child, ChildStdin)> {
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

fn end(group: u32, supervisor: Option<&Supervisor>) {
    match supervisor {
        #[cfg(target_os = "linux")]
        Some(supervisor) => crate::supervise::end(supervisor),
        #[cfg(not(target_os = "linux"))]
        Some(supervisor) => match *supervisor {},
        None => signal_group(group),
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
