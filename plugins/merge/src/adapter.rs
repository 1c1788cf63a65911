//! LoRA adapters in PEFT's format: reading, merging, writing.
//!
//! An adapter changes the weight of a module by `s · B · A`, with `A` of shape `[rank, in]`, `B` of
//! shape `[out, rank]` and the scaling `s = alpha / rank` (`alpha / √rank` with rsLoRA). A mix of
//! adapters is the sum of their products, which is again such a product: stack every `A`, put the
//! scaled `B`s beside each other. Nothing is lost, only the rank adds up. Mixing `A`s and `B`s
//! separately, as averaging the files would, is wrong by every cross term `Bᵢ · Aⱼ`.

mod concat;
mod config;
mod read;
mod recompress;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstart_disk::files::OutFolder;
use headstart_lm::Watch;

pub use concat::concatenate;
pub use config::{Config, Targets};
pub use recompress::{Truncation, truncate};

use crate::error::MergeError;

/// Name of an adapter's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of an adapter's weights.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// A dense matrix in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `rows · cols` entries, row by row.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }
}

/// What an adapter does to one module: it adds `scaling · b · a` to its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// Shape `[rank, in]`.
    pub a: Matrix,
    /// Shape `[out, rank]`.
    pub b: Matrix,
    /// Factor of the product.
    pub scaling: f64,
}

impl Factors {
    /// The inner dimension of the product.
    pub fn rank(&self) -> usize {
        self.a.rows
    }
}

/// An adapter, or a merge of several, in memory.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The configuration that it was read with.
    pub config: Config,
    /// By module path, such as `model.layers.0.self_attn.q_proj`.
    pub modules: BTreeMap<String, Factors>,
}

impl Adapter {
    /// Reads an adapter's folder and checks it as a whole: options that are not supported, missing
    /// halves, ranks that contradict the configuration, numbers that are not finite.
    ///
    /// # Errors
    /// [`MergeError`], naming the file and what is wrong with it.
    pub fn read(folder: &Path) -> Result<Self, MergeError> {
        read::read(folder)
    }

    /// Numbers in its matrices.
    pub fn parameters(&self) -> u64 {
        self.modules.values().map(|f| (f.a.data.len() + f.b.data.len()) as u64).sum()
    }
}

/// An adapter with its weight in a mix.
#[derive(Clone, Debug)]
pub struct AdapterTerm {
    /// Its name, for messages.
    pub name: String,
    /// Its weight; may be negative.
    pub weight: f64,
    /// Its folder.
    pub folder: PathBuf,
}

/// What became of a merge of adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterReport {
    /// Rank and error of every module.
    pub modules: BTreeMap<String, ModuleReport>,
    /// Frobenius norm of what was cut off over that of the exact mix, over all modules; 0 if exact.
    pub error: f64,
    /// Numbers in the merged adapter.
    pub parameters: u64,
}

/// What became of one module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModuleReport {
    /// Rank of the merged product.
    pub rank: usize,
    /// Frobenius norm of what was cut off over that of the exact product; 0 if exact.
    pub error: f64,
}

/// Merges adapters into the folder `out`: exactly, or to `rank` by the best approximation there is.
///
/// # Errors
/// Unreadable or unsupported adapters, adapters whose modules differ in shape, a `memory` limit in
/// bytes below about three times the adapters' size in f32.
pub fn merge_adapters(
    terms: &[AdapterTerm],
    rank: Option<usize>,
    memory: Option<u64>,
    out: OutFolder<'_>,
    watch: &dyn Watch,
) -> Result<AdapterReport, MergeError> {
    let mut adapters = Vec::with_capacity(terms.len());
    for term in terms {
        if watch.cancelled() {
            return Err(MergeError::Cancelled);
        }
        adapters.push(Adapter::read(&term.folder)?);
    }
    let held: u64 = adapters.iter().map(Adapter::parameters).sum();
    // The adapters, their concatenation, and what is written.
    check_memory(memory, 3 * 4 * held)?;
    let named: Vec<_> = terms.iter().zip(&adapters).map(|(t, a)| (t.name.as_str(), t.weight, a)).collect();
    let merged = concatenate(&named)?;
    let (merged, report) = recompress::to_rank(merged, rank, watch)?;
    write::write(&merged, out)?;
    Ok(report)
}

fn check_memory(limit: Option<u64>, need: u64) -> Result<(), MergeError> {
    match limit {
        Some(limit) if limit < need => Err(MergeError::Memory(format!(
            "merging these adapters takes about {} MiB of memory, but the limit is {} MiB",
            need.div_ceil(1 << 20),
            limit >> 20
        ))),
        _ => Ok(()),
    }
}
