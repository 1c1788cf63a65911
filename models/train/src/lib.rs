//! Training: adapters or all weights, on responses only.
//!
//! The loss is the mean over the response tokens of a step, however the step is cut into
//! micro-batches. Rows are packed without padding. Where no rows are held back, the first rows of
//! the data stand in for them.
//!
//! # Layout, from the bottom up
//! - `spec`: what a training is asked to do, and what it reports.
//! - `params`: which tensors are trained, and their values.
//! - `gradients`: the seam: what computes losses and gradients ([`GradientBackend`]); `cpu` is one.
//! - `optimizer`, `order`: AdamW, and the order of rows.
//! - `target`: an adapter or all weights; how they start and are written.
//! - `memory`: what a training takes, and how it is made to fit a limit.
//! - `selftest`: before the first step, whether a gradient reaches everything that is trained.
//! - `checkpoint`: its progress on disk; `run`: steps, evaluations, and when it ends.

mod checkpoint;
mod cpu;
mod gradients;
mod memory;
mod optimizer;
mod order;
mod params;
mod run;
mod selftest;
mod spec;
mod target;

use std::sync::Arc;

use headstart_kernels::{instruction_set, limit_pool};
use headstart_lm::{Backend, CpuBackend, Example, LmError, Model, Precision, TextCodec, Watch};
use headstart_protocol::Digest;
use headstart_protocol::rows::Row;
use serde_json::json;

use checkpoint::Checkpointer;
use run::Run;
use target::Target;

pub use checkpoint::FILE as CHECKPOINT_FILE;
pub use cpu::CpuGradients;
pub use gradients::{Dropout, GradientBackend, Keep, MakeGradients, Memory, Pass, StepShape};
pub use optimizer::{AdamW, AdamWSpec};
pub use params::{Param, Place, TrainableParams};
pub use spec::{Method, Resume, TrainReport, TrainSpec};

/// Rows that stand in where none are held back.
const STAND_IN: usize = 64;

/// A backend that can train.
pub trait TrainingBackend: Backend {
    /// Trains. Writes the adapter (or, for [`Method::Full`], the whole model folder) to
    /// [`TrainSpec::out`] only when it is complete.
    ///
    /// # Errors
    /// [`LmError::Input`] for settings or rows that cannot be trained on or where the training
    /// diverged, [`LmError::Memory`] with the least that would do, [`LmError::Cancelled`] where `watch`
    /// says so, and those of reading and writing folders.
    fn train(&self, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError>;
}

/// The backend of any machine: the CPU, on all its cores.
pub fn default_backend() -> Arc<dyn TrainingBackend> {
    Arc::new(CpuBackend::new(0))
}

/// Trains as `spec` says, with losses and gradients by what `make` makes.
///
/// # Errors
/// Those of [`TrainingBackend::train`].
pub fn train_on(make: MakeGradients, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
    train_in(Precision::F32, make, spec, watch)
}

/// As [`train_on`], of a model that is loaded for products in a precision.
fn train_in(
    precision: Precision,
    make: MakeGradients,
    spec: &TrainSpec,
    watch: &dyn Watch,
) -> Result<TrainReport, LmError> {
    let mut codec = TextCodec::load(&spec.model)?;
    let model = Arc::new(Model::load_in(&spec.model, precision)?);
    codec.limit_vocab(model.config.vocab)?;
    check(spec)?;
    let limit = spec.max_tokens.min(model.config.context);
    let train = examples(&codec, &spec.data, limit)?;
    let eval = match spec.eval.is_empty() {
        true => train.iter().take(STAND_IN).cloned().collect(),
        false => examples(&codec, &spec.eval, limit)?,
    };
    train_target(spec, Target::new(spec, model, make)?, &train, &eval, watch)
}

/// Trains on the CPU, on rows that are tokens already.
///
/// # Errors
/// Those of [`TrainingBackend::train`].
pub fn train_examples(
    spec: &TrainSpec,
    model: Arc<Model>,
    train: &[Example],
    eval: &[Example],
    watch: &dyn Watch,
) -> Result<TrainReport, LmError> {
    train_target(spec, Target::new(spec, model, &CpuGradients::make)?, train, eval, watch)
}

fn train_target(
    spec: &TrainSpec,
    target: Target,
    train: &[Example],
    eval: &[Example],
    watch: &dyn Watch,
) -> Result<TrainReport, LmError> {
    if spec.dropout > 0.0 && !target.backend.supports_dropout() {
        let why =
            format!("{} trains without dropout; set it to 0, or train on the CPU", target.backend.name());
        return Err(LmError::Input(why));
    }
    let plan = memory::plan(spec, &target, train, eval)?;
    target.model.stream(plan.streamed);
    let _buffers = limit_pool(plan.activations);
    let resume = spec.resume.as_ref();
    let checkpointer =
        resume.map(|r| Checkpointer::new(r, Arc::clone(&spec.disk), fingerprint(spec, &target, train, eval)));
    selftest::gradients_flow(&target, plan.keep)?;
    let decay = spec.weight_decay.unwrap_or(if target.is_full() { 0.01 } else { 0.0 });
    let optimizer = AdamW::new(&target.params, AdamWSpec { decay, clip: spec.clip, ..AdamWSpec::default() });
    Run::new(spec, plan, target, optimizer, checkpointer, (train, eval), watch)?.go()
}

/// Digest of everything that decides about a training's steps: its settings, its rows and where it
/// starts. The frozen weights are not read for it: they are identified by the model's shape and its
/// folder, and callers give each training its own folder.
fn fingerprint(spec: &TrainSpec, target: &Target, train: &[Example], eval: &[Example]) -> String {
    let rows =
        |rows: &[Example]| Digest::of_json(&rows.iter().map(|e| (&e.ids, &e.answers)).collect::<Vec<_>>());
    let start = target.params.values.iter().map(|v| Digest::of(bytemuck::cast_slice(v)));
    let start: Vec<Digest> = start.collect();
    Digest::of_json(&json!({
        "format": 2,
        "backend": target.backend.name(),
        "instructions": instruction_set(),
        "model": format!("{:?}", target.model.config),
        "method": spec.method,
        "start": start,
        "data": rows(train),
        "eval": rows(eval),
        "until": spec.until,
        "patience": spec.patience,
        "learning_rate": spec.learning_rate,
        "weight_decay": spec.weight_decay,
        "clip": spec.clip,
        "dropout": spec.dropout,
        "batch": spec.batch,
        "max_steps": spec.max_steps,
        "warmup": spec.warmup,
        "cosine": spec.cosine,
        "eval_every": spec.eval_every,
        "seed": spec.seed,
    }))
    .to_string()
}

fn check(spec: &TrainSpec) -> Result<(), LmError> {
    if let Some(c) = &spec.until
        && !["loss", "train_loss", "step"].contains(&c.metric.as_str())
    {
        let why = format!("`until` knows loss, train_loss and step, not {:?}", c.metric);
        return Err(LmError::Input(why));
    }
    let positive = |what: &str, x: f64| match x > 0.0 && x.is_finite() {
        true => Ok(()),
        false => Err(LmError::Input(format!("{what} must be positive, not {x}"))),
    };
    positive("the learning rate", spec.learning_rate)?;
    spec.clip.map_or(Ok(()), |clip| positive("the gradients' largest norm", clip))?;
    if !(0.0..1.0).contains(&spec.dropout) {
        return Err(LmError::Input(format!("dropout must be in [0, 1), not {}", spec.dropout)));
    }
    if spec.dropout > 0.0 && spec.method == Method::Full {
        return Err(LmError::Input(
            "dropout is of an adapter's inputs; training all weights has none".into(),
        ));
    }
    match spec.weight_decay {
        Some(decay) if !(decay >= 0.0 && decay.is_finite()) => {
            Err(LmError::Input(format!("weight decay must not be negative, and is {decay}")))
        }
        _ => Ok(()),
    }
}

fn examples(codec: &TextCodec, rows: &[Row], limit: usize) -> Result<Vec<Example>, LmError> {
    let all = rows.iter().map(|r| Example::new(codec, r, limit));
    let all: Vec<Example> = all.collect::<Result<_, _>>()?;
    let count = all.len();
    let useful: Vec<Example> = all.into_iter().filter(|e| e.targets() > 0).collect();
    if useful.is_empty() {
        return Err(LmError::Input(match count {
            0 => "there are no rows to train on".into(),
            n => format!("none of the {n} rows has a response within its first {limit} tokens"),
        }));
    }
    Ok(useful)
}
