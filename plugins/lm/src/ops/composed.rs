//! The same block and loss in candle's own differentiable operations: for devices other than the
//! CPU, and to hold the hand-written passes against.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::block::{Batch, Dims};
use crate::kernels::rope::Rope;
use crate::model::{Block, Layout, Proj, Slot};
use crate::ops::loss::Targets;

/// A block's weights on a device.
pub struct ComposedBlock {
    norm1: Tensor,
    norm2: Tensor,
    weight: Vec<Tensor>,
    bias: Vec<Option<Tensor>>,
}

/// A batch on a device.
pub struct ComposedBatch<'a> {
    batch: &'a Batch,
    cos: Tensor,
    sin: Tensor,
}

impl<'a> ComposedBatch<'a> {
    /// Puts rotary tables of a batch's positions on a device.
    pub fn new(batch: &'a Batch, rope: &Rope, device: &Device) -> Result<Self> {
        let half = rope.at(0).0.len();
        let table = |pick: fn((Vec<f32>, Vec<f32>)) -> Vec<f32>| {
            let rows = batch.positions.iter().flat_map(|p| {
                let (cos, sin) = rope.at(*p as usize);
                pick((cos.to_vec(), sin.to_vec()))
            });
            Tensor::from_vec(rows.collect::<Vec<_>>(), (batch.tokens(), 1, half), device)
        };
        Ok(Self { batch, cos: table(|t| t.0)?, sin: table(|t| t.1)? })
    }
}

impl ComposedBlock {
    /// Copies a block's weights to a device, as f32.
    pub fn new(block: &Block, device: &Device) -> Result<Self> {
        let put = |v: &[f32], shape: &[usize]| Tensor::from_slice(v, shape, device);
        let weight = block.linear.iter().map(|l| put(&l.weight.to_vec(), &l.weight.shape));
        let bias = block.linear.iter().map(|l| l.bias.as_ref().map(|b| put(b, &[b.len()])).transpose());
        Ok(Self {
            norm1: put(&block.norm1, &[block.norm1.len()])?,
            norm2: put(&block.norm2, &[block.norm2.len()])?,
            weight: weight.collect::<Result<_>>()?,
            bias: bias.collect::<Result<_>>()?,
        })
    }

    /// The block over `x`, with `theta` in place of the weights that `layout` names.
    pub fn forward(
        &self,
        d: &Dims,
        x: &Tensor,
        theta: Option<(&Layout, &Tensor)>,
        batch: &ComposedBatch,
    ) -> Result<Tensor> {
        let part = |slot: &dyn Fn(&Slot) -> bool| match theta {
            None => Ok(None),
            Some((layout, theta)) => match layout.segments.iter().find(|s| slot(&s.slot)) {
                None => Ok(None),
                Some(s) => {
                    let flat = theta.narrow(0, s.range.start, s.range.len())?;
                    flat.reshape(s.shape.as_slice()).map(|t| Some((t, s.slot)))
                }
            },
        };
        let linear = |p: Proj, x: &Tensor| -> Result<Tensor> {
            let w =
                part(&|s| *s == Slot::Weight(p))?.map_or_else(|| self.weight[p as usize].clone(), |t| t.0);
            let mut y = x.matmul(&w.t()?)?;
            let bias = part(&|s| *s == Slot::Bias(p))?.map(|t| t.0).or_else(|| self.bias[p as usize].clone());
            if let Some(b) = bias {
                y = y.broadcast_add(&b)?;
            }
            let a = part(&|s| matches!(s, Slot::LoraA(q, ..) if *q == p))?;
            if let (Some((a, Slot::LoraA(_, _, scale))), Some((b, _))) = (a, part(&|s| *s == Slot::LoraB(p))?)
            {
                let low = x.matmul(&a.t()?)?.matmul(&b.t()?)?;
                y = (y + (low * f64::from(scale))?)?;
            }
            Ok(y)
        };
        let norm = |first: bool| -> Result<Tensor> {
            let (slot, own) = if first { (Slot::Norm1, &self.norm1) } else { (Slot::Norm2, &self.norm2) };
            Ok(part(&|s| *s == slot)?.map_or_else(|| own.clone(), |t| t.0))
        };
        let n1 = rms_norm(x, &norm(true)?, d.eps)?;
        let (q, k, v) = (linear(Proj::Q, &n1)?, linear(Proj::K, &n1)?, linear(Proj::V, &n1)?);
        let attended = attention(d, &q, &k, &v, batch)?;
        let x1 = (x + linear(Proj::O, &attended)?)?;
        let n2 = rms_norm(&x1, &norm(false)?, d.eps)?;
        let gate = linear(Proj::Gate, &n2)?;
        let act = (gate.silu()? * linear(Proj::Up, &n2)?)?;
        x1 + linear(Proj::Down, &act)?
    }
}

/// RMSNorm.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?.broadcast_mul(weight)
}

fn turn(x: &Tensor, heads: usize, batch: &ComposedBatch) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let half = width / heads / 2;
    let x = x.reshape((tokens, heads, 2 * half))?;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&batch.cos)? - b.broadcast_mul(&batch.sin)?)?;
    let second = (b.broadcast_mul(&batch.cos)? + a.broadcast_mul(&batch.sin)?)?;
    Tensor::cat(&[first, second], 2)
}

fn attention(d: &Dims, q: &Tensor, k: &Tensor, v: &Tensor, batch: &ComposedBatch) -> Result<Tensor> {
    let h = d.heads;
    let (q, k) = (turn(q, h.queries, batch)?, turn(k, h.keys, batch)?);
    let v = v.reshape((batch.batch.tokens(), h.keys, h.dim))?;
    let mut parts = Vec::new();
    for s in &batch.batch.sequences {
        let own = |t: &Tensor| t.narrow(0, s.start, s.len())?.transpose(0, 1)?.contiguous();
        let shared = |t: &Tensor| {
            let group = h.queries / h.keys;
            let t = own(t)?.unsqueeze(1)?.broadcast_as((h.keys, group, s.len(), h.dim))?.contiguous()?;
            t.reshape((h.queries, s.len(), h.dim))
        };
        let scores = (own(&q)?.matmul(&shared(&k)?.t()?.contiguous()?)? / (h.dim as f64).sqrt())?;
        let unseen: Vec<f32> = (0..s.len())
            .flat_map(|i| (0..s.len()).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 }))
            .collect();
        let mask = Tensor::from_vec(unseen, (1, s.len(), s.len()), q.device())?;
        let scores = scores.broadcast_add(&mask)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        let out = weights.matmul(&shared(&v)?)?;
        parts.push(out.transpose(0, 1)?.contiguous()?.reshape((s.len(), h.q_width()))?);
    }
    Tensor::cat(&parts, 0)
}

/// Rows of an embedding.
pub fn embed(table: &Tensor, batch: &Batch) -> Result<Tensor> {
    let ids = Tensor::from_slice(&batch.ids, batch.tokens(), table.device())?;
    table.index_select(&ids, 0)
}

/// Negative log-likelihoods of the targets, one each.
pub fn losses(x: &Tensor, norm: &Tensor, output: &Tensor, eps: f32, targets: &Targets) -> Result<Tensor> {
    let rows: Vec<u32> = targets.rows.iter().map(|r| *r as u32).collect();
    let rows = Tensor::from_vec(rows, targets.rows.len(), x.device())?;
    let logits = rms_norm(&x.index_select(&rows, 0)?, norm, eps)?.matmul(&output.t()?)?;
    let top = logits.max_keepdim(D::Minus1)?.detach();
    let lse = (logits.broadcast_sub(&top)?.exp()?.sum_keepdim(D::Minus1)?.log()? + top)?;
    let ids = Tensor::from_slice(&targets.ids, (targets.ids.len(), 1), x.device())?.to_dtype(DType::U32)?;
    (lse - logits.gather(&ids, D::Minus1)?)?.squeeze(1)
}
