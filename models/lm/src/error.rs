//! What can be wrong with a model, an adapter or an input.

use std::path::PathBuf;

use headstart_disk::DiskError;
use headstart_protocol::{Failure, FailureClass};

/// Why a model could not be loaded, run or trained.
#[derive(Debug, thiserror::Error)]
pub enum LmError {
    /// A file could not be read.
    #[error("{}: {}", path.display(), headstart_disk::reason(source))]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it: the key, the tensor, expected and found shapes.
        why: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// Something is asked that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// The input does not fit: no rows, a prompt longer than the context, a target never reachable.
    #[error("{0}")]
    Input(String),
    /// The memory limit does not suffice; says what would.
    #[error("{0}")]
    Memory(String),
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// A defect, or a failure inside the tensor library.
    #[error("internal: {0}")]
    Internal(String),
}

impl LmError {
    /// A file with something wrong in it.
    pub fn file(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self::File { path: path.into(), why: why.into(), help: None }
    }

    /// An I/O error at a path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

impl From<candle_core::Error> for LmError {
    fn from(e: candle_core::Error) -> Self {
        let why = e.to_string();
        // What CUDA says; candle has no kind of error for it.
        if why.contains("OUT_OF_MEMORY") || why.contains("out of memory") {
            let help = "give the stage a memory limit, so that fewer tokens go through it at once, or choose a \
                        smaller model";
            return Self::Memory(format!("the device's memory does not suffice ({why}); {help}"));
        }
        Self::Internal(why)
    }
}

impl From<LmError> for Failure {
    fn from(e: LmError) -> Self {
        let message = e.to_string();
        match e {
            LmError::Io { path, source } => Failure::io(&path, &source),
            LmError::Disk(e) => e.into(),
            LmError::File { help, .. } => Failure { class: FailureClass::Input, message, help },
            LmError::Unsupported(_) | LmError::Input(_) => Failure::input(message),
            LmError::Memory(_) => Failure::new(FailureClass::Memory, message),
            LmError::Cancelled => Failure::new(FailureClass::Cancelled, message),
            LmError::Internal(_) => Failure::new(FailureClass::Internal, message),
        }
    }
}
