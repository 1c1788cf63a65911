//! Why pLLMs could not be merged.

use std::path::{Path, PathBuf};

use headstart_disk::DiskError;
use headstart_protocol::{Failure, FailureClass};

/// Why pLLMs could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file could not be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file could not be read.
    #[error("{}: {}", path.display(), headstart_disk::reason(source))]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// The key or tensor, what it is and what it should be.
        why: String,
    },
    /// The mix or an argument cannot be carried out.
    #[error("{why}")]
    Mix {
        /// What is wrong, naming the terms.
        why: String,
        /// What to do about it.
        help: &'static str,
    },
    /// The memory limit does not suffice.
    #[error("{0}")]
    Memory(String),
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// A defect.
    #[error("internal: {0}")]
    Internal(String),
}

impl MergeError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn file(path: &Path, why: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), why: why.into() }
    }

    pub(crate) fn mix(why: impl Into<String>, help: &'static str) -> Self {
        Self::Mix { why: why.into(), help }
    }
}

impl From<MergeError> for Failure {
    fn from(e: MergeError) -> Self {
        let message = e.to_string();
        match e {
            MergeError::Disk(e) => e.into(),
            MergeError::Io { path, source } => Failure::io(&path, &source),
            MergeError::File { .. } => Failure::input(message),
            MergeError::Mix { help, .. } => Failure::input(message).help(help),
            MergeError::Memory(_) => Failure::new(FailureClass::Memory, message),
            MergeError::Cancelled => Failure::new(FailureClass::Cancelled, message),
            MergeError::Internal(_) => Failure::new(FailureClass::Internal, message),
        }
    }
}
