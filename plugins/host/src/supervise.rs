//! A process above each program, so that nothing that the program starts outlives its runner (Linux).
//!
//! A process may leave its group (`setsid`), and be nobody's child once its parent has ended. So the runner
//! starts itself again, under the hidden subcommand [`SUBCOMMAND`], and that process starts the program:
//!
//! | | |
//! | --- | --- |
//! | it keeps | all that descends from the program: orphans become its children (`PR_SET_CHILD_SUBREAPER`) |
//! | it ends the program's tree | when the program ends; when its socket closes: the runner dropped it, or was killed |
//! | it ends | when nothing of the tree is left, as the program ended |
//! | it touches | nothing else; the program is confined, and so cannot signal it |
//!
//! An executable that does not call [`supervise_if_asked`] starts programs itself.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::{Deserialize, Serialize};

use crate::confine::{self, Confinement};
use crate::parent;
use crate::processes::below;

/// The hidden subcommand under which an executable supervises a program.
pub const SUBCOMMAND: &str = "supervise";

/// Bytes of a message between runner and supervisor at most.
const LARGEST: u32 = 16 << 20;
/// Pause between two looks at what is left of a tree.
const PAUSE: Duration = Duration::from_millis(1);

static AVAILABLE: AtomicBool = AtomicBool::new(false);

/// What to start.
#[derive(Serialize, Deserialize)]
struct Spec {
    program: PathBuf,
    /// What it may read and write; none, if it is not confined.
    confined: Option<(Vec<PathBuf>, Vec<PathBuf>)>,
}

/// What became of that.
#[derive(Serialize, Deserialize)]
enum Reply {
    /// It runs; whether the kernel confines files.
    Started { confined: bool },
    /// The kernel refuses to confine it.
    NotConfined { code: Option<i32>, why: String },
    /// The system does not start it.
    NotStarted { code: Option<i32>, why: String },
}

/// Why a program does not run.
pub(crate) enum StartError {
    /// It cannot be confined.
    Confine(io::Error),
    /// It cannot be started.
    Start(io::Error),
}

/// Supervises, if this executable was started for that: what `main` calls first. Otherwise custom stages that
/// this process starts are supervised from now on.
pub fn supervise_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|word| word != SUBCOMMAND) {
        AVAILABLE.store(true, Ordering::Release);
        return None;
    }
    let socket = args.next().and_then(|fd| fd.to_str()?.parse().ok());
    Some(socket.and_then(|fd: i32| socket_of(fd).ok()).map_or(ExitCode::FAILURE, supervise))
}

/// Whether this process can have programs supervised.
pub(crate) fn is_available() -> bool {
    AVAILABLE.load(Ordering::Acquire)
}

/// A command that starts a supervisor with this end of the socket. Its environment, folder and streams are those of the
/// program.
pub(crate) fn command(its_end: &UnixStream) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("headstart-supervise").arg(SUBCOMMAND).arg(its_end.as_raw_fd().to_string());
    let fd = its_end.as_raw_fd();
    // SAFETY: between fork and exec, the closure makes one system call and neither allocates nor locks. The
    // descriptor is open: the caller holds it until the command has been started.
    unsafe {
        command.pre_exec(move || {
            let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(Into::into)
        });
    }
    command
}

/// Has a supervisor start its program, and waits until it has.
///
/// # Errors
/// Why it cannot be confined or started.
pub(crate) fn begin(
    mut socket: &UnixStream,
    program: &Path,
    confinement: Option<&Confinement>,
) -> Result<(), StartError> {
    let confined = confinement.map(|to| (confine::readable(program, to), to.write.clone()));
    let spec = Spec { program: program.to_owned(), confined };
    let is_confined = spec.confined.is_some();
    send(&mut socket, &spec).map_err(StartError::Start)?;
    let error = |code: Option<i32>, why: String| {
        code.map_or_else(|| io::Error::other(why), io::Error::from_raw_os_error)
    };
    match receive(&mut socket).map_err(StartError::Start)? {
        Reply::Started { confined } => {
            if is_confined && !confined {
                confine::say_unconfined("this kernel has no Landlock");
            }
            Ok(())
        }
        Reply::NotConfined { code, why } => Err(StartError::Confine(error(code, why))),
        Reply::NotStarted { code, why } => Err(StartError::Start(error(code, why))),
    }
}

/// Tells a supervisor to end everything.
pub(crate) fn end(socket: &UnixStream) {
    // One that has ended has done so.
    let _ = socket.shutdown(Shutdown::Both);
}

fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_le_bytes()[..], &json].concat())
}

fn receive<T: for<'de> Deserialize<'de>>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LARGEST {
        return Err(io::Error::other("a message is too long"));
    }
    let mut json = vec![0; length as usize];
    from.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// The socket that the runner gave, which the program does not get.
fn socket_of(fd: i32) -> io::Result<UnixStream> {
    // SAFETY: the runner left this descriptor open for this process alone, and nothing else here uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::net::sockopt::socket_type(&fd)?;
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(UnixStream::from(fd))
}

/// What a signal that would end the supervisor does to it. A program does not inherit it.
extern "C" fn ignore(_signal: libc::c_int) {}

fn supervise(mut socket: UnixStream) -> ExitCode {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: the handler does nothing, so that it may run at any moment.
        unsafe {
            libc::signal(signal, ignore as *const () as libc::sighandler_t);
        }
    }
    let Ok(spec) = receive::<Spec>(&mut socket) else { return ExitCode::FAILURE };
    let (reply, program) = start(&spec);
    if send(&mut socket, &reply).is_err() {
        end_tree();
        return ExitCode::FAILURE;
    }
    let Some(program) = program else { return ExitCode::FAILURE };
    close_streams();
    let told = std::thread::spawn(move || {
        // Nothing more is said: it reads until the runner closes it, or ends.
        let _ = socket.read(&mut [0]);
        end_tree();
    });
    let status = wait_for(program);
    end_tree();
    drop(told);
    end_as(status)
}

fn start(spec: &Spec) -> (Reply, Option<Child>) {
    let code_of = |e: &io::Error| (e.raw_os_error(), e.to_string());
    if let Err(e) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        let (code, why) = code_of(&e.into());
        return (Reply::NotStarted { code, why }, None);
    }
    let mut command = Command::new(&spec.program);
    command.process_group(0);
    parent::die_with_parent(&mut command);
    let mut confined = true;
    if let Some((read, write)) = &spec.confined {
        match confine::confine_to(&mut command, read, write) {
            Ok(files) => confined = files,
            Err(e) => {
                let (code, why) = code_of(&e);
                return (Reply::NotConfined { code, why }, None);
            }
        }
    }
    match command.spawn() {
        Ok(child) => (Reply::Started { confined }, Some(child)),
        Err(e) => {
            let (code, why) = code_of(&e);
            (Reply::NotStarted { code, why }, None)
        }
    }
}

/// The program's streams end when the program closes them, not when this process does.
fn close_streams() {
    let Ok(nothing) = std::fs::File::open("/dev/null") else { return };
    // A stream that stays open only ends later. Nothing is written to any of them.
    let _ = rustix::stdio::dup2_stdin(&nothing);
    let _ = rustix::stdio::dup2_stdout(&nothing);
    let _ = rustix::stdio::dup2_stderr(&nothing);
}

/// Waits for the program, and collects what it left behind meanwhile.
fn wait_for(mut program: Child) -> Option<ExitStatus> {
    loop {
        // Looks at who ended without collecting it: the program's status belongs to `Child`.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        match waitid(WaitId::All, options) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return program.wait().ok(),
        }
        if let Ok(Some(status)) = program.try_wait() {
            return Some(status);
        }
        collect_but(program.id());
    }
}

/// Collects children that ended, but for one.
fn collect_but(kept: u32) {
    for child in below(std::process::id()).unwrap_or_default() {
        if child.ended && child.id != kept && child.parent == std::process::id() {
            collect(child.id);
        }
    }
}

fn collect(id: u32) {
    if let Some(pid) = pid(id) {
        // Somebody else's, or collected already.
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Kills everything that descends from this process, until nothing is left.
fn end_tree() {
    let me = std::process::id();
    loop {
        let Some(left) = below(me) else { return };
        let living: Vec<u32> =
            left.iter().filter(|process| !process.ended).map(|process| process.id).collect();
        if living.is_empty() {
            return;
        }
        // What is stopped starts nothing more.
        for signal in [Signal::STOP, Signal::KILL] {
            for pid in living.iter().filter_map(|id| pid(*id)) {
                // One that has ended meanwhile is as good.
                let _ = kill_process(pid, signal);
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Ends as the program did.
fn end_as(status: Option<ExitStatus>) -> ExitCode {
    let Some(status) = status else { return ExitCode::FAILURE };
    if let Some(signal) = status.signal() {
        let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
        // SAFETY: the default action is taken for a signal that is sent to this process at once.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}
