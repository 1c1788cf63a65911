//! The traits and plain structs that stages see.

use std::path::{Path, PathBuf};

use headstart_protocol::expr::Condition;
use headstart_protocol::rows::Row;
use serde::{Deserialize, Serialize};

use crate::error::LmError;
use crate::files;

/// Something that can run and train language models.
pub trait Backend: Send + Sync {
    /// Its name, such as `candle-cpu`.
    fn name(&self) -> String;

    /// What it computes with: what decides about the bits of its results beside their inputs.
    fn compute(&self) -> ComputeFacts;

    /// Loads a decoder from a folder in the published format, with a LoRA adapter in PEFT's format.
    fn decoder(&self, model: &Path, adapter: Option<&Path>) -> Result<Box<dyn Decoder>, LmError>;

    /// The same, to run within so many bytes of memory. A backend that does not plan its memory
    /// refuses models whose weights alone are larger.
    ///
    /// # Errors
    /// [`LmError::Memory`] where the limit does not suffice, with what would.
    fn decoder_within(
        &self,
        model: &Path,
        adapter: Option<&Path>,
        memory: Option<u64>,
    ) -> Result<Box<dyn Decoder>, LmError> {
        let needed = files::weight_bytes(model);
        match memory {
            Some(limit) if needed > limit => Err(LmError::Memory(format!(
                "the model's weights take {} MiB; the limit is {} MiB",
                needed.div_ceil(1 << 20),
                limit.div_ceil(1 << 20)
            ))),
            _ => self.decoder(model, adapter),
        }
    }

    /// Loads a sentence encoder of type bert.
    fn encoder(&self, model: &Path) -> Result<Box<dyn Encoder>, LmError>;

    /// Trains. Writes the adapter (or, for [`Method::Full`], the whole model folder) to
    /// [`TrainSpec::out`] only when it is complete.
    fn train(&self, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError>;
}

/// What a backend computes with. Equal facts and equal inputs give equal bits, for any number of
/// threads; a cache key that holds the result of a model holds these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ComputeFacts {
    /// Which code computes: `cpu` (the kernels of this project), `candle` on a GPU, or `mlx`.
    pub backend: String,
    /// The type of activations and sums: `f32`, or `mixed` where products with frozen weights run in
    /// the type that the weight is stored in and everything else in `f32`.
    pub precision: String,
    /// The instruction set that is used here, not the best that the machine has: `avx512`, `avx2`,
    /// `neon` or `baseline` on a CPU; `cuda` or `metal` on a GPU, followed by that of the host's
    /// share of the work, such as `cuda+avx512`.
    pub instruction_set: String,
}

/// Watches a long computation and may stop it.
pub trait Watch: Sync {
    /// `done` of `total` units (rows, steps); `metrics` are current numbers such as `loss`.
    fn progress(&self, _done: u64, _total: u64, _unit: &str, _metrics: &[(&str, f64)]) {}
    /// Adds to a counter: `forward_passes` (sequences put through a model), `tokens`, `steps`.
    fn count(&self, _counter: &'static str, _n: u64) {}
    /// Whether to stop with [`LmError::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing.
pub struct Unwatched;
impl Watch for Unwatched {}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `model_type` of its config.json.
    pub model_type: String,
    /// Numbers of weights, embeddings counted once where tied.
    pub parameters: u64,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
}

/// A causal language model, with its tokenizer and prompt format.
///
/// Prompts are put into the model's chat template where it has one, else given as they are with a
/// line break behind them.
pub trait Decoder: Send {
    /// What it is.
    fn info(&self) -> &ModelInfo;

    /// Answers prompts, in order. Prompts are batched; the answer to a prompt does not depend on
    /// which others are in the batch.
    fn generate(
        &self,
        prompts: &[String],
        options: &GenerateOptions,
        watch: &dyn Watch,
    ) -> Result<Vec<String>, LmError>;

    /// Answers the rows' prompts, each with what was said before it; their responses are not read.
    ///
    /// # Errors
    /// [`LmError::Input`] where a row has a history and the backend cannot take it into account.
    fn answer(
        &self,
        rows: &[Row],
        options: &GenerateOptions,
        watch: &dyn Watch,
    ) -> Result<Vec<String>, LmError> {
        if let Some(row) = rows.iter().position(|r| !r.history.is_empty()) {
            let why = format!("row {} is a conversation, which this backend cannot answer", row + 1);
            return Err(LmError::Input(why));
        }
        let prompts: Vec<String> = rows.iter().map(|r| r.prompt.clone()).collect();
        self.generate(&prompts, options, watch)
    }

    /// The likelihood of each row's response given its prompt; in a conversation, of all answers.
    fn score(&self, rows: &[Row], max_tokens: usize, watch: &dyn Watch) -> Result<Vec<RowScore>, LmError>;

    /// The mean hidden state of each text, after the final norm, as `hidden` floats. Texts longer
    /// than the context are read in windows and averaged by tokens.
    fn pooled(&self, texts: &[String], watch: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError>;

    /// The hidden state of the token that would follow each prompt, before the output layer, and
    /// the `top` most probable next tokens.
    fn next(&self, prompts: &[String], top: usize, watch: &dyn Watch) -> Result<Vec<NextToken>, LmError>;
}

/// A sentence encoder.
pub trait Encoder: Send {
    /// Length of its vectors.
    fn dim(&self) -> usize;
    /// L2-normalised, mean-pooled vectors of texts, in order. Texts longer than the encoder's
    /// window are read in windows and averaged by tokens, then normalised again.
    fn encode(&self, texts: &[String], watch: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError>;
}

/// How answers are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateOptions {
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// 0 takes the most probable token.
    pub temperature: f64,
    /// Seed of the sampling; each prompt has its own stream, by its position.
    pub seed: u64,
}

/// The likelihood of a response.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowScore {
    /// Sum of the negative log-likelihoods of the answers' tokens (their ends included), in nats.
    pub nll: f64,
    /// Tokens counted.
    pub tokens: usize,
    /// Bytes of the answers.
    pub bytes: usize,
}

/// What would follow a prompt.
#[derive(Clone, Debug)]
pub struct NextToken {
    /// Hidden state before the output layer, of length `hidden`.
    pub hidden: Vec<f32>,
    /// Most probable next tokens as text, with probabilities, falling.
    pub top: Vec<(String, f32)>,
}

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Method {
    /// A LoRA adapter.
    Lora(LoraSpec),
    /// All weights.
    Full,
}

/// A new LoRA adapter. Not used where training starts from an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraSpec {
    /// Rank.
    pub rank: usize,
    /// `lora_alpha`; the adapter's product is scaled by alpha / rank.
    pub alpha: f64,
    /// Whether it is scaled by alpha / √rank instead (rank-stabilised).
    pub rslora: bool,
    /// Names of the projections it changes, such as `q_proj`.
    pub targets: Vec<String>,
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
    /// Where the training keeps its progress, so that one that was cut off goes on.
    pub resume: Option<Resume>,
    /// Folder that the result is written to.
    pub out: PathBuf,
}

/// Where and how often a training keeps its progress.
///
/// A training that finds its own progress in the folder goes on from there and, under the same
/// memory limit, ends with the same bits as one that was never cut off. Progress of another
/// training is not taken up.
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
}
