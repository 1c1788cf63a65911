//! Rows of the index, and the outcome of a query.

use std::collections::BTreeMap;
use std::time::SystemTime;

use headstart_protocol::Digest;
use serde::Serialize;

/// A run, for the index.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunRow {
    /// Its id.
    pub id: String,
    /// Its pipeline file.
    pub pipeline: String,
    /// Its status, such as `succeeded`.
    pub status: String,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub finished: Option<SystemTime>,
    /// Number of stage instances.
    pub stages: u32,
    /// Instances whose result was known.
    pub cached: u32,
    /// Instances that were executed.
    pub ran: u32,
    /// Instances that failed.
    pub failed: u32,
}

/// What became of a stage instance, for the index.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StageRunRow {
    /// Number of the instance in the plan.
    pub instance: u32,
    /// Its name.
    pub name: String,
    /// Its stage kind.
    pub kind: String,
    /// `server`, or the device.
    pub place: String,
    /// What became of it: `cached`, `succeeded`, `skipped`, `failed` …
    pub outcome: String,
    /// Its cache key.
    pub key: Option<Digest>,
    /// Its output.
    pub output: Option<Digest>,
    /// Number of attempts.
    pub attempts: u32,
    /// How long the last attempt took.
    pub seconds: f64,
    /// What it counted.
    pub counters: BTreeMap<String, u64>,
}

/// A pLLM of a catalog.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PllmRow {
    /// Its name in the catalog.
    pub name: String,
    /// Its digest.
    pub pllm: Digest,
    /// The model that it personalizes.
    pub base: Digest,
    /// Number of probes that it answered, where the catalog says so.
    pub rows: Option<u32>,
    /// Share of its divergence that the coefficients explain, 0 to 1.
    pub explained: f64,
}

/// A coefficient of a pLLM of a catalog.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoefficientRow {
    /// The pLLM's name in the catalog.
    pub name: String,
    /// The style atom.
    pub atom: String,
    /// Its coefficient.
    pub coefficient: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
}

/// The outcome of a query.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows of text; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

/// Something to be written whole, in place of what was written about it before.
pub(crate) enum Record {
    Run(RunRow, Vec<StageRunRow>),
    Catalog(Digest, Vec<PllmRow>, Vec<CoefficientRow>),
    /// A run that is removed.
    NoRun(String),
}
