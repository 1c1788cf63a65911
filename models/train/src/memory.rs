//! What a training takes, and how it is made to fit a limit.

use headstart_lm::{Example, LmError};

use crate::gradients::{Keep, StepShape};
use crate::spec::TrainSpec;
use crate::target::Target;

/// How a step is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of a micro-batch at most, single longer rows aside.
    pub tokens: usize,
    /// What blocks keep for the backward pass.
    pub keep: Keep,
    /// Whether weights are read from their file as they are needed, and given up again.
    pub streamed: bool,
    /// Bytes that the training takes at most, as estimated.
    pub bytes: u64,
    /// Of those, activations.
    pub activations: u64,
}

/// Tokens of a micro-batch where memory allows.
const TOKENS: usize = 4096;
/// Program, allocator, tokenizer and rows.
const BASE: u64 = 64 << 20;

/// The fastest way to run that fits the limit: first smaller micro-batches, then weights that are
/// streamed from their file, then blocks that are run forward again.
///
/// # Errors
/// [`LmError::Memory`] with the least that would do.
pub fn plan(spec: &TrainSpec, target: &Target, train: &[Example], eval: &[Example]) -> Result<Plan, LmError> {
    let longest = train.iter().chain(eval).map(|e| e.ids.len()).max().unwrap_or(1);
    let step = spec.batch.max(1) * longest;
    let backend = &*target.backend;
    let dropout = spec.dropout > 0.0;
    let mut least = u64::MAX;
    let ways = [Keep::Activations, Keep::Input].into_iter().flat_map(|k| [(k, false), (k, true)]);
    for (keep, streamed) in ways {
        let Some(own) = fixed(target, streamed).filter(|_| !streamed || backend.supports_streaming()) else {
            continue;
        };
        let fixed = own + backend.memory(&StepShape { tokens: longest, longest, keep, dropout }).held;
        let mut tokens = TOKENS;
        loop {
            let together = tokens.min(step).max(longest);
            let shape = StepShape { tokens: together, longest, keep, dropout };
            let activations = backend.memory(&shape).activations;
            let bytes = fixed + activations;
            if spec.memory.is_none_or(|limit| bytes <= limit) {
                return Ok(Plan { tokens, keep, streamed, bytes, activations });
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

/// Bytes that do not depend on the size of a step; none where the weights cannot be streamed.
fn fixed(target: &Target, streamed: bool) -> Option<u64> {
    let (model, c) = (&target.model, &target.model.config);
    let weights = if streamed { model.streamed_footprint()? } else { model.footprint() };
    // Values, gradients, two moments, the best checkpoint, and the gradients of a micro-batch
    // while they are added up; the embedding's come from both of its ends.
    let table = if target.is_full() { 2 * (c.vocab * c.hidden) as u64 } else { 0 };
    Some(BASE + weights + (target.params.count() * 6 + table) * 4)
}
