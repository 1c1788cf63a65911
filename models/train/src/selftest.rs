//! The self-test before a training: a gradient reaches every trained tensor.
//!
//! An operation that drops gradients does so silently, and the training would then improve
//! nothing, or only a part. So a pass over a few made-up tokens comes first.

use headstart_lm::{Batch, LmError, Slot, Targets};

use crate::gradients::{Keep, Pass};
use crate::params::{Place, TrainableParams};
use crate::target::Target;

/// Tokens of the test's sequence; enough for attention to have a choice.
const TOKENS: usize = 8;

/// Looks at the gradient of every trained tensor once.
///
/// # Errors
/// [`LmError::Internal`] that names a tensor which no gradient reaches, or whose gradient is not
/// finite.
pub fn gradients_flow(target: &Target, keep: Keep) -> Result<(), LmError> {
    let vocab = target.model.config.vocab;
    let ids: Vec<u32> = (1..=TOKENS).map(|i| (i * vocab / (2 * TOKENS)) as u32).collect();
    let batch = Batch::pack([ids.as_slice()]);
    let targets = Targets { rows: (0..TOKENS - 1).collect(), ids: ids[1..].to_vec() };
    // While B is zero, as it is at first, no gradient can reach A: the test is made with another B.
    let values = with_pairs(&target.params);
    let pass = Pass::plain(1.0 / TOKENS as f32, keep);
    let (_, grads) = target.backend.gradients(&values, &batch, &targets, &pass)?;
    let flows = |g: &[f32]| g.iter().all(|v| v.is_finite()) && g.iter().any(|v| *v != 0.0);
    for (param, grad) in target.params.params.iter().zip(&grads) {
        for (name, _, range) in param.tensors() {
            if !grad.get(range).is_some_and(flows) {
                return Err(LmError::Internal(format!("no gradient reaches the trained tensor {name}")));
            }
        }
    }
    Ok(())
}

/// The values with small numbers where a pair's B is zero.
fn with_pairs(params: &TrainableParams) -> Vec<Vec<f32>> {
    let mut values = params.values.clone();
    for (param, values) in params.params.iter().zip(&mut values) {
        let Place::Block(_, layout) = &param.place else { continue };
        for s in &layout.segments {
            let part = &mut values[s.range.clone()];
            if matches!(s.slot, Slot::LoraB(_)) && part.iter().all(|v| *v == 0.0) {
                part.iter_mut().enumerate().for_each(|(i, v)| *v = ((i % 7) as f32 - 3.0) * 1e-2);
            }
        }
    }
    values
}
