//! A transformer block on a device, around its attention.

use candle_core::{Device, Result, Tensor};
use headstart_kernels::Dropout;
use headstart_lm::{Dims, Proj, Slot};

use super::ops::{product, put, rms_norm};

/// A linear layer: x Wᵀ + bias + scale · (x Aᵀ) Bᵀ.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    lora: Option<Pair>,
}

struct Pair {
    a: Tensor,
    b: Tensor,
    scale: f32,
}

/// A block's weights on a device.
pub(super) struct Block {
    norm1: Tensor,
    norm2: Tensor,
    /// In the order of [`Proj::ALL`].
    linear: Vec<Linear>,
}

/// Where a batch's tokens stand, and what they see.
pub(super) struct Places {
    /// Rotary tables, `[rows or 1, length, 1, head_dim / 2]`.
    pub cos: Tensor,
    pub sin: Tensor,
    /// For each piece of the queries, 0 where it sees a key and -∞ where not, `[rows or 1, 1,
    /// queries, keys]`.
    pub masks: Vec<Tensor>,
}

/// Dropout of the inputs of one block's LoRA pairs: the same numbers as on the CPU.
pub(super) struct Dropped<'a> {
    /// Share of numbers that are set to zero.
    pub share: f32,
    /// A key of each token, padding included.
    pub tokens: &'a [u64],
    /// The block's number.
    pub block: usize,
}

impl Dropped<'_> {
    /// What an input `[tokens, width]` is multiplied with.
    fn mask(&self, p: Proj, x: &Tensor) -> Result<Tensor> {
        let layer = ((self.block as u64) << 8) | p as u64;
        let ones = vec![1.0; x.elem_count()];
        let mask = Dropout { share: self.share, tokens: self.tokens, layer }.of(&ones, x.dim(1)?);
        Tensor::from_slice(&mask, x.shape(), x.device())
    }
}

impl Block {
    /// Frozen weights, with `over` in place of what it names.
    ///
    /// # Errors
    /// If a tensor cannot be copied to the device.
    pub fn new(block: &headstart_lm::Block, over: &[(Slot, Tensor)], device: &Device) -> Result<Self> {
        let find = |slot: Slot| over.iter().find(|(s, _)| *s == slot).map(|(_, t)| t.clone());
        let vector = |numbers: &[f32]| Tensor::from_slice(numbers, numbers.len(), device);
        let norm = |slot: Slot, own: &[f32]| find(slot).map_or_else(|| vector(own), Ok);
        let linear = |p: Proj| {
            let own = &block.linear[p as usize];
            let bias = match (find(Slot::Bias(p)), &own.bias) {
                (None, Some(own)) => Some(vector(own)?),
                (over, _) => over,
            };
            let a = over.iter().find_map(|(slot, a)| match slot {
                Slot::LoraA(q, _, scale) if *q == p => Some((a.clone(), *scale)),
                _ => None,
            });
            let lora = a.zip(find(Slot::LoraB(p))).map(|((a, scale), b)| Pair { a, b, scale });
            let weight = find(Slot::Weight(p)).map_or_else(|| put(&own.weight, device), Ok)?;
            Ok(Linear { weight, bias, lora })
        };
        Ok(Self {
            norm1: norm(Slot::Norm1, &block.norm1)?,
            norm2: norm(Slot::Norm2, &block.norm2)?,
            linear: Proj::ALL.into_iter().map(linear).collect::<Result<_>>()?,
        })
    }

    /// Queries, keys (both turned) and values of `x` `[rows × length, hidden]`, each `[rows, heads,
    /// length, width]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn project(
        &self,
        d: &Dims,
        x: &Tensor,
        rows: usize,
        places: &Places,
        drop: Option<&Dropped>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let normed = rms_norm(x, &self.norm1, d.eps)?;
        let heads = |p: Proj, heads: usize| {
            self.linear(p, &normed, drop)?.reshape((rows, x.dim(0)? / rows, heads, d.heads.dim))
        };
        let swapped = |t: Tensor| t.transpose(1, 2)?.contiguous();
        let q = swapped(places.turned(&heads(Proj::Q, d.heads.queries)?)?)?;
        let k = swapped(places.turned(&heads(Proj::K, d.heads.keys)?)?)?;
        Ok((q, k, swapped(heads(Proj::V, d.heads.keys)?)?))
    }

    /// The block behind its attention, whose result is `[rows, queries, length, width]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn finish(&self, d: &Dims, x: &Tensor, attended: &Tensor, drop: Option<&Dropped>) -> Result<Tensor> {
        let attended = attended.transpose(1, 2)?.contiguous()?.reshape((x.dim(0)?, d.heads.q_width()))?;
        let x = (x + self.linear(Proj::O, &attended, drop)?)?;
        let normed = rms_norm(&x, &self.norm2, d.eps)?;
        let gate = self.linear(Proj::Gate, &normed, drop)?.silu()?;
        let inner = (gate * self.linear(Proj::Up, &normed, drop)?)?;
        &x + self.linear(Proj::Down, &inner, drop)?
    }

    fn linear(&self, p: Proj, x: &Tensor, drop: Option<&Dropped>) -> Result<Tensor> {
        let l = &self.linear[p as usize];
        let mut y = product(x, &l.weight)?;
        if let Some(bias) = &l.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some(pair) = &l.lora {
            let seen = match drop {
                Some(drop) => (x * drop.mask(p, x)?)?,
                None => x.clone(),
            };
            let low = seen.matmul(&pair.a.t()?)?.matmul(&pair.b.t()?)?;
            y = (y + (low * f64::from(pair.scale))?)?;
        }
        Ok(y)
    }
}

impl Places {
    /// Turns every head of `x` `[rows, length, heads, width]`: dimension i with dimension
    /// i + width / 2.
    fn turned(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(3)? / 2;
        let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
        let first = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let second = (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?;
        Tensor::cat(&[first, second], 3)
    }
}
