//! Gradients on the CPU: the blocks' own backward passes in order, without a graph, so that nothing is
//! kept longer than needed and frozen tensors get no gradient.

use std::sync::Arc;

use headstart_kernels::{
    Buffer, Dropout as LayerDropout, LossGradients, cross_entropy, embedding, loss_chunk, norm, simd,
};
use headstart_lm::{
    Adapter, Batch, BlockGrad, BlockRef, CpuBackend, LmError, Model, Net, Saved, Targets, Watch, gather,
};

use crate::TrainingBackend;
use crate::gradients::{Dropout, GradientBackend, Keep, Memory, Pass, StepShape};
use crate::params::{Param, Place, TrainableParams, overlaid};
use crate::spec::{TrainReport, TrainSpec};

impl TrainingBackend for CpuBackend {
    fn train(&self, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
        self.install(|| crate::train_in(self.precision(), &CpuGradients::make, spec, watch))
    }
}

/// [`GradientBackend`] on the kernels.
pub struct CpuGradients {
    model: Arc<Model>,
    params: Vec<Param>,
}

/// A block's input and what its forward pass kept.
struct Passed {
    block: usize,
    x: Vec<f32>,
    saved: Option<Saved>,
    /// Whether the input's gradient is needed.
    input_grad: bool,
}

/// Gradients of the loss of hidden states.
struct LossGrads {
    hidden: Vec<f32>,
    norm: Vec<f32>,
    output: Vec<f32>,
}

impl CpuGradients {
    /// Of an adapter, or of all weights where none is given.
    pub fn new(model: Arc<Model>, adapter: Option<&Adapter>) -> Self {
        let params = match adapter {
            Some(adapter) => TrainableParams::adapter(adapter),
            None => TrainableParams::full(&model),
        };
        Self { model, params: params.params }
    }

    /// As [`crate::MakeGradients`].
    ///
    /// # Errors
    /// None.
    pub fn make(model: &Arc<Model>, adapter: Option<&Adapter>) -> Result<Box<dyn GradientBackend>, LmError> {
        Ok(Box::new(Self::new(model.clone(), adapter)))
    }

    fn net<'a>(&'a self, values: &'a [Vec<f32>]) -> Net<'a> {
        overlaid(&self.model, &self.params, values)
    }

    /// The loss of hidden states and its gradients.
    fn loss(&self, net: &Net, hidden: &[f32], targets: &Targets, scale: f32) -> (f32, LossGrads) {
        let (weight, output) = net.head();
        let (width, n, full) = (weight.len(), targets.rows.len(), net.ends.is_some());
        let seen = gather(hidden, width, &targets.rows);
        let (mut normed, mut inverse) = (Buffer::new(n * width), Buffer::new(n));
        norm::forward(&mut normed, &mut inverse, &seen, weight, self.model.config.norm_eps);
        let mut dnormed = Buffer::new(n * width);
        let mut doutput = if full { vec![0.0; output.rows * output.cols] } else { Vec::new() };
        let gradients =
            LossGradients { hidden: &mut dnormed, weight: full.then_some(&mut doutput[..]), scale };
        let losses = cross_entropy(&normed, output, &targets.ids, Some(gradients));
        drop(normed);
        let mut dseen = Buffer::zeros(n * width);
        let mut dnorm = if full { vec![0.0; width] } else { Vec::new() };
        norm::backward(&mut dseen, full.then_some(&mut dnorm[..]), &dnormed, &seen, &inverse, weight);
        let mut dhidden = vec![0.0; hidden.len()];
        for (from, row) in dseen.chunks_exact(width).zip(&targets.rows) {
            dhidden[row * width..(row + 1) * width].copy_from_slice(from);
        }
        let sum: f64 = losses.iter().map(|l| f64::from(*l)).sum();
        ((sum * f64::from(scale)) as f32, LossGrads { hidden: dhidden, norm: dnorm, output: doutput })
    }

    /// The gradient of the embedding: of its rows that were read and, where it is tied, as output layer.
    fn embed_grad(&self, batch: &Batch, dx: &[f32], output: Option<&[f32]>) -> Vec<f32> {
        let c = &self.model.config;
        let mut grad = vec![0.0; c.vocab * c.hidden];
        embedding::backward(&mut grad, dx, &batch.ids, c.hidden);
        if let Some(output) = output {
            simd::par_add(&mut grad, output);
        }
        grad
    }
}

/// A block with dropout in its adapters.
fn dropped<'a>(mut view: BlockRef<'a>, block: usize, dropout: Option<&'a Dropout>) -> BlockRef<'a> {
    let Some(d) = dropout else { return view };
    for (i, linear) in view.linear.iter_mut().enumerate() {
        let layer = ((block as u64) << 8) | i as u64;
        let own = LayerDropout { share: d.share, tokens: &d.tokens, layer };
        linear.lora.iter_mut().for_each(|l| l.dropout = Some(own));
    }
    view
}

impl GradientBackend for CpuGradients {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn losses(&self, values: &[Vec<f32>], batch: &Batch, targets: &Targets) -> Result<Vec<f32>, LmError> {
        Ok(self.net(values).losses(batch, targets))
    }

    fn gradients(
        &self,
        values: &[Vec<f32>],
        batch: &Batch,
        targets: &Targets,
        pass: &Pass,
    ) -> Result<(f32, Vec<Vec<f32>>), LmError> {
        let net = self.net(values);
        let (dims, rope) = (self.model.dims(), self.model.rope(batch.longest()));
        let mut x = net.embed(&batch.ids);
        // Nothing before the first trained block needs a gradient.
        let (mut passed, mut tracked) = (Vec::new(), net.ends.is_some());
        for block in 0..self.model.blocks.len() {
            let input_grad = tracked;
            tracked |= net.blocks[block].is_some();
            let mut y = vec![0.0; x.len()];
            let saved =
                dropped(net.block(block), block, pass.dropout).forward(&dims, &mut y, &x, batch, &rope);
            let saved = (tracked && pass.keep == Keep::Activations).then_some(saved);
            let x = std::mem::replace(&mut x, y);
            if tracked {
                passed.push(Passed { block, x, saved, input_grad });
            }
        }
        let (loss, mut ends) = self.loss(&net, &x, targets, pass.scale);
        drop(x);
        let mut blocks: Vec<Option<Vec<f32>>> = vec![None; self.model.blocks.len()];
        let mut dy = std::mem::take(&mut ends.hidden);
        while let Some(Passed { block, x, saved, input_grad }) = passed.pop() {
            let view = dropped(net.block(block), block, pass.dropout);
            let saved = saved.unwrap_or_else(|| {
                let mut y = vec![0.0; x.len()];
                view.forward(&dims, &mut y, &x, batch, &rope)
            });
            let layout = net.blocks[block].map(|p| p.layout);
            let mut own = vec![0.0; layout.map_or(0, |l| l.len())];
            let mut grad = layout.map_or_else(BlockGrad::default, |l| l.split(&mut own));
            let mut dx = input_grad.then(|| vec![0.0; x.len()]);
            view.backward(&dims, &mut grad, dx.as_deref_mut(), &dy, &x, saved, batch, &rope);
            blocks[block] = Some(own);
            let Some(next) = dx else { break };
            dy = next;
        }
        let tied = self.model.head.is_none();
        let grads = self.params.iter().map(|p| match &p.place {
            Place::Block(block, _) => blocks[*block].take().unwrap_or_default(),
            Place::Embed => self.embed_grad(batch, &dy, tied.then_some(&ends.output)),
            Place::Norm => std::mem::take(&mut ends.norm),
            Place::Head => std::mem::take(&mut ends.output),
        });
        Ok((loss, grads.collect()))
    }

    fn supports_dropout(&self) -> bool {
        true
    }

    fn supports_streaming(&self) -> bool {
        true
    }

    fn memory(&self, step: &StepShape) -> Memory {
        let (c, d) = (&self.model.config, self.model.dims());
        let block = Saved::per_token(&d);
        let kept = match step.keep {
            Keep::Activations => c.layers * block,
            Keep::Input => block,
        };
        // Hidden states between blocks, and the gradients of one block while it is passed back.
        let passing = (c.layers + 12) * c.hidden + 6 * c.ffn + 4 * d.heads.q_width();
        // A layer's input with dropout, and its gradient behind it.
        let passing = passing + if step.dropout { 2 * c.ffn.max(c.hidden) } else { 0 };
        let logits = c.vocab * loss_chunk(c.vocab).min(step.tokens);
        // Buffers come in sizes an eighth apart.
        let activations = ((step.tokens * (kept + passing) + logits) as u64 * 4) * 9 / 8;
        Memory { held: 0, activations }
    }
}
