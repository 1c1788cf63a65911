//! All reads of a merge, checked as a whole before anything is written.

use super::checkpoint::{Checkpoint, Entry, Kind};
use super::decode::{decode, not_finite};
use crate::error::MergeError;

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
/// Buffers that old checkpoints carry and that follow from the configuration.
const DERIVED: &str = "rotary_emb.inv_freq";

/// A part of a checkpoint's file.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// 0 is the base; model `i` is `i + 1`.
    pub(super) checkpoint: usize,
    pub(super) shard: usize,
    pub(super) kind: Kind,
    pub(super) offset: u64,
}

/// A tensor of the output.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) numel: usize,
    pub(super) base: Source,
    /// One for each model; empty where the tensor is copied from the base.
    pub(super) models: Vec<Source>,
}

/// A file of the output.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) header: Vec<u8>,
    pub(super) tensors: Vec<Tensor>,
}

/// A merge of full weights that is known to be possible.
#[derive(Debug)]
pub struct Plan<'a> {
    /// With their names in the mix; the base first.
    checkpoints: Vec<(&'a str, &'a Checkpoint)>,
    pub(super) shards: Vec<Shard>,
}

impl<'a> Plan<'a> {
    /// Finds every tensor of the base in every model.
    ///
    /// # Errors
    /// Names every tensor (the first few, and how many more) that a model lacks, has beside the
    /// base's, or has in another shape.
    pub fn new(base: &'a Checkpoint, models: &'a [(&str, Checkpoint)]) -> Result<Self, MergeError> {
        let mut wrong = Vec::new();
        for (name, model) in models {
            unknown_tensors(base, name, model, &mut wrong)?;
        }
        let mut shards: Vec<Shard> = base
            .shards
            .iter()
            .zip(base.file_names())
            .map(|(s, name)| Shard { name, header: s.header.clone(), tensors: Vec::new() })
            .collect();
        for (name, entry) in &base.tensors {
            let tensor = plan_tensor(name, entry, base, models, &mut wrong)?;
            shards[entry.shard].tensors.push(tensor);
        }
        if !wrong.is_empty() {
            return Err(does_not_fit(&wrong));
        }
        for shard in &mut shards {
            shard.tensors.sort_by_key(|t| t.base.offset);
        }
        let checkpoints =
            std::iter::once((BASE, base)).chain(models.iter().map(|(name, m)| (*name, m))).collect();
        Ok(Self { checkpoints, shards })
    }

    /// Numbers in the output.
    pub fn parameters(&self) -> u64 {
        self.tensors().map(|t| t.numel as u64).sum()
    }

    /// Bytes that are read once and written.
    pub fn bytes(&self) -> u64 {
        let of = |t: &Tensor| {
            let sizes = t.models.iter().map(|s| s.kind.size()).sum::<usize>() + 2 * t.base.kind.size();
            (t.numel * sizes) as u64
        };
        self.tensors().map(of).sum()
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.shards.iter().flat_map(|s| &s.tensors)
    }

    /// Reads part of a source into `bytes`, beginning at element `start`.
    pub(super) fn read(&self, source: &Source, start: usize, bytes: &mut [u8]) -> Result<(), MergeError> {
        let at = source.offset + (start * source.kind.size()) as u64;
        self.checkpoints[source.checkpoint].1.read(source.shard, at, bytes)
    }

    /// Reads numbers of a float tensor, beginning at element `start`; `bytes` is room for them as they are
    /// stored.
    ///
    /// # Errors
    /// A number that is not finite: a merge would spread it, or hide it.
    pub(super) fn load(
        &self,
        tensor: &str,
        source: &Source,
        start: usize,
        bytes: &mut [u8],
        out: &mut [f32],
    ) -> Result<(), MergeError> {
        let bytes = &mut bytes[..out.len() * source.kind.size()];
        self.read(source, start, bytes)?;
        decode(source.kind, bytes, out);
        match not_finite(out) {
            None => Ok(()),
            Some(at) => Err(MergeError::mix(
                format!(
                    "tensor `{tensor}` of {} holds {} at element {}",
                    described(self.checkpoints[source.checkpoint].0),
                    out[at],
                    start + at
                ),
                "leave this model out: its weights are broken",
            )),
        }
    }
}

/// The name of the base among the names of models, which is no model's.
const BASE: &str = "";

fn described(name: &str) -> String {
    if name == BASE { "the base".to_owned() } else { format!("`{name}`") }
}

fn source(checkpoint: usize, e: &Entry) -> Source {
    Source { checkpoint, shard: e.shard, kind: e.kind, offset: e.offset }
}

fn plan_tensor(
    name: &str,
    entry: &Entry,
    base: &Checkpoint,
    models: &[(&str, Checkpoint)],
    wrong: &mut Vec<String>,
) -> Result<Tensor, MergeError> {
    let mut tensor =
        Tensor { name: name.to_owned(), numel: entry.numel(), base: source(0, entry), models: Vec::new() };
    if name.ends_with(DERIVED) {
        // Copied: merging it would only add rounding.
        tensor.base.kind = Kind::Other(safetensors::Dtype::U8, entry.kind.size());
        return Ok(tensor);
    }
    for (i, (model_name, model)) in models.iter().enumerate() {
        // A model that shares its embedding with the output layer may leave the latter out.
        let found = model
            .tensors
            .get(name)
            .or_else(|| if name == HEAD && model.tied { model.tensors.get(EMBEDDING) } else { None });
        let Some(found) = found else {
            wrong.push(format!("`{model_name}` lacks `{name}`"));
            continue;
        };
        if found.shape != entry.shape {
            wrong.push(format!(
                "`{name}` is {:?} in `{model_name}` but {:?} in the base",
                found.shape, entry.shape
            ));
        } else if entry.kind.is_float() && found.kind.is_float() {
            tensor.models.push(source(i + 1, found));
        } else if !same_bytes(base, entry, model, found)? {
            wrong.push(format!(
                "`{name}` is no tensor of F32, F16 or BF16 and differs between `{model_name}` and the base"
            ));
        }
    }
    Ok(tensor)
}

/// Tensors that only the model has. The output layer is allowed where it equals the embedding.
fn unknown_tensors(
    base: &Checkpoint,
    name: &str,
    model: &Checkpoint,
    wrong: &mut Vec<String>,
) -> Result<(), MergeError> {
    for (tensor, entry) in &model.tensors {
        if base.tensors.contains_key(tensor) || tensor.ends_with(DERIVED) {
            continue;
        }
        if tensor == HEAD && base.tied {
            let embedding = model.tensors.get(EMBEDDING);
            if let Some(e) = embedding
                && same_bytes(model, entry, model, e)?
            {
                continue;
            }
            wrong.push(format!(
                "`{name}` has an output layer `{HEAD}` of its own, which the base shares with the embedding"
            ));
            continue;
        }
        wrong.push(format!("`{name}` has `{tensor}`, which the base lacks"));
    }
    Ok(())
}

fn same_bytes(a: &Checkpoint, x: &Entry, b: &Checkpoint, y: &Entry) -> Result<bool, MergeError> {
    const STEP: usize = 1 << 16;
    if x.kind != y.kind || x.shape != y.shape {
        return Ok(false);
    }
    let total = x.numel() * x.kind.size();
    let (mut left, mut right) = (vec![0u8; STEP.min(total)], vec![0u8; STEP.min(total)]);
    for at in (0..total).step_by(STEP) {
        let n = STEP.min(total - at);
        a.read(x.shard, x.offset + at as u64, &mut left[..n])?;
        b.read(y.shard, y.offset + at as u64, &mut right[..n])?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
    }
    Ok(true)
}

fn does_not_fit(wrong: &[String]) -> MergeError {
    const SHOWN: usize = 4;
    let mut why = format!("the models do not fit their base: {}", wrong[..wrong.len().min(SHOWN)].join("; "));
    if wrong.len() > SHOWN {
        why.push_str(&format!("; and {} more", wrong.len() - SHOWN));
    }
    MergeError::mix(why, "merge only models that were trained from this very base, with the same vocabulary")
}
