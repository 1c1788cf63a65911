//! What a training takes on MLX, in bytes.

use headstart_lm::{Adapter, DecoderConfig, Model};

/// The library itself, its kernels and what its allocator rounds up.
const BASE: u64 = 96 << 20;
/// Logits, their exponentials, and the gradient of both.
const LOGITS: usize = 4;

/// A model and an adapter that is trained.
pub(crate) struct Held {
    config: DecoderConfig,
    weights: u64,
    adapter: u64,
}

impl Held {
    pub(crate) fn new(model: &Model, adapter: &Adapter) -> Self {
        Self { config: model.config.clone(), weights: model.footprint(), adapter: adapter.len() as u64 * 4 }
    }

    /// The library, the weights, and the adapter's values and gradients, twice while they are
    /// added up.
    pub(crate) fn bytes(&self) -> u64 {
        BASE + self.weights + 4 * self.adapter
    }

    /// At the peak of a step with so many tokens in rows of up to `longest`: what every block keeps
    /// for its backward pass, and one block's gradients while it is passed back.
    pub(crate) fn step(&self, tokens: usize, longest: usize) -> u64 {
        let c = &self.config;
        let (q, kv) = (c.q_dim(), c.kv_dim());
        // Hidden states and norms; projections before and after they are turned; the attention's
        // weights and what they are made of; the feed-forward layer's products.
        let block = 6 * c.hidden + 4 * q + 4 * kv + 3 * c.heads * longest + 6 * c.ffn;
        let numbers = (c.layers + 2) * block + LOGITS * c.vocab;
        (tokens * numbers * 4) as u64
    }
}
