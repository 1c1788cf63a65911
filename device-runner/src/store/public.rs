//! Public artifacts: downloaded, checked, kept for later runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_content::ContentStore;
use headstart_disk::{Disk, files};
use headstart_protocol::{Digest, Failure, FailureClass, FileRef, Manifest, Type};

use super::parts::Parts;
use super::quota::Room;
use super::{Gathered, content_failure};
use crate::error::DeviceError;
use crate::state::State;

/// The public artifacts on a device: a content store, and downloads in progress.
pub struct Public {
    state: PathBuf,
    root: PathBuf,
    disk: Arc<dyn Disk>,
    contents: ContentStore,
    quota: u64,
}

impl Public {
    /// Those of a state folder.
    ///
    /// # Errors
    /// [`DeviceError::State`] where what a power failure left cannot be looked at.
    pub fn open(state: &State, parts: Parts) -> Result<Self, DeviceError> {
        let (root, disk) = (state.at("public"), Arc::clone(state.disk()));
        let contents = ContentStore::open(&root, Arc::clone(&disk))?;
        Ok(Self { state: state.root().to_owned(), root, disk, contents, quota: parts.public })
    }

    /// Gives public work its part of the disk.
    pub fn set_parts(&mut self, parts: Parts) {
        self.quota = parts.public;
    }

    /// How much more there is room for. Private work has no share in it.
    pub fn room(&self) -> Room {
        Room::new(&self.state, self.quota)
    }

    /// Bytes of a file that are yet to be downloaded.
    pub fn missing_of(&self, file: &FileRef) -> u64 {
        let partial = self.root.join("partial").join(file.digest.to_string());
        file.size.saturating_sub(std::fs::metadata(partial).map_or(0, |m| m.len()))
    }

    /// The disk that it lies on.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// The folder that holds everything of this store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A manifest that is here. One that is damaged is not: it is downloaded again.
    pub fn manifest(&self, id: &Digest) -> Option<Manifest> {
        let found = self.contents.artifacts().manifest(id);
        found.inspect_err(|e| tracing::warn!("{e}")).ok().flatten()
    }

    /// The manifest of this type that was downloaded last.
    pub fn newest(&self, ty: &Type) -> Option<Manifest> {
        self.contents.artifacts().newest(|m| m.ty == *ty)
    }

    /// Keeps a manifest; it is on disk when this returns.
    ///
    /// # Errors
    /// [`FailureClass::Input`] where it is not the one asked for, has file names that would lead out of its
    /// folder, or refers to a private artifact.
    pub fn put_manifest(&self, id: &Digest, manifest: &Manifest) -> Result<(), Failure> {
        if manifest.id() != *id {
            return Err(Failure::input(format!("the engine sent another manifest than {}", id.short())));
        }
        self.contents.artifacts().put_manifest(manifest).map_err(content_failure)?;
        self.contents.sync().map_err(content_failure)
    }

    /// Where a file's content lies, if it is here: complete and checked.
    pub fn blob(&self, digest: &Digest) -> Option<PathBuf> {
        self.contents.blobs().path(digest)
    }

    /// Where a download in progress lies.
    ///
    /// # Errors
    /// Any of making its folder.
    pub fn partial(&self, digest: &Digest) -> Result<PathBuf, Failure> {
        let dir = self.root.join("partial");
        files::create_dir(&*self.disk, &dir)?;
        Ok(dir.join(digest.to_string()))
    }

    /// Takes over what was downloaded. False, and the download is gone, if it is not the file that
    /// was asked for.
    ///
    /// # Errors
    /// Any of moving it.
    pub fn take_download(&self, file: &FileRef, partial: &Path) -> Result<bool, Failure> {
        let got = headstart_content::hash_file(partial).map_err(content_failure)?;
        if got != *file {
            self.disk.remove_file(partial).map_err(|e| Failure::io(partial, &e))?;
            return Ok(false);
        }
        self.contents.blobs().take_file(partial).map_err(content_failure)?;
        self.contents.sync().map_err(content_failure)?;
        Ok(true)
    }

    /// A folder that holds an artifact's files under their names.
    ///
    /// # Errors
    /// [`FailureClass::MissingArtifact`] where the artifact or one of its files was not downloaded.
    pub fn materialize(&self, id: &Digest) -> Result<PathBuf, Failure> {
        self.contents.artifacts().materialize(id).map_err(|e| {
            let failure = content_failure(e);
            match failure.class {
                FailureClass::MissingArtifact => failure.help("the task did not list it for download"),
                _ => failure,
            }
        })
    }

    /// Keeps an output that was made on this device from public inputs alone; files below `scratch`
    /// are moved, others copied.
    ///
    /// # Errors
    /// Any of writing it.
    pub fn add(&self, gathered: &Gathered, scratch: &Path) -> Result<Digest, Failure> {
        let blobs = self.contents.blobs();
        // What lies in the attempt's own folder takes up its room already.
        let copied = gathered.files.iter().filter(|(_, at)| !at.starts_with(scratch));
        let copied = copied.filter_map(|(name, _)| gathered.manifest.files.get(name));
        let new = copied.filter(|f| self.blob(&f.digest).is_none());
        self.room().take_all(new.map(|f| f.size))?;
        for (name, from) in &gathered.files {
            let movable = from.starts_with(scratch);
            let stored = if movable { blobs.take_file(from) } else { blobs.put_file(from) };
            if gathered.manifest.files.get(name) != Some(&stored.map_err(content_failure)?) {
                let m = format!("{}: the file was changed while it was stored", from.display());
                return Err(Failure::new(FailureClass::Internal, m));
            }
        }
        let id = gathered.manifest.id();
        self.put_manifest(&id, &gathered.manifest)?;
        Ok(id)
    }
}
