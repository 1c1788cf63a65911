//! Reads everything in a store and compares it with its names.

use std::path::{Path, PathBuf};

use headstart_protocol::{Digest, Manifest};

use crate::artifacts::Artifacts;
use crate::error::ContentError;
use crate::hash::hash_file;

/// What a store holds, and what of it is damaged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verification {
    /// Contents that were read.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests that were read.
    pub artifacts: u64,
    /// What is not what its name says.
    pub damaged: Vec<Damaged>,
    /// Artifacts of which content is missing. It counts as missing and is made again where it is needed.
    pub incomplete: Vec<Incomplete>,
}

/// A file that is not what its name says.
#[derive(Clone, Debug, PartialEq)]
pub struct Damaged {
    /// Where it lies.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// An artifact of which content is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Incomplete {
    /// The artifact.
    pub id: Digest,
    /// Its type.
    pub ty: String,
    /// The name of the first file whose content is missing or damaged.
    pub file: String,
}

impl Artifacts {
    /// Reads all contents and manifests. `each` is told how many files were read.
    ///
    /// # Errors
    /// [`ContentError::Disk`] where a folder cannot be read.
    pub fn verify(&self, mut each: impl FnMut(u64)) -> Result<Verification, ContentError> {
        let mut found = Verification::default();
        let mut damaged_contents = Vec::new();
        for (digest, path) in self.blobs().all()? {
            match hash_file(&path) {
                Ok(file) => {
                    found.contents += 1;
                    found.bytes += file.size;
                    if file.digest != digest {
                        damaged_contents.push(digest);
                        found.damage(&path, "the content does not match its name");
                    }
                }
                // Removed by another process meanwhile.
                Err(e) if e.io_kind() == Some(std::io::ErrorKind::NotFound) => {}
                Err(e) => found.damage(&path, e),
            }
            each(found.contents + found.artifacts);
        }
        for (id, path) in self.all()? {
            match self.manifest(&id) {
                Ok(Some(manifest)) => {
                    found.artifacts += 1;
                    found.incomplete.extend(self.incomplete(id, &manifest, &damaged_contents));
                }
                Ok(None) => {}
                Err(ContentError::Damaged { why, .. }) => {
                    found.artifacts += 1;
                    found.damage(&path, why);
                }
                Err(e) => found.damage(&path, e),
            }
            each(found.contents + found.artifacts);
        }
        Ok(found)
    }

    /// Removes what is damaged, so that it counts as missing, and all folders made of contents.
    ///
    /// # Errors
    /// [`ContentError::Disk`] where something cannot be removed.
    pub fn remove_damaged(&self, damaged: &[Damaged]) -> Result<(), ContentError> {
        if damaged.is_empty() {
            return Ok(());
        }
        let disk = self.disk();
        for Damaged { path, .. } in damaged {
            match disk.remove_file(path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                done => done.map_err(ContentError::io("remove damaged", path))?,
            }
        }
        // Links in them still lead to what was removed.
        let open = self.open_folders();
        match disk.remove_dir_all(open) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ContentError::io("remove", open)(e)),
            _ => Ok(()),
        }
    }

    fn incomplete(&self, id: Digest, manifest: &Manifest, damaged: &[Digest]) -> Option<Incomplete> {
        let good =
            |f: &headstart_protocol::FileRef| self.blobs().has_whole(f) && !damaged.contains(&f.digest);
        let (file, _) = manifest.files.iter().find(|(_, f)| !good(f))?;
        Some(Incomplete { id, ty: manifest.ty.to_string(), file: file.clone() })
    }
}

impl Verification {
    fn damage(&mut self, path: &Path, why: impl ToString) {
        self.damaged.push(Damaged { path: path.to_owned(), why: why.to_string() });
    }
}
