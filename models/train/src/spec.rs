//! What a training is asked to do, and what it reports.

use std::path::PathBuf;
use std::sync::Arc;

use headstart_disk::Disk;
use headstart_lm::LoraSpec;
use headstart_protocol::expr::Condition;
use headstart_protocol::rows::Row;
use serde::{Deserialize, Serialize};

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Method {
    /// A LoRA adapter.
    Lora(LoraSpec),
    /// All weights.
    Full,
}

/// A training.
#[derive(Clone, Debug)]
pub struct TrainSpec {
    /// The base model's folder.
    pub model: PathBuf,
    /// An adapter to start from.
    pub adapter: Option<PathBuf>,
    /// What is trained.
    pub method: Method,
    /// Rows to train on; the loss counts responses only.
    pub data: Vec<Row>,
    /// Rows held back; their loss decides about stopping and about the best checkpoint.
    pub eval: Vec<Row>,
    /// Stop as soon as this holds: over `loss` (held-back rows), `train_loss` or `step`.
    pub until: Option<Condition>,
    /// Stop when the held-back loss was not below its best for so many evaluations in a row.
    pub patience: Option<usize>,
    /// Peak learning rate of AdamW (betas 0.9, 0.999; eps 1e-8).
    pub learning_rate: f64,
    /// Weight decay of matrices; left out, 0 for adapters and 0.01 for all weights.
    pub weight_decay: Option<f64>,
    /// Largest norm of all gradients together; left out, they are not clipped.
    pub clip: Option<f64>,
    /// Share of an adapter's inputs that are set to zero while training.
    pub dropout: f64,
    /// Rows a step.
    pub batch: usize,
    /// Steps at most.
    pub max_steps: usize,
    /// Steps over which the rate rises.
    pub warmup: usize,
    /// Whether the rate falls on a cosine to a tenth at `max_steps`, or stays.
    pub cosine: bool,
    /// Steps between evaluations.
    pub eval_every: usize,
    /// Tokens of a row at most; longer rows are cut at the end.
    pub max_tokens: usize,
    /// Seed of the initial adapter and of the order of rows.
    pub seed: u64,
    /// Memory limit in bytes, kept or refused up front.
    pub memory: Option<u64>,
    /// Where the training keeps its progress, so that an interrupted one resumes.
    pub resume: Option<Resume>,
    /// Folder that the result is written to.
    pub out: PathBuf,
    /// What progress and result are written with.
    pub disk: Arc<dyn Disk>,
}

/// Where and how often a training keeps its progress.
///
/// A training that finds its own progress in the folder resumes from there and, under the same
/// memory limit, ends with the same bits as one that was never interrupted. Progress of another
/// training is ignored.
#[derive(Clone, Debug)]
pub struct Resume {
    /// A folder of this training alone.
    pub folder: PathBuf,
    /// Seconds between checkpoints at least; they never take more than a twentieth of the time.
    pub every: f64,
}

/// What training reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Steps done.
    pub steps: usize,
    /// Loss of the held-back rows before the first step, nats a token.
    pub start_loss: f64,
    /// Loss of the held-back rows of the checkpoint that was kept.
    pub loss: f64,
    /// Last training loss.
    pub train_loss: f64,
    /// Response tokens trained on.
    pub tokens: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Whether `until` was met; true without one.
    pub reached: bool,
    /// (step, held-back loss), for the learning curve.
    pub curve: Vec<(usize, f64)>,
    /// Numbers that were trained.
    pub trainable: u64,
    /// Different rows that were trained on.
    #[serde(default)]
    pub rows: usize,
    /// Different rows that were held back.
    #[serde(default)]
    pub eval_rows: usize,
}
