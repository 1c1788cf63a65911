//! AdamW, with clipping of the gradients' norm, and the learning rate's schedule.

use std::ops::Range;

use headstart_kernels::adamw::{self, Moments, StepSize};
use headstart_kernels::simd;
use headstart_lm::LmError;
use rayon::prelude::*;

use crate::params::{Param, Place, TrainableParams};

/// Constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSpec {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay of matrices; norms and biases have none.
    pub decay: f64,
    /// Largest norm of all gradients together.
    pub clip: Option<f64>,
}

impl Default for AdamWSpec {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.0, clip: Some(1.0) }
    }
}

/// One parameter's state.
struct State {
    moments: Moments,
    /// Weight decay of ranges of its values.
    decay: Vec<(Range<usize>, f32)>,
}

/// The optimizer. Everything that a resumed training needs is in its moments and its step.
pub struct AdamW {
    spec: AdamWSpec,
    states: Vec<State>,
    steps: i32,
}

impl AdamW {
    /// For these parameters, moments zero.
    pub fn new(params: &TrainableParams, spec: AdamWSpec) -> Self {
        let states = params.params.iter().zip(&params.values).map(|(param, values)| {
            let n = values.len();
            let moments = Moments { mean: vec![0.0; n], square: vec![0.0; n] };
            State { moments, decay: decays(param, n, spec.decay as f32) }
        });
        Self { spec, states: states.collect(), steps: 0 }
    }

    /// Changes the values by one step; returns the norm of the gradients before clipping.
    ///
    /// # Errors
    /// [`LmError::Input`] where the norm is not finite.
    pub fn step(&mut self, values: &mut [Vec<f32>], grads: &[Vec<f32>], rate: f64) -> Result<f64, LmError> {
        let norm = grads.iter().map(|g| sum_squares(g)).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(LmError::Input("the gradients are not finite: the training diverged".into()));
        }
        self.steps += 1;
        let clip = self.spec.clip.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0));
        let s = &self.spec;
        let step = StepSize {
            rate: rate as f32,
            clip: clip as f32,
            beta1: s.beta1 as f32,
            beta2: s.beta2 as f32,
            eps: s.eps as f32,
            correct1: (1.0 - s.beta1.powi(self.steps)) as f32,
            correct2: (1.0 - s.beta2.powi(self.steps)) as f32,
        };
        for ((state, values), grad) in self.states.iter_mut().zip(values).zip(grads) {
            adamw::update(values, &mut state.moments, grad, &step, &state.decay);
        }
        Ok(norm)
    }

    /// The moments, in the order of the parameters.
    pub fn moments(&self) -> Vec<&Moments> {
        self.states.iter().map(|s| &s.moments).collect()
    }

    /// Resumes from an earlier training's moments after so many steps.
    ///
    /// # Errors
    /// [`LmError::Internal`] where they are not of these parameters' sizes.
    pub fn restore(&mut self, moments: Vec<Moments>, steps: usize) -> Result<(), LmError> {
        let sizes = |m: &Moments| (m.mean.len(), m.square.len());
        let fit = moments.iter().map(sizes).eq(self.states.iter().map(|s| sizes(&s.moments)));
        let steps = i32::try_from(steps).ok().filter(|_| fit);
        self.steps = steps.ok_or_else(|| LmError::Internal("moments of another training".into()))?;
        self.states.iter_mut().zip(moments).for_each(|(s, m)| s.moments = m);
        Ok(())
    }
}

/// Matrices decay; norms and biases do not.
fn decays(param: &Param, n: usize, decay: f32) -> Vec<(Range<usize>, f32)> {
    let of = |shape: &[usize]| if shape.len() > 1 { decay } else { 0.0 };
    match &param.place {
        Place::Block(_, layout) => layout.segments.iter().map(|s| (s.range.clone(), of(&s.shape))).collect(),
        _ => vec![(0..n, of(&param.shape))],
    }
}

/// Σ g², pieces in order.
fn sum_squares(grad: &[f32]) -> f64 {
    const PIECE: usize = 1 << 14;
    let pieces: Vec<f64> = grad.par_chunks(PIECE).map(|g| f64::from(simd::sum_squares(g))).collect();
    pieces.iter().sum()
}

/// The learning rate of a step (from 0): a linear rise over `warmup` steps, then level, or on a
/// cosine to a tenth of the peak at `total`.
pub fn rate(peak: f64, step: usize, warmup: usize, cosine: bool, total: usize) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    if !cosine || total <= warmup {
        return peak;
    }
    let done = ((step - warmup) as f64 / (total - warmup) as f64).min(1.0);
    peak * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * done).cos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_a_tenth() {
        let at = |step| rate(1.0, step, 10, true, 110);
        assert_eq!(at(0), 0.1);
        assert_eq!(at(9), 1.0);
        assert_eq!(at(10), 1.0);
        assert!((at(60) - 0.55).abs() < 1e-12);
        assert!((at(110) - 0.1).abs() < 1e-12);
        assert_eq!(rate(1.0, 500, 10, false, 110), 1.0);
    }
}
