//! A decoder as candle sees it: frozen weights, trained parameters, and the forward passes.

use std::sync::{Arc, Mutex};

use candle_core::backprop::GradStore;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Device, Tensor, Var};
use rayon::prelude::*;

use crate::block::{Batch, Saved};
use crate::error::LmError;
use crate::kernels::ROWS;
use crate::kernels::matrix::{Matrix, Numbers};
use crate::limits::Limits;
use crate::model::{Layout, Model};
use crate::ops::block::{BlockDropout, BlockOp, Keep};
use crate::ops::embed::EmbedOp;
use crate::ops::loss::{self, LossOp, Targets};
use crate::ops::{tensor, with_numbers};

/// A block's trained parameters as one flat vector.
pub struct Theta {
    /// What they are.
    pub layout: Arc<Layout>,
    /// Their values.
    pub values: Var,
}

/// What is laid over the frozen weights.
pub enum Overlay {
    /// Nothing.
    None,
    /// Adapters of some blocks.
    Lora(Vec<Option<Theta>>),
    /// Everything.
    Full {
        /// The embedding, `[vocab, hidden]`; also the output layer where it is tied.
        embed: Var,
        /// Each block's weights.
        blocks: Vec<Theta>,
        /// Weight of the final norm.
        norm: Var,
        /// The output layer, where it is not the embedding.
        head: Option<Var>,
    },
}

/// The passes of a training computed elsewhere: by another library, or on another device. Trained
/// values go in and gradients come out as one vector a parameter, in the order of
/// [`Net::parameters`].
pub trait Foreign: Send + Sync {
    /// Name of what computes them.
    fn name(&self) -> String;

    /// Negative log-likelihood of each target, in nats.
    fn losses(&self, values: &[Vec<f32>], batch: &Batch, targets: &Targets) -> Result<Vec<f32>, LmError>;

    /// The loss Σ nll × `scale`, and its gradients.
    fn gradients(
        &self,
        values: &[Vec<f32>],
        batch: &Batch,
        targets: &Targets,
        scale: f32,
        keep: Keep,
        dropout: Option<&Dropout>,
    ) -> Result<(f64, Vec<Vec<f32>>), LmError>;

    /// Whether it knows dropout.
    fn drops(&self) -> bool {
        false
    }

    /// Bytes that it holds for the model, and those of a step with so many tokens at once, in rows
    /// of up to `longest`.
    fn memory(&self, tokens: usize, longest: usize, keep: Keep) -> (u64, u64);
}

/// A decoder ready to run.
pub struct Net {
    /// The frozen weights.
    pub model: Arc<Model>,
    /// What is laid over them.
    pub overlay: Overlay,
    /// What computes losses and their gradients, where they are not computed here.
    pub foreign: Option<Box<dyn Foreign>>,
    /// Dropout of adapters in passes with gradients.
    pub dropout: Option<Dropout>,
    /// How much it does at once.
    pub limits: Limits,
}

/// Dropout of adapters in one micro-batch.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// Share of an adapter's inputs that are set to zero.
    pub share: f32,
    /// A key of each token of the batch.
    pub tokens: Arc<Vec<u64>>,
}

impl Net {
    /// On the CPU.
    pub fn new(model: Arc<Model>, overlay: Overlay) -> Self {
        Self { model, overlay, foreign: None, dropout: None, limits: Limits::default() }
    }

    /// Every trained parameter with its layout; the embedding, norm and head of full training come
    /// last and have none.
    pub fn parameters(&self) -> Vec<(usize, Option<Arc<Layout>>, Var)> {
        match &self.overlay {
            Overlay::None => Vec::new(),
            Overlay::Lora(blocks) => {
                let all = blocks.iter().enumerate();
                all.filter_map(|(i, t)| t.as_ref().map(|t| (i, Some(t.layout.clone()), t.values.clone())))
                    .collect()
            }
            Overlay::Full { embed, blocks, norm, head } => {
                let n = blocks.len();
                let blocks = blocks.iter().enumerate();
                let mut all: Vec<_> =
                    blocks.map(|(i, t)| (i, Some(t.layout.clone()), t.values.clone())).collect();
                all.push((n, None, embed.clone()));
                all.push((n, None, norm.clone()));
                all.extend(head.iter().map(|h| (n, None, h.clone())));
                all
            }
        }
    }

    /// What is trained of a block.
    pub fn theta(&self, block: usize) -> Option<&Theta> {
        match &self.overlay {
            Overlay::None => None,
            Overlay::Lora(blocks) => blocks[block].as_ref(),
            Overlay::Full { blocks, .. } => Some(&blocks[block]),
        }
    }

    /// The embedded tokens of a batch, `[tokens, hidden]`.
    pub fn embed(&self, batch: &Arc<Batch>) -> Result<Tensor, LmError> {
        if let Overlay::Full { embed, .. } = &self.overlay {
            return Ok(embed.apply_op1(EmbedOp { batch: batch.clone() })?);
        }
        let (h, table) = (self.model.config.hidden, self.model.embed.matrix());
        let mut x = vec![0.0; batch.tokens() * h];
        x.par_chunks_mut(h * ROWS).zip(batch.ids.par_chunks(ROWS)).for_each(|(rows, ids)| {
            rows.chunks_exact_mut(h).zip(ids).for_each(|(row, id)| table.row(*id as usize, row));
        });
        self.model.embed.release();
        Ok(tensor(x, &[batch.tokens(), h])?)
    }

    fn op(&self, block: usize, batch: &Arc<Batch>, keep: Keep, input_grad: bool) -> BlockOp {
        BlockOp {
            block: self.model.blocks[block].clone(),
            layout: self.theta(block).map(|t| t.layout.clone()).unwrap_or_default(),
            dims: self.model.dims(),
            batch: batch.clone(),
            rope: self.model.rope(batch.longest()),
            keep,
            dropout: None,
            input_grad,
            rounded: false,
            saved: Mutex::new(None),
        }
    }

    /// A block's operation in a pass with gradients: with dropout, where there is any.
    fn trained_op(&self, block: usize, batch: &Arc<Batch>, keep: Keep, input_grad: bool) -> BlockOp {
        let dropout = self.dropout.as_ref();
        let dropout = dropout.map(|d| BlockDropout { share: d.share, tokens: d.tokens.clone(), block });
        BlockOp { dropout, ..self.op(block, batch, keep, input_grad) }
    }

    /// Hidden states before the final norm, `[tokens, hidden]`, with gradients to the overlay.
    pub fn trained_hidden(&self, batch: &Arc<Batch>, keep: Keep) -> Result<Tensor, LmError> {
        let mut x = self.embed(batch)?;
        // Nothing before the first trained block needs a gradient.
        let mut tracked = matches!(self.overlay, Overlay::Full { .. });
        for i in 0..self.model.blocks.len() {
            let op = self.trained_op(i, batch, keep, tracked);
            x = match self.theta(i) {
                Some(t) => x.apply_op2(t.values.as_tensor(), op)?,
                None if tracked => x.apply_op1(op)?,
                None => x.apply_op1_no_bwd(&op)?,
            };
            tracked |= self.theta(i).is_some();
        }
        Ok(x)
    }

    /// Hidden states before the final norm, without gradients. `seen` is given each block's number
    /// and what its forward pass made, for a cache of keys and values.
    pub fn hidden(&self, batch: &Arc<Batch>, seen: impl FnMut(usize, Saved)) -> Result<Tensor, LmError> {
        self.run(batch, false, seen)
    }

    /// As [`Self::hidden`], with rows rounded to 8 bits where weights are quantized.
    pub fn hidden_rounded(
        &self,
        batch: &Arc<Batch>,
        seen: impl FnMut(usize, Saved),
    ) -> Result<Tensor, LmError> {
        self.run(batch, true, seen)
    }

    fn run(
        &self,
        batch: &Arc<Batch>,
        rounded: bool,
        mut seen: impl FnMut(usize, Saved),
    ) -> Result<Tensor, LmError> {
        let mut x = self.embed(batch)?.detach();
        for i in 0..self.model.blocks.len() {
            let op = BlockOp { rounded, ..self.op(i, batch, Keep::Activations, false) };
            x = match self.theta(i) {
                Some(t) => x.apply_op2_no_bwd(t.values.as_tensor(), &op)?,
                None => x.apply_op1_no_bwd(&op)?,
            };
            if let Some(saved) = op.saved.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
                seen(i, saved);
            }
        }
        Ok(x)
    }

    /// Calls `f` with the final norm's weight and the output layer as they are now.
    fn with_head<T>(&self, f: impl FnOnce(&[f32], Matrix) -> candle_core::Result<T>) -> Result<T, LmError> {
        let Overlay::Full { embed, norm, head, .. } = &self.overlay else {
            return Ok(f(&self.model.norm, self.model.output().matrix())?);
        };
        let c = &self.model.config;
        let output = head.as_ref().unwrap_or(embed);
        let out = with_numbers(norm.as_tensor(), |norm| {
            with_numbers(output.as_tensor(), |w| f(norm, Matrix::new(c.vocab, c.hidden, Numbers::F32(w))))
        });
        Ok(out?)
    }

    /// Hidden states after the final norm of some rows, `rows × hidden` numbers.
    pub fn normed(&self, hidden: &Tensor, rows: &[usize]) -> Result<Vec<f32>, LmError> {
        let eps = self.model.config.norm_eps;
        self.with_head(|norm, _| with_numbers(hidden, |x| Ok(loss::normed(x, norm, eps, rows).to_vec())))
    }

    /// Logits of normed hidden states, `rows × vocab` numbers.
    pub fn logits(&self, normed: &[f32]) -> Result<Vec<f32>, LmError> {
        let mut logits = vec![0.0; normed.len() / self.model.config.hidden * self.model.config.vocab];
        self.logits_into(&mut logits, normed, false)?;
        Ok(logits)
    }

    /// Writes the logits of normed hidden states; `rounded` as in [`Self::hidden_rounded`].
    pub fn logits_into(&self, logits: &mut [f32], normed: &[f32], rounded: bool) -> Result<(), LmError> {
        let c = &self.model.config;
        let n = normed.len() / c.hidden;
        self.with_head(|_, output| {
            match rounded {
                true => output.forward_rounded(logits, normed, n),
                false => output.forward(logits, normed, n),
            }
            Ok(())
        })
    }

    /// Negative log-likelihood of each target, in nats, without gradients.
    pub fn losses(&self, batch: &Arc<Batch>, targets: &Targets) -> Result<Vec<f32>, LmError> {
        if let Some(foreign) = &self.foreign {
            return foreign.losses(&self.values()?, batch, targets);
        }
        let hidden = self.hidden(batch, |_, _| {})?;
        let eps = self.model.config.norm_eps;
        self.with_head(|norm, output| loss::losses(&hidden, norm, eps, output, targets))
    }

    /// The loss Σ nll × `scale` of a batch as a scalar with gradients to the overlay; computed here,
    /// whatever [`Self::foreign`] is.
    pub fn loss(
        &self,
        batch: &Arc<Batch>,
        targets: &Arc<Targets>,
        scale: f32,
        keep: Keep,
    ) -> Result<Tensor, LmError> {
        let hidden = self.trained_hidden(batch, keep)?;
        let op =
            LossOp { model: self.model.clone(), targets: targets.clone(), scale, grads: Mutex::new(None) };
        Ok(match &self.overlay {
            Overlay::Full { embed, norm, head, .. } => {
                hidden.apply_op3(norm.as_tensor(), head.as_ref().unwrap_or(embed).as_tensor(), op)?
            }
            _ => hidden.apply_op1(op)?,
        })
    }

    /// The values of all parameters.
    fn values(&self) -> Result<Vec<Vec<f32>>, LmError> {
        let flat = |var: &Var| -> Result<Vec<f32>, LmError> { Ok(var.flatten_all()?.to_vec1()?) };
        self.parameters().iter().map(|(.., var)| flat(var)).collect()
    }

    /// The loss of [`Self::loss`] and its gradients, without a graph: the blocks' own passes one after
    /// the other, so that nothing is added to zeros and nothing is kept longer than needed.
    pub fn gradients(
        &self,
        batch: &Arc<Batch>,
        targets: &Arc<Targets>,
        scale: f32,
        keep: Keep,
    ) -> Result<(f32, GradStore), LmError> {
        if let Some(foreign) = &self.foreign {
            return self.foreign_gradients(&**foreign, batch, targets, scale, keep);
        }
        let full = matches!(self.overlay, Overlay::Full { .. });
        let mut x = self.embed(batch)?.detach();
        let (mut passed, mut tracked) = (Vec::new(), full);
        for i in 0..self.model.blocks.len() {
            let op = self.trained_op(i, batch, keep, tracked);
            tracked |= self.theta(i).is_some();
            // Nothing before the first trained block needs a gradient.
            let op = if tracked { op } else { BlockOp { keep: Keep::Input, ..op } };
            let y = match self.theta(i) {
                Some(t) => x.apply_op2_no_bwd(t.values.as_tensor(), &op)?,
                None => x.apply_op1_no_bwd(&op)?,
            };
            passed.push((i, op, std::mem::replace(&mut x, y), tracked));
        }
        let mut grads = GradStore::default();
        let (loss, mut dx) = self.loss_gradient(&x, targets, scale, &mut grads)?;
        drop(x);
        while let Some((i, op, x, tracked)) = passed.pop() {
            if !tracked {
                break;
            }
            let next = match self.theta(i) {
                Some(t) => {
                    let theta = t.values.as_tensor();
                    let (next, own) = CustomOp2::bwd(&op, &x, theta, &dx, &dx)?;
                    if let Some(own) = own {
                        grads.insert(theta, own);
                    }
                    next
                }
                None => CustomOp1::bwd(&op, &x, &dx, &dx)?,
            };
            let Some(next) = next else { break };
            dx = next;
        }
        if let Overlay::Full { embed, .. } = &self.overlay
            && let Some(read) = CustomOp1::bwd(&EmbedOp { batch: batch.clone() }, embed, &dx, &dx)?
        {
            // A tied embedding has a gradient from its other end already.
            let all = match grads.remove(embed) {
                Some(written) => (read + written)?,
                None => read,
            };
            grads.insert(embed, all);
        }
        Ok((loss, grads))
    }

    fn foreign_gradients(
        &self,
        foreign: &dyn Foreign,
        batch: &Batch,
        targets: &Targets,
        scale: f32,
        keep: Keep,
    ) -> Result<(f32, GradStore), LmError> {
        let values = self.values()?;
        let (loss, own) = foreign.gradients(&values, batch, targets, scale, keep, self.dropout.as_ref())?;
        let mut grads = GradStore::default();
        for ((.., var), grad) in self.parameters().iter().zip(own) {
            grads.insert(var, tensor(grad, var.dims())?);
        }
        Ok((loss as f32, grads))
    }

    /// The loss of hidden states and their gradient; those of norm and output layer go to `grads`.
    fn loss_gradient(
        &self,
        hidden: &Tensor,
        targets: &Arc<Targets>,
        scale: f32,
        grads: &mut GradStore,
    ) -> Result<(f32, Tensor), LmError> {
        let op =
            LossOp { model: self.model.clone(), targets: targets.clone(), scale, grads: Mutex::new(None) };
        let one = Tensor::new(1f32, &Device::Cpu)?;
        let (loss, dx) = match &self.overlay {
            Overlay::Full { embed, norm, head, .. } => {
                let (norm, output) = (norm.as_tensor(), head.as_ref().unwrap_or(embed).as_tensor());
                let loss = hidden.apply_op3_no_bwd(norm, output, &op)?;
                let (dx, dnorm, doutput) = CustomOp3::bwd(&op, hidden, norm, output, &loss, &one)?;
                for (of, grad) in [(norm, dnorm), (output, doutput)] {
                    if let Some(grad) = grad {
                        grads.insert(of, grad);
                    }
                }
                (loss, dx)
            }
            _ => {
                let loss = hidden.apply_op1_no_bwd(&op)?;
                let dx = CustomOp1::bwd(&op, hidden, &loss, &one)?;
                (loss, dx)
            }
        };
        let dx = dx.ok_or_else(|| LmError::Internal("a loss without a gradient".into()))?;
        Ok((loss.to_scalar()?, dx))
    }

    /// Layers laid over a full model, to be trained.
    pub fn full_overlay(model: &Model, device: &Device) -> Result<Overlay, LmError> {
        let var = |numbers: Vec<f32>, shape: &[usize]| Var::from_vec(numbers, shape, device);
        let layout = Arc::new(Layout::full(&model.config));
        let blocks = model.blocks.iter().map(|b| {
            let flat: Vec<f32> = layout.segments.iter().flat_map(|s| b.value(s.slot)).collect();
            Ok(Theta { layout: layout.clone(), values: var(flat, &[layout.len()])? })
        });
        Ok(Overlay::Full {
            embed: var(model.embed.to_vec(), &model.embed.shape)?,
            blocks: blocks.collect::<Result<_, LmError>>()?,
            norm: var(model.norm.clone(), &[model.norm.len()])?,
            head: model.head.as_ref().map(|h| var(h.to_vec(), &h.shape)).transpose()?,
        })
    }
}
