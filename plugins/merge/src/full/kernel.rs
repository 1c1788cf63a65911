//! The arithmetic on one chunk, in f32. Loops are plain and branch-free, so that they vectorise.

use half::f16;

use super::checkpoint::Kind;
use super::plan::{Plan, Source, Tensor};
use crate::error::MergeError;

/// Elements of a chunk: few enough that a worker's buffers stay in its cache.
pub(super) const CHUNK: usize = 1 << 15;

/// One worker's buffers.
pub(super) struct Workspace {
    bytes: Vec<u8>,
    base: Vec<f32>,
    delta: Vec<f32>,
    sum: Vec<f32>,
    /// TIES: sums and weights of positive and of negative entries. Grown when first used.
    votes: [Vec<f32>; 4],
}

impl Workspace {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; CHUNK * 8],
            base: vec![0.0; CHUNK],
            delta: vec![0.0; CHUNK],
            sum: vec![0.0; CHUNK],
            votes: std::array::from_fn(|_| Vec::new()),
        }
    }

    /// Bytes of one workspace with all its buffers.
    pub(super) fn bytes() -> usize {
        CHUNK * (8 + 7 * 4)
    }

    /// The source's bytes as they are.
    pub(super) fn copy(
        &mut self,
        plan: &Plan<'_>,
        source: &Source,
        start: usize,
        len: usize,
    ) -> Result<&[u8], MergeError> {
        let n = len * source.kind.size();
        if self.bytes.len() < n {
            self.bytes.resize(n, 0);
        }
        plan.read(source, start, &mut self.bytes[..n])?;
        Ok(&self.bytes[..n])
    }

    /// Loads the base and clears what was summed up.
    pub(super) fn load_base(
        &mut self,
        plan: &Plan<'_>,
        tensor: &Tensor,
        start: usize,
        len: usize,
    ) -> Result<(), MergeError> {
        plan.load(&tensor.name, &tensor.base, start, &mut self.bytes, &mut self.base[..len])?;
        self.sum[..len].fill(0.0);
        for votes in self.votes.iter_mut().filter(|v| !v.is_empty()) {
            votes[..len].fill(0.0);
        }
        Ok(())
    }

    /// Loads a model's difference from the base.
    pub(super) fn load_delta(
        &mut self,
        plan: &Plan<'_>,
        tensor: &str,
        source: &Source,
        start: usize,
        len: usize,
    ) -> Result<&mut [f32], MergeError> {
        let delta = &mut self.delta[..len];
        plan.load(tensor, source, start, &mut self.bytes, delta)?;
        for (d, b) in delta.iter_mut().zip(&self.base[..len]) {
            *d -= b;
        }
        Ok(delta)
    }

    /// Adds the loaded delta, weighted.
    pub(super) fn add(&mut self, weight: f32, len: usize) {
        for (s, d) in self.sum[..len].iter_mut().zip(&self.delta[..len]) {
            *s += weight * d;
        }
    }

    /// TIES: lets the loaded delta's entries of at least `threshold` vote for their sign.
    pub(super) fn elect(&mut self, weight: f32, threshold: f32, len: usize) {
        for votes in &mut self.votes {
            if votes.is_empty() {
                *votes = vec![0.0; CHUNK];
            }
        }
        let strength = weight.abs();
        let [up, up_weight, down, down_weight] = &mut self.votes;
        let (up, up_weight) = (&mut up[..len], &mut up_weight[..len]);
        let (down, down_weight) = (&mut down[..len], &mut down_weight[..len]);
        let delta = &self.delta[..len];
        for i in 0..len {
            let kept = if delta[i].abs() >= threshold { weight * delta[i] } else { 0.0 };
            let (positive, negative) = (kept > 0.0, kept < 0.0);
            up[i] += kept.max(0.0);
            up_weight[i] += if positive { strength } else { 0.0 };
            down[i] += kept.min(0.0);
            down_weight[i] += if negative { strength } else { 0.0 };
        }
    }

    /// TIES: the mean, by weight, of the entries of the elected sign.
    pub(super) fn settle(&mut self, len: usize) {
        let [up, up_weight, down, down_weight] = &self.votes;
        // Without a model nobody voted.
        if up.is_empty() {
            return;
        }
        let (up, up_weight) = (&up[..len], &up_weight[..len]);
        let (down, down_weight) = (&down[..len], &down_weight[..len]);
        for (i, s) in self.sum[..len].iter_mut().enumerate() {
            let positive = up[i] + down[i] >= 0.0;
            let (sum, weight) = if positive { (up[i], up_weight[i]) } else { (down[i], down_weight[i]) };
            *s = if weight > 0.0 { sum / weight } else { 0.0 };
        }
    }

    /// The base plus what was summed up, in the given kind. Where a number is beyond the kind's largest:
    /// its place.
    pub(super) fn encode(&mut self, kind: Kind, len: usize) -> Result<&[u8], usize> {
        let largest = match kind {
            Kind::F16 => f16::MAX.to_f32(),
            Kind::Bf16 => half::bf16::MAX.to_f32(),
            _ => f32::MAX,
        };
        let mut within = true;
        for (s, b) in self.sum[..len].iter_mut().zip(&self.base[..len]) {
            *s += b;
            within &= s.abs() <= largest;
        }
        if !within {
            return Err(self.sum[..len].iter().position(|s| s.is_nan() || s.abs() > largest).unwrap_or(0));
        }
        let (sum, out) = (&self.sum[..len], &mut self.bytes[..len * kind.size()]);
        match kind {
            Kind::F32 => out.copy_from_slice(bytemuck::cast_slice(sum)),
            Kind::F16 => {
                for (o, s) in out.as_chunks_mut::<2>().0.iter_mut().zip(sum) {
                    *o = f16::from_f32(*s).to_le_bytes();
                }
            }
            Kind::Bf16 => {
                for (o, s) in out.as_chunks_mut::<2>().0.iter_mut().zip(sum) {
                    *o = bf16_bits(*s).to_le_bytes();
                }
            }
            Kind::Other(..) => unreachable!("only floats are computed with"),
        }
        Ok(out)
    }
}

/// Rounds to bfloat16: to nearest, ties to even; NaN stays NaN. Like `half`'s, without a branch.
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if x.is_nan() { quiet } else { rounded }) as u16
}

/// The stream of DARE's choices for one tensor of one model.
pub(super) fn stream(seed: u64, tensor: &str, model: u64) -> u64 {
    // FNV-1a: any fixed hash does, and this one is as stable as its definition.
    let fnv = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let name = tensor.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    mix(mix(mix(seed) ^ model) ^ name)
}

/// Elements that share a key of [`drop_out`]'s hash.
const BLOCK: usize = 1 << 15;

/// Zeroes entries with probability `1 − density`. The choice for an element depends on the stream
/// and its index alone, so that chunks and threads do not matter.
pub(super) fn drop_out(mut delta: &mut [f32], stream: u64, mut start: usize, density: f64) {
    if density >= 1.0 {
        return;
    }
    let bound = (density * 4_294_967_296.0) as u32;
    while !delta.is_empty() {
        let (key, first) = (mix(stream.wrapping_add((start / BLOCK) as u64)), start % BLOCK);
        let (now, later) = delta.split_at_mut(delta.len().min(BLOCK - first));
        let (before, after) = (key as u32, (key >> 32) as u32);
        for (d, i) in now.iter_mut().zip(first as u32..) {
            *d = if scramble(before.wrapping_add(i)) ^ after < bound { *d } else { 0.0 };
        }
        start += now.len();
        delta = later;
    }
}

/// A bijection of 32 bits in which every input bit changes about half of the output bits
/// (C. Wellons' "lowbias32"). In 32 bits, because those multiply fast side by side.
fn scramble(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The finaliser of SplitMix64, after adding its increment.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounds_to_bf16_as_half_does(bits: u32) {
            let x = f32::from_bits(bits);
            prop_assert_eq!(bf16_bits(x), bf16::from_f32(x).to_bits());
        }
    }

    #[test]
    fn drops_the_asked_share_whatever_the_chunks() {
        let n = 100_000;
        let mut whole = vec![1.0f32; n];
        drop_out(&mut whole, stream(7, "w", 1), 0, 0.3);
        let kept = whole.iter().sum::<f32>() / n as f32;
        assert!((kept - 0.3).abs() < 0.01, "{kept}");
        let mut parts = vec![1.0f32; n];
        for (i, part) in parts.chunks_mut(777).enumerate() {
            drop_out(part, stream(7, "w", 1), i * 777, 0.3);
        }
        assert_eq!(whole, parts);
        let mut other = vec![1.0f32; n];
        drop_out(&mut other, stream(7, "w", 2), 0, 0.3);
        let both = whole.iter().zip(&other).filter(|(a, b)| **a + **b == 2.0).count();
        assert!((both as f32 / n as f32 - 0.09).abs() < 0.01, "models choose independently: {both}");
    }
}
