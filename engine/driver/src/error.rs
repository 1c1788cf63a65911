//! What can go wrong with a run as a whole.

use headstart_core::ApplyError;
use headstart_protocol::expr::ResolveError;
use headstart_store::StoreError;

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
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The thread that drives the run ended without a result.
    #[error("the thread that drives run `{0}` was lost; resume it: headstart run FILE --resume {0}")]
    Lost(String),
}

impl EngineError {
    /// For `map_err`: an I/O failure of `doing` at `path`.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<std::path::PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
