//! The traits that a stage is written against.
//!
//! A stage gets its arguments and a [`Context`], writes files below [`Context::scratch`], and
//! returns an [`Output`]. Who calls it (the engine, a device, a test) it cannot tell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstart_disk::{Disk, SystemDisk};
use serde::{Deserialize, Serialize};

use crate::args::Args;
use crate::artifact::{ArtifactRef, Manifest};
use crate::artifacts::{Artifact, ArtifactError};
use crate::failure::Failure;
use crate::numerics::Numerics;
use crate::release::{Number, RowBound};
use crate::rows::RowCache;
use crate::types::Type;

/// A stage kind's implementation.
pub trait Stage: Send + Sync {
    /// The kind's name, as in [`crate::kinds`].
    fn kind(&self) -> &str;

    /// What it computes numbers with; `None` for a stage that is not
    /// [numeric](crate::kinds::Kind::numeric).
    fn numerics(&self) -> Option<Numerics> {
        None
    }

    /// The numbers that its output may hold: what of metrics can be released from a device.
    fn metrics(&self) -> Vec<Number> {
        crate::kinds::find(self.kind()).map(|k| k.metrics.clone()).unwrap_or_default()
    }

    /// What bounds the different rows behind everything that it makes.
    fn rows(&self) -> Vec<RowBound> {
        crate::release::rows_of_kind(self.kind())
    }

    /// Runs one attempt. Blocking: runners call it on a separate thread.
    ///
    /// # Errors
    /// Why it made no output.
    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure>;
}

/// What a stage may do to the world.
pub trait Context: Sync {
    /// The manifest of an artifact.
    ///
    /// # Errors
    /// If it is not here or cannot be read.
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, Failure>;
    /// A folder that holds all files of an artifact under their names. Read only.
    ///
    /// # Errors
    /// If it is not here, or a file of it is gone.
    fn open(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure>;
    /// An empty folder of this attempt; outputs are written here.
    fn scratch(&self) -> &Path;
    /// A folder that outlives this attempt and is given to every later attempt at the same thing (the
    /// same kind with the same arguments), until one is committed: there a stage keeps what it needs
    /// to resume after a crash. It may not exist yet. `None` where nothing is kept.
    fn resume_dir(&self) -> Option<PathBuf> {
        None
    }
    /// What files are written with: those below [`Context::scratch`] and [`Context::resume_dir`].
    fn disk(&self) -> &dyn Disk {
        &SystemDisk
    }
    /// Where a path argument of a pipeline file lies in this place.
    fn path(&self, path: &str) -> PathBuf;
    /// The row-level cache.
    fn rows(&self) -> &dyn RowCache;
    /// Reports how far the stage is. Cheap; callers may call it often.
    fn progress(&self, progress: Progress);
    /// Adds to a counter of the attempt, such as `forward_passes` or `tokens`.
    fn count(&self, counter: &str, n: u64);
    /// Keeps a line that a program wrote beside the attempt, for people. Never leaves this place.
    fn log(&self, line: &str);
    /// Whether the stage should stop soon and return [`FailureClass::Cancelled`](crate::FailureClass::Cancelled).
    fn cancelled(&self) -> bool;
    /// Whether the stage should make no headway for now: something that is waited for runs beside it.
    fn paused(&self) -> bool {
        false
    }
    /// How many threads the stage may use.
    fn threads(&self) -> usize;
    /// How many bytes of memory the stage may use, where the pipeline sets a limit.
    fn memory(&self) -> Option<u64>;
    /// Whether the attempt may read what is private to this place. A process that did is not used for an
    /// attempt that may not.
    fn is_private(&self) -> bool {
        false
    }
    /// Different rows below which no number leaves this place. A stage that stops as soon as a few rows decide
    /// looks at so many first.
    fn least_rows(&self) -> usize {
        0
    }
}

/// How far a stage is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What is counted, plural: `rows`, `steps`, `tensors`.
    #[serde(deserialize_with = "crate::capped::name")]
    pub unit: String,
    /// Current numbers, such as `loss`.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "crate::capped::by_name"
    )]
    pub metrics: BTreeMap<String, f64>,
}

/// What a stage made.
#[derive(Clone, Debug)]
pub struct Output {
    /// Type of the artifact.
    pub ty: Type,
    /// Files: name in the artifact, and where it lies (below the scratch folder, or elsewhere to
    /// be copied).
    pub files: Vec<(String, PathBuf)>,
    /// The artifact's value.
    pub value: serde_json::Value,
    /// Other artifacts that it refers to.
    pub uses: BTreeMap<String, ArtifactRef>,
}

impl Output {
    /// An output without files.
    pub fn new(ty: Type, value: serde_json::Value) -> Self {
        Self { ty, files: Vec::new(), value, uses: BTreeMap::new() }
    }

    /// An output without files whose value is of the type's own kind.
    ///
    /// # Errors
    /// [`ArtifactError`] where a number of the value is not finite.
    pub fn of(ty: Type, value: &impl Artifact) -> Result<Self, ArtifactError> {
        Ok(Self::new(ty, value.json()?))
    }

    /// Adds a file.
    pub fn file(mut self, name: impl Into<String>, at: impl Into<PathBuf>) -> Self {
        self.files.push((name.into(), at.into()));
        self
    }

    /// Adds a reference.
    pub fn uses(mut self, name: impl Into<String>, artifact: ArtifactRef) -> Self {
        self.uses.insert(name.into(), artifact);
        self
    }
}
