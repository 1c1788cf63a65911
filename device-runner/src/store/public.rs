//! Artifacts that anybody may know: downloaded, checked, kept for later runs.

use std::path::{Path, PathBuf};

use headstart_protocol::{Digest, Failure, FailureClass, Manifest, Type};

use super::{Gathered, take_file, valid_name};

/// The public artifacts that lie on a device.
pub struct Public {
    root: PathBuf,
}

impl Public {
    /// The artifacts in a folder.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder that holds everything of this store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A manifest that is here.
    pub fn manifest(&self, id: &Digest) -> Option<Manifest> {
        let text = std::fs::read(self.manifest_path(id)).ok()?;
        let manifest: Manifest = serde_json::from_slice(&text).ok()?;
        (manifest.id() == *id).then_some(manifest)
    }

    /// The manifest of this type that was downloaded last.
    pub fn newest(&self, ty: &Type) -> Option<Manifest> {
        let files = std::fs::read_dir(self.root.join("manifests")).ok()?;
        let mut files: Vec<_> =
            files.flatten().filter_map(|f| Some((f.metadata().ok()?.modified().ok()?, f.path()))).collect();
        files.sort_by(|a, b| b.cmp(a));
        files.into_iter().find_map(|(_, path)| {
            let manifest: Manifest = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
            (manifest.ty == *ty).then_some(manifest)
        })
    }

    /// Keeps a manifest.
    ///
    /// # Errors
    /// [`FailureClass::Input`] where it is not the one asked for, or has file names that would
    /// reach out of its folder.
    pub fn put_manifest(&self, id: &Digest, manifest: &Manifest) -> Result<(), Failure> {
        if manifest.id() != *id {
            return Err(Failure::input(format!("the engine sent another manifest than {}", id.short())));
        }
        if let Some(name) = manifest.files.keys().find(|n| !valid_name(n)) {
            return Err(Failure::input(format!(
                "artifact {} has a file named {name:?}, which would leave its folder",
                id.short()
            )));
        }
        let json = serde_json::to_vec(manifest)
            .map_err(|e| Failure::new(FailureClass::Internal, format!("manifest {}: {e}", id.short())))?;
        let at = self.manifest_path(id);
        self.make_dir("manifests")?;
        crate::state::write_durably(&at, &json)
            .map_err(|e| Failure::new(FailureClass::Transient, e.to_string()))
    }

    fn manifest_path(&self, id: &Digest) -> PathBuf {
        self.root.join("manifests").join(format!("{id}.json"))
    }

    /// Where a file's content lies once it is complete and checked.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.to_string())
    }

    /// Where a download in progress lies.
    ///
    /// # Errors
    /// Any of making its folder.
    pub fn partial(&self, digest: &Digest) -> Result<PathBuf, Failure> {
        Ok(self.make_dir("partial")?.join(digest.to_string()))
    }

    /// Takes a complete, checked download over. Content never changes afterwards.
    ///
    /// # Errors
    /// Any of moving it.
    pub fn finish(&self, digest: &Digest, partial: &Path) -> Result<(), Failure> {
        let dir = self.make_dir("blobs")?;
        let at = self.blob(digest);
        let take = || {
            let mut mode = std::fs::metadata(partial)?.permissions();
            mode.set_readonly(true);
            std::fs::File::open(partial)?.sync_all()?;
            std::fs::set_permissions(partial, mode)?;
            std::fs::rename(partial, &at)?;
            crate::state::sync_dir(&dir)
        };
        take().map_err(|e| Failure::io(&at, &e))
    }

    /// A folder that holds an artifact's files under their names.
    ///
    /// # Errors
    /// [`FailureClass::MissingArtifact`] where a file was not downloaded.
    pub fn open(&self, manifest: &Manifest) -> Result<PathBuf, Failure> {
        let id = manifest.id();
        let open = self.make_dir("open")?;
        let dir = open.join(id.to_string());
        let complete = |dir: &Path| {
            manifest.files.iter().all(|(name, f)| {
                std::fs::metadata(dir.join(name)).is_ok_and(|m| m.is_file() && m.len() == f.size)
            })
        };
        if dir.is_dir() && complete(&dir) {
            return Ok(dir);
        }
        let absent = manifest.files.iter().find(|(_, f)| !self.blob(&f.digest).is_file());
        if let Some((name, _)) = absent {
            return Err(Failure::new(
                FailureClass::MissingArtifact,
                format!(
                    "file {name} of the {} {} is not on this device: the task did not list it for download",
                    manifest.ty,
                    id.short()
                ),
            ));
        }
        let build = || -> std::io::Result<()> {
            let new = tempfile::Builder::new().prefix(".new-").tempdir_in(&open)?;
            for (name, file) in &manifest.files {
                let (from, to) = (self.blob(&file.digest), new.path().join(name));
                if let Some(dir) = to.parent() {
                    std::fs::create_dir_all(dir)?;
                }
                std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(|_| ()))?;
            }
            if dir.exists() {
                std::fs::remove_dir_all(&dir)?;
            }
            std::fs::rename(new.keep(), &dir)
        };
        build().map_err(|e| Failure::io(&dir, &e))?;
        Ok(dir)
    }

    /// Keeps an output that was made on this device from public inputs alone.
    ///
    /// # Errors
    /// Any of writing it.
    pub fn add(&self, gathered: &Gathered, scratch: &Path) -> Result<Digest, Failure> {
        for (name, from) in &gathered.files {
            let digest = gathered.manifest.files[name].digest;
            if self.blob(&digest).is_file() {
                continue;
            }
            let partial = self.partial(&digest)?;
            let movable = from.starts_with(scratch);
            take_file(from, &partial, movable).map_err(|e| Failure::io(&partial, &e))?;
            self.finish(&digest, &partial)?;
        }
        let id = gathered.manifest.id();
        self.put_manifest(&id, &gathered.manifest)?;
        Ok(id)
    }

    fn make_dir(&self, name: &str) -> Result<PathBuf, Failure> {
        let dir = self.root.join(name);
        std::fs::create_dir_all(&dir).map_err(|e| Failure::io(&dir, &e))?;
        Ok(dir)
    }
}
