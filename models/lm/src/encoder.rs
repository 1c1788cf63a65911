//! Sentence encoders of type bert, such as all-MiniLM-L6-v2. Inference only.
//!
//! Texts are packed into a matrix of tokens, without padding, so that every
//! matrix product works on real tokens only. Batches are made by tokens alone and run on as many
//! threads as allowed, a batch a thread: results do not depend on how many there are.
//!
//! # Layout
//! - [`TextEncoder`]: texts in, vectors out, over a backend's [`SentencePass`].
//! - [`BertEncoder`]: it on the CPU; [`load_encoder`] gives it as a trait object.
//! - `config`: config.json.
//! - `sentence`: the settings of sentence-transformers.
//! - `weights`: safetensors to checked tensors.
//! - `model`: the CPU's forward pass over packed texts.
//! - `window`: long texts cut into windows, and their vectors put together.

mod config;
mod model;
mod sentence;
mod weights;
mod window;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use tokenizers::Tokenizer;

use crate::api::{Encoder, Watch};
use crate::error::LmError;
use crate::text::load_tokenizer;
pub use config::Config;
pub use headstart_kernels::encoder::Activation;
pub use model::Bert;
pub use sentence::{Pooling, Sentence, module_files};
pub use weights::Named;
use window::{Cutter, Window};

/// Tokens of a batch, about: large enough for the matrix products, small enough for the caches.
const BATCH_TOKENS: usize = 384;

/// What a backend computes of a sentence encoder. [`TextEncoder`] makes the rest of it.
pub trait SentencePass: Send + Sync {
    /// The vector of each window of token ids, those that open and close it included, pooled and
    /// normalized as its configuration says. A window's numbers must not depend on its company.
    ///
    /// # Errors
    /// What the backend's library or device says.
    fn vectors(&self, windows: &[&[u32]]) -> Result<Vec<Vec<f32>>, LmError>;
}

/// A sentence encoder of type bert.
pub struct TextEncoder<M> {
    model: M,
    tokenizer: Tokenizer,
    cutter: Cutter,
    pool: rayon::ThreadPool,
    hidden: usize,
    sentence: Sentence,
}

/// A sentence encoder on the CPU.
pub type BertEncoder = TextEncoder<Bert>;

/// Loads a sentence encoder that uses up to `threads` threads.
///
/// # Errors
/// Those of [`BertEncoder::load`].
pub fn load_encoder(model: &Path, threads: usize) -> Result<Box<dyn Encoder>, LmError> {
    Ok(Box::new(BertEncoder::load(model, threads)?))
}

/// Whether a folder's settings are those of a sentence encoder that can be loaded, without reading
/// its weights.
///
/// # Errors
/// As [`BertEncoder::load`], as far as config.json and the settings of sentence-transformers go.
pub fn check(folder: &Path) -> Result<(), LmError> {
    Config::read(folder).map(|_| ())
}

impl TextEncoder<Bert> {
    /// Loads `config.json`, `tokenizer.json` and `model.safetensors` of a folder, and where they
    /// exist `sentence_bert_config.json` (the window, else 256 tokens), `modules.json` with the folders
    /// that it names, and `config_sentence_transformers.json`.
    ///
    /// # Errors
    /// [`LmError::File`] where a file is missing, malformed or does not fit the others, naming the
    /// key or tensor; [`LmError::Unsupported`] for other architectures and other poolings.
    pub fn load(folder: &Path, threads: usize) -> Result<Self, LmError> {
        Self::new(folder, threads, |config| Bert::load(folder, config))
    }
}

impl<M: SentencePass> TextEncoder<M> {
    /// What a folder says about texts, then the model that `load` makes of its weights.
    ///
    /// # Errors
    /// Those of [`BertEncoder::load`] and of `load`.
    pub fn new(
        folder: &Path,
        threads: usize,
        load: impl FnOnce(&Config) -> Result<M, LmError>,
    ) -> Result<Self, LmError> {
        let config = Config::read(folder)?;
        let path = folder.join("tokenizer.json");
        let tokenizer = load_tokenizer(&path)?;
        let cutter = Cutter::new(&tokenizer, config.window, config.vocab, &path)?;
        let model = load(&config)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build();
        let pool = pool.map_err(|e| LmError::Internal(format!("starting threads: {e}")))?;
        Ok(Self { model, tokenizer, cutter, pool, hidden: config.hidden, sentence: config.sentence })
    }

    /// The same, but texts are cut at the end of the first window, as sentence-transformers does.
    pub fn truncating(mut self) -> Self {
        self.cutter.truncate = true;
        self
    }

    fn windows(&self, texts: &[String]) -> Result<Vec<Window>, LmError> {
        let cut = |(i, text): (usize, &String)| {
            let text = format!("{}{text}", self.sentence.prompt);
            let text = if self.sentence.lower { text.to_lowercase() } else { text };
            self.cutter.cut(&self.tokenizer, i, &text)
        };
        let all: Result<Vec<_>, _> = self.pool.install(|| texts.par_iter().enumerate().map(cut).collect());
        Ok(all?.into_iter().flatten().collect())
    }

    fn run(&self, windows: &[Window], total: u64, watch: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError> {
        let done = AtomicU64::new(0);
        let run = |batch: &[Window]| -> Result<Vec<Vec<f32>>, LmError> {
            if watch.cancelled() {
                return Err(LmError::Cancelled);
            }
            let tokens: usize = batch.iter().map(|w| w.ids.len()).sum();
            let ids: Vec<&[u32]> = batch.iter().map(|w| w.ids.as_slice()).collect();
            let vectors = self.model.vectors(&ids)?;
            watch.count("forward_passes", batch.len() as u64);
            watch.count("tokens", tokens as u64);
            let ended = batch.iter().filter(|w| w.last).count() as u64;
            let so_far = done.fetch_add(ended, Ordering::Relaxed) + ended;
            watch.progress(so_far, total, "texts", &[]);
            Ok(vectors)
        };
        let batches = batches(windows);
        let vectors: Result<Vec<_>, _> = self.pool.install(|| batches.into_par_iter().map(run).collect());
        Ok(vectors?.into_iter().flatten().collect())
    }
}

impl<M: SentencePass> Encoder for TextEncoder<M> {
    fn dim(&self) -> usize {
        self.hidden
    }

    fn encode(&self, texts: &[String], watch: &dyn Watch) -> Result<Vec<Vec<f32>>, LmError> {
        let mut windows = self.windows(texts)?;
        // Like lengths together, long ones first, so that threads finish together.
        windows.sort_by_key(|w| (std::cmp::Reverse(w.ids.len()), w.text, w.number));
        let vectors = self.run(&windows, texts.len() as u64, watch)?;
        Ok(window::join(texts.len(), self.hidden, &windows, &vectors, self.sentence.normalize))
    }
}

/// Cuts the list into batches of at most [`BATCH_TOKENS`] tokens, or one window.
fn batches(windows: &[Window]) -> Vec<&[Window]> {
    let mut out = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (i, window) in windows.iter().enumerate() {
        if i > start && tokens + window.ids.len() > BATCH_TOKENS {
            out.push(&windows[start..i]);
            (start, tokens) = (i, 0);
        }
        tokens += window.ids.len();
    }
    if start < windows.len() {
        out.push(&windows[start..]);
    }
    out
}
