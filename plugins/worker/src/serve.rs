//! A worker: it runs the attempts that its runner hands to it, one after the other.
//!
//! The first thread hears cancellations, and the end of the runner; the second runs the stages.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headstart_host::{Confinement, confine_this_process};
use headstart_protocol::{Args, Failure, FailureClass, Stage};
use headstart_runner::{StageRegistry, run_unchecked};
use rustix::process::{Pid, Resource, Rlimit, getppid, setrlimit};

use crate::memory::{self, Gauge};
use crate::remote::{Calls, Remote, end};
use crate::wire::{self, FromWorker, LARGEST, Made, Task, ToWorker, WirePath};

/// Stack of the thread that runs stages, which recurse over models of many layers.
const STACK: usize = 16 << 20;

/// Serves until the runner ends.
pub(crate) fn serve(
    stages: impl FnOnce(&str) -> Result<Vec<Box<dyn Stage>>, String> + Send + 'static,
) -> ExitCode {
    let failed = |e: &dyn std::fmt::Display| {
        // To standard error, which the runner reads.
        let _ = writeln!(io::stderr(), "worker process: {e}");
        ExitCode::FAILURE
    };
    let (calls, control) = match sockets() {
        Ok(sockets) => sockets,
        Err(e) => return failed(&format_args!("{e}; a worker is started by its runner, not by hand")),
    };
    let mut calls = Calls::new(calls);
    let backend = match calls.next() {
        Ok(ToWorker::Start { runner, backend, confined, read, write }) => {
            let paths = |all: Vec<WirePath>| -> Vec<PathBuf> { all.into_iter().map(|at| at.0).collect() };
            let to = confined.then(|| Confinement { read: paths(read), write: paths(write) });
            if let Err(e) = settle(runner, to) {
                return failed(&e);
            }
            backend
        }
        _ => return failed(&"the runner did not begin"),
    };
    let told = Arc::new(AtomicU64::new(0));
    let heard = Arc::clone(&told);
    let thread = std::thread::Builder::new().name("stage".into()).stack_size(STACK);
    if let Err(e) = thread.spawn(move || attempts(&mut calls, &told, &backend, stages)) {
        return failed(&e);
    }
    hear(control, &heard)
}

/// The sockets that the runner gave as standard input and output, which become empty and standard error: what
/// a library prints is no message.
fn sockets() -> io::Result<(UnixStream, UnixStream)> {
    let duplicate = |fd| -> io::Result<UnixStream> {
        rustix::net::sockopt::socket_type(fd)?;
        Ok(UnixStream::from(rustix::io::fcntl_dupfd_cloexec(fd, 3)?))
    };
    let calls = duplicate(rustix::stdio::stdin())?;
    let control = duplicate(rustix::stdio::stdout())?;
    let nothing: OwnedFd = std::fs::File::open("/dev/null")?.into();
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok((calls, control))
}

/// Ends with its runner, leaves no memory behind in files, and is confined.
fn settle(runner: u32, to: Option<Confinement>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // The runner may have ended before.
    let is_runner = |parent: Pid| u32::try_from(parent.as_raw_nonzero().get()) == Ok(runner);
    if !getppid().is_some_and(is_runner) {
        return Err(io::Error::other("the runner has ended"));
    }
    // Where it is refused, the system writes what it always writes.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let Some(to) = to else { return Ok(()) };
    let refused = |e| {
        io::Error::other(format!(
            "it cannot be confined ({e}); `--unconfined-stages` lets it run with all your rights"
        ))
    };
    confine_this_process(&to).map(drop).map_err(refused)
}

/// Notes which attempt is to stop, until the runner ends.
fn hear(mut control: UnixStream, told: &AtomicU64) -> ExitCode {
    let mut number = [0; 8];
    while control.read_exact(&mut number).is_ok() {
        told.store(u64::from_le_bytes(number), Ordering::Release);
    }
    end()
}

fn attempts(
    calls: &mut Calls,
    told: &AtomicU64,
    backend: &str,
    stages: impl FnOnce(&str) -> Result<Vec<Box<dyn Stage>>, String>,
) {
    let stages = stages(backend).map(StageRegistry::new);
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let (gauge, mut limits) = (Gauge::of(std::process::id()), None);
    while let Ok(ToWorker::Task(task)) = calls.next() {
        if let Some(wanted) = gauge.data().zip(task.most).filter(|wanted| limits != Some(*wanted)) {
            memory::limit_this_process(wanted.0, wanted.1, processors);
            limits = Some(wanted);
        }
        let ended = attempt(&task, calls, told, stages.as_ref());
        let mut frame = wire::frame(&ended);
        if frame.len() > LARGEST {
            let m =
                format!("stage `{}` made a value of {} bytes, which is too large", task.kind, frame.len());
            let result = Err(Failure::input(m));
            frame = wire::frame(&FromWorker::Ended { result, counters: Default::default() });
        }
        if calls.send(&frame).is_err() {
            break;
        }
    }
    end()
}

fn attempt(
    task: &Task,
    calls: &mut Calls,
    told: &AtomicU64,
    stages: Result<&StageRegistry, &String>,
) -> FromWorker {
    let remote = Remote::new(task, calls, told);
    let result = stages
        .map_err(|why| Failure::new(FailureClass::Input, why.clone()))
        .and_then(|stages| stages.built_in(&task.kind))
        .and_then(|stage| run_unchecked(stage, &task.kind, &Args(task.args.clone()), &remote));
    FromWorker::Ended { result: result.map(Made::from), counters: remote.counters() }
}
