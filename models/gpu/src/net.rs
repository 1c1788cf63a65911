//! A decoder's weights on a device and its forward passes, in candle's own differentiable
//! operations.
//!
//! Hidden states, norms, attention and losses are 32-bit floats; a frozen product runs in the type
//! that its weight is stored in.

use std::sync::{Mutex, PoisonError};

use candle_core::{D, DType, Device, Result, Tensor};
use headstart_kernels::Rope;
use headstart_kernels::attention::Heads;
use headstart_lm::{Adapter, DecoderConfig, Dims, Model, Segment, Slot};

use super::block::{Block, Dropped, Places};
use super::ops::{product, put, rms_norm, softmax};

/// Queries whose attention is computed at once.
const QUERIES: usize = 512;
/// Logits that exist at once.
const LOGITS: usize = 1 << 25;

/// Trained values over a block's frozen weights.
pub(super) type Over = Vec<(Slot, Tensor)>;

/// Trained values over the weights outside of the blocks.
pub(super) struct Ends {
    pub embed: Tensor,
    pub norm: Tensor,
    /// Where it is not the embedding.
    pub head: Option<Tensor>,
}

/// A decoder on a device.
pub(super) struct Net {
    pub config: DecoderConfig,
    pub dims: Dims,
    pub device: Device,
    pub blocks: Vec<Block>,
    /// `[vocab, hidden]`.
    pub embed: Tensor,
    /// Weight of the final norm.
    pub norm: Tensor,
    /// The output layer; the embedding itself where they are tied.
    pub head: Tensor,
    /// Rows whose losses are computed at once, so that all logits never exist.
    pub losses_at_once: usize,
    frequencies: Vec<f32>,
    /// Cosines and sines of positions from 0 on, `[positions, head_dim / 2]` each.
    rope: Mutex<Option<(Tensor, Tensor)>>,
}

impl Net {
    /// Copies a model to a device, with tensors of that device in place of what they name.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn new(model: &Model, over: Vec<Over>, ends: Option<Ends>, device: &Device) -> Result<Self> {
        let blocks = model.blocks.iter().zip(over);
        let blocks = blocks.map(|(block, over)| Block::new(block, &over, device)).collect::<Result<_>>()?;
        let Ends { embed, norm, head } = match ends {
            Some(ends) => ends,
            None => Ends {
                embed: put(&model.embed, device)?,
                norm: Tensor::from_slice(&model.norm, model.norm.len(), device)?,
                head: model.head.as_ref().map(|head| put(head, device)).transpose()?,
            },
        };
        Ok(Self {
            losses_at_once: (LOGITS / model.config.vocab).max(1),
            config: model.config.clone(),
            dims: model.dims(),
            device: device.clone(),
            blocks,
            head: head.unwrap_or_else(|| embed.clone()),
            embed,
            norm,
            frequencies: model.config.rope_frequencies(),
            rope: Mutex::new(None),
        })
    }

    /// The same for inference: with an adapter, or without.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn frozen(model: &Model, adapter: Option<&Adapter>, device: &Device) -> Result<Self> {
        let block = |i: usize| match adapter {
            None => Ok(Over::new()),
            Some(a) => {
                let segments = a.layouts[i].segments.iter();
                let put = |s: &Segment| {
                    let numbers = &a.values[i][s.range.clone()];
                    Ok((s.slot, Tensor::from_slice(numbers, s.shape.as_slice(), device)?))
                };
                segments.map(put).collect()
            }
        };
        Self::new(model, (0..model.blocks.len()).map(block).collect::<Result<_>>()?, None, device)
    }

    /// Numbers of the host, `[n]`, on the device.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn ids(&self, ids: &[u32]) -> Result<Tensor> {
        Tensor::from_slice(ids, ids.len(), &self.device)
    }

    /// Embedded tokens, `[tokens, hidden]`.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn embedded(&self, ids: &Tensor) -> Result<Tensor> {
        self.embed.index_select(ids, 0)?.to_dtype(DType::F32)
    }

    /// `length` tokens from position 0 on, in every row.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn whole(&self, length: usize) -> Result<Places> {
        let half = self.dims.heads.dim / 2;
        let part = |t: &Tensor| t.narrow(0, 0, length)?.reshape((1, length, 1, half));
        let (cos, sin) = self.rope(length)?;
        let masks = masks(length, QUERIES, &self.device)?;
        Ok(Places { cos: part(&cos)?, sin: part(&sin)?, masks })
    }

    /// One token a row, at its own position, that sees what `mask` says.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn single(&self, positions: &[u32], mask: Tensor) -> Result<Places> {
        let half = self.dims.heads.dim / 2;
        let furthest = positions.iter().max().map_or(0, |p| *p as usize + 1);
        let at = self.ids(positions)?;
        let part = |t: &Tensor| t.index_select(&at, 0)?.reshape((positions.len(), 1, 1, half));
        let (cos, sin) = self.rope(furthest)?;
        Ok(Places { cos: part(&cos)?, sin: part(&sin)?, masks: vec![mask] })
    }

    fn rope(&self, length: usize) -> Result<(Tensor, Tensor)> {
        let mut tables = self.rope.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((cos, sin)) = &*tables
            && cos.dim(0)? >= length
        {
            return Ok((cos.clone(), sin.clone()));
        }
        let rope = Rope::new(&self.frequencies, length.next_power_of_two());
        let put =
            |numbers: Vec<f32>| Tensor::from_vec(numbers, (rope.len(), self.frequencies.len()), &self.device);
        let cos = put((0..rope.len()).flat_map(|p| rope.at(p).0.iter().copied()).collect())?;
        let sin = put((0..rope.len()).flat_map(|p| rope.at(p).1.iter().copied()).collect())?;
        *tables = Some((cos.clone(), sin.clone()));
        Ok((cos, sin))
    }

    /// A block over whole rows of `length` tokens, `[rows × length, hidden]`, and its keys and
    /// values, `[rows, heads, length, width]`. Positions behind a row's end do not affect it.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn block(
        &self,
        block: usize,
        x: &Tensor,
        rows: usize,
        places: &Places,
        drop: Option<&Dropped>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let b = &self.blocks[block];
        let (q, k, v) = b.project(&self.dims, x, rows, places, drop)?;
        let y = b.finish(&self.dims, x, &causal(&self.dims.heads, &q, &k, &v, &places.masks)?, drop)?;
        Ok((y, k, v))
    }

    /// Hidden states before the final norm, `[rows × length, hidden]`, of rows of padded ids; each
    /// block's keys and values are given away.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn hidden(
        &self,
        ids: &[u32],
        rows: usize,
        mut keep: impl FnMut(Tensor, Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let places = self.whole(ids.len() / rows)?;
        let mut x = self.embedded(&self.ids(ids)?)?;
        for i in 0..self.blocks.len() {
            let (y, k, v) = self.block(i, &x, rows, &places, None)?;
            keep(k, v)?;
            // Where something is trained, a graph hangs on it.
            x = y.detach();
        }
        Ok(x)
    }

    /// Rows of hidden states after the final norm.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn normed(&self, rows: &Tensor) -> Result<Tensor> {
        rms_norm(rows, &self.norm, self.dims.eps)
    }

    /// Logits of normed rows, `[rows, vocab]`.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn logits(&self, normed: &Tensor) -> Result<Tensor> {
        product(normed, &self.head)
    }

    /// Negative log-likelihoods in nats, `[n]`: of token `targets[i]` behind row i of hidden states
    /// `[n, hidden]`.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn losses(&self, hidden: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let logits = self.logits(&self.normed(hidden)?)?;
        let top = logits.max_keepdim(D::Minus1)?.detach();
        let lse = (logits.broadcast_sub(&top)?.exp()?.sum_keepdim(D::Minus1)?.log()? + top)?;
        let own = logits.gather(&self.ids(targets)?.unsqueeze(1)?, D::Minus1)?;
        (lse - own)?.squeeze(1)
    }
}

/// What `length` queries see, so many queries a piece.
fn masks(length: usize, at_once: usize, device: &Device) -> Result<Vec<Tensor>> {
    let mask = |start: usize| {
        let end = (start + at_once).min(length);
        let seen = |i: usize| (0..end).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 });
        Tensor::from_vec((start..end).flat_map(seen).collect(), (1, 1, end - start, end), device)
    };
    (0..length).step_by(at_once).map(mask).collect()
}

/// Causal attention of whole rows, `[rows, heads, length, width]`; the result is `[rows, queries,
/// length, width]`. Queries go in pieces, so that memory grows with the length and not its square.
fn causal(h: &Heads, q: &Tensor, k: &Tensor, v: &Tensor, masks: &[Tensor]) -> Result<Tensor> {
    let mut start = 0;
    let piece = |mask: &Tensor| {
        let (n, end) = (mask.dim(2)?, mask.dim(3)?);
        let q = q.narrow(2, start, n)?;
        start += n;
        attention(h, &q, &k.narrow(2, 0, end)?, &v.narrow(2, 0, end)?, mask)
    };
    let mut pieces = masks.iter().map(piece).collect::<Result<Vec<_>>>()?;
    if pieces.len() == 1 { Ok(pieces.remove(0)) } else { Tensor::cat(&pieces, 2) }
}

/// Attention of queries `[rows, queries, n, width]` to keys and values `[rows, heads, places,
/// width]`; `mask`, 0 or -∞, is as wide as the places.
pub(super) fn attention(h: &Heads, q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (rows, _, n, width) = q.dims4()?;
    // The queries of a group share keys: they stand one below the other in one product.
    let (places, group) = (k.dim(2)?, h.queries / h.keys * n);
    let q = (q.contiguous()? / (width as f64).sqrt())?.reshape((rows, h.keys, group, width))?;
    let scores = q.matmul(&k.t()?)?.reshape((rows, h.queries, n, places))?;
    let weights = softmax(&scores.broadcast_add(mask)?)?.reshape((rows, h.keys, group, places))?;
    weights.matmul(v)?.reshape((rows, h.queries, n, width))
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    /// Attention in pieces, the last one short, is attention at once, and so are its gradients.
    #[test]
    fn pieces_of_queries_change_nothing() {
        let h = Heads { queries: 4, keys: 2, dim: 6 };
        let random = |heads: usize| Var::randn(0f32, 1.0, (3, heads, 10, 6), &Device::Cpu).unwrap();
        let all = [random(4), random(2), random(2)];
        let [whole, pieces] = [512, 4].map(|at_once| {
            let masks = masks(10, at_once, &Device::Cpu).unwrap();
            assert_eq!(masks.len(), if at_once == 4 { 3 } else { 1 });
            let y = causal(&h, &all[0], &all[1], &all[2], &masks).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mut found: Vec<_> = all.iter().map(|v| numbers(grads.get(v).unwrap())).collect();
            found.push(numbers(&y));
            found.concat()
        });
        assert!(whole.iter().zip(&pieces).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
