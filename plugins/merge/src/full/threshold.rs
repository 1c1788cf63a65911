//! TIES: the magnitude from which a delta's entries are kept, exactly and in linear time.
//!
//! The bits of a non-negative float are ordered like the float. So the k-th largest magnitude is
//! found by counting: first the upper 16 of 31 bits, then, among entries that share those of the
//! sought one, the lower 15. Two passes over the weights, no sort, no copy of the tensor.

use headstart_lm::Watch;
use rayon::prelude::*;

use super::kernel::CHUNK;
use super::plan::{Plan, Shard, Source, Tensor};
use crate::error::MergeError;

const LOW_BITS: u32 = 15;
const HIGH: usize = 1 << 16;

/// Bytes that one worker needs at most: buffers, and histograms of all models.
pub(super) fn bytes(models: usize) -> usize {
    CHUNK * (8 + 2 * 4) + 2 * models * HIGH * 4
}

/// Thresholds of every tensor of a shard, for every model.
pub(super) fn of_shard(
    plan: &Plan<'_>,
    shard: &Shard,
    density: f64,
    watch: &dyn Watch,
) -> Result<Vec<Vec<f32>>, MergeError> {
    // Tensors of one chunk run side by side; larger ones one after another, each on all workers.
    let small = |t: &Tensor| t.numel <= CHUNK;
    let mut thresholds: Vec<Vec<f32>> = shard
        .tensors
        .par_iter()
        .map(|t| if small(t) { by_selection(plan, t, density) } else { Ok(Vec::new()) })
        .collect::<Result<_, _>>()?;
    for (out, tensor) in thresholds.iter_mut().zip(&shard.tensors).filter(|(_, t)| !small(t)) {
        if watch.cancelled() {
            return Err(MergeError::Cancelled);
        }
        *out = by_counting(plan, tensor, density)?;
    }
    Ok(thresholds)
}

/// How many entries are kept.
fn kept(numel: usize, density: f64) -> usize {
    ((density * numel as f64) as usize).clamp(1, numel.max(1))
}

fn by_selection(plan: &Plan<'_>, tensor: &Tensor, density: f64) -> Result<Vec<f32>, MergeError> {
    if tensor.numel == 0 {
        return Ok(vec![0.0; tensor.models.len()]);
    }
    let mut buffers = Buffers::new(tensor.numel);
    let k = kept(tensor.numel, density);
    let threshold = |source| {
        let bits =
            buffers.magnitudes(plan, tensor, source, 0, tensor.numel, source_is_first(tensor, source))?;
        Ok(f32::from_bits(*bits.select_nth_unstable_by(k - 1, |a, b| b.cmp(a)).1))
    };
    tensor.models.iter().map(threshold).collect()
}

fn source_is_first(tensor: &Tensor, source: &Source) -> bool {
    tensor.models.first().is_some_and(|first| std::ptr::eq(first, source))
}

fn by_counting(plan: &Plan<'_>, tensor: &Tensor, density: f64) -> Result<Vec<f32>, MergeError> {
    if tensor.numel > u32::MAX as usize {
        return Err(MergeError::mix(
            format!("tensor `{}` has {} entries, more than can be counted", tensor.name, tensor.numel),
            "use the method task_arithmetic",
        ));
    }
    let models = tensor.models.len();
    let k = kept(tensor.numel, density) as u64;
    let high = count(plan, tensor, HIGH, |_, bits| Some((bits >> LOW_BITS) as usize))?;
    let found: Vec<_> = (0..models).map(|m| nth_largest(&high[m * HIGH..(m + 1) * HIGH], k)).collect();
    let low = count(plan, tensor, 1 << LOW_BITS, |m, bits| {
        let same = (bits >> LOW_BITS) as usize == found[m].0;
        same.then_some((bits & ((1 << LOW_BITS) - 1)) as usize)
    })?;
    let threshold = |m: usize| {
        let (bin, before) = found[m];
        let bins = &low[m << LOW_BITS..(m + 1) << LOW_BITS];
        let (low, _) = nth_largest(bins, k - before);
        f32::from_bits(((bin as u32) << LOW_BITS) | low as u32)
    };
    Ok((0..models).map(threshold).collect())
}

/// The bin that holds the k-th largest (from 1), and how many are in larger bins.
fn nth_largest(bins: &[u32], k: u64) -> (usize, u64) {
    let mut above = 0;
    for (bin, n) in bins.iter().enumerate().rev() {
        if above + u64::from(*n) >= k {
            return (bin, above);
        }
        above += u64::from(*n);
    }
    (0, above)
}

/// Histograms of all models' magnitudes, one after another. `bin` gives the bin of a model's entry.
fn count(
    plan: &Plan<'_>,
    tensor: &Tensor,
    bins: usize,
    bin: impl Fn(usize, u32) -> Option<usize> + Sync,
) -> Result<Vec<u32>, MergeError> {
    let models = tensor.models.len();
    let chunks = tensor.numel.div_ceil(CHUNK);
    let workers = rayon::current_num_threads().min(chunks);
    let part = |worker: usize| -> Result<Vec<u32>, MergeError> {
        let mut histogram = vec![0u32; bins * models];
        let mut buffers = Buffers::new(CHUNK);
        for chunk in worker * chunks / workers..(worker + 1) * chunks / workers {
            let start = chunk * CHUNK;
            let len = CHUNK.min(tensor.numel - start);
            for (m, source) in tensor.models.iter().enumerate() {
                let histogram = &mut histogram[m * bins..(m + 1) * bins];
                for bits in buffers.magnitudes(plan, tensor, source, start, len, m == 0)? {
                    if let Some(b) = bin(m, *bits) {
                        histogram[b] += 1;
                    }
                }
            }
        }
        Ok(histogram)
    };
    let add = |mut a: Vec<u32>, b: Vec<u32>| {
        a.iter_mut().zip(b).for_each(|(x, y)| *x += y);
        Ok(a)
    };
    (0..workers).into_par_iter().map(part).try_reduce_with(add).unwrap_or(Ok(vec![0; bins * models]))
}

struct Buffers {
    bytes: Vec<u8>,
    base: Vec<f32>,
    delta: Vec<f32>,
    bits: Vec<u32>,
}

impl Buffers {
    fn new(len: usize) -> Self {
        Self { bytes: vec![0; len * 4], base: vec![0.0; len], delta: vec![0.0; len], bits: vec![0; len] }
    }

    /// Bits of |model − base|; `fresh` reads the base first.
    fn magnitudes(
        &mut self,
        plan: &Plan<'_>,
        tensor: &Tensor,
        source: &Source,
        start: usize,
        len: usize,
        fresh: bool,
    ) -> Result<&mut [u32], MergeError> {
        if fresh {
            plan.load(&tensor.name, &tensor.base, start, &mut self.bytes, &mut self.base[..len])?;
        }
        plan.load(&tensor.name, source, start, &mut self.bytes, &mut self.delta[..len])?;
        for ((o, d), b) in self.bits[..len].iter_mut().zip(&self.delta[..len]).zip(&self.base[..len]) {
            *o = (d - b).abs().to_bits();
        }
        Ok(&mut self.bits[..len])
    }
}
