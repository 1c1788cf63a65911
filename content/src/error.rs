//! What can go wrong with contents.

use std::path::{Path, PathBuf};

use headstart_disk::DiskError;
use headstart_protocol::Digest;

/// Why contents could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A file or folder could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file does not hold what it should.
    #[error("{}: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A file that is read whole is larger than any of its kind.
    #[error("{} has {size} bytes, but at most {limit} are read", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A name that cannot be used for a file of an artifact.
    #[error("`{name}` cannot be used as a file of an artifact: {why}")]
    BadName {
        /// The name.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A blob that should be there is not.
    #[error("content {} (`{name}`) is missing", digest.short())]
    MissingBlob {
        /// What is missing.
        digest: Digest,
        /// The name under which an artifact knows it.
        name: String,
    },
    /// An artifact that should be there is not.
    #[error("artifact {} is missing", .0.short())]
    MissingArtifact(Digest),
    /// A public artifact refers to one that is private to a device.
    #[error("the artifact refers to a private one as `{name}`, so it cannot be public")]
    PrivateReference {
        /// The name of the reference.
        name: String,
    },
    /// An output's type is one that is never stored.
    #[error("a value of type {0} is written inline and cannot be stored as an artifact")]
    NotAnArtifact(String),
}

impl ContentError {
    /// For `map_err`: an I/O failure of `doing` at `path`.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| DiskError::at(doing, path)(source).into()
    }

    /// A damaged file, and what to do about it.
    pub fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.into() }
    }

    /// The failure of the disk behind it, if it is one.
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        match self {
            Self::Disk(e) => Some(e.source.kind()),
            _ => None,
        }
    }
}
