//! Artifacts: manifests over blobs, and folders made of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use headstart_protocol::artifact::ArtifactType;
use headstart_protocol::digest::canonical_json;
use headstart_protocol::{ArtifactRef, Digest, FileRef, Manifest, Output};

use crate::blobs::Blobs;
use crate::error::StoreError;
use crate::files::{self, Mode};
use crate::unsynced::Unsynced;

/// The artifacts of a workspace.
#[derive(Clone, Debug)]
pub struct Artifacts {
    blobs: Blobs,
    manifests: PathBuf,
    open: PathBuf,
    unsynced: Arc<Unsynced>,
}

impl Artifacts {
    pub(crate) fn new(blobs: Blobs, manifests: PathBuf, open: PathBuf, unsynced: Arc<Unsynced>) -> Self {
        Self { blobs, manifests, open, unsynced }
    }

    /// Stores what a stage made: its files by content, then the manifest.
    pub fn import(&self, output: &Output) -> Result<(Manifest, ArtifactRef), StoreError> {
        if ArtifactType::of(&output.ty).is_none() {
            return Err(StoreError::NotAnArtifact(output.ty.to_string()));
        }
        let mut stored: BTreeMap<String, FileRef> = BTreeMap::new();
        for (name, _) in &output.files {
            check_file_name(name)?;
        }
        for (name, path) in &output.files {
            if stored.insert(name.clone(), self.blobs.put_file(path)?).is_some() {
                let why = "the output has two files of this name";
                return Err(StoreError::BadName { name: name.clone(), what: "a file of an artifact", why });
            }
        }
        let manifest = Manifest {
            ty: output.ty.clone(),
            files: stored,
            value: output.value.clone(),
            uses: output.uses.clone(),
        };
        let reference = self.put_manifest(&manifest)?;
        Ok((manifest, reference))
    }

    /// Stores a manifest. Its files may arrive later: [`Artifacts::missing`] says which do.
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<ArtifactRef, StoreError> {
        if ArtifactType::of(&manifest.ty).is_none() {
            return Err(StoreError::NotAnArtifact(manifest.ty.to_string()));
        }
        manifest.files.keys().try_for_each(|name| check_file_name(name))?;
        let reference = ArtifactRef::public(manifest);
        let path = self.place(&reference.id);
        if path.is_file() {
            self.unsynced.adopt(&path);
        } else {
            let dir = self.manifests.join("new");
            files::create_dir(&dir)?;
            let temp = tempfile::NamedTempFile::new_in(&dir);
            let mut temp = temp.map_err(StoreError::io("create a file in", &dir))?;
            temp.write_all(canonical_json(manifest).as_bytes())
                .and_then(|()| files::set_mode(temp.as_file(), Mode::ReadOnly))
                .map_err(StoreError::io("write", &path))?;
            self.unsynced.place(temp, &path)?;
        }
        Ok(reference)
    }

    /// The manifest of this id, if it is here.
    pub fn manifest(&self, id: &Digest) -> Result<Option<Manifest>, StoreError> {
        let path = self.place(id);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("read", path)(e)),
        };
        if Digest::of(&bytes) != *id {
            let why =
                "the manifest does not match its name; delete the file and run the stage that made it again";
            return Err(StoreError::damaged(&path, why));
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| StoreError::damaged(&path, format!("the manifest is not understood: {e}")))
    }

    /// Names of the manifest's files whose content is not here.
    pub fn missing(&self, manifest: &Manifest) -> Vec<String> {
        let gone = |f: &FileRef| !self.blobs.has(&f.digest);
        manifest.files.iter().filter(|(_, f)| gone(f)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether an artifact is here with all its content. Looks whether everything is in its place,
    /// not whether it is intact; costs some microseconds.
    pub fn has(&self, id: &Digest) -> bool {
        /// As much of a manifest as must be read.
        #[derive(serde::Deserialize)]
        struct Files {
            #[serde(default)]
            files: BTreeMap<String, FileRef>,
        }
        let Ok(bytes) = fs::read(self.place(id)) else { return false };
        let files = serde_json::from_slice::<Files>(&bytes);
        files.is_ok_and(|m| m.files.values().all(|f| self.blobs.has(&f.digest)))
    }

    /// A folder that holds the artifact's files under their names: hard links to the blobs, so it
    /// costs no space. It appears complete or not at all, and is reused.
    pub fn materialize(&self, id: &Digest) -> Result<PathBuf, StoreError> {
        let folder = self.open.join(id.to_string());
        if folder.is_dir() {
            return Ok(folder);
        }
        let manifest = self.manifest(id)?.ok_or(StoreError::MissingArtifact(*id))?;
        files::create_dir(&self.open)?;
        let temp = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempdir_in(&self.open)
            .map_err(StoreError::io("create a folder in", &self.open))?;
        for (name, file) in &manifest.files {
            check_file_name(name)?;
            let missing = || StoreError::MissingBlob { digest: file.digest, name: name.clone() };
            let blob = self.blobs.path(&file.digest).ok_or_else(missing)?;
            let target = temp.path().join(name);
            files::create_dir(target.parent().expect("a file lies in a folder"))?;
            link(&blob, &target).map_err(StoreError::io("link", &target))?;
        }
        match fs::rename(temp.path(), &folder) {
            Ok(()) => {
                // The folder is no longer there to be deleted.
                let _ = temp.keep();
                Ok(folder)
            }
            // Somebody else was faster; both folders are equal.
            Err(_) if folder.is_dir() => Ok(folder),
            Err(e) => Err(StoreError::io("create", &folder)(e)),
        }
    }

    fn place(&self, id: &Digest) -> PathBuf {
        let hex = id.to_string();
        self.manifests.join(&hex[..2]).join(format!("{hex}.json"))
    }
}

/// Hard link; where the file system has none, or too many to one file, a symbolic link; else a copy.
fn link(blob: &Path, target: &Path) -> std::io::Result<()> {
    if fs::hard_link(blob, target).is_ok() {
        return Ok(());
    }
    #[cfg(unix)]
    if let Ok(absolute) = blob.canonicalize()
        && std::os::unix::fs::symlink(absolute, target).is_ok()
    {
        return Ok(());
    }
    fs::copy(blob, target).map(|_| ())
}

/// Refuses names that would lead out of an artifact's folder, or differ between systems.
pub fn check_file_name(name: &str) -> Result<(), StoreError> {
    let bad = |why| Err(StoreError::BadName { name: name.to_owned(), what: "a file of an artifact", why });
    if name.is_empty() || name.len() > 1024 {
        return bad("names have 1 to 1024 bytes");
    }
    if name.contains(['\\', '\0', ':']) {
        return bad("names have no `\\`, `:` or NUL");
    }
    if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return bad("names are relative, without empty parts, `.` or `..`");
    }
    if !Path::new(name).components().all(|c| matches!(c, Component::Normal(_))) {
        return bad("names are relative paths");
    }
    Ok(())
}
