//! What the device holds: public artifacts, downloaded or made here, and private ones.

mod origin;
mod parts;
mod private;
mod public;
mod quota;
mod room;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_content::{ContentError, check_file_name, hash_opened};
use headstart_disk::Disk;
use headstart_disk::read::open_resolved;
use headstart_protocol::{ArtifactRef, Digest, Failure, FailureClass, Manifest, Output};

pub use origin::Lineage;
pub(crate) use origin::{CURVE, fewest};
pub use parts::{DEFAULT_DISK_QUOTA, DEFAULT_PRIVATE_QUOTA, Parts};
pub use private::{Held, Private};
pub use public::Public;
pub use quota::Room;
pub use room::PrivateRoom;

use crate::error::DeviceError;
use crate::state::State;

/// Both halves of the device's store.
pub struct Store {
    /// Artifacts that anybody may know, by digest.
    pub public: Public,
    /// Artifacts that only this device knows, by handle.
    pub private: Private,
    /// The part of the disk that private stages may use.
    pub private_room: PrivateRoom,
    disk: Arc<dyn Disk>,
}

impl Store {
    /// The store inside a state folder.
    ///
    /// # Errors
    /// [`DeviceError::State`] where what a power failure left cannot be looked at.
    pub fn open(state: &State) -> Result<Self, DeviceError> {
        let disk = Arc::clone(state.disk());
        let parts = Parts::new(DEFAULT_DISK_QUOTA, DEFAULT_PRIVATE_QUOTA);
        let private_room = PrivateRoom::new(state, parts);
        let public = Public::open(state, parts)?;
        let private = Private::new(state.at("private"), Arc::clone(&disk));
        Ok(Self { public, private, private_room, disk })
    }

    /// The disk that it lies on.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
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
    pub fn materialize(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
        if artifact.private_to.is_none() {
            return self.public.materialize(&artifact.id);
        }
        let held = self.private.get(&artifact.id).filter(|h| h.manifest.is_some());
        held.map(|_| self.private.files(&artifact.id)).ok_or_else(|| missing(artifact))
    }
}

/// A public artifact that was downloaded is gone.
pub fn missing_public(id: &Digest) -> Failure {
    let m = format!("the public artifact {} is not on this device any more", id.short());
    Failure::new(FailureClass::MissingArtifact, m)
        .help("`headstart-device retry` has the engine ask for the task again")
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
/// folders `within`: a public output must not be made of private files, and none of what is not this device's.
/// Their paths are resolved (`headstart_runner::run` gives them so); a link on the way to one is not followed.
///
/// # Errors
/// [`FailureClass::Internal`] for a file that should not be part of it.
pub fn gather(output: Output, within: &[&Path]) -> Result<Gathered, Failure> {
    // One that is not there has no files.
    let within: Vec<PathBuf> = within.iter().filter_map(|dir| dir.canonicalize().ok()).collect();
    let internal = |m: String| Failure::new(FailureClass::Internal, m);
    let mut manifest =
        Manifest { ty: output.ty, files: Default::default(), value: output.value, uses: output.uses };
    let mut files = Vec::new();
    for (name, at) in output.files {
        check_file_name(&name).map_err(|e| internal(e.to_string()))?;
        if !within.iter().any(|dir| at.starts_with(dir)) {
            return Err(internal(format!(
                "{}: the stage may not put this file into its output",
                at.display()
            )));
        }
        let opened = open_resolved(&at).map_err(|e| Failure::io(&at, &e))?;
        let file = hash_opened(&opened, &at).map_err(content_failure)?;
        if manifest.files.insert(name.clone(), file).is_some() {
            return Err(internal(format!("the output has two files named `{name}`")));
        }
        files.push((name, at));
    }
    Ok(Gathered { manifest, files })
}

/// What a failure of the content store means for an attempt.
pub(crate) fn content_failure(e: ContentError) -> Failure {
    match e {
        ContentError::Disk(e) => e.into(),
        ContentError::MissingBlob { .. } | ContentError::MissingArtifact(_) => {
            Failure::new(FailureClass::MissingArtifact, format!("{e} on this device"))
        }
        ContentError::BadName { .. } | ContentError::PrivateReference { .. } => Failure::input(e.to_string()),
        _ => Failure::new(FailureClass::Internal, e.to_string()),
    }
}
