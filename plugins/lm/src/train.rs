//! Training: adapters or all weights, on responses only.
//!
//! The loss is the mean over the response tokens of a step, however the step is cut into
//! micro-batches. Rows are packed without padding. Where no rows are held back, the first rows of
//! the data stand in for them.
//!
//! # Layout
//! - [`memory`]: what a training takes, and how it is made to fit a limit.
//! - [`target`]: what is trained, how it starts and how it is written.

pub mod memory;
pub mod target;

use std::sync::Arc;
use std::time::Instant;

use candle_core::backprop::GradStore;

use crate::api::{TrainReport, TrainSpec, Watch};
use crate::decoder::check_vocabulary;
use crate::error::LmError;
use crate::kernels::buffer;
use crate::model::Model;
use crate::optim::{AdamW, AdamWSpec, rate};
use crate::rows::{Example, Order, pack, parts};
use crate::text::TextCodec;
use memory::Plan;
use target::{Start, Target};

/// Rows that stand in where none are held back.
const STAND_IN: usize = 64;
/// The step by which every trained tensor must have received a gradient; in the first, those of
/// LoRA's A are zero because B is.
const FLOWING: usize = 2;

/// Trains as `spec` says; see [`crate::api::Backend::train`].
pub fn train(spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
    train_on(None, spec, watch)
}

/// The same with an adapter's losses and gradients computed elsewhere, where `foreign` is given.
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
    let plan = memory::plan(spec, &target, train, eval)?;
    let _buffers = buffer::limited(plan.activations);
    let decay = if target.is_full() { 0.01 } else { 0.0 };
    let optimizer = AdamW::new(&target.net, AdamWSpec { decay, ..AdamWSpec::default() });
    let run = Run {
        batch: spec.batch.clamp(1, train.len()),
        order: Order::new(train.len(), spec.seed),
        started: Instant::now(),
        best: None,
        report: TrainReport {
            steps: 0,
            start_loss: 0.0,
            loss: 0.0,
            train_loss: 0.0,
            tokens: 0,
            seconds: 0.0,
            reached: false,
            curve: Vec::new(),
            trainable: optimizer.trainable(),
        },
        spec,
        plan,
        target,
        optimizer,
        train,
        eval,
        watch,
    };
    run.go()
}

fn check(spec: &TrainSpec) -> Result<(), LmError> {
    if let Some(c) = &spec.until
        && !["loss", "train_loss", "step"].contains(&c.metric.as_str())
    {
        let why = format!("`until` knows loss, train_loss and step, not {:?}", c.metric);
        return Err(LmError::Input(why));
    }
    if !(spec.learning_rate > 0.0 && spec.learning_rate.is_finite()) {
        return Err(LmError::Input(format!(
            "the learning rate must be positive, not {}",
            spec.learning_rate
        )));
    }
    Ok(())
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

/// A training under way. What a continued training needs is the target's values, the optimizer,
/// the number of steps and the best checkpoint: the order of rows follows from seed and step.
struct Run<'a> {
    spec: &'a TrainSpec,
    plan: Plan,
    target: Target,
    optimizer: AdamW,
    train: &'a [Example],
    eval: &'a [Example],
    watch: &'a dyn Watch,
    batch: usize,
    order: Order,
    started: Instant,
    best: Option<(f64, Vec<Vec<f32>>)>,
    report: TrainReport,
}

impl Run<'_> {
    fn go(mut self) -> Result<TrainReport, LmError> {
        self.report.start_loss = self.evaluate(0)?;
        let mut evaluated = 0;
        let mut last = self.report.start_loss;
        while !self.reached("loss", last) && self.report.steps < self.spec.max_steps {
            self.step()?;
            let step = self.report.steps;
            self.watch.count("steps", 1);
            let due = step % self.spec.eval_every.max(1) == 0;
            if due {
                last = self.evaluate(step)?;
                evaluated = step;
            }
            let metrics = [("loss", last), ("train_loss", self.report.train_loss)];
            self.watch.progress(step as u64, self.spec.max_steps as u64, "steps", &metrics);
            if self.reached("train_loss", self.report.train_loss) || self.reached("step", step as f64) {
                break;
            }
        }
        if evaluated < self.report.steps {
            last = self.evaluate(self.report.steps)?;
        }
        self.report.reached = self.spec.until.is_none()
            || self.reached("loss", last)
            || self.reached("step", self.report.steps as f64)
            || (self.report.steps > 0 && self.reached("train_loss", self.report.train_loss));
        let (loss, values) = self.best.take().ok_or_else(|| LmError::Internal("no checkpoint".into()))?;
        self.report.loss = loss;
        self.target.write(self.spec, values)?;
        self.report.seconds = self.started.elapsed().as_secs_f64();
        Ok(self.report)
    }

    fn reached(&self, metric: &str, value: f64) -> bool {
        self.spec.until.as_ref().is_some_and(|c| c.metric == metric && c.met(value))
    }

    fn stop_if_cancelled(&self) -> Result<(), LmError> {
        if self.watch.cancelled() { Err(LmError::Cancelled) } else { Ok(()) }
    }

    /// The loss of the held-back rows, nats a token; keeps the checkpoint where it is the best.
    fn evaluate(&mut self, step: usize) -> Result<f64, LmError> {
        let (mut sum, mut count) = (0.0, 0usize);
        for part in parts(&self.eval.iter().collect::<Vec<_>>(), self.plan.tokens) {
            self.stop_if_cancelled()?;
            let (batch, targets) = pack(part.iter().copied());
            let losses = self.target.net.losses(&batch, &targets)?;
            sum += losses.iter().map(|l| f64::from(*l)).sum::<f64>();
            count += losses.len();
            self.watch.count("forward_passes", part.len() as u64);
        }
        let loss = sum / count as f64;
        if !loss.is_finite() {
            return Err(diverged(step, self.spec));
        }
        self.report.curve.push((step, loss));
        if self.best.as_ref().is_none_or(|(best, _)| loss < *best) {
            let mut values = self.best.take().map(|(_, values)| values).unwrap_or_default();
            self.target.copy_values(&mut values)?;
            self.best = Some((loss, values));
        }
        Ok(loss)
    }

    /// One step of the optimizer.
    fn step(&mut self) -> Result<(), LmError> {
        let step = self.report.steps;
        let first = step as u64 * self.batch as u64;
        let rows: Vec<&Example> =
            (0..self.batch as u64).map(|i| &self.train[self.order.at(first + i)]).collect();
        let tokens: usize = rows.iter().map(|e| e.targets()).sum();
        let (mut loss, mut grads) = (0.0, None);
        for part in parts(&rows, self.plan.tokens) {
            self.stop_if_cancelled()?;
            let (batch, targets) = pack(part.iter().copied());
            let own = self.target.net.loss(&batch, &targets, 1.0 / tokens as f32, self.plan.keep)?;
            loss += f64::from(own.to_scalar::<f32>()?);
            let more = own.backward()?;
            grads = Some(match grads {
                None => more,
                Some(sum) => self.add(sum, &more)?,
            });
        }
        let grads = grads.ok_or_else(|| LmError::Internal("a step without rows".into()))?;
        if !loss.is_finite() {
            return Err(diverged(step, self.spec));
        }
        let s = self.spec;
        self.optimizer.step(&grads, rate(s.learning_rate, step, s.warmup, s.cosine, s.max_steps))?;
        self.report.steps = step + 1;
        self.report.train_loss = loss;
        self.report.tokens += tokens as u64;
        self.watch.count("forward_passes", rows.len() as u64);
        self.watch.count("tokens", tokens as u64);
        if self.report.steps == FLOWING
            && let Some(name) =
                self.optimizer.untouched(|block, slot, var| self.target.name(block, slot, var))
        {
            return Err(LmError::Internal(format!("no gradient reaches the trained tensor {name}")));
        }
        Ok(())
    }

    /// Sums the gradients of two micro-batches.
    fn add(&self, mut sum: GradStore, more: &GradStore) -> Result<GradStore, LmError> {
        for (.., var) in self.target.net.parameters() {
            let total = match (sum.remove(&var), more.get(&var)) {
                (Some(a), Some(b)) => (a + b)?,
                (Some(a), None) => a,
                (None, Some(b)) => b.clone(),
                (None, None) => continue,
            };
            sum.insert(&var, total);
        }
        Ok(sum)
    }
}

fn diverged(step: usize, spec: &TrainSpec) -> LmError {
    LmError::Input(format!(
        "the loss is not a number after step {step}: the training diverged; try a learning rate below {}",
        spec.learning_rate
    ))
}
