//! Full weights: models of one shape, merged tensor by tensor with bounded memory.
//!
//! Everything is checked before the first byte is written ([`Plan`]). Then every worker reads the
//! same small chunk of every model, combines it in f32 and writes it to its place: the output has
//! the base's shards, headers and types byte for byte, only other numbers. Results depend neither
//! on the number of threads nor on how chunks are cut.
//!
//! With the base `b`, models `mᵢ` and their weights `wᵢ`:
//!
//! | method | result |
//! | --- | --- |
//! | task arithmetic (arXiv 2212.04089) | `b + Σ wᵢ (mᵢ − b)` |
//! | linear | the weighted average `Σ wᵢ mᵢ / Σ wᵢ`; the base counts where it is a term |
//! | DARE (arXiv 2311.03099) | task arithmetic after dropping entries of `mᵢ − b` at random and scaling the kept by `1 / density` |
//! | TIES (arXiv 2306.01708) | keep the entries of `mᵢ − b` that are largest by magnitude, per tensor; elect each entry's sign by the weighted sum; average those of that sign by weight |
//!
//! TIES in detail, and where mergekit 0.1 differs:
//! - The average divides by the sum of the kept weights, so that only the proportions of weights matter.
//!   mergekit does the same by default (`normalize`).
//! - That sum is over |wᵢ|: a pLLM with a negative weight is subtracted. mergekit sums wᵢ, by which −1·a
//!   becomes +1·a, and weights of both signs divide by little.
//! - Entries that equal the smallest kept one are all kept. mergekit keeps exactly as many as `density`
//!   says, whichever of equal ones its sort puts first.

mod checkpoint;
mod decode;
mod kernel;
mod plan;
mod threshold;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use headstart_disk::files::{self, OutFolder};
use headstart_disk::{DiskError, DiskFile};
use headstart_lm::Watch;
use rayon::prelude::*;

pub use checkpoint::{Checkpoint, INDEX_FILE};
pub use plan::Plan;

use crate::error::MergeError;
use kernel::{CHUNK, Workspace};
use plan::{Shard, Tensor};

/// How full weights are combined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// `b + Σ wᵢ (mᵢ − b)`.
    TaskArithmetic,
    /// Weighted average.
    Linear,
    /// Trim, elect sign, disjoint mean.
    Ties {
        /// Share of a delta's entries that is kept, in (0, 1]. Entries that equal the smallest kept
        /// one are kept too.
        density: f64,
    },
    /// Drop at random and rescale.
    Dare {
        /// Probability with which an entry is kept, in (0, 1].
        density: f64,
        /// Seed of the choice.
        seed: u64,
    },
}

impl Method {
    /// As a pipeline file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TaskArithmetic => "task_arithmetic",
            Self::Linear => "linear",
            Self::Ties { .. } => "ties",
            Self::Dare { .. } => "dare",
        }
    }
}

/// A model with its weight in a mix.
#[derive(Clone, Debug)]
pub struct FullTerm {
    /// Its name, for messages.
    pub name: String,
    /// Its weight; may be negative.
    pub weight: f64,
    /// Its folder.
    pub folder: PathBuf,
    /// What tells it from other models, whatever it is called: the stream of DARE's choice.
    pub stream: u64,
}

/// What was merged.
#[derive(Clone, Debug, PartialEq)]
pub struct FullReport {
    /// Names of the files that were written.
    pub files: Vec<String>,
    /// Tensors of the base.
    pub tensors: usize,
    /// Numbers of the base.
    pub parameters: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

/// Merges models over the base in the folder `base` into the folder `out`, on the current rayon pool.
///
/// `base_weight` is the weight of the base as a separate term; only [`Method::Linear`] uses it.
///
/// # Errors
/// Unreadable models, numbers that are not finite, models whose tensors differ from the base's in name, shape or kind, weights
/// that sum to 0 in a linear merge, a `memory` limit in bytes that does not suffice.
pub fn merge_full(
    base: &Path,
    base_weight: f64,
    terms: &[FullTerm],
    method: Method,
    memory: Option<u64>,
    out: OutFolder<'_>,
    watch: &dyn Watch,
) -> Result<FullReport, MergeError> {
    let weights = effective_weights(terms, base_weight, method)?;
    let base = Checkpoint::open(base)?;
    let models: Vec<_> = terms
        .iter()
        .map(|t| Ok((t.name.as_str(), Checkpoint::open(&t.folder)?)))
        .collect::<Result<_, MergeError>>()?;
    let plan = Plan::new(&base, &models)?;
    check_memory(memory, terms.len(), method)?;

    let done = AtomicU64::new(0);
    let total = plan.parameters();
    let report = FullReport {
        files: plan.shards.iter().map(|s| s.name.clone()).collect(),
        tensors: plan.shards.iter().map(|s| s.tensors.len()).sum(),
        parameters: total,
        bytes: plan.bytes(),
    };
    for shard in &plan.shards {
        let job = Job { plan: &plan, shard, terms, weights: &weights, method, done: &done, total, watch };
        job.run(out)?;
    }
    watch.count("tensors", report.tensors as u64);
    Ok(report)
}

/// Weights as the kernels use them, on deltas from the base.
fn effective_weights(terms: &[FullTerm], base_weight: f64, method: Method) -> Result<Vec<f32>, MergeError> {
    let scale = match method {
        Method::TaskArithmetic | Method::Ties { .. } => 1.0,
        Method::Dare { density, .. } => 1.0 / density,
        // Σ wᵢ mᵢ / W = b + Σ (wᵢ / W) (mᵢ − b), where W counts the base's own weight.
        Method::Linear => average_scale(terms.iter().map(|t| t.weight), base_weight)?,
    };
    Ok(terms.iter().map(|t| (t.weight * scale) as f32).collect())
}

/// What weights are multiplied by so that they sum to 1, the base's own weight included.
///
/// # Errors
/// Weights that sum to 0.
pub fn average_scale(weights: impl Iterator<Item = f64>, base_weight: f64) -> Result<f64, MergeError> {
    let sum = base_weight + weights.sum::<f64>();
    if sum.abs() < 1e-9 {
        return Err(MergeError::mix(
            "the weights of a linear merge sum to 0, so their average is undefined",
            "use the method task_arithmetic, where weights need not sum to anything",
        ));
    }
    Ok(1.0 / sum)
}

/// Upper bound of the memory that a merge holds at once, in bytes: every thread's buffers, and for
/// TIES every thread's histograms. It does not depend on the models' size.
pub fn memory_needed(models: usize, method: Method, threads: usize) -> u64 {
    let workspace = Workspace::bytes();
    let histograms = match method {
        Method::Ties { .. } => threshold::bytes(models),
        _ => 0,
    };
    // Headers and plans of usual models stay well below 16 MiB.
    (threads * (workspace + histograms) + (16 << 20)) as u64
}

fn check_memory(limit: Option<u64>, models: usize, method: Method) -> Result<(), MergeError> {
    let need = memory_needed(models, method, rayon::current_num_threads());
    match limit {
        Some(limit) if limit < need => Err(MergeError::Memory(format!(
            "merging {models} models takes {} MiB of memory, but the limit is {} MiB",
            need.div_ceil(1 << 20),
            limit >> 20
        ))),
        _ => Ok(()),
    }
}

/// The merge of one shard.
struct Job<'a> {
    plan: &'a Plan<'a>,
    shard: &'a Shard,
    terms: &'a [FullTerm],
    weights: &'a [f32],
    method: Method,
    done: &'a AtomicU64,
    total: u64,
    watch: &'a dyn Watch,
}

impl Job<'_> {
    fn run(&self, out: OutFolder<'_>) -> Result<(), MergeError> {
        let thresholds = match self.method {
            Method::Ties { density } => threshold::of_shard(self.plan, self.shard, density, self.watch)?,
            _ => Vec::new(),
        };
        let path = out.path.join(&self.shard.name);
        files::write_with(out.disk, &path, |file| self.put(file, &path, &thresholds))
    }

    fn put(&self, file: &dyn DiskFile, path: &Path, thresholds: &[Vec<f32>]) -> Result<(), MergeError> {
        let write =
            |bytes: &[u8], at: u64| file.write_all_at(bytes, at).map_err(DiskError::at("write", path));
        write(&self.shard.header, 0)?;
        self.chunks().into_par_iter().try_for_each_init(Workspace::new, |space, (index, start)| {
            if self.watch.cancelled() {
                return Err(MergeError::Cancelled);
            }
            let tensor = &self.shard.tensors[index];
            let len = CHUNK.min(tensor.numel - start);
            let bytes = self.combine(tensor, thresholds.get(index), start, len, space)?;
            write(bytes, tensor.base.offset + (start * tensor.base.kind.size()) as u64)?;
            let done = self.done.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
            self.watch.progress(done, self.total, "weights", &[]);
            Ok(())
        })
    }

    /// Every chunk of the shard as (tensor, first element).
    fn chunks(&self) -> Vec<(usize, usize)> {
        let starts =
            |(i, t): (usize, &Tensor)| (0..t.numel).step_by(CHUNK).map(move |s| (i, s)).collect::<Vec<_>>();
        self.shard.tensors.iter().enumerate().flat_map(starts).collect()
    }

    fn combine<'s>(
        &self,
        tensor: &Tensor,
        thresholds: Option<&Vec<f32>>,
        start: usize,
        len: usize,
        space: &'s mut Workspace,
    ) -> Result<&'s [u8], MergeError> {
        if !tensor.base.kind.is_float() {
            return space.copy(self.plan, &tensor.base, start, len);
        }
        space.load_base(self.plan, tensor, start, len)?;
        for (i, source) in tensor.models.iter().enumerate() {
            let delta = space.load_delta(self.plan, &tensor.name, source, start, len)?;
            match self.method {
                Method::TaskArithmetic | Method::Linear => {}
                Method::Dare { density, seed } => {
                    kernel::drop_out(
                        delta,
                        kernel::stream(seed, &tensor.name, self.terms[i].stream),
                        start,
                        density,
                    );
                }
                Method::Ties { .. } => {
                    let threshold = thresholds.map_or(0.0, |t| t[i]);
                    space.elect(self.weights[i], threshold, len);
                    continue;
                }
            }
            space.add(self.weights[i], len);
        }
        if matches!(self.method, Method::Ties { .. }) {
            space.settle(len);
        }
        let bytes = space.encode(tensor.base.kind, len);
        match bytes {
            Ok(bytes) => Ok(bytes),
            Err(at) => Err(MergeError::mix(
                format!(
                    "tensor `{}`: the merged value of element {} is beyond what {:?} holds",
                    tensor.name,
                    start + at,
                    tensor.base.kind
                ),
                "use smaller weights",
            )),
        }
    }
}
