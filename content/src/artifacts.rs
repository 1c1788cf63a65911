//! Artifacts: manifests over blobs, and folders made of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use headstart_disk::files::{self, NewFile};
use headstart_disk::read::open_resolved;
use headstart_disk::{Disk, Mode};
use headstart_protocol::text::folded_name;
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, FileRef, Manifest, Output, canonical_json};

use crate::blobs::Blobs;
use crate::error::ContentError;
use crate::named::named_by_digest;
use crate::read::read_bounded;
use crate::unsynced::Unsynced;

/// Bytes of a manifest at most. A catalog of 100,000 pLLMs lists each with its digest.
const LARGEST_MANIFEST: u64 = 256 << 20;

/// The artifacts of a store.
#[derive(Clone, Debug)]
pub struct Artifacts {
    blobs: Blobs,
    manifests: PathBuf,
    open: PathBuf,
    unsynced: Arc<Unsynced>,
}

impl Artifacts {
    pub(crate) fn new(dir: &Path, unsynced: Arc<Unsynced>) -> Self {
        let blobs = Blobs::new(dir.join("blobs"), Arc::clone(&unsynced));
        Self { blobs, manifests: dir.join("manifests"), open: dir.join("open"), unsynced }
    }

    pub(crate) fn linking(self) -> Self {
        Self { blobs: self.blobs.linking(), ..self }
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Stores what a stage made: its files by content, then the manifest. The paths of the files are resolved
    /// (`headstart_runner::run` gives them so): each is opened once, and no link that lies on the way to it by now is
    /// followed.
    ///
    /// # Errors
    /// [`ContentError::BadName`], [`ContentError::NotAnArtifact`], [`ContentError::PrivateReference`],
    /// [`ContentError::Disk`].
    pub fn import(&self, output: &Output) -> Result<(Manifest, ArtifactRef), ContentError> {
        self.import_known(output).map(|(manifest, reference, _)| (manifest, reference))
    }

    /// Like [`Artifacts::import`]; says too whether the same artifact was here before.
    ///
    /// # Errors
    /// As [`Artifacts::import`].
    pub fn import_known(&self, output: &Output) -> Result<(Manifest, ArtifactRef, bool), ContentError> {
        if ArtifactType::of(&output.ty).is_none() {
            return Err(ContentError::NotAnArtifact(output.ty.to_string()));
        }
        if let Some((name, _)) = output.uses.iter().find(|(_, used)| used.private_to.is_some()) {
            return Err(ContentError::PrivateReference { name: name.clone() });
        }
        let mut stored: BTreeMap<String, FileRef> = BTreeMap::new();
        check_file_names(output.files.iter().map(|(name, _)| name.as_str()))?;
        for (name, path) in &output.files {
            let file = open_resolved(path).map_err(ContentError::io("read", path))?;
            if stored.insert(name.clone(), self.blobs.put_opened(&file, path)?).is_some() {
                let why = "the output has two files of this name";
                return Err(ContentError::BadName { name: name.clone(), why });
            }
        }
        let manifest = Manifest {
            ty: output.ty.clone(),
            files: stored,
            value: output.value.clone(),
            uses: output.uses.clone(),
        };
        let known = self.path(&manifest.id()).is_some();
        let reference = self.put_manifest(&manifest)?;
        Ok((manifest, reference, known))
    }

    /// Stores a manifest. Its files may arrive later: [`Artifacts::missing`] says which do.
    ///
    /// # Errors
    /// [`ContentError::BadName`], [`ContentError::NotAnArtifact`], [`ContentError::PrivateReference`],
    /// [`ContentError::Disk`].
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<ArtifactRef, ContentError> {
        if ArtifactType::of(&manifest.ty).is_none() {
            return Err(ContentError::NotAnArtifact(manifest.ty.to_string()));
        }
        refers_to_public_ones(manifest)?;
        check_file_names(manifest.files.keys().map(String::as_str))?;
        let reference = ArtifactRef::public(manifest);
        // One that is damaged is written again.
        let intact = self.path(&reference.id).filter(|_| matches!(self.manifest(&reference.id), Ok(Some(_))));
        if let Some(path) = intact {
            self.unsynced.adopt(&path);
        } else {
            let path = self.place(&reference.id);
            let dir = self.manifests.join("new");
            let disk = self.unsynced.disk();
            files::create_dir(disk, &dir)?;
            let mut temp = NewFile::in_dir(disk, &dir, ".tmp-")?;
            let file = temp.file();
            file.write_all(canonical_json(manifest).as_bytes())
                .and_then(|()| file.set_mode(Mode::ReadOnly))
                .map_err(ContentError::io("write", &path))?;
            self.unsynced.place(temp, &path)?;
        }
        Ok(reference)
    }

    /// The manifest of this id, if it is here.
    ///
    /// # Errors
    /// [`ContentError::Damaged`] where it is not what its name says, [`ContentError::PrivateReference`],
    /// [`ContentError::TooLarge`], [`ContentError::Disk`].
    pub fn manifest(&self, id: &Digest) -> Result<Option<Manifest>, ContentError> {
        let Some(path) = self.path(id) else { return Ok(None) };
        let Some(bytes) = read_bounded(&path, LARGEST_MANIFEST)? else { return Ok(None) };
        let manifest = understood(&path, &bytes, id)?;
        refers_to_public_ones(&manifest)?;
        Ok(Some(manifest))
    }

    /// All manifests, with where they lie, in the order of their ids.
    pub(crate) fn all(&self) -> Result<Vec<(Digest, PathBuf)>, ContentError> {
        named_by_digest(&self.manifests)
    }

    /// The disk that the store lies on.
    pub(crate) fn disk(&self) -> &dyn Disk {
        self.unsynced.disk()
    }

    /// The folder of folders that [`Artifacts::materialize`] makes.
    pub(crate) fn open_folders(&self) -> &Path {
        &self.open
    }

    /// The manifest that was stored last among those that `wanted` accepts; what cannot be read is
    /// passed over.
    pub fn newest(&self, wanted: impl Fn(&Manifest) -> bool) -> Option<Manifest> {
        let stored = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        let all = self.all().unwrap_or_default();
        let mut found: Vec<_> = all.iter().filter_map(|(id, path)| Some((stored(path)?, *id))).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().filter_map(|(_, id)| self.manifest(&id).ok().flatten()).find(|m| wanted(m))
    }

    /// Names of the manifest's files whose content is not here, or not as long as it should be.
    pub fn missing(&self, manifest: &Manifest) -> Vec<String> {
        let gone = |f: &FileRef| !self.blobs.has_whole(f);
        manifest.files.iter().filter(|(_, f)| gone(f)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether an artifact is here with all its content. Compares the manifest with its name and each file
    /// with its size; costs some microseconds.
    pub fn has(&self, id: &Digest) -> bool {
        let manifest = self.manifest(id).ok().flatten();
        manifest.is_some_and(|m| m.files.values().all(|f| self.blobs.has_whole(f)))
    }

    /// Whether an artifact is here with all its content, which is read whole where this process has not
    /// read it yet; see [`Blobs::intact`].
    ///
    /// # Errors
    /// [`ContentError::Disk`].
    pub fn is_intact(&self, id: &Digest) -> Result<bool, ContentError> {
        let manifest = match self.manifest(id) {
            Ok(Some(manifest)) => manifest,
            Ok(None) | Err(ContentError::Damaged { .. }) => return Ok(false),
            Err(e) => return Err(e),
        };
        for file in manifest.files.values() {
            if !self.blobs.has_whole(file) || self.blobs.intact(&file.digest)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A folder that holds the artifact's files under their names: hard links to the blobs, so it
    /// costs no space. It appears complete or not at all, and is reused as long as it is complete. What it
    /// holds was compared with its digests by this process.
    ///
    /// # Errors
    /// [`ContentError::MissingArtifact`], [`ContentError::MissingBlob`], and those of
    /// [`Artifacts::manifest`].
    pub fn materialize(&self, id: &Digest) -> Result<PathBuf, ContentError> {
        let manifest = self.manifest(id)?.ok_or(ContentError::MissingArtifact(*id))?;
        let folder = self.open.join(id.to_string());
        let mut contents = Vec::with_capacity(manifest.files.len());
        check_file_names(manifest.files.keys().map(String::as_str))?;
        for (name, file) in &manifest.files {
            let missing = || ContentError::MissingBlob { digest: file.digest, name: name.clone() };
            let blob = self.blobs.intact(&file.digest)?.ok_or_else(missing)?;
            contents.push((name, blob, file));
        }
        // Links to what was just read are not read again.
        let complete = |folder: &Path| {
            contents.iter().all(|(name, _, f)| self.blobs.is(&folder.join(name), &f.digest).unwrap_or(false))
        };
        if folder.is_dir() && complete(&folder) {
            return Ok(folder);
        }
        // Where another process was faster, its folder is equal.
        let disk = self.unsynced.disk();
        files::create_dir_atomic(
            disk,
            &folder,
            |folder| !complete(folder),
            |temp| -> Result<(), ContentError> {
                for (name, blob, _) in &contents {
                    let target = temp.join(name);
                    files::create_dir(disk, target.parent().expect("a file lies in a folder"))?;
                    link(disk, blob, &target).map_err(ContentError::io("link", &target))?;
                }
                Ok(())
            },
        )?;
        Ok(folder)
    }

    fn place(&self, id: &Digest) -> PathBuf {
        let hex = id.to_string();
        self.manifests.join(&hex[..2]).join(format!("{hex}.json"))
    }

    /// The folders in which files are written before they have a name.
    pub(crate) fn unfinished(&self) -> [PathBuf; 2] {
        [self.manifests.join("new"), self.blobs.unfinished()]
    }

    /// Where a manifest lies, if it is here.
    pub(crate) fn path(&self, id: &Digest) -> Option<PathBuf> {
        // Devices of version 0.1 kept all manifests in one folder.
        let flat = || Some(self.manifests.join(format!("{id}.json")));
        let sharded = Some(self.place(id)).filter(|path| path.is_file());
        sharded.or_else(|| flat().filter(|path| path.is_file()))
    }
}

/// The manifest in a file that is named by its digest.
fn understood(path: &Path, bytes: &[u8], id: &Digest) -> Result<Manifest, ContentError> {
    if Digest::of(bytes) == *id {
        return serde_json::from_slice(bytes)
            .map_err(|e| ContentError::damaged(path, format!("the manifest is not understood: {e}")));
    }
    // Devices of version 0.1 wrote JSON that was not canonical.
    match serde_json::from_slice::<Manifest>(bytes) {
        Ok(manifest) if manifest.id() == *id => Ok(manifest),
        _ => {
            let why = "the manifest does not match its name; delete the file and run the stage that made it \
                       again";
            Err(ContentError::damaged(path, why))
        }
    }
}

/// The store holds public artifacts, which everybody may follow.
fn refers_to_public_ones(manifest: &Manifest) -> Result<(), ContentError> {
    match manifest.private_reference() {
        None => Ok(()),
        Some(name) => Err(ContentError::PrivateReference { name: name.to_owned() }),
    }
}

/// Hard link; where the file system has none, or too many to one file, a symbolic link; else a copy.
fn link(disk: &dyn Disk, blob: &Path, target: &Path) -> std::io::Result<()> {
    match disk.hard_link(blob, target) {
        Ok(()) => return Ok(()),
        // Neither of the other two would find room.
        Err(e) if headstart_disk::is_full(&e) => return Err(e),
        Err(_) => {}
    }
    if let Ok(absolute) = blob.canonicalize()
        && disk.symlink(&absolute, target).is_ok()
    {
        return Ok(());
    }
    disk.copy(blob, target).map(drop)
}

/// Refuses the names of an artifact's files that [`check_file_name`] refuses, and those that are one name where
/// letters are not told by case.
///
/// # Errors
/// [`ContentError::BadName`].
pub fn check_file_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<(), ContentError> {
    let mut folded = HashMap::new();
    for name in names {
        check_file_name(name)?;
        match folded.insert(folded_name(name), name) {
            Some(other) if other != name => {
                let why = "another file's name differs from it by case or invisible characters alone";
                return Err(ContentError::BadName { name: name.to_owned(), why });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses names that would lead out of an artifact's folder, or differ between systems.
///
/// # Errors
/// [`ContentError::BadName`].
pub fn check_file_name(name: &str) -> Result<(), ContentError> {
    let bad = |why| Err(ContentError::BadName { name: name.to_owned(), why });
    if name.is_empty() || name.len() > 1024 {
        return bad("names have 1 to 1024 bytes");
    }
    if name.contains(['\\', '\0', ':']) {
        return bad("names have no `\\`, `:` or NUL");
    }
    if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return bad("names are relative, without empty parts, `.` or `..`");
    }
    if name.split('/').any(|part| part.ends_with(['.', ' '])) {
        return bad("no part of a name ends in `.` or a space, which some systems leave out");
    }
    if !Path::new(name).components().all(|c| matches!(c, Component::Normal(_))) {
        return bad("names are relative paths");
    }
    Ok(())
}
