//! A stage's view of the world outside of a run: the workspace's artifacts and row cache to read,
//! and artifacts of its own that are gone when the command ends. So a person's texts that are only
//! asked about are not kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use headstart_disk::files::TempDir;
use headstart_disk::{Disk, read};
use headstart_protocol::{
    ArtifactRef, Context, Digest, Failure, FailureClass, FileRef, Manifest, NumericRows, Numerics, Output,
    Progress, RowCache,
};
use headstart_store::Workspace;

use crate::exit::CommandError;

/// Where a stage runs by itself.
pub struct EphemeralContext<'a> {
    ws: &'a Workspace,
    scratch: TempDir,
    own: Mutex<BTreeMap<Digest, (Manifest, PathBuf)>>,
    rows: ReadOnly<'a>,
}

/// The workspace's row cache, to read only.
struct ReadOnly<'a>(NumericRows<'a>);

impl RowCache for ReadOnly<'_> {
    fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>> {
        self.0.embeddings(space, texts)
    }

    fn put_embeddings(&self, _: &Digest, _: &[(Digest, Vec<f32>)]) {}

    fn responses(&self, model: &Digest, settings: &Digest, prompts: &[Digest]) -> Vec<Option<String>> {
        self.0.responses(model, settings, prompts)
    }

    fn put_responses(&self, _: &Digest, _: &Digest, _: &[(Digest, String)]) {}
}

impl<'a> EphemeralContext<'a> {
    /// A context over a workspace, for a stage that computes with `numerics`.
    ///
    /// # Errors
    /// If there is no room for its files.
    pub fn new(ws: &'a Workspace, numerics: Option<Numerics>) -> Result<Self, CommandError> {
        let rows = ReadOnly(NumericRows::new(ws.cache(), numerics));
        Ok(Self { scratch: ws.scratch("catalog")?, rows, ws, own: Mutex::default() })
    }

    /// Keeps an output for as long as the context lives. Its files stay where they are, in one folder.
    ///
    /// # Errors
    /// If one of its files cannot be read.
    pub fn put(&self, output: Output) -> Result<ArtifactRef, Failure> {
        let mut files = BTreeMap::new();
        for (name, at) in &output.files {
            let bytes = read::whole(at, read::TENSORS).map_err(|e| Failure::io(at, &e))?;
            files.insert(name.clone(), FileRef { digest: Digest::of(&bytes), size: bytes.len() as u64 });
        }
        let folder = output.files.first().and_then(|(_, at)| at.parent()).unwrap_or(self.scratch.path());
        let manifest = Manifest { ty: output.ty, files, value: output.value, uses: output.uses };
        let artifact = ArtifactRef::public(&manifest);
        self.own().insert(artifact.id, (manifest, folder.to_owned()));
        Ok(artifact)
    }

    fn own(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, (Manifest, PathBuf)>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(e: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::MissingArtifact, e.to_string())
}

impl Context for EphemeralContext<'_> {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, Failure> {
        if let Some((manifest, _)) = self.own().get(&artifact.id) {
            return Ok(manifest.clone());
        }
        let found = self.ws.artifacts().manifest(&artifact.id).map_err(missing)?;
        found.ok_or_else(|| missing(format!("artifact {} is not in this workspace", artifact.id.short())))
    }

    fn open(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
        if let Some((_, folder)) = self.own().get(&artifact.id) {
            return Ok(folder.clone());
        }
        self.ws.artifacts().materialize(&artifact.id).map_err(missing)
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn disk(&self) -> &dyn Disk {
        &**self.ws.disk()
    }

    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(path)
    }

    fn rows(&self) -> &dyn RowCache {
        &self.rows
    }

    fn progress(&self, _: Progress) {}

    fn count(&self, _: &str, _: u64) {}

    fn log(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        false
    }

    fn threads(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn memory(&self) -> Option<u64> {
        None
    }
}
