//! What a store holds, artifact by artifact, and removing some of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use headstart_protocol::{Digest, Manifest};

use crate::artifacts::Artifacts;
use crate::error::ContentError;

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Artifacts whose manifests can be read, by id.
    pub artifacts: BTreeMap<Digest, StoredArtifact>,
    /// Contents, with their bytes.
    pub blobs: BTreeMap<Digest, u64>,
}

/// An artifact, as its manifest has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredArtifact {
    /// Bytes of the manifest.
    pub bytes: u64,
    /// Contents that it consists of.
    pub files: Vec<Digest>,
    /// Artifacts that it refers to.
    pub uses: Vec<Digest>,
}

impl StoredArtifact {
    fn of(manifest: &Manifest, bytes: u64) -> Self {
        let files = manifest.files.values().map(|f| f.digest).collect();
        let uses = manifest.uses.values().map(|used| used.id).collect();
        Self { bytes, files, uses }
    }
}

impl Inventory {
    /// Bytes of everything in it.
    pub fn bytes(&self) -> u64 {
        self.artifacts.values().map(|a| a.bytes).sum::<u64>() + self.blobs.values().sum::<u64>()
    }

    /// The artifacts that can be reached from `from`, themselves among them. Those that are not here are left out.
    pub fn reach(&self, from: impl IntoIterator<Item = Digest>) -> BTreeSet<Digest> {
        let mut found = BTreeSet::new();
        let mut stack: Vec<Digest> = from.into_iter().collect();
        while let Some(id) = stack.pop() {
            if let Some(artifact) = self.artifacts.get(&id)
                && found.insert(id)
            {
                stack.extend(&artifact.uses);
            }
        }
        found
    }

    /// Bytes of these artifacts, a content that several of them have counted once.
    pub fn bytes_of(&self, artifacts: &BTreeSet<Digest>) -> u64 {
        let known = || artifacts.iter().filter_map(|id| self.artifacts.get(id));
        let files: BTreeSet<Digest> = known().flat_map(|a| &a.files).copied().collect();
        let contents: u64 = files.iter().filter_map(|d| self.blobs.get(d)).sum();
        contents + known().map(|a| a.bytes).sum::<u64>()
    }
}

impl Artifacts {
    /// What the store holds. A manifest that is damaged counts as missing; it is for [`Artifacts::verify`].
    ///
    /// # Errors
    /// [`ContentError::Disk`] where something cannot be read.
    pub fn inventory(&self) -> Result<Inventory, ContentError> {
        let mut found = Inventory::default();
        for (digest, path) in self.blobs().all()? {
            // Another process may have removed it just now.
            if let Ok(facts) = fs::metadata(&path) {
                found.blobs.insert(digest, facts.len());
            }
        }
        for (id, path) in self.all()? {
            let manifest = match self.manifest(&id) {
                Ok(Some(manifest)) => manifest,
                Err(ContentError::Disk(e)) => return Err(e.into()),
                Ok(None) | Err(_) => continue,
            };
            let bytes = fs::metadata(&path).map_or(0, |facts| facts.len());
            found.artifacts.insert(id, StoredArtifact::of(&manifest, bytes));
        }
        Ok(found)
    }

    /// Removes artifacts and contents. Manifests go first: an artifact is never here with a part of its content.
    /// May be called again where it was interrupted.
    ///
    /// # Errors
    /// [`ContentError::Disk`] where something cannot be removed.
    pub fn remove(
        &self,
        artifacts: &BTreeSet<Digest>,
        contents: &BTreeSet<Digest>,
    ) -> Result<(), ContentError> {
        for id in artifacts {
            let folder = self.open_folders().join(id.to_string());
            if folder.is_dir() {
                gone(&folder, self.disk().remove_dir_all(&folder))?;
            }
            while let Some(path) = self.path(id) {
                gone(&path, self.disk().remove_file(&path))?;
            }
        }
        for digest in contents {
            while let Some(path) = self.blobs().path(digest) {
                gone(&path, self.disk().remove_file(&path))?;
            }
        }
        Ok(())
    }

    /// Removes what processes that were killed left half written. To be called while nobody stores anything.
    ///
    /// # Errors
    /// [`ContentError::Disk`] where something cannot be removed.
    pub fn remove_unfinished(&self) -> Result<u64, ContentError> {
        let mut freed = 0;
        for folder in self.unfinished() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                freed += entry.metadata().map_or(0, |facts| facts.len());
                gone(&entry.path(), self.disk().remove_file(&entry.path()))?;
            }
        }
        Ok(freed)
    }
}

/// What is gone already is as it should be.
fn gone(path: &Path, removed: std::io::Result<()>) -> Result<(), ContentError> {
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(ContentError::io("remove", path)(e)),
        _ => Ok(()),
    }
}
