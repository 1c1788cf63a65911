//! Why the disk could not do something.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::{error, fmt};

/// What to do about a full disk.
pub const FULL_HELP: &str = "free some space there, then run the same command again";

/// What to do about a disk that refuses to be written.
pub const REFUSED_HELP: &str = "allow this user to write there, then run the same command again";

/// Something that could not be done with a file or folder.
#[derive(Debug)]
pub struct DiskError {
    /// What was tried: `read`, `write`, `create`.
    pub doing: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl DiskError {
    /// For `map_err`: a failure of `doing` at `path`.
    pub fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { doing, path: path.to_owned(), source }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.doing, self.path.display(), reason(&self.source))
    }
}

impl error::Error for DiskError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Whether there was no room left.
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether writing was not allowed.
pub fn is_refused(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

/// The cause in plain words.
pub fn reason(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::StorageFull => "the disk is full".to_owned(),
        ErrorKind::QuotaExceeded => "the disk is full for this user (quota)".to_owned(),
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        _ => e.to_string(),
    }
}
