//! What the device holds: downloaded artifacts, and what was made here and stays here.

mod private;
mod public;

use std::fs::File;
use std::path::{Path, PathBuf};

use headstart_protocol::artifact::FileRef;
use headstart_protocol::{ArtifactRef, Digest, Failure, FailureClass, Manifest, Output};

pub use private::{Held, Private};
pub use public::Public;

use crate::state::State;

/// Both halves of the device's store.
pub struct Store {
    /// Artifacts that anybody may know, by digest.
    pub public: Public,
    /// Artifacts that only this device knows, by handle.
    pub private: Private,
}

impl Store {
    /// The store inside a state folder.
    pub fn new(state: &State) -> Self {
        Self { public: Public::new(state.at("public")), private: Private::new(state.at("private")) }
    }

    /// The manifest of an artifact that is here.
    ///
    /// # Errors
    /// [`FailureClass::MissingArtifact`].
    pub fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, Failure> {
        if artifact.private_to.is_none() {
            return self.public.manifest(&artifact.id).ok_or_else(|| missing(artifact));
        }
        self.private.get(&artifact.id).and_then(|h| h.manifest).ok_or_else(|| missing(artifact))
    }

    /// The folder with an artifact's files.
    ///
    /// # Errors
    /// [`FailureClass::MissingArtifact`], or any of making the folder.
    pub fn open(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
        if artifact.private_to.is_none() {
            let manifest = self.manifest(artifact)?;
            return self.public.open(&manifest);
        }
        let held = self.private.get(&artifact.id).filter(|h| h.manifest.is_some());
        held.map(|_| self.private.files(&artifact.id)).ok_or_else(|| missing(artifact))
    }
}

/// An artifact is not on this device.
pub fn missing(artifact: &ArtifactRef) -> Failure {
    let what = if artifact.private_to.is_some() { "private" } else { "public" };
    Failure::new(
        FailureClass::MissingArtifact,
        format!(
            "the {what} {:?} {} is not on this device, though the task needs it",
            artifact.ty,
            artifact.id.short()
        ),
    )
}

/// A finished output, with the digests of its files.
pub struct Gathered {
    /// Its manifest.
    pub manifest: Manifest,
    /// Where its files lie now, by name.
    pub files: Vec<(String, PathBuf)>,
}

/// Turns a stage's output into a manifest. Files must be regular files that lie in one of the
/// folders `within`, where such are given: a public output must not be made of private files.
///
/// # Errors
/// [`FailureClass::Internal`] for a file that should not be part of it.
pub fn gather(output: Output, within: Option<&[&Path]>) -> Result<Gathered, Failure> {
    let internal = |m: String| Failure::new(FailureClass::Internal, m);
    let mut manifest =
        Manifest { ty: output.ty, files: Default::default(), value: output.value, uses: output.uses };
    let mut files = Vec::new();
    for (name, at) in output.files {
        if !valid_name(&name) {
            return Err(internal(format!("`{name}` cannot be the name of a file of an artifact")));
        }
        let real = at.canonicalize().map_err(|e| Failure::io(&at, &e))?;
        if within.is_some_and(|dirs| !dirs.iter().any(|d| real.starts_with(d))) {
            return Err(internal(format!(
                "{}: a public stage may not put this file into its output",
                real.display()
            )));
        }
        if !real.is_file() {
            return Err(internal(format!("{}: not a file", real.display())));
        }
        let file = digest_file(&real).map_err(|e| Failure::io(&real, &e))?;
        if manifest.files.insert(name.clone(), file).is_some() {
            return Err(internal(format!("the output has two files named `{name}`")));
        }
        files.push((name, real));
    }
    Ok(Gathered { manifest, files })
}

/// Whether a file of this name stays inside its artifact's folder.
pub fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains('\\')
        && !name.contains('\0')
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Digest and size of a file.
///
/// # Errors
/// Any of reading it.
pub fn digest_file(at: &Path) -> std::io::Result<FileRef> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(at)?;
    let size = std::io::copy(&mut file, &mut hasher)?;
    Ok(FileRef { digest: Digest(*hasher.finalize().as_bytes()), size })
}

/// Moves a file that may be moved, else copies it; the result is on disk when this returns.
fn take_file(from: &Path, to: &Path, movable: bool) -> std::io::Result<()> {
    if let Some(dir) = to.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if !(movable && std::fs::rename(from, to).is_ok()) {
        std::fs::copy(from, to)?;
    }
    File::open(to)?.sync_all()
}
