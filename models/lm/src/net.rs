//! A decoder's forward passes: frozen weights with values laid over them.

use headstart_kernels::{Buffer, Matrix, Storage, cross_entropy, embedding, norm};

use crate::block::{Batch, BlockRef, Saved};
use crate::limits::Limits;
use crate::lora::Adapter;
use crate::model::{Layout, Model};
use crate::rows::Targets;

/// Values laid over one block's frozen weights.
#[derive(Clone, Copy)]
pub struct BlockParams<'a> {
    /// What they are.
    pub layout: &'a Layout,
    /// One vector of them all.
    pub values: &'a [f32],
}

/// Values in place of the weights outside the blocks.
#[derive(Clone, Copy)]
pub struct EndParams<'a> {
    /// The embedding, `[vocab, hidden]`; also the output layer where it is tied.
    pub embed: &'a [f32],
    /// Weight of the final norm.
    pub norm: &'a [f32],
    /// The output layer, where it is not the embedding.
    pub head: Option<&'a [f32]>,
}

/// A decoder ready to run on the CPU: a view of a model, an adapter or trained values over it.
pub struct Net<'a> {
    /// The frozen weights.
    pub model: &'a Model,
    /// Trained values over each block.
    pub blocks: Vec<Option<BlockParams<'a>>>,
    /// Trained values over the weights outside the blocks.
    pub ends: Option<EndParams<'a>>,
    /// How much it does at once.
    pub limits: Limits,
}

impl<'a> Net<'a> {
    /// The model as it is.
    pub fn new(model: &'a Model) -> Self {
        Self { model, blocks: vec![None; model.blocks.len()], ends: None, limits: Limits::default() }
    }

    /// The model with an adapter over it.
    pub fn adapted(model: &'a Model, adapter: &'a Adapter) -> Self {
        let params = |(layout, values): (&'a Layout, &'a Vec<f32>)| {
            (!layout.is_empty()).then_some(BlockParams { layout, values })
        };
        let blocks = adapter.layouts.iter().zip(&adapter.values).map(params).collect();
        Self { blocks, ..Self::new(model) }
    }

    /// A block with its trained values.
    pub fn block(&self, block: usize) -> BlockRef<'_> {
        let frozen = &self.model.blocks[block];
        match &self.blocks[block] {
            Some(p) => p.layout.view(frozen, p.values),
            None => frozen.view(),
        }
    }

    /// The embedded tokens, `[tokens, hidden]`.
    pub fn embed(&self, ids: &[u32]) -> Vec<f32> {
        let c = &self.model.config;
        let mut x = vec![0.0; ids.len() * c.hidden];
        match self.ends {
            Some(ends) => {
                let table = Matrix::new(c.vocab, c.hidden, Storage::F32(ends.embed));
                embedding::forward(&mut x, &table, ids);
            }
            None => {
                embedding::forward(&mut x, &self.model.embed.matrix(), ids);
                self.model.embed.release();
            }
        }
        x
    }

    /// Hidden states before the final norm, `[tokens, hidden]`. `seen` is given each block's number
    /// and what its forward pass made, for a cache of keys and values.
    pub fn hidden(&self, batch: &Batch, seen: impl FnMut(usize, Saved)) -> Vec<f32> {
        self.run(batch, false, seen)
    }

    /// As [`Self::hidden`], with rows rounded to 8 bits where weights are quantized.
    pub fn hidden_rounded(&self, batch: &Batch, seen: impl FnMut(usize, Saved)) -> Vec<f32> {
        self.run(batch, true, seen)
    }

    fn run(&self, batch: &Batch, rounded: bool, mut seen: impl FnMut(usize, Saved)) -> Vec<f32> {
        let (dims, rope) = (self.model.dims(), self.model.rope(batch.longest()));
        let mut x = self.embed(&batch.ids);
        for i in 0..self.model.blocks.len() {
            let mut y = vec![0.0; x.len()];
            let view = BlockRef { rounded, ..self.block(i) };
            seen(i, view.forward(&dims, &mut y, &x, batch, &rope));
            x = y;
        }
        x
    }

    /// The final norm's weight and the output layer.
    pub fn head(&self) -> (&[f32], Matrix<'_>) {
        let c = &self.model.config;
        match self.ends {
            None => (&self.model.norm, self.model.output().matrix()),
            Some(ends) => {
                let output = ends.head.unwrap_or(ends.embed);
                (ends.norm, Matrix::new(c.vocab, c.hidden, Storage::F32(output)))
            }
        }
    }

    /// Hidden states after the final norm of some rows, `rows × hidden` numbers.
    pub fn normed(&self, hidden: &[f32], rows: &[usize]) -> Buffer {
        let weight = self.head().0;
        let seen = gather(hidden, weight.len(), rows);
        let (mut out, mut inverse) = (Buffer::new(seen.len()), Buffer::new(rows.len()));
        norm::forward(&mut out, &mut inverse, &seen, weight, self.model.config.norm_eps);
        out
    }

    /// Logits of normed hidden states, `rows × vocab` numbers.
    pub fn logits(&self, normed: &[f32]) -> Vec<f32> {
        let mut logits = vec![0.0; normed.len() / self.model.config.hidden * self.model.config.vocab];
        self.logits_into(&mut logits, normed, false);
        logits
    }

    /// Writes the logits of normed hidden states; `rounded` as in [`Self::hidden_rounded`], and without
    /// products of bf16.
    pub fn logits_into(&self, logits: &mut [f32], normed: &[f32], rounded: bool) {
        let n = normed.len() / self.model.config.hidden;
        let output = self.head().1;
        match rounded {
            true => output.exact().forward_rounded(logits, normed, n),
            false => output.forward(logits, normed, n),
        }
    }

    /// Negative log-likelihood of each target, in nats.
    pub fn losses(&self, batch: &Batch, targets: &Targets) -> Vec<f32> {
        let hidden = self.hidden(batch, |_, _| {});
        cross_entropy(&self.normed(&hidden, &targets.rows), self.head().1, &targets.ids, None)
    }
}

/// Rows `rows` of `x`, packed.
pub fn gather(x: &[f32], width: usize, rows: &[usize]) -> Buffer {
    let mut out = Buffer::new(rows.len() * width);
    for (to, row) in out.chunks_exact_mut(width).zip(rows) {
        to.copy_from_slice(&x[row * width..(row + 1) * width]);
    }
    out
}
