//! A transformer block as one operation: of the hidden state, and of the block's trained
//! parameters as one flat vector.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout as Strides, Result, Shape, Tensor};

use super::{lock, numbers, tensor, with_numbers};
use crate::block::{Batch, BlockGrad, BlockRef, Dims, Saved};
use crate::kernels::dropout::Dropout;
use crate::kernels::rope::Rope;
use crate::model::{Block, Layout};

/// What a forward pass keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All that the backward pass needs.
    Activations,
    /// Nothing: the backward pass runs the block forward again (checkpointing).
    Input,
}

/// Dropout of the LoRA pairs of one block, while training.
#[derive(Clone, Debug)]
pub struct BlockDropout {
    /// Share of an input's numbers that are set to zero.
    pub share: f32,
    /// A key of each token of the batch.
    pub tokens: Arc<Vec<u64>>,
    /// The block's number.
    pub block: usize,
}

/// The operation. [`CustomOp2`] over (hidden `[tokens, width]`, parameters), or [`CustomOp1`] over
/// the hidden state where nothing of the block is trained.
pub struct BlockOp {
    /// Frozen weights.
    pub block: Arc<Block>,
    /// What the parameters mean.
    pub layout: Arc<Layout>,
    /// The block's shape.
    pub dims: Dims,
    /// The sequences.
    pub batch: Arc<Batch>,
    /// Rotary tables.
    pub rope: Arc<Rope>,
    /// What is kept for the backward pass.
    pub keep: Keep,
    /// Dropout of the LoRA pairs.
    pub dropout: Option<BlockDropout>,
    /// Whether the hidden state's gradient is wanted.
    pub input_grad: bool,
    /// Whether quantized weights are multiplied in 8 bits; only without gradients.
    pub rounded: bool,
    /// What was kept.
    pub saved: Mutex<Option<Saved>>,
}

impl BlockOp {
    fn view<'a>(&'a self, theta: &'a [f32]) -> BlockRef<'a> {
        let mut view = self.layout.view(&self.block, theta);
        if let Some(d) = &self.dropout {
            for (i, linear) in view.linear.iter_mut().enumerate() {
                let layer = ((d.block as u64) << 8) | i as u64;
                let own = Dropout { share: d.share, tokens: &d.tokens, layer };
                linear.lora.iter_mut().for_each(|l| l.dropout = Some(own));
            }
        }
        view
    }

    fn run(&self, x: &[f32], theta: &[f32]) -> (CpuStorage, Shape) {
        let mut y = vec![0.0; x.len()];
        let view = BlockRef { rounded: self.rounded, ..self.view(theta) };
        let saved = view.forward(&self.dims, &mut y, x, &self.batch, &self.rope);
        if self.keep == Keep::Activations {
            *lock(&self.saved) = Some(saved);
        }
        (CpuStorage::F32(y), Shape::from((self.batch.tokens(), self.dims.hidden)))
    }

    fn back(&self, x: &[f32], theta: &[f32], grad: &mut BlockGrad, dy: &[f32]) -> Option<Vec<f32>> {
        let view = self.view(theta);
        let saved = lock(&self.saved).take().unwrap_or_else(|| {
            let mut y = vec![0.0; x.len()];
            view.forward(&self.dims, &mut y, x, &self.batch, &self.rope)
        });
        let mut dx = self.input_grad.then(|| vec![0.0; x.len()]);
        view.backward(&self.dims, grad, dx.as_deref_mut(), dy, x, saved, &self.batch, &self.rope);
        dx
    }
}

impl CustomOp1 for BlockOp {
    fn name(&self) -> &'static str {
        "frozen-block"
    }

    fn cpu_fwd(&self, x: &CpuStorage, strides: &Strides) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(numbers(x, strides)?, &[]))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let mut none = BlockGrad::default();
        let dx = with_numbers(x, |x| with_numbers(dy, |dy| Ok(self.back(x, &[], &mut none, dy))))?;
        dx.map(|dx| tensor(dx, x.dims())).transpose()
    }
}

impl CustomOp2 for BlockOp {
    fn name(&self) -> &'static str {
        "block"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_strides: &Strides,
        theta: &CpuStorage,
        theta_strides: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(numbers(x, x_strides)?, numbers(theta, theta_strides)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        theta: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut dtheta = vec![0.0; theta.elem_count()];
        let mut grad = self.layout.split(&mut dtheta);
        let dx = with_numbers(x, |x| {
            with_numbers(theta, |theta| with_numbers(dy, |dy| Ok(self.back(x, theta, &mut grad, dy))))
        })?;
        let dx = dx.map(|dx| tensor(dx, x.dims())).transpose()?;
        Ok((dx, Some(tensor(dtheta, theta.dims())?)))
    }
}
