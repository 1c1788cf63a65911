//! AdamW (Loshchilov & Hutter 2019) as one pass in place, over the pool.

use std::ops::Range;

use rayon::prelude::*;

use super::simd::{fma, vectorized};

/// First and second moments of a parameter's gradients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Mean of gradients.
    pub mean: Vec<f32>,
    /// Mean of their squares.
    pub square: Vec<f32>,
}

/// Constants of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepSize {
    /// Learning rate.
    pub rate: f32,
    /// What gradients are multiplied with first: the clipping factor.
    pub clip: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// 1 - beta1^t.
    pub correct1: f32,
    /// 1 - beta2^t.
    pub correct2: f32,
}

/// Numbers that a task takes.
const PIECE: usize = 1 << 14;

/// Changes a parameter by one step. `decay` is the weight decay of ranges that cover the parameter,
/// in order.
pub fn update(
    value: &mut [f32],
    moments: &mut Moments,
    grad: &[f32],
    step: &StepSize,
    decay: &[(Range<usize>, f32)],
) {
    let Moments { mean, square } = moments;
    for (range, decay) in decay {
        let r = || range.clone();
        let parts = value[r()]
            .par_chunks_mut(PIECE)
            .zip(mean[r()].par_chunks_mut(PIECE))
            .zip(square[r()].par_chunks_mut(PIECE))
            .zip(grad[r()].par_chunks(PIECE));
        parts.for_each(|(((value, mean), square), grad)| {
            update_piece(value, mean, square, grad, step, *decay);
        });
    }
}

vectorized! {
    fn update_piece(value: &mut [f32], mean: &mut [f32], square: &mut [f32], grad: &[f32], s: &StepSize, decay: f32) {
        let (keep, rate, root) = (1.0 - s.rate * decay, s.rate / s.correct1, s.correct2.sqrt());
        for (((value, mean), square), grad) in value.iter_mut().zip(mean).zip(square).zip(grad) {
            let g = grad * s.clip;
            *mean = fma::<FMA>(s.beta1, *mean, (1.0 - s.beta1) * g);
            *square = fma::<FMA>(s.beta2, *square, (1.0 - s.beta2) * g * g);
            *value = *value * keep - rate * *mean / (square.sqrt() / root + s.eps);
        }
    }
}
