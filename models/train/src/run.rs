//! A training under way: steps, evaluations, and when it ends.

use std::collections::HashSet;
use std::time::Instant;

use headstart_kernels::{mix, simd};
use headstart_lm::{Batch, Example, LmError, Watch, pack, parts};

use crate::checkpoint::{Checkpointer, Progress, View};
use crate::gradients::{Dropout, Pass};
use crate::memory::Plan;
use crate::optimizer::{AdamW, rate};
use crate::order::Order;
use crate::spec::{TrainReport, TrainSpec};
use crate::target::Target;

/// A training. What its next step depends on is in `done`, the target's values, the optimizer's
/// moments and `best`; that is what a checkpoint holds. The order of rows and dropout follow from
/// seed and step.
pub struct Run<'a> {
    spec: &'a TrainSpec,
    plan: Plan,
    target: Target,
    optimizer: AdamW,
    checkpointer: Option<Checkpointer>,
    train: &'a [Example],
    eval: &'a [Example],
    watch: &'a dyn Watch,
    batch: usize,
    order: Order,
    started: Instant,
    /// Steps, losses and tokens so far; its vectors are empty but for the curve.
    done: Progress,
    best: Vec<Vec<f32>>,
}

impl<'a> Run<'a> {
    /// At its beginning, or where its last checkpoint was written.
    ///
    /// # Errors
    /// [`LmError::Internal`] where the checkpoint's values are not of the target's sizes.
    pub fn new(
        spec: &'a TrainSpec,
        plan: Plan,
        mut target: Target,
        mut optimizer: AdamW,
        checkpointer: Option<Checkpointer>,
        (train, eval): (&'a [Example], &'a [Example]),
        watch: &'a dyn Watch,
    ) -> Result<Self, LmError> {
        let mut done = checkpointer.as_ref().and_then(Checkpointer::load).unwrap_or_default();
        if !done.curve.is_empty() {
            target.params.set(std::mem::take(&mut done.values))?;
            optimizer.restore(std::mem::take(&mut done.moments), done.steps)?;
            watch.count("resumed_steps", done.steps as u64);
        }
        let best = std::mem::take(&mut done.best);
        let (batch, order) = (spec.batch.clamp(1, train.len()), Order::new(train.len(), spec.seed));
        let started = Instant::now();
        Ok(Self {
            spec,
            plan,
            target,
            optimizer,
            checkpointer,
            train,
            eval,
            watch,
            batch,
            order,
            started,
            done,
            best,
        })
    }

    /// Trains to the end and writes the result. Cancelled, it writes a checkpoint.
    ///
    /// # Errors
    /// Those of [`crate::TrainingBackend::train`].
    pub fn go(mut self) -> Result<TrainReport, LmError> {
        match self.advance() {
            Err(LmError::Cancelled) => {
                // Nothing is kept of a training that has not come to its first step.
                if self.done.steps > 0 {
                    self.checkpoint()?;
                }
                Err(LmError::Cancelled)
            }
            Err(e) => Err(e),
            Ok(()) => self.finish(),
        }
    }

    fn advance(&mut self) -> Result<(), LmError> {
        loop {
            let step = self.done.steps;
            let over = step >= self.spec.max_steps
                || step > 0
                    && (self.reached("train_loss", self.done.train_loss)
                        || self.reached("step", step as f64));
            let evaluated = self.done.curve.last().is_some_and(|(at, _)| *at == step);
            if !evaluated && (over || step.is_multiple_of(self.spec.eval_every.max(1))) {
                self.evaluate()?;
            }
            if step > 0 {
                let metrics = [("loss", self.loss()), ("train_loss", self.done.train_loss)];
                self.watch.progress(step as u64, self.spec.max_steps as u64, "steps", &metrics);
            }
            if over || self.reached("loss", self.loss()) || self.out_of_patience() {
                return Ok(());
            }
            if step > 0 && self.checkpointer.as_ref().is_some_and(Checkpointer::due) {
                self.checkpoint()?;
            }
            self.step()?;
            self.watch.count("steps", 1);
        }
    }

    fn finish(mut self) -> Result<TrainReport, LmError> {
        let reached = self.spec.until.is_none()
            || self.reached("loss", self.loss())
            || self.reached("step", self.done.steps as f64)
            || (self.done.steps > 0 && self.reached("train_loss", self.done.train_loss));
        let rows = self.trained();
        let report = TrainReport {
            steps: self.done.steps,
            start_loss: self.done.curve.first().map_or(f64::NAN, |(_, loss)| *loss),
            loss: self.best_loss(),
            train_loss: self.done.train_loss,
            tokens: self.done.tokens,
            seconds: self.done.seconds + self.started.elapsed().as_secs_f64(),
            reached,
            curve: self.done.curve,
            trainable: self.target.params.count(),
            rows,
            eval_rows: different(self.eval),
        };
        self.target.write(self.spec, self.best)?;
        Ok(report)
    }

    /// Different rows that came in its steps.
    fn trained(&mut self) -> usize {
        let came = (self.done.steps as u64).saturating_mul(self.batch as u64);
        // The first epoch takes each row once.
        let first = came.min(self.train.len() as u64);
        let rows: Vec<&Example> = (0..first).map(|i| &self.train[self.order.at(i)]).collect();
        different(rows)
    }

    /// The last held-back loss.
    fn loss(&self) -> f64 {
        self.done.curve.last().map_or(f64::NAN, |(_, loss)| *loss)
    }

    /// The least held-back loss.
    fn best_loss(&self) -> f64 {
        self.done.curve.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min)
    }

    fn reached(&self, metric: &str, value: f64) -> bool {
        self.spec.until.as_ref().is_some_and(|c| c.metric == metric && c.met(value))
    }

    /// Whether the last evaluations brought no new best.
    fn out_of_patience(&self) -> bool {
        let (curve, best) = (&self.done.curve, self.best_loss());
        let since = curve.iter().position(|(_, loss)| *loss == best).map_or(0, |at| curve.len() - 1 - at);
        self.spec.patience.is_some_and(|patience| since >= patience.max(1))
    }

    fn stop_if_cancelled(&self) -> Result<(), LmError> {
        if self.watch.cancelled() { Err(LmError::Cancelled) } else { Ok(()) }
    }

    fn checkpoint(&mut self) -> Result<(), LmError> {
        let Some(checkpointer) = &mut self.checkpointer else { return Ok(()) };
        let seconds = self.done.seconds + self.started.elapsed().as_secs_f64();
        let numbers = Progress { seconds, ..self.done.clone() };
        let moments = self.optimizer.moments();
        checkpointer.save(&View { numbers, values: &self.target.params.values, moments, best: &self.best });
        Ok(())
    }

    /// The loss of the held-back rows, nats a token; keeps the values where it is the least so far.
    fn evaluate(&mut self) -> Result<(), LmError> {
        let (mut sum, mut count) = (0.0, 0usize);
        for part in parts(&self.eval.iter().collect::<Vec<_>>(), self.plan.tokens) {
            self.stop_if_cancelled()?;
            let (batch, targets) = pack(part.iter().copied());
            let losses = self.target.backend.losses(&self.target.params.values, &batch, &targets)?;
            sum += losses.iter().map(|l| f64::from(*l)).sum::<f64>();
            count += losses.len();
            self.watch.count("forward_passes", part.len() as u64);
        }
        let loss = sum / count as f64;
        if !loss.is_finite() {
            return Err(self.diverged());
        }
        if loss < self.best_loss() {
            self.best.clone_from(&self.target.params.values);
        }
        self.done.curve.push((self.done.steps, loss));
        Ok(())
    }

    /// One step of the optimizer.
    fn step(&mut self) -> Result<(), LmError> {
        let step = self.done.steps;
        let first = step as u64 * self.batch as u64;
        let rows: Vec<&Example> =
            (0..self.batch as u64).map(|i| &self.train[self.order.at(first + i)]).collect();
        let tokens: usize = rows.iter().map(|e| e.targets()).sum();
        let (mut loss, mut grads, mut at) = (0.0, None::<Vec<Vec<f32>>>, first);
        for part in parts(&rows, self.plan.tokens) {
            self.stop_if_cancelled()?;
            let (batch, targets) = pack(part.iter().copied());
            let dropout = self.dropout(&batch, at);
            at += part.len() as u64;
            let pass = Pass { scale: 1.0 / tokens as f32, keep: self.plan.keep, dropout: dropout.as_ref() };
            let values = &self.target.params.values;
            let (own, more) = self.target.backend.gradients(values, &batch, &targets, &pass)?;
            loss += f64::from(own);
            match &mut grads {
                None => grads = Some(more),
                Some(sums) => sums.iter_mut().zip(&more).for_each(|(sum, more)| simd::par_add(sum, more)),
            }
        }
        let grads = grads.ok_or_else(|| LmError::Internal("a step without rows".into()))?;
        if !f64::is_finite(loss) {
            return Err(self.diverged());
        }
        let s = self.spec;
        let rate = rate(s.learning_rate, step, s.warmup, s.cosine, s.max_steps);
        self.optimizer.step(&mut self.target.params.values, &grads, rate)?;
        self.done.steps = step + 1;
        self.done.train_loss = loss;
        self.done.tokens += tokens as u64;
        self.watch.count("forward_passes", rows.len() as u64);
        self.watch.count("tokens", tokens as u64);
        Ok(())
    }

    /// The dropout of a micro-batch whose first row has this place in the order of all epochs.
    fn dropout(&self, batch: &Batch, at: u64) -> Option<Dropout> {
        if self.spec.dropout == 0.0 {
            return None;
        }
        let rows = batch.sequences.iter().enumerate();
        let keys = rows.flat_map(|(i, tokens)| {
            let row = mix(mix(self.spec.seed) ^ (at + i as u64));
            (0..tokens.len() as u64).map(move |t| mix(row.wrapping_add(t)))
        });
        Some(Dropout { share: self.spec.dropout as f32, tokens: keys.collect() })
    }

    fn diverged(&self) -> LmError {
        LmError::Input(format!(
            "the loss is not a number after step {}: the training diverged; try a learning rate below {}",
            self.done.steps, self.spec.learning_rate
        ))
    }
}

/// How many of some rows are different, as far as the model sees.
fn different<'e>(rows: impl IntoIterator<Item = &'e Example>) -> usize {
    let rows =
        rows.into_iter().map(|e| (&e.ids, e.answers.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>()));
    rows.collect::<HashSet<_>>().len()
}
