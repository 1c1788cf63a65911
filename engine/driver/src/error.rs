//! What can go wrong with a run as a whole.

use headstart_core::ApplyError;
use headstart_disk::DiskError;
use headstart_protocol::Failure;
use headstart_protocol::expr::ResolveError;
use headstart_protocol::text::quoted;
use headstart_store::StoreError;
use std::path::Path;

/// Why a run could not be begun, continued or recorded. That a stage failed is not among these:
/// it is part of [`crate::RunResult`].
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The workspace could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No stage of this kind is built in.
    #[error("`{instance}` is of kind `{kind}`, which this program cannot run; it can run {known}")]
    NoStage {
        /// The instance.
        instance: String,
        /// Its kind.
        kind: String,
        /// The kinds that there are.
        known: String,
    },
    /// A run that has ended cannot be resumed.
    #[error("run `{0}` has ended; start a new run: finished stages come from the cache")]
    Ended(String),
    /// No instance of this stage has failed.
    #[error("nothing called `{stage}` has failed in run `{run}`{}", listed(failed))]
    NotFailed {
        /// The run.
        run: String,
        /// What was asked for.
        stage: String,
        /// What has failed.
        failed: Vec<String>,
    },
    /// The log does not fit its plan.
    #[error("the log of run `{run}` contradicts itself: {source}")]
    Log {
        /// The run.
        run: String,
        /// What cannot have happened.
        source: ApplyError,
    },
    /// The event log could not be written, so the run was stopped.
    #[error("the event log of run `{run}` cannot be written, so the run was stopped: {why}")]
    LogBroken {
        /// The run.
        run: String,
        /// Why.
        why: String,
    },
    /// An output has no value.
    #[error("output `{name}` cannot be worked out: {source}")]
    Output {
        /// The output.
        name: String,
        /// Why not.
        source: ResolveError,
    },
    /// A file of the engine could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The machine does not give what a stage needs, such as room on the disk, so the run was stopped: it can be
    /// resumed.
    #[error("run `{run}` was stopped at `{instance}`: {}", failure.message)]
    Environment {
        /// The run.
        run: String,
        /// The instance that could not be run.
        instance: String,
        /// What the machine does not give.
        failure: Failure,
    },
    /// The thread that drives the run ended without a result.
    #[error("the thread that drives run `{0}` was lost; the same command resumes it")]
    Lost(String),
}

fn listed(failed: &[String]) -> String {
    if failed.is_empty() { String::new() } else { format!("; failed: {}", quoted(failed, 5)) }
}

impl EngineError {
    /// For `map_err`: an I/O failure of `doing` at `path`.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| DiskError::at(doing, path.as_ref())(source).into()
    }

    /// What the disk could not do, if that is the cause.
    pub fn disk_error(&self) -> Option<&DiskError> {
        match self {
            Self::Disk(e) => Some(e),
            Self::Store(e) => e.disk_error(),
            _ => None,
        }
    }
}
