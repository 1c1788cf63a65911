//! AdamW (Loshchilov & Hutter 2019) as one pass in place, over the pool.

use std::ops::Range;
use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result};
use rayon::prelude::*;

use super::{lock, numbers};
use crate::kernels::simd::{fma, vectorized};

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

/// The operation on (parameter, gradient).
pub struct AdamWOp<'a> {
    /// Constants of the step.
    pub step: StepSize,
    /// Moments, changed in place.
    pub moments: Mutex<&'a mut Moments>,
    /// Weight decay of ranges that cover the parameter, in order.
    pub decay: &'a [(Range<usize>, f32)],
}

/// Numbers that a task takes.
const PIECE: usize = 1 << 14;

impl InplaceOp2 for AdamWOp<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        value: &mut CpuStorage,
        value_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let grad = numbers(grad, grad_layout)?;
        let (Some((start, end)), CpuStorage::F32(value)) = (value_layout.contiguous_offsets(), value) else {
            candle_core::bail!("AdamW takes contiguous f32 parameters");
        };
        let value = &mut value[start..end];
        let mut guard = lock(&self.moments);
        let Moments { mean, square } = &mut **guard;
        for (range, decay) in self.decay {
            let r = || range.clone();
            let parts = value[r()]
                .par_chunks_mut(PIECE)
                .zip(mean[r()].par_chunks_mut(PIECE))
                .zip(square[r()].par_chunks_mut(PIECE))
                .zip(grad[r()].par_chunks(PIECE));
            parts.for_each(|(((value, mean), square), grad)| {
                update(value, mean, square, grad, &self.step, *decay);
            });
        }
        Ok(())
    }
}

vectorized! {
    fn update(value: &mut [f32], mean: &mut [f32], square: &mut [f32], grad: &[f32], s: &StepSize, decay: f32) {
        let (keep, rate, root) = (1.0 - s.rate * decay, s.rate / s.correct1, s.correct2.sqrt());
        for (((value, mean), square), grad) in value.iter_mut().zip(mean).zip(square).zip(grad) {
            let g = grad * s.clip;
            *mean = fma::<FMA>(s.beta1, *mean, (1.0 - s.beta1) * g);
            *square = fma::<FMA>(s.beta2, *square, (1.0 - s.beta2) * g * g);
            *value = *value * keep - rate * *mean / (square.sqrt() / root + s.eps);
        }
    }
}
