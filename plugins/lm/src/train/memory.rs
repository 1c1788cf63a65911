//! What a training takes, and how it is made to fit a limit.

use crate::api::TrainSpec;
use crate::block::Saved;
use crate::error::LmError;
use crate::ops::block::Keep;
use crate::rows::Example;
use crate::train::target::Target;

/// How a step is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of a micro-batch at most, single longer rows aside.
    pub tokens: usize,
    /// What blocks keep for the backward pass.
    pub keep: Keep,
    /// Bytes that the training takes at most, as estimated.
    pub bytes: u64,
}

/// Tokens of a micro-batch where memory allows.
const TOKENS: usize = 4096;
/// Program, allocator, tokenizer and rows.
const BASE: u64 = 64 << 20;

/// The fastest way to run that fits the limit: first smaller micro-batches, then blocks that are
/// run forward again.
///
/// # Errors
/// [`LmError::Memory`] with the least that would do.
pub fn plan(spec: &TrainSpec, target: &Target, train: &[Example], eval: &[Example]) -> Result<Plan, LmError> {
    let longest = train.iter().chain(eval).map(|e| e.ids.len()).max().unwrap_or(1);
    let step = spec.batch.max(1) * longest;
    let mut least = u64::MAX;
    for keep in [Keep::Activations, Keep::Input] {
        let mut tokens = TOKENS;
        loop {
            let bytes = estimate(target, tokens.min(step).max(longest), keep);
            if spec.memory.is_none_or(|limit| bytes <= limit) {
                return Ok(Plan { tokens, keep, bytes });
            }
            least = least.min(bytes);
            if tokens <= longest {
                break;
            }
            tokens /= 2;
        }
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(LmError::Memory(format!(
        "training needs at least {} MiB for rows of up to {longest} tokens; the limit is {} MiB. Allow more, \
         cut rows (max_tokens) or train fewer weights",
        mib(least),
        mib(spec.memory.unwrap_or_default())
    )))
}

/// Bytes at the peak of a step with so many tokens at once.
fn estimate(target: &Target, tokens: usize, keep: Keep) -> u64 {
    let model = &target.net.model;
    let (c, d) = (&model.config, model.dims());
    let block = Saved::per_token(&d);
    let kept = match keep {
        Keep::Activations => c.layers * block,
        Keep::Input => block,
    };
    // Hidden states between blocks, and the gradients of one block while it is passed back.
    let passing = (c.layers + 6) * c.hidden + 3 * c.ffn + 4 * d.heads.q_width();
    let logits = c.vocab * ((1 << 20) / c.vocab.max(1)).clamp(128, 512).min(tokens);
    let activations = (tokens * (kept + passing) + logits) as u64 * 4;
    // Values, gradients, two moments, the best checkpoint.
    let trained = target.trainable() * 4 * 5;
    BASE + model.footprint() + trained + activations
}
