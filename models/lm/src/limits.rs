//! How much a decoder reads and answers at once, so that it stays inside a memory limit.

use headstart_kernels::loss_chunk;

use crate::block::Saved;
use crate::error::LmError;
use crate::model::Model;

/// Tokens that go through the model at once where memory allows, and at least.
const TOKENS: usize = 4096;
const LEAST: usize = 128;
/// Program, allocator and tokenizer.
const BASE: u64 = 64 << 20;

/// The limits of a decoder.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens that go through the model at once, single longer sequences aside.
    pub tokens: usize,
    /// All bytes, and those that weights and program take of them.
    limit: Option<(u64, u64)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tokens: TOKENS, limit: None }
    }
}

impl Limits {
    /// Fits a model's passes into a limit: first fewer tokens at once, then weights that are
    /// streamed from their file.
    ///
    /// # Errors
    /// [`LmError::Memory`] with the least that would do.
    pub fn fit(model: &Model, limit: Option<u64>) -> Result<Self, LmError> {
        let Some(limit) = limit else { return Ok(Self::default()) };
        let mut least = u64::MAX;
        for (weights, streamed) in [(Some(model.footprint()), false), (model.streamed_footprint(), true)] {
            let Some(weights) = weights else { continue };
            let fixed = BASE + weights;
            let mut tokens = TOKENS;
            while tokens >= LEAST {
                let bytes = fixed + activations(model, tokens);
                if bytes <= limit {
                    model.stream(streamed);
                    return Ok(Self { tokens, limit: Some((limit, fixed)) });
                }
                least = least.min(bytes);
                tokens /= 2;
            }
        }
        Err(refused("the model", least, limit))
    }

    /// Whether a sequence of so many tokens fits.
    ///
    /// # Errors
    /// [`LmError::Memory`] with what it would take.
    pub fn check(&self, model: &Model, tokens: usize) -> Result<(), LmError> {
        match self.limit {
            Some((limit, fixed)) if tokens > self.tokens => {
                let bytes = fixed + activations(model, tokens);
                let what = format!("a text of {tokens} tokens");
                if bytes <= limit { Ok(()) } else { Err(refused(&what, bytes, limit)) }
            }
            _ => Ok(()),
        }
    }

    /// How many answers of up to `tokens` tokens, prompt included, can be made at once, `most` at
    /// most: what the passes leave of the limit holds their keys and values.
    ///
    /// # Errors
    /// [`LmError::Memory`] where there is no room for one.
    pub fn together(&self, model: &Model, tokens: usize, most: usize) -> Result<usize, LmError> {
        let Some((limit, fixed)) = self.limit else { return Ok(most) };
        let c = &model.config;
        // Keys and values grow by doubling.
        let one = (2 * 2 * c.layers * c.kv_dim() * tokens + c.vocab) as u64 * 4;
        let used = fixed + activations(model, self.tokens);
        match usize::try_from(limit.saturating_sub(used) / one).unwrap_or(most).min(most) {
            0 => Err(refused(
                &format!("an answer of {tokens} tokens, its prompt included,"),
                used + one,
                limit,
            )),
            n => Ok(n),
        }
    }
}

/// Bytes of a pass over so many tokens without gradients.
fn activations(model: &Model, tokens: usize) -> u64 {
    let (c, d) = (&model.config, model.dims());
    let logits = c.vocab * loss_chunk(c.vocab).min(tokens);
    // A block's results, hidden states, and the left sides of products as they are packed.
    let token = Saved::per_token(&d) + 6 * c.hidden + 2 * c.ffn + d.heads.q_width();
    ((tokens * token + logits) as u64 * 4) * 9 / 8
}

fn refused(what: &str, bytes: u64, limit: u64) -> LmError {
    let mib = |b: u64| b.div_ceil(1 << 20);
    LmError::Memory(format!("{what} needs {} MiB; the limit is {} MiB", mib(bytes), mib(limit)))
}
