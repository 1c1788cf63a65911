//! A decoder's arrays and its forward passes.
//!
//! The passes take every array as an argument, in one list: MLX's transforms differentiate with
//! respect to arguments, and arrays that a differentiated closure captures can crash it. Trained
//! arrays stand first in the list.
//!
//! Hidden states, norms, attention and losses are 32-bit floats. A frozen product runs in the type
//! that its weights are kept in; as in the backend on candle, weights of small models are expanded
//! to 32 bits when they are loaded.

use headstart_lm::padded::Padded;
use headstart_lm::{Adapter, DecoderConfig, Model, Proj, Slot, Weight};
use mlx_rs::error::Result;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as Mask};
use mlx_rs::{Array, Dtype, ops};

/// A LoRA pair of a linear layer.
#[derive(Clone, Copy, Debug)]
struct Pair {
    a: usize,
    b: usize,
    scale: f32,
}

/// Where the arrays of a linear layer stand.
#[derive(Clone, Copy, Debug)]
struct Linear {
    weight: usize,
    bias: Option<usize>,
    lora: Option<Pair>,
}

/// Where the arrays of a block stand.
#[derive(Clone, Copy, Debug)]
struct Block {
    norm1: usize,
    norm2: usize,
    /// In the order of [`Proj::ALL`].
    linear: [Linear; 7],
}

/// Index of every array of a decoder in the list that the passes take.
#[derive(Clone, Debug)]
pub struct Places {
    config: DecoderConfig,
    embed: usize,
    blocks: Vec<Block>,
    norm: usize,
    head: usize,
    /// Reciprocals of the rotary frequencies, as MLX takes them.
    wavelengths: usize,
}

/// A decoder with an adapter over it or without.
pub struct Net {
    /// Where the arrays stand.
    pub places: Places,
    /// The arrays, those of the adapter first.
    pub arrays: Vec<Array>,
    /// How many belong to the adapter, in the order of its layouts.
    pub trained: usize,
}

/// One step of generation.
pub(crate) struct Step {
    /// Position of each sequence's new token, `[batch]`.
    pub positions: Array,
    /// 0 where a sequence sees a place of the cache and -∞ where not, `[batch, 1, 1, places]`.
    pub mask: Array,
    /// Place of the cache that the new token takes.
    pub place: i32,
}

/// Keys and values of one block, `[batch, heads, places, width]` each.
pub(crate) struct Cache {
    pub keys: Array,
    pub values: Array,
}

/// Sizes as MLX takes them.
pub(crate) fn dims(shape: &[usize]) -> Vec<i32> {
    shape.iter().map(|n| *n as i32).collect()
}

/// A weight in the type that it is kept in: 32-bit floats where it takes so much, else bf16 where
/// that holds its numbers, else f16.
pub(crate) fn array(weight: &Weight) -> Result<Array> {
    let numbers = weight.to_vec();
    let wide = Array::from_slice(&numbers, &dims(&weight.shape));
    if weight.footprint() >= 4 * numbers.len() as u64 {
        return Ok(wide);
    }
    let is_bf16 = numbers.iter().all(|v| v.to_bits() & 0xffff == 0);
    let narrow = wide.as_dtype(if is_bf16 { Dtype::Bfloat16 } else { Dtype::Float16 })?;
    // Computed now, so that the wide copy goes at once.
    narrow.eval()?;
    Ok(narrow)
}

fn vector(numbers: &[f32]) -> Array {
    Array::from_slice(numbers, &[numbers.len() as i32])
}

/// An array's numbers, computed.
pub(crate) fn numbers(array: &Array) -> Result<Vec<f32>> {
    let array = array.contiguous()?;
    array.eval()?;
    Ok(array.as_slice::<f32>().to_vec())
}

/// Token ids as MLX takes them.
pub(crate) fn ids(rows: &[u32], shape: &[i32]) -> Array {
    Array::from_slice(rows, shape)
}

/// Token ids of a group, `[rows, length]`.
pub(crate) fn padded_ids(group: &Padded) -> Array {
    ids(&group.ids, &[group.rows() as i32, group.length as i32])
}

impl Net {
    /// A model's arrays, with an adapter's before them.
    ///
    /// # Errors
    /// If MLX fails.
    pub fn new(model: &Model, adapter: Option<&Adapter>) -> Result<Self> {
        let mut arrays = Vec::new();
        let mut pairs = vec![[None; 7]; model.blocks.len()];
        for (block, pairs) in pairs.iter_mut().enumerate() {
            let Some(adapter) = adapter else { break };
            for s in &adapter.layouts[block].segments {
                let numbers = &adapter.values[block][s.range.clone()];
                match s.slot {
                    Slot::LoraA(p, _, scale) => {
                        pairs[p as usize] = Some(Pair { a: arrays.len(), b: arrays.len() + 1, scale });
                    }
                    Slot::LoraB(_) => {}
                    other => unreachable!("an adapter has no {other:?}"),
                }
                arrays.push(Array::from_slice(numbers, &dims(&s.shape)));
            }
        }
        let trained = arrays.len();
        let mut push = |array: Array| {
            arrays.push(array);
            arrays.len() - 1
        };
        let mut blocks = Vec::with_capacity(model.blocks.len());
        for (b, pairs) in model.blocks.iter().zip(pairs) {
            let weights = b.linear.iter().map(|l| array(&l.weight)).collect::<Result<Vec<_>>>()?;
            let weights: Vec<usize> = weights.into_iter().map(&mut push).collect();
            blocks.push(Block {
                norm1: push(vector(&b.norm1)),
                norm2: push(vector(&b.norm2)),
                linear: Proj::ALL.map(|p| Linear {
                    weight: weights[p as usize],
                    bias: b.linear[p as usize].bias.as_deref().map(|b| push(vector(b))),
                    lora: pairs[p as usize],
                }),
            });
        }
        let embed = push(array(&model.embed)?);
        let head = model.head.as_ref().map(array).transpose()?;
        let frequencies = model.config.rope_frequencies();
        let wavelengths: Vec<f32> = frequencies.iter().map(|f| 1.0 / f).collect();
        let places = Places {
            config: model.config.clone(),
            embed,
            blocks,
            norm: push(vector(&model.norm)),
            head: head.map_or(embed, &mut push),
            wavelengths: push(vector(&wavelengths)),
        };
        Ok(Self { places, arrays, trained })
    }
}

impl Places {
    /// Shape and constants.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Hidden states before the final norm, `[batch, length, hidden]`, of ids `[batch, length]`.
    /// Sequences start at position 0; positions behind their end do not affect them.
    ///
    /// # Errors
    /// If MLX fails.
    pub fn hidden(&self, all: &[Array], ids: &Array) -> Result<Array> {
        self.run(all, ids, |_, _, _| Ok(()))
    }

    /// The same; keys and values of each block are given away.
    pub(crate) fn run(
        &self,
        all: &[Array],
        ids: &Array,
        mut keep: impl FnMut(usize, Array, Array) -> Result<()>,
    ) -> Result<Array> {
        let mut x = self.embedded(all, ids)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let (q, k, v) = self.projected(all, block, &x, |x| self.rotated(all, x, None))?;
            let scale = self.scale();
            let attended = fast::scaled_dot_product_attention(&q, &k, &v, scale, Mask::Causal, None)?;
            keep(i, k, v)?;
            x = self.rest(all, block, &x, &attended)?;
        }
        Ok(x)
    }

    /// Hidden states before the final norm, `[batch, 1, hidden]`, of each sequence's new token.
    pub(crate) fn step(
        &self,
        all: &[Array],
        ids: &Array,
        caches: &mut [Cache],
        step: &Step,
    ) -> Result<Array> {
        use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
        let mut x = self.embedded(all, ids)?;
        for (block, cache) in self.blocks.iter().zip(caches) {
            let (q, k, v) =
                self.projected(all, block, &x, |x| self.rotated(all, x, Some(&step.positions)))?;
            let new = step.place..step.place + 1;
            cache.keys.try_index_mut((.., .., new.clone(), ..), &k)?;
            cache.values.try_index_mut((.., .., new, ..), &v)?;
            let keys = cache.keys.try_index((.., .., ..step.place + 1, ..))?;
            let values = cache.values.try_index((.., .., ..step.place + 1, ..))?;
            let attended =
                fast::scaled_dot_product_attention(&q, &keys, &values, self.scale(), &step.mask, None)?;
            x = self.rest(all, block, &x, &attended)?;
        }
        Ok(x)
    }

    /// Rows of hidden states `[rows, hidden]` after the final norm.
    ///
    /// # Errors
    /// If MLX fails.
    pub fn normed(&self, all: &[Array], rows: &Array) -> Result<Array> {
        fast::rms_norm(rows, Some(&all[self.norm]), self.config.norm_eps)
    }

    /// Logits of normed rows, `[rows, vocab]`.
    ///
    /// # Errors
    /// If MLX fails.
    pub fn logits(&self, all: &[Array], normed: &Array) -> Result<Array> {
        product(normed, &all[self.head])
    }

    /// Negative log-likelihoods in nats, `[targets]`: of token `targets[i]` behind row `rows[i]` of
    /// the hidden states laid out as `[batch × length, hidden]`.
    ///
    /// # Errors
    /// If MLX fails.
    pub fn losses(&self, all: &[Array], hidden: &Array, rows: &Array, targets: &Array) -> Result<Array> {
        let seen = hidden.reshape(&[-1, self.config.hidden as i32])?.take_axis(rows, 0)?;
        let logits = self.logits(all, &self.normed(all, &seen)?)?;
        let own = logits.take_along_axis(targets.reshape(&[-1, 1])?, 1)?.reshape(&[-1])?;
        logits.logsumexp_axes(&[1], false)?.subtract(&own)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.config.head_dim as f32).sqrt()
    }

    fn embedded(&self, all: &[Array], ids: &Array) -> Result<Array> {
        all[self.embed].take_axis(ids, 0)?.as_dtype(Dtype::Float32)
    }

    /// Queries, keys and values, `[batch, heads, length, width]`, the first two turned by `turn`.
    fn projected(
        &self,
        all: &[Array],
        block: &Block,
        x: &Array,
        turn: impl Fn(&Array) -> Result<Array>,
    ) -> Result<(Array, Array, Array)> {
        let c = &self.config;
        let normed = fast::rms_norm(x, Some(&all[block.norm1]), c.norm_eps)?;
        let split = |p: Proj, heads: usize| {
            let y = linear(all, &block.linear[p as usize], &normed)?;
            let shape = [x.dim(0), x.dim(1), heads as i32, c.head_dim as i32];
            y.reshape(&shape)?.transpose_axes(&[0, 2, 1, 3])
        };
        let q = turn(&split(Proj::Q, c.heads)?)?;
        let k = turn(&split(Proj::K, c.kv_heads)?)?;
        Ok((q, k, split(Proj::V, c.kv_heads)?))
    }

    /// Rotary embedding from position 0 on, or of one token at each sequence's own position.
    fn rotated(&self, all: &[Array], x: &Array, positions: Option<&Array>) -> Result<Array> {
        let (width, wavelengths) = (self.config.head_dim as i32, Some(&all[self.wavelengths]));
        match positions {
            None => fast::rope(x, width, false, None, 1.0, 0, wavelengths),
            Some(p) => fast::rope_dynamic(x, width, false, None, 1.0, p, wavelengths),
        }
    }

    /// A block behind its attention.
    fn rest(&self, all: &[Array], block: &Block, x: &Array, attended: &Array) -> Result<Array> {
        let of = |p: Proj| &block.linear[p as usize];
        let shape = [x.dim(0), x.dim(1), self.config.q_dim() as i32];
        let attended = attended.transpose_axes(&[0, 2, 1, 3])?.reshape(&shape)?;
        let x = x.add(linear(all, of(Proj::O), &attended)?)?;
        let normed = fast::rms_norm(&x, Some(&all[block.norm2]), self.config.norm_eps)?;
        let gate = linear(all, of(Proj::Gate), &normed)?;
        let inner = gate.multiply(ops::sigmoid(&gate)?)?.multiply(linear(all, of(Proj::Up), &normed)?)?;
        x.add(linear(all, of(Proj::Down), &inner)?)
    }
}

/// x Wᵀ in W's type, as 32-bit floats.
fn product(x: &Array, weight: &Array) -> Result<Array> {
    let turned = weight.transpose()?;
    match weight.dtype() {
        Dtype::Float32 => ops::matmul(x, &turned),
        narrow => ops::matmul(x.as_dtype(narrow)?, &turned)?.as_dtype(Dtype::Float32),
    }
}

/// x Wᵀ + bias + scale · (x Aᵀ) Bᵀ.
fn linear(all: &[Array], l: &Linear, x: &Array) -> Result<Array> {
    let mut y = product(x, &all[l.weight])?;
    if let Some(bias) = l.bias {
        y = y.add(&all[bias])?;
    }
    if let Some(pair) = l.lora {
        let low = ops::matmul(x, all[pair.a].transpose()?)?;
        let added = ops::matmul(low, all[pair.b].transpose()?)?;
        y = y.add(added.multiply(Array::from_f32(pair.scale))?)?;
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use headstart_lm::Weights;
    use safetensors::Dtype as Stored;
    use safetensors::tensor::{TensorView, serialize_to_file};

    use super::*;
    use crate::thread::on_mlx;

    /// Weights of 16 bits stay what they are, and their product is that of the widened ones but
    /// for the rounding of its input.
    #[test]
    fn narrow_weights_stay_narrow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let numbers: Vec<f32> = (0..12).map(|i| (i as f32 - 5.0) / 8.0).collect();
        let bf16: Vec<u8> = numbers.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
        // 0.1 to 1.2 in f16, which bf16 cannot hold.
        let tenths: [u16; 12] =
            [0x2e66, 0x3266, 0x34cd, 0x3666, 0x3800, 0x38cd, 0x399a, 0x3a66, 0x3b33, 0x3c00, 0x3c66, 0x3ccd];
        let f16: Vec<u8> = tenths.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = |dtype, data| TensorView::new(dtype, vec![3, 4], data).unwrap();
        let tensors = [("b", view(Stored::BF16, &bf16)), ("h", view(Stored::F16, &f16))];
        serialize_to_file(tensors, None, &path).unwrap();
        let weights = Weights::open(&[path]).unwrap();
        on_mlx(|| {
            for (name, dtype) in [("b", Dtype::Bfloat16), ("h", Dtype::Float16)] {
                let weight = weights.need(name, &[3, 4]).unwrap();
                let narrow = array(&weight).unwrap();
                assert!(narrow.dtype() == dtype, "{name}");
                let wide = weight.to_vec();
                let x = [0.3f32, -1.7, 0.9, 2.1];
                let product = product(&Array::from_slice(&x, &[1, 4]), &narrow).unwrap();
                for (found, row) in super::numbers(&product).unwrap().iter().zip(wide.chunks(4)) {
                    let exact: f32 = row.iter().zip(x).map(|(w, x)| w * x).sum();
                    assert!((found - exact).abs() < 0.03, "{name}: {found} and {exact}");
                }
            }
        });
    }
}
