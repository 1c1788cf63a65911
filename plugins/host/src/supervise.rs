//! A process above each program, so that nothing that the program starts outlives its runner (Linux).
//!
//! A process may leave its group (`setsid`), and be nobody's child once its parent has ended. So the runner
//! starts itself again, under the hidden subcommand [`SUBCOMMAND`], and that process starts the program:
//!
//! | | |
//! | --- | --- |
//! | it keeps | all that descends from the program: orphans become its children (`PR_SET_CHILD_SUBREAPER`) |
//! | it ends the program's tree | when the program ends; when its socket closes: the runner dropped it, or was killed |
//! | it ends | when nothing of the tree is left, as the program ended: it waits until the kernel says that it has no child |
//! | it touches | nothing else |
//!
//! A confined program cannot leave the process group that it is started in (`setsid` and `setpgid` are denied), and a
//! signal to a group reaches each of its processes at once: none can start another between being found and being
//! killed. What an unconfined program has in other groups is looked for in `/proc`, again and again.
//!
//! Where the supervisor itself is killed, such as by a confined program on a kernel that does not keep it from that
//! (before 6.12), the runner kills the group, and what was made does not count.
//!
//! An executable that does not call [`supervise_if_asked`] starts programs itself.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::confine::{self, Confinement};
use crate::parent;
use crate::tree::Tree;

/// The hidden subcommand under which an executable supervises a program.
pub const SUBCOMMAND: &str = "supervise";

/// Bytes of a message between runner and supervisor at most.
const LARGEST: u32 = 16 << 20;

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
    /// It runs, under this number, which is also that of its group; whether the kernel confines files.
    Started { program: u32, confined: bool },
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

/// Has a supervisor start its program, and waits until it has. Gives the program's number.
///
/// # Errors
/// Why it cannot be confined or started.
pub(crate) fn begin(
    mut socket: &UnixStream,
    program: &Path,
    confinement: Option<&Confinement>,
) -> Result<u32, StartError> {
    let confined = confinement.map(|to| (confine::readable(program, to), to.write.clone()));
    let spec = Spec { program: program.to_owned(), confined };
    let is_confined = spec.confined.is_some();
    send(&mut socket, &spec).map_err(StartError::Start)?;
    let error = |code: Option<i32>, why: String| {
        code.map_or_else(|| io::Error::other(why), io::Error::from_raw_os_error)
    };
    match receive(&mut socket).map_err(StartError::Start)? {
        Reply::Started { program, confined } => {
            if is_confined && !confined {
                confine::say_unconfined("this kernel has no Landlock");
            }
            Ok(program)
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
    let (reply, tree) = start(&spec);
    let tree = tree.map(Arc::new);
    if send(&mut socket, &reply).is_err() {
        tree.map(|tree| tree.end());
        return ExitCode::FAILURE;
    }
    let Some(tree) = tree else { return ExitCode::FAILURE };
    close_streams();
    let asked = Arc::clone(&tree);
    std::thread::spawn(move || {
        // Nothing more is said: it reads until the runner closes it, or ends.
        let _ = socket.read(&mut [0]);
        // As soon as the program has ended, the other thread ends the rest, and then this process.
        asked.kill();
    });
    tree.wait_for_program();
    end_as(tree.end())
}

fn start(spec: &Spec) -> (Reply, Option<Tree>) {
    let code_of = |e: &io::Error| (e.raw_os_error(), e.to_string());
    if let Err(e) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        let (code, why) = code_of(&e.into());
        return (Reply::NotStarted { code, why }, None);
    }
    let mut command = Command::new(&spec.program);
    command.process_group(0);
    parent::die_with_parent(&mut command);
    parent::inherit_nothing(&mut command);
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
        Ok(child) => (Reply::Started { program: child.id(), confined }, Some(Tree::of(child.id()))),
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
