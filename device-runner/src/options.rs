//! How a device joins and works, and what it says at the end.

use std::path::PathBuf;
use std::time::Duration;

use crate::budget::ReleaseLimits;
use crate::contract::Approval;
use crate::pairing::Target;
use crate::residency::Allowed;

/// How a device joins and works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which engine to join.
    pub target: Target,
    /// Whether an `http://` address may be used: what crosses is then not hidden from anybody on the way.
    pub insecure_plaintext: bool,
    /// The folder with its own data.
    pub data: PathBuf,
    /// Its state folder.
    pub state: PathBuf,
    /// When to stop.
    pub until: Until,
    /// Conditions that its owner vouches for: `charging`, `unmetered`, `idle`.
    pub holds: Vec<String>,
    /// What its owner allows pipelines to release.
    pub allowed: Allowed,
    /// How much may leave, whatever may.
    pub limits: ReleaseLimits,
    /// Who approves what the engine runs over private data.
    pub approval: Approval,
    /// Whether adapters have to be approved too, not only the models that they are for.
    pub pin_adapters: bool,
    /// The folder with the programs of custom stages that it may run; none, if not given.
    pub stages: Option<PathBuf>,
    /// Bytes that an engine may place on its disk: downloads, and public outputs that are made here.
    pub disk_quota: u64,
    /// Bytes that private stages may take up: results that stay here, progress, and files while they run.
    pub private_quota: u64,
    /// Bytes of memory that it offers.
    pub memory: Option<u64>,
    /// Threads that it offers.
    pub threads: usize,
}

/// When a device stops by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Stopped,
    /// After one task, and the work on what was taken over.
    Once,
    /// When the engine had nothing to do for this long, after the work on what was taken over.
    Idle(Duration),
}

/// What a device did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Attempts that made their output.
    pub done: usize,
    /// Attempts that failed.
    pub failed: usize,
}
