//! How a worker is started, and how it ended.

use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headstart_protocol::{Failure, FailureClass};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::link::Link;
use crate::memory::Gauge;
use crate::wire::{self, ToWorker, WirePath};
use crate::{SUBCOMMAND, Workers};

/// Variables that a worker gets from its runner's environment: how to find libraries and the hub's models, and
/// how to compute.
const KEPT: &[&str] = &[
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "LANG",
    "TZ",
    "HOME",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "CUDA_VISIBLE_DEVICES",
    "RAYON_NUM_THREADS",
    "RUST_BACKTRACE",
    "HEADSTART_CHECKPOINT_SECONDS",
];

/// How long a worker may take to be gone after its socket was closed: the system writes back what it held.
const ENDING: Duration = Duration::from_secs(2);

/// What the same workers have in common. One that did an attempt is used for no attempt of another sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sort {
    /// It may read what is private.
    pub private: bool,
    /// It may read the paths that a pipeline names.
    pub paths: bool,
}

impl Workers {
    /// The sort of worker for an attempt.
    pub(crate) fn sort(&self, private: bool, paths: bool) -> Sort {
        Sort { private, paths: paths && !self.folders.paths.is_empty() }
    }

    fn hello(&self, sort: Sort) -> ToWorker {
        let folders = &self.folders;
        let some = |wanted: bool, at: &[PathBuf]| if wanted { at.to_owned() } else { Vec::new() };
        let all = |always: &[PathBuf], more: [Vec<PathBuf>; 2]| -> Vec<WirePath> {
            always.iter().cloned().chain(more.into_iter().flatten()).map(WirePath).collect()
        };
        let paths = some(sort.paths, &folders.paths);
        ToWorker::Start {
            runner: std::process::id(),
            backend: self.backend.clone(),
            confined: self.confined,
            read: all(&folders.read, [some(sort.private, &folders.private_read), paths]),
            write: all(&folders.write, [some(sort.private, &folders.private_write), Vec::new()]),
        }
    }
}

/// A worker process. Dropping it kills it.
pub(crate) struct Worker {
    child: Child,
    pub gauge: Arc<Gauge>,
    pub link: Link,
    pub sort: Sort,
    /// Attempts that it was given.
    pub tasks: u64,
    /// Bytes that it held when it became idle.
    pub held: u64,
    status: Option<ExitStatus>,
}

impl Worker {
    /// Starts a worker. It is ready some milliseconds later; what it is sent meanwhile waits.
    ///
    /// # Errors
    /// Why the system does not start it.
    pub(crate) fn start(workers: &Workers, sort: Sort) -> io::Result<Self> {
        let (calls, its_calls) = UnixStream::pair()?;
        let (control, its_control) = UnixStream::pair()?;
        let mut command = Command::new(executable()?);
        command.arg0(std::env::args_os().next().unwrap_or_default()).arg(SUBCOMMAND);
        command.env_clear();
        let kept = |name: &str| KEPT.contains(&name) || name.starts_with("LC_");
        command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(kept)));
        // Only memory that is used is to count against the limit.
        command.env("MIMALLOC_ARENA_EAGER_COMMIT", "0");
        command.stdin(OwnedFd::from(its_calls)).stdout(OwnedFd::from(its_control)).stderr(Stdio::piped());
        command.process_group(0);
        let mut child = command.spawn()?;
        // The socket is empty, and its buffer larger than this.
        (&calls).write_all(&wire::frame(&workers.hello(sort)))?;
        let printed = child.stderr.take().ok_or(ErrorKind::BrokenPipe)?;
        let link = Link::new(calls, control, printed)?;
        Ok(Self {
            gauge: Arc::new(Gauge::of(child.id())),
            child,
            link,
            sort,
            tasks: 0,
            held: 0,
            status: None,
        })
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, once its socket is closed: it is waited for a moment, and then killed.
    pub(crate) fn end_after_closing(&mut self) -> Option<ExitStatus> {
        let by = Instant::now() + ENDING;
        while self.status.is_none() && Instant::now() < by {
            self.status = self.child.try_wait().ok().flatten();
            if self.status.is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.end()
    }

    /// Kills it, and says how it ended: by itself, where it had.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
        self.status
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Holds a worker process, and what it started, where it is, or lets it go on.
pub(crate) fn hold(pid: u32, held: bool) {
    let signal = if held { Signal::STOP } else { Signal::CONT };
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}

/// This executable: on Linux the very one that runs, also where its file was replaced.
fn executable() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

/// The failure of an attempt whose worker ended. `printed` is what it printed last, `most` what it may hold.
pub(crate) fn ended(kind: &str, status: Option<ExitStatus>, printed: &str, most: Option<u64>) -> Failure {
    const KILL: i32 = 9;
    const TERM: i32 = 15;
    let signal = status.and_then(|status| status.signal());
    let told = printed.trim();
    let told = if told.is_empty() {
        String::new()
    } else {
        format!("; last output:\n  {}", told.replace('\n', "\n  "))
    };
    match signal {
        Some(_) if printed.contains("memory allocation of") => too_much(kind, None, most),
        Some(signal @ (KILL | TERM)) => {
            let why = if signal == KILL { ", as systems do that run out of memory" } else { "" };
            let m = format!("stage `{kind}`: its worker process was killed by signal {signal}{why}");
            Failure::new(FailureClass::Lost, m).help("`retry:` in its settings block has it tried again")
        }
        Some(signal) => crashed(kind, &format!("by signal {signal}{}{told}", named(signal))),
        None => match status.and_then(|status| status.code()) {
            Some(code) => crashed(kind, &format!("with exit status {code}{told}")),
            None => crashed(kind, &format!("for an unknown reason{told}")),
        },
    }
}

fn named(signal: i32) -> &'static str {
    match signal {
        4 => " (illegal instruction)",
        6 => " (abort)",
        7 | 10 => " (bus error)",
        8 => " (arithmetic error)",
        11 => " (invalid memory reference)",
        _ => "",
    }
}

fn crashed(kind: &str, how: &str) -> Failure {
    let m = format!("stage `{kind}`: its worker process crashed {how}");
    Failure::new(FailureClass::Internal, m)
        .help("the input of the stage may be made to do this; if it is not, please report the defect")
}

/// The failure of an attempt that needs more memory than it may use. `holds` is what it held, where known.
pub(crate) fn too_much(kind: &str, holds: Option<u64>, most: Option<u64>) -> Failure {
    let mib = |bytes: u64| bytes >> 20;
    let may = most.map_or_else(String::new, |most| format!(", and may use {} MiB", mib(most)));
    let m = match holds {
        Some(holds) => format!("stage `{kind}` holds {} MiB of memory{may}", mib(holds)),
        None => format!("stage `{kind}` asked for more memory than there is for it{may}"),
    };
    Failure::new(FailureClass::Memory, m)
        .help("raise `memory:` in its settings block; without it, a stage may use three quarters of the machine's memory")
}

/// A worker that cannot be started.
pub(crate) fn not_started(kind: &str, e: &io::Error) -> Failure {
    let m = format!("stage `{kind}`: no worker process can be started: {e}");
    Failure::new(FailureClass::Environment, m)
        .help("memory, processes or open files are used up: end something, then run the same command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: i32, printed: &str) -> (FailureClass, String) {
        let failure = ended("embed", Some(ExitStatus::from_raw(status)), printed, Some(64 << 20));
        (failure.class, failure.message)
    }

    #[test]
    fn the_cause_of_an_end_is_told_in_words() {
        let (of_memory, m) = class(6, "memory allocation of 1073741824 bytes failed\n");
        assert_eq!(of_memory, FailureClass::Memory);
        assert!(m.contains("64 MiB") && m.contains("`embed`"), "{m}");
        assert_eq!(class(9, "").0, FailureClass::Lost);
        let (crash, m) = class(6, "thread 'stage' has overflowed its stack\nfatal runtime error");
        assert_eq!(crash, FailureClass::Internal);
        assert!(m.contains("(abort)") && m.contains("overflowed its stack"), "{m}");
        assert!(class(11, "").1.contains("invalid memory reference"));
        assert!(class(3 << 8, "").1.contains("exit status 3"));
    }
}
