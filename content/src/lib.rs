//! Contents by digest, and files that survive a crash: one store for the engine and for devices.
//!
//! A store is a folder:
//!
//! | path | what |
//! | --- | --- |
//! | `blobs/ab/abcdef…` | contents of files, by BLAKE3 |
//! | `manifests/ab/abcdef….json` | artifacts, by BLAKE3 of their canonical JSON |
//! | `open/ID/` | an artifact's files under their names, as links to blobs |
//! | `unsynced/` | markers of processes with contents that are not on disk yet |
//! | `verified.json` | large contents that were found to be what their names say, and when |
//!
//! Devices of version 0.1 kept blobs and manifests without the folders of two digits; they are
//! still found there.
//!
//! # Layout
//! - [`ContentStore`]: opens a folder.
//! - [`Blobs`]: contents by digest.
//! - [`Artifacts`]: manifests over blobs, and folders made of them.
//! - [`read_bounded`]: files that are read whole.
//! - [`hash_file`]: the digest of a file.
//! - [`ContentError`]: what can go wrong.
//! - `named`: files that are named by a digest.
//! - `unsynced`: contents that are in place but not yet on disk.
//! - [`Inventory`]: what is here, artifact by artifact, and removing some of it.
//! - [`Verification`]: what reading everything finds.
//! - `verified`: files that were found to be what their names say.

mod artifacts;
mod blobs;
mod collect;
mod error;
mod hash;
mod named;
mod read;
mod unsynced;
mod verified;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use artifacts::{Artifacts, check_file_name, check_file_names};
pub use blobs::Blobs;
pub use collect::{Inventory, StoredArtifact};
pub use error::ContentError;
pub use hash::{hash_file, hash_opened};
pub use headstart_disk::{Disk, DiskError};
pub use read::read_bounded;
pub use unsynced::Unsynced;
pub use verify::{Damaged, Incomplete, Verification};

/// The contents below a folder. Clones share what is not on disk yet.
#[derive(Clone, Debug)]
pub struct ContentStore {
    artifacts: Artifacts,
    unsynced: Arc<Unsynced>,
}

fn is_read_only(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
}

impl ContentStore {
    /// The store in `dir`, an absolute path, on `disk`. Removes what a power failure left incomplete.
    ///
    /// # Errors
    /// [`ContentError::Disk`] where what was left cannot be looked at or removed.
    pub fn open(dir: &Path, disk: Arc<dyn Disk>) -> Result<Self, ContentError> {
        match unsynced::recover(dir, &*disk) {
            // Where nothing can be written, it waits for somebody who can; what is read is verified.
            Err(ContentError::Disk(e)) if is_read_only(&e.source) => {}
            done => done?,
        }
        let unsynced = Arc::new(Unsynced::new(dir.to_owned(), disk));
        let artifacts = Artifacts::new(dir, Arc::clone(&unsynced));
        Ok(Self { artifacts, unsynced })
    }

    /// The folders of a store in `dir` in which files are written before they have a name.
    pub fn unfinished(dir: &Path) -> [PathBuf; 2] {
        ["manifests", "blobs"].map(|kind| dir.join(kind).join("new"))
    }

    /// The same, which refers to files outside of its folder instead of copying them, and makes nothing durable. For
    /// stores that last as long as a command.
    pub fn linking(mut self) -> Self {
        self.unsynced.never_sync();
        self.artifacts = self.artifacts.linking();
        self
    }

    /// Contents by digest.
    pub fn blobs(&self) -> &Blobs {
        self.artifacts.blobs()
    }

    /// Manifests over blobs.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// What was stored and is not on disk yet.
    pub fn unsynced(&self) -> &Arc<Unsynced> {
        &self.unsynced
    }

    /// Makes all contents durable that were stored before the call.
    ///
    /// # Errors
    /// [`ContentError::Disk`]; they are then tried again with the next call.
    pub fn sync(&self) -> Result<(), ContentError> {
        self.unsynced.sync()
    }
}
