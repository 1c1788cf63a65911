//! The self-test before a training: a gradient reaches every trained tensor.
//!
//! An operation that drops gradients does so silently, and the training would then improve
//! nothing, or only a part. So one pass over a few made-up tokens is looked at first.

use std::sync::Arc;

use crate::block::Batch;
use crate::error::LmError;
use crate::model::Slot;
use crate::ops::block::Keep;
use crate::ops::loss::Targets;
use crate::train::target::Target;

/// Tokens of the test's sequence; enough for attention to have a choice.
const TOKENS: usize = 8;

/// # Errors
/// [`LmError::Internal`] that names a tensor which no gradient reaches, or whose gradient is not a
/// number.
pub fn gradients_flow(target: &Target, keep: Keep) -> Result<(), LmError> {
    let model = target.net.model.clone();
    let ids: Vec<u32> = (1..=TOKENS).map(|i| (i * model.config.vocab / (2 * TOKENS)) as u32).collect();
    let batch = Arc::new(Batch::pack([ids.as_slice()]));
    let targets = Arc::new(Targets { rows: (0..TOKENS - 1).collect(), ids: ids[1..].to_vec() });
    // While B is zero, as it is at first, no gradient can reach A: the test is made with another B.
    let mut before = Vec::new();
    target.copy_values(&mut before)?;
    target.put_values(&with_pairs(target, &before))?;
    let (_, grads) = target.net.gradients(&batch, &targets, 1.0 / TOKENS as f32, keep)?;
    let mut wrong = None;
    for (block, layout, var) in target.net.parameters() {
        let name = |slot: Option<Slot>| target.name(block, slot, &var);
        let Some(grad) = grads.get(&var) else {
            wrong.get_or_insert(name(layout.and_then(|l| l.segments.first().map(|s| s.slot))));
            continue;
        };
        let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
        let flows = |g: &[f32]| g.iter().all(|v| v.is_finite()) && g.iter().any(|v| *v != 0.0);
        let still = match &layout {
            None => (!flows(&grad)).then(|| name(None)),
            Some(layout) => {
                layout.segments.iter().find(|s| !flows(&grad[s.range.clone()])).map(|s| name(Some(s.slot)))
            }
        };
        wrong = wrong.or(still);
    }
    target.put_values(&before)?;
    match wrong {
        Some(name) => Err(LmError::Internal(format!("no gradient reaches the trained tensor {name}"))),
        None => Ok(()),
    }
}

/// The values with small numbers where a pair's B is zero.
fn with_pairs(target: &Target, values: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut values = values.to_vec();
    for ((_, layout, _), values) in target.net.parameters().into_iter().zip(&mut values) {
        for s in layout.iter().flat_map(|l| &l.segments) {
            let part = &mut values[s.range.clone()];
            if matches!(s.slot, Slot::LoraB(_)) && part.iter().all(|v| *v == 0.0) {
                part.iter_mut().enumerate().for_each(|(i, v)| *v = ((i % 7) as f32 - 3.0) * 1e-2);
            }
        }
    }
    values
}
