//! Runs built-in stages in processes of their own.
//!
//! An [`Isolated`] stage hands each attempt to a worker process and serves the attempt's
//! [`Context`](headstart_protocol::Context) to it over a socket pair. Whatever a hostile model, template or
//! dataset does to the worker, its runner goes on: the attempt fails, with the cause.
//!
//! | | |
//! | --- | --- |
//! | a worker is | the same executable, started with the hidden subcommand [`SUBCOMMAND`] |
//! | it holds | a cleared environment, one socket for calls, one for cancellation, a pipe for what it prints |
//! | it ends | when it is idle for a minute, or held for two, when its attempt was killed or crashed, when its runner ends |
//! | memory | what the attempt may use, by the kernel (`RLIMIT_DATA`) and by looking at what it holds |
//! | cancellation | it is asked, and killed after a grace |
//! | files and network (Linux) | [`Folders`] alone, no sockets, no other programs |
//!
//! What a worker says is checked like anything else that comes from outside: frames have a greatest size, and
//! outputs pass through [`headstart_runner::run`].
//!
//! # Layout
//! - [`isolated`]: the stage, and how the context is served.
//! - `pool`: idle workers, which attempts take and give back.
//! - `process`: how a worker is started and how it ended, in words.
//! - `link`: the runner's end of the socket. `memory`: what a worker holds and may hold.
//! - `wire`: what is said.
//! - `serve`, `remote`: the worker's side.

#[cfg(unix)]
mod isolated;
#[cfg(unix)]
mod link;
#[cfg(unix)]
mod memory;
#[cfg(unix)]
mod pool;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod remote;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use headstart_protocol::Stage;

#[cfg(unix)]
pub use isolated::Isolated;

/// The hidden subcommand under which an executable serves as a worker.
pub const SUBCOMMAND: &str = "worker";

/// Bytes that the stages of this machine may use together: three quarters of its memory, or of what the system leaves
/// to this process. `None` where the system does not tell.
pub fn memory_for_stages() -> Option<u64> {
    #[cfg(unix)]
    return memory::share_of_machine();
    #[cfg(not(unix))]
    None
}

/// What workers may read and write, beside the system's libraries and settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folders {
    /// What every worker may read.
    pub read: Vec<PathBuf>,
    /// What every worker may write.
    pub write: Vec<PathBuf>,
    /// What workers of kinds that take paths may read as well.
    pub paths: Vec<PathBuf>,
    /// What workers of private attempts may read as well.
    pub private_read: Vec<PathBuf>,
    /// What workers of private attempts may write as well.
    pub private_write: Vec<PathBuf>,
}

/// How workers are started and ended.
#[derive(Clone, Debug)]
pub struct Workers {
    /// What [`serve_if_asked`] hands to the maker of the stages in a worker.
    pub backend: String,
    /// What they may touch.
    pub folders: Folders,
    /// Whether the system keeps them to that, where it can.
    pub confined: bool,
    /// How long a stage may take to stop once it is told to. A training writes a checkpoint meanwhile.
    pub grace: Duration,
    /// How long a worker may be held where it is, with all that it has in memory. Then it is ended, and its attempt
    /// begins again, from the progress that it has kept, once it may go on.
    pub longest_pause: Duration,
}

impl Workers {
    /// Confined workers with the usual grace.
    pub fn new(backend: impl Into<String>, folders: Folders) -> Self {
        Self {
            backend: backend.into(),
            folders,
            confined: true,
            grace: Duration::from_secs(5),
            longest_pause: Duration::from_secs(120),
        }
    }
}

/// The same stages, each attempt of which runs in a worker process.
#[cfg(unix)]
pub fn isolate(stages: Vec<Box<dyn Stage>>, workers: Workers) -> Vec<Box<dyn Stage>> {
    let pool = pool::Pool::new(workers);
    let isolated = |stage| -> Box<dyn Stage> { Box::new(Isolated::new(stage, std::sync::Arc::clone(&pool))) };
    stages.into_iter().map(isolated).collect()
}

/// As there are no socket pairs on this system, the stages as they are.
#[cfg(not(unix))]
pub fn isolate(stages: Vec<Box<dyn Stage>>, _workers: Workers) -> Vec<Box<dyn Stage>> {
    tracing::warn!("stages run in this process: Headstart starts no worker processes on this system");
    stages
}

/// Serves as a worker, if this executable was started as one: what `main` calls first, before any thread is
/// started. `stages` makes the stages over a backend.
#[cfg(unix)]
pub fn serve_if_asked(
    stages: impl FnOnce(&str) -> Result<Vec<Box<dyn Stage>>, String> + Send + 'static,
) -> Option<ExitCode> {
    let asked = std::env::args_os().nth(1).is_some_and(|word| word == SUBCOMMAND);
    asked.then(|| serve::serve(stages))
}

/// There are no workers on this system.
#[cfg(not(unix))]
pub fn serve_if_asked(
    _stages: impl FnOnce(&str) -> Result<Vec<Box<dyn Stage>>, String> + Send + 'static,
) -> Option<ExitCode> {
    None
}
