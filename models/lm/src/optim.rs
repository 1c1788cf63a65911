//! AdamW over a net's parameters, with clipping of the gradients' norm, and the learning rate's
//! course.

use std::ops::Range;
use std::sync::Mutex;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::error::LmError;
use crate::kernels::simd;
use crate::model::Layout;
use crate::net::Net;
use crate::ops::adamw::{AdamWOp, Moments, StepSize};
use crate::ops::with_numbers;

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

/// One parameter with its state.
struct Parameter {
    var: Var,
    moments: Moments,
    decay: Vec<(Range<usize>, f32)>,
}

/// The optimizer. Everything that a continued training needs is in its moments and its step.
pub struct AdamW {
    spec: AdamWSpec,
    parameters: Vec<Parameter>,
    steps: i32,
}

impl AdamW {
    /// For all of a net's parameters, moments zero.
    pub fn new(net: &Net, spec: AdamWSpec) -> Self {
        let parameters = net.parameters().into_iter().map(|(_, layout, var)| {
            let n = var.elem_count();
            let moments = Moments { mean: vec![0.0; n], square: vec![0.0; n] };
            let decay = decays(layout.as_deref(), var.dims().len(), n, spec.decay as f32);
            Parameter { var, moments, decay }
        });
        Self { spec, parameters: parameters.collect(), steps: 0 }
    }

    /// Numbers that are trained.
    pub fn trainable(&self) -> u64 {
        self.parameters.iter().map(|p| p.var.elem_count() as u64).sum()
    }

    /// Changes the parameters by one step; returns the norm of the gradients before clipping.
    /// Fails where it is not finite.
    pub fn step(&mut self, grads: &GradStore, rate: f64) -> Result<f64, LmError> {
        let of = |p: &Parameter| grads.get(&p.var).map(Tensor::contiguous).transpose();
        let all: Vec<Option<Tensor>> = self.parameters.iter().map(of).collect::<Result<_, _>>()?;
        let mut squares = 0.0;
        for grad in all.iter().flatten() {
            squares += sum_squares(grad)?;
        }
        let norm = squares.sqrt();
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
        for (p, grad) in self.parameters.iter_mut().zip(all) {
            let Some(grad) = grad else { continue };
            let op = AdamWOp { step, moments: Mutex::new(&mut p.moments), decay: &p.decay };
            p.var.inplace_op2(&grad, &op)?;
        }
        Ok(norm)
    }

    /// The moments, in the order of the net's parameters.
    pub fn moments(&self) -> Vec<&Moments> {
        self.parameters.iter().map(|p| &p.moments).collect()
    }

    /// Goes on from an earlier training's moments after so many steps.
    ///
    /// # Errors
    /// [`LmError::Internal`] where they are not of these parameters' sizes.
    pub fn restore(&mut self, moments: Vec<Moments>, steps: usize) -> Result<(), LmError> {
        let sizes = |m: &Moments, n: usize| m.mean.len() == n && m.square.len() == n;
        let fit = moments.len() == self.parameters.len()
            && moments.iter().zip(&self.parameters).all(|(m, p)| sizes(m, p.var.elem_count()));
        let steps = i32::try_from(steps).ok().filter(|_| fit);
        self.steps = steps.ok_or_else(|| LmError::Internal("moments of another training".into()))?;
        self.parameters.iter_mut().zip(moments).for_each(|(p, m)| p.moments = m);
        Ok(())
    }
}

fn decays(layout: Option<&Layout>, dims: usize, n: usize, decay: f32) -> Vec<(Range<usize>, f32)> {
    match layout {
        None => vec![(0..n, if dims > 1 { decay } else { 0.0 })],
        Some(layout) => {
            let of = |shape: &[usize]| if shape.len() > 1 { decay } else { 0.0 };
            layout.segments.iter().map(|s| (s.range.clone(), of(&s.shape))).collect()
        }
    }
}

/// Σ g², pieces in order.
fn sum_squares(grad: &Tensor) -> Result<f64, LmError> {
    const PIECE: usize = 1 << 14;
    Ok(with_numbers(grad, |g| {
        let pieces: Vec<f64> = g.par_chunks(PIECE).map(|g| f64::from(simd::sum_squares(g))).collect();
        Ok(pieces.iter().sum())
    })?)
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
