//! Training: adapters or all weights, on responses only.
//!
//! The loss is the mean over the response tokens of a step, however the step is cut into
//! micro-batches. Rows are packed without padding. Where no rows are held back, the first rows of
//! the data stand in for them.
//!
//! # Layout
//! - [`target`]: what is trained, how it starts and how it is written.
//! - [`memory`]: what a training takes, and how it is made to fit a limit.
//! - [`selftest`]: before the first step, whether a gradient reaches everything that is trained.
//! - [`run`]: steps, evaluations, and when it ends.
//! - [`checkpoint`]: its progress on disk.

pub mod checkpoint;
pub mod memory;
pub mod run;
pub mod selftest;
pub mod target;

use std::sync::Arc;

use headstart_protocol::Digest;
use serde_json::json;

use crate::api::{Method, TrainReport, TrainSpec, Watch};
use crate::decoder::check_vocabulary;
use crate::error::LmError;
use crate::kernels::buffer;
use crate::model::Model;
use crate::optim::{AdamW, AdamWSpec};
use crate::rows::Example;
use crate::text::TextCodec;
use checkpoint::Keeper;
use run::Run;
use target::{Start, Target};

/// Rows that stand in where none are held back.
const STAND_IN: usize = 64;

/// Trains as `spec` says; see [`crate::api::Backend::train`].
pub fn train(spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
    train_on(None, spec, watch)
}

/// The same with losses and gradients computed elsewhere, where `foreign` is given.
/// Everything else, from the rows to the optimizer and the files, is the same code.
pub fn train_on(foreign: Option<Start>, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
    let codec = TextCodec::load(&spec.model)?;
    let model = Arc::new(Model::load(&spec.model)?);
    check_vocabulary(&spec.model, &codec, &model.config)?;
    check(spec)?;
    let limit = spec.max_tokens.min(model.config.context);
    let train = examples(&codec, &spec.data, limit)?;
    let eval = match spec.eval.is_empty() {
        true => train.iter().take(STAND_IN).cloned().collect(),
        false => examples(&codec, &spec.eval, limit)?,
    };
    train_target(spec, Target::new(spec, model, foreign)?, &train, &eval, watch)
}

/// Trains on rows that are tokens already.
pub fn train_examples(
    spec: &TrainSpec,
    model: Arc<Model>,
    train: &[Example],
    eval: &[Example],
    watch: &dyn Watch,
) -> Result<TrainReport, LmError> {
    train_target(spec, Target::new(spec, model, None)?, train, eval, watch)
}

fn train_target(
    spec: &TrainSpec,
    target: Target,
    train: &[Example],
    eval: &[Example],
    watch: &dyn Watch,
) -> Result<TrainReport, LmError> {
    if spec.dropout > 0.0 && target.net.foreign.as_ref().is_some_and(|f| !f.drops()) {
        return Err(LmError::Input("this backend trains without dropout; set it to 0, or use candle".into()));
    }
    let plan = memory::plan(spec, &target, train, eval)?;
    target.net.model.stream(plan.streamed);
    let _buffers = buffer::limited(plan.activations);
    let keeper = match &spec.resume {
        Some(resume) => Some(Keeper::new(resume, fingerprint(spec, &target, train, eval)?)),
        None => None,
    };
    selftest::gradients_flow(&target, plan.keep)?;
    let decay = spec.weight_decay.unwrap_or(if target.is_full() { 0.01 } else { 0.0 });
    let optimizer = AdamW::new(&target.net, AdamWSpec { decay, clip: spec.clip, ..AdamWSpec::default() });
    Run::new(spec, plan, target, optimizer, keeper, (train, eval), watch)?.go()
}

/// Digest of everything that decides about a training's steps: its settings, its rows and where it
/// starts. The frozen weights are not read for it: they are told by the model's shape and its
/// folder, and a caller gives each training a folder of its own.
fn fingerprint(
    spec: &TrainSpec,
    target: &Target,
    train: &[Example],
    eval: &[Example],
) -> Result<String, LmError> {
    let rows =
        |rows: &[Example]| Digest::of_json(&rows.iter().map(|e| (&e.ids, &e.answers)).collect::<Vec<_>>());
    let mut start = Vec::new();
    target.copy_values(&mut start)?;
    let start: Vec<Digest> = start.iter().map(|v| Digest::of(bytemuck::cast_slice(v))).collect();
    Ok(Digest::of_json(&json!({
        "format": 1,
        // Another backend's steps are not the same to the last bit.
        "foreign": target.net.foreign.as_ref().map(|f| f.name()),
        "model": format!("{:?}", target.net.model.config),
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
    .to_string())
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

fn examples(
    codec: &TextCodec,
    rows: &[headstart_protocol::rows::Row],
    limit: usize,
) -> Result<Vec<Example>, LmError> {
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
