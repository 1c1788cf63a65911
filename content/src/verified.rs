//! Which files were found to be what their names say.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use headstart_protocol::Digest;

use crate::error::ContentError;
use crate::hash::hash_file;

/// Files that this process has read whole and compared with their digests. One that is as old and as long
/// as it was then is not read again.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    files: Mutex<HashMap<FileId, (Digest, Stamp)>>,
}

/// A file whatever its name, device and inode: links to a content that was read need not be read.
#[cfg(unix)]
type FileId = (u64, u64);
/// A file by its name, where the system tells no more.
#[cfg(not(unix))]
type FileId = std::path::PathBuf;

/// What changes with a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
}

impl Verified {
    /// Whether the file at `path` has this content.
    ///
    /// # Errors
    /// [`ContentError::Disk`] where it is there and cannot be read.
    pub(crate) fn is(&self, path: &Path, digest: &Digest) -> Result<bool, ContentError> {
        let Ok(now) = fs::metadata(path) else { return Ok(false) };
        if !now.is_file() {
            return Ok(false);
        }
        let (id, stamp) = (file_id(path, &now), Stamp::of(&now));
        let known = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
        if known == Some((*digest, stamp)) {
            return Ok(true);
        }
        let found = hash_file(path)?;
        if found.digest == *digest {
            self.note(id, found.digest, stamp);
        }
        Ok(found.digest == *digest)
    }

    /// Remembers a file that was just read whole.
    pub(crate) fn add(&self, path: &Path, content: Digest) {
        if let Ok(now) = fs::metadata(path) {
            self.note(file_id(path, &now), content, Stamp::of(&now));
        }
    }

    fn note(&self, id: FileId, content: Digest, stamp: Stamp) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(id, (content, stamp));
    }
}

#[cfg(unix)]
fn file_id(_: &Path, metadata: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn file_id(path: &Path, _: &Metadata) -> FileId {
    path.to_owned()
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().ok() }
    }
}
