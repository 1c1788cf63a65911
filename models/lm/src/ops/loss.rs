//! Final norm, output layer and cross-entropy as one operation that yields the loss.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};

use super::{lock, numbers, tensor, with_numbers};
use crate::kernels::buffer::Buffer;
use crate::kernels::cross_entropy::{Gradients, cross_entropy};
use crate::kernels::matrix::{Matrix, Numbers};
use crate::kernels::{norm, simd};
use crate::model::Model;

/// Which tokens are predicted from which.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// Rows of the hidden state that predict.
    pub rows: Vec<usize>,
    /// The token that each predicts.
    pub ids: Vec<u32>,
}

/// The operation: Σ of the targets' negative log-likelihoods × `scale`. Over the hidden state
/// alone with the model's frozen norm and output layer, or over (hidden, norm, output layer).
/// Gradients are made with the loss, while the logits are at hand.
pub struct LossOp {
    /// The frozen weights.
    pub model: Arc<Model>,
    /// What is predicted.
    pub targets: Arc<Targets>,
    /// Factor of the sum, usually 1 / number of targets of the step.
    pub scale: f32,
    /// Gradients of hidden state, norm and output layer.
    pub grads: Mutex<Option<Grads>>,
}

/// Gradients of the loss.
pub struct Grads {
    hidden: Vec<f32>,
    norm: Vec<f32>,
    output: Vec<f32>,
}

/// Rows `rows` of `x`, one behind the other.
pub(crate) fn gather(x: &[f32], width: usize, rows: &[usize]) -> Buffer {
    let mut out = Buffer::new(rows.len() * width);
    for (to, row) in out.chunks_exact_mut(width).zip(rows) {
        to.copy_from_slice(&x[row * width..(row + 1) * width]);
    }
    out
}

impl LossOp {
    fn run(&self, x: &[f32], norm_weight: &[f32], output: Matrix, train: bool) -> (CpuStorage, Shape) {
        let (width, n) = (norm_weight.len(), self.targets.rows.len());
        let seen = gather(x, width, &self.targets.rows);
        let (mut normed, mut inverse) = (Buffer::new(n * width), Buffer::new(n));
        norm::forward(&mut normed, &mut inverse, &seen, norm_weight, self.model.config.norm_eps);
        let mut dnormed = Buffer::new(n * width);
        let mut doutput = if train { vec![0.0; output.rows * output.cols] } else { Vec::new() };
        let gradients =
            Gradients { hidden: &mut dnormed, weight: train.then_some(&mut doutput[..]), scale: self.scale };
        let losses = cross_entropy(&normed, output, &self.targets.ids, Some(gradients));
        drop(normed);
        let mut dseen = Buffer::zeros(n * width);
        let mut dnorm = if train { vec![0.0; width] } else { Vec::new() };
        let dw = train.then_some(&mut dnorm[..]);
        norm::backward(&mut dseen, dw, &dnormed, &seen, &inverse, norm_weight);
        let mut hidden = vec![0.0; x.len()];
        for (from, row) in dseen.chunks_exact(width).zip(&self.targets.rows) {
            hidden[row * width..(row + 1) * width].copy_from_slice(from);
        }
        *lock(&self.grads) = Some(Grads { hidden, norm: dnorm, output: doutput });
        let sum: f64 = losses.iter().map(|l| f64::from(*l)).sum();
        (CpuStorage::F32(vec![(sum * f64::from(self.scale)) as f32]), Shape::from(()))
    }

    fn grads(&self, dloss: &Tensor) -> Result<Grads> {
        let Some(mut g) = lock(&self.grads).take() else {
            candle_core::bail!("the loss's gradients were already taken");
        };
        let factor = dloss.to_scalar::<f32>()?;
        if factor != 1.0 {
            [&mut g.hidden, &mut g.norm, &mut g.output].into_iter().for_each(|v| simd::scale(v, factor));
        }
        Ok(g)
    }
}

impl CustomOp1 for LossOp {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(numbers(x, layout)?, &self.model.norm, self.model.output().matrix(), false))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dloss: &Tensor) -> Result<Option<Tensor>> {
        tensor(self.grads(dloss)?.hidden, x.dims()).map(Some)
    }
}

impl CustomOp3 for LossOp {
    fn name(&self) -> &'static str {
        "trained-loss"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        norm: &CpuStorage,
        norm_layout: &Layout,
        output: &CpuStorage,
        output_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, cols) = output_layout.shape().dims2()?;
        let output = Matrix::new(rows, cols, Numbers::F32(numbers(output, output_layout)?));
        Ok(self.run(numbers(x, x_layout)?, numbers(norm, norm_layout)?, output, true))
    }

    fn bwd(
        &self,
        x: &Tensor,
        norm: &Tensor,
        output: &Tensor,
        _: &Tensor,
        dloss: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = self.grads(dloss)?;
        let part = |numbers: Vec<f32>, like: &Tensor| tensor(numbers, like.dims()).map(Some);
        Ok((part(g.hidden, x)?, part(g.norm, norm)?, part(g.output, output)?))
    }
}

/// Negative log-likelihoods of the targets (nats), without gradients.
pub(crate) fn losses(
    hidden: &Tensor,
    norm_weight: &[f32],
    eps: f32,
    output: Matrix,
    targets: &Targets,
) -> Result<Vec<f32>> {
    with_numbers(hidden, |x| {
        let normed = normed(x, norm_weight, eps, &targets.rows);
        Ok(cross_entropy(&normed, output, &targets.ids, None))
    })
}

/// The final norm of some rows.
pub(crate) fn normed(x: &[f32], weight: &[f32], eps: f32, rows: &[usize]) -> Buffer {
    let seen = gather(x, weight.len(), rows);
    let (mut out, mut inverse) = (Buffer::new(seen.len()), Buffer::new(rows.len()));
    norm::forward(&mut out, &mut inverse, &seen, weight, eps);
    out
}
