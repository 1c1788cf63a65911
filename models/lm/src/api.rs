//! The traits and plain structs that stages see.

use std::path::Path;

use headstart_protocol::rows::Row;
use serde::{Deserialize, Serialize};

use crate::error::LmError;
use crate::files;

/// Something that can run language models. Training is `headstart-train`'s.
pub trait Backend: Send + Sync {
    /// Its name, such as `cpu` or `candle-cuda:0`.
    fn name(&self) -> String;

    /// What it computes with: what decides about the bits of its results beside their inputs.
    fn compute(&self) -> ComputeFacts;

    /// Loads a decoder from a folder in the published format, with a LoRA adapter in PEFT's format.
    ///
    /// # Errors
    /// [`LmError::File`] and [`LmError::Io`] with the file, key or tensor that is wrong; [`LmError::Memory`]
    /// where a device has no room.
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
    ///
    /// # Errors
    /// [`LmError::File`], [`LmError::Io`] and [`LmError::Unsupported`] with what is wrong with the folder.
    fn encoder(&self, model: &Path) -> Result<Box<dyn Encoder>, LmError>;
}

/// What a backend computes with. Equal facts and equal inputs give equal bits, for any number of
/// threads; a cache key that holds the result of a model holds these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ComputeFacts {
    /// Which code computes: `cpu` (the kernels of this project), `candle` on a GPU, or `mlx`.
    pub backend: String,
    /// The type of activations and sums: `f32`; `mixed` where products with frozen weights run in the
    /// type that the weight is stored in and everything else in `f32`; `bf16` where products with
    /// weights in bf16 round what they are multiplied with to bf16, and everything else is `f32`.
    pub precision: String,
    /// The instruction set that is used here, not the best that the machine has: `avx512`, `avx512_bf16`, `avx2`,
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
    ///
    /// # Errors
    /// [`LmError::Input`] for a prompt without tokens or longer than the context, [`LmError::Memory`] where
    /// an answer does not fit, [`LmError::Cancelled`] where `watch` says so.
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

    /// Each row's response as the model is given it: a chat template may leave parts of it out.
    ///
    /// # Errors
    /// What the chat template says.
    fn references(&self, rows: &[Row]) -> Result<Vec<String>, LmError> {
        Ok(rows.iter().map(|row| row.response.clone()).collect())
    }

    /// The likelihood of each row's response given its prompt; in a conversation, of all answers.
    ///
    /// # Errors
    /// [`LmError::Memory`] where a row does not fit, [`LmError::Cancelled`] where `watch` says so, and what
    /// the chat template says.
    fn score(&self, rows: &[Row], max_tokens: usize, watch: &dyn Watch) -> Result<Vec<RowScore>, LmError>;

    /// The mean hidden state of each text, after the final norm, as `hidden` floats. Texts longer
    /// than the context are read in windows and averaged by tokens.
    ///
    /// # Errors
    /// As [`Self::score`].
    fn pooled(&self, texts: &[String], watch: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError>;

    /// The hidden state of the token that would follow each prompt, before the output layer, and
    /// the `top` most probable next tokens.
    ///
    /// # Errors
    /// As [`Self::generate`].
    fn next(&self, prompts: &[String], top: usize, watch: &dyn Watch) -> Result<Vec<NextToken>, LmError>;
}

/// A sentence encoder.
pub trait Encoder: Send {
    /// Length of its vectors.
    fn dim(&self) -> usize;
    /// Vectors of texts, in order, pooled and normalized as the encoder's settings say. Texts longer
    /// than its window are read in windows and averaged by tokens, then normalized again.
    ///
    /// # Errors
    /// [`LmError::Cancelled`] where `watch` says so, and what the tokenizer says.
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
    /// Bytes of the answers, as far as they were scored.
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
