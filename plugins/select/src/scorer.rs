//! Models' likelihood of a user's rows, and what asking for it has cost.

use std::collections::BTreeMap;
use std::time::Instant;

use headstart_kit::{ContextWatch, ModelFolders, different, open_model};
use headstart_lm::{Backend, RowScore};
use headstart_protocol::rows::Row;
use headstart_protocol::{ArtifactRef, Context, Digest, Failure};

use crate::merged::Merged;

/// Rows that are scored at most; further ones would cost more than they tell.
pub const ROWS: usize = 64;

/// Tokens of a row that are scored at most.
const TOKENS: usize = 512;

/// Scores models on a user's rows. A row that a model was asked about is not asked again.
pub struct Scorer<'a> {
    ctx: &'a dyn Context,
    backend: &'a dyn Backend,
    rows: Vec<Row>,
    held_back: usize,
    scores: BTreeMap<Digest, Vec<RowScore>>,
    sizes: BTreeMap<Digest, u64>,
    /// Sequences that were put through a model.
    pub forward_passes: u64,
    /// Tokens of responses among them.
    pub tokens: u64,
    /// Seconds of scoring, without loading models.
    pub seconds: f64,
}

impl<'a> Scorer<'a> {
    /// A scorer over the rows that have responses, [`ROWS`] at most: first those of `held_back`, which
    /// nothing was chosen by, then `others`.
    ///
    /// # Errors
    /// If there are none held back.
    pub fn new(
        ctx: &'a dyn Context,
        backend: &'a dyn Backend,
        held_back: Vec<Row>,
        others: Vec<Row>,
    ) -> Result<Self, Failure> {
        let answered = |rows: Vec<Row>| rows.into_iter().filter(|r| !r.response.trim().is_empty());
        let mut rows: Vec<Row> = answered(held_back).take(ROWS).collect();
        if rows.is_empty() {
            return Err(Failure::input("`verify` has no rows with responses"));
        }
        let held_back = rows.len();
        rows.extend(answered(others).take(ROWS - held_back));
        Ok(Self {
            ctx,
            backend,
            rows,
            held_back,
            scores: BTreeMap::new(),
            sizes: BTreeMap::new(),
            forward_passes: 0,
            tokens: 0,
            seconds: 0.0,
        })
    }

    /// Number of rows that nothing was chosen by.
    pub fn rows(&self) -> usize {
        self.held_back
    }

    /// Number of all rows.
    pub fn all_rows(&self) -> usize {
        self.rows.len()
    }

    /// Different rows among the first `n` of which every model that was asked has scored a token.
    pub fn different(&self, n: usize) -> u64 {
        let scored = |i: usize| self.scores.values().all(|s| s.get(i).is_none_or(|row| row.tokens > 0));
        different(self.rows.iter().take(n).enumerate().filter(|(i, _)| scored(*i)).map(|(_, row)| row))
    }

    /// A model's scores of the first `n` rows.
    ///
    /// # Errors
    /// If the model cannot be loaded or run.
    pub fn score(&mut self, model: &ArtifactRef, n: usize) -> Result<&[RowScore], Failure> {
        let n = n.min(self.rows.len());
        if self.known(&model.id) < n {
            self.sizes.insert(model.id, self.ctx.manifest(model)?.size());
            self.ask(model.id, &open_model(self.ctx, model)?, n)?;
        }
        Ok(&self.scores[&model.id][..n])
    }

    /// A mix's scores of the first `n` rows.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub(crate) fn score_mix(&mut self, mix: &Merged, n: usize) -> Result<&[RowScore], Failure> {
        let n = n.min(self.rows.len());
        if self.known(&mix.id) < n {
            for member in &mix.members {
                self.sizes.insert(member.id, self.ctx.manifest(member)?.size());
            }
            self.ask(mix.id, &mix.folders, n)?;
        }
        Ok(&self.scores[&mix.id][..n])
    }

    /// Rows that a model was asked about.
    fn known(&self, id: &Digest) -> usize {
        self.scores.get(id).map_or(0, Vec::len)
    }

    /// Asks a model about the rows up to `n` that it was not asked about yet.
    fn ask(&mut self, id: Digest, folders: &ModelFolders, n: usize) -> Result<(), Failure> {
        let done = self.known(&id);
        let decoder =
            self.backend.decoder_within(&folders.model, folders.adapter.as_deref(), self.ctx.memory())?;
        let total = self.forward_passes + (n - done) as u64;
        let watch = ContextWatch::part(self.ctx, self.forward_passes, total);
        let start = Instant::now();
        let found = decoder.score(&self.rows[done..n], TOKENS, &watch)?;
        self.seconds += start.elapsed().as_secs_f64();
        if let Some(i) = found.iter().position(|s| !s.nll.is_finite()) {
            let (row, nll) = (done + i + 1, found[i].nll);
            return Err(Failure::input(format!(
                "the likelihood of row {row} of `verify` under {} is {nll}: its weights are broken",
                id.short()
            )));
        }
        self.forward_passes = total;
        self.tokens += found.iter().map(|s| s.tokens as u64).sum::<u64>();
        self.scores.entry(id).or_default().extend(found);
        Ok(())
    }

    /// A model's loss over the first `n` rows, nats a token, and its standard error.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub fn loss(&mut self, model: &ArtifactRef, n: usize) -> Result<(f64, f64), Failure> {
        let scores = self.score(model, n)?;
        let tokens: f64 = scores.iter().map(|s| s.tokens as f64).sum::<f64>().max(1.0);
        let loss = scores.iter().map(|s| s.nll).sum::<f64>() / tokens;
        // Of a ratio of sums, by its residuals.
        let square: f64 = scores.iter().map(|s| (s.nll - loss * s.tokens as f64).powi(2)).sum();
        Ok((loss, square.sqrt() / tokens))
    }

    /// Bytes of each model that was asked.
    pub fn sizes(&self) -> &BTreeMap<Digest, u64> {
        &self.sizes
    }
}
