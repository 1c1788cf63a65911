//! A search by likelihood: which pLLMs are compared, and on how many of the user's rows.

use std::collections::BTreeMap;

use headstart_protocol::{Context, Digest, Failure};

use crate::decide::Choice;
use crate::merged::Merged;
use crate::nearest::Ranked;
use crate::scorer::Scorer;
use crate::stage::Place;
use crate::strategy::{Strategy, bayesian, hyperband};
use crate::verify::{Verdict, can_win, judge};

/// Rows on which the shortlist is compared first; each further time on twice as many.
const FIRST_ROWS: usize = 6;

/// Strengths at which the winner is tried as a start, each only where the one before was better than
/// more.
const STRENGTHS: [f64; 2] = [0.5, 0.25];

/// A search by likelihood.
pub(crate) struct Search<'a> {
    pub place: &'a Place<'a>,
    pub strategy: Strategy,
    /// pLLMs that are compared, where the nearest are.
    pub shortlist: usize,
    /// pLLMs that Bayesian optimisation asks at most; left out, all.
    pub budget: Option<usize>,
    /// Whether anything but a pLLM as it is may be chosen.
    pub mixing: bool,
    pub seed: u64,
}

/// What may be chosen.
pub(crate) struct Finalist {
    /// The pLLM, or the one that leads the mix.
    pub lead: Ranked,
    /// Places in the catalog and weights, largest first.
    pub weights: Vec<(usize, f64)>,
    /// The mix as an adapter.
    merged: Option<Merged>,
}

impl Finalist {
    /// A pLLM as it is.
    pub fn single(lead: Ranked) -> Self {
        Self { lead, weights: vec![(lead.index, 1.0)], merged: None }
    }

    /// A mix that nobody has asked.
    pub fn unasked(lead: Ranked, weights: &[(usize, f64)]) -> Self {
        Self { lead, weights: weights.to_vec(), merged: None }
    }

    /// Whether it is anything but one pLLM as it is.
    pub fn is_mix(&self) -> bool {
        self.weights != [(self.lead.index, 1.0)]
    }
}

/// What likelihood has said.
pub(crate) struct Verified {
    /// Those that were compared on all `rows`.
    pub finalists: Vec<Finalist>,
    pub verdict: Verdict,
    /// The winner at a lower strength, where that is the better start, and its loss.
    pub start: Option<(Finalist, f64)>,
    /// Whether the mix was compared as well, be it left or not.
    pub judged_mix: bool,
    /// Whether other rows chose than verified.
    pub split: bool,
    pub rows: usize,
    pub asked: Asked,
}

impl Search<'_> {
    /// Compares the finalists on a few rows, then those that can still win on twice as many, until
    /// the outcome is sure or there are no more rows. Searches that are measured beside the shortlist
    /// compare theirs on all rows, as published. The winner is then tried at lower strengths.
    pub fn run(
        &self,
        mut scorer: Scorer<'_>,
        ctx: &dyn Context,
        choice: &Choice,
        split: bool,
    ) -> Result<Verified, Failure> {
        let mut finalists = self.finalists(&mut scorer, choice)?;
        let mix = match choice.mix.first() {
            Some(first) => self.merged(ctx, ranked(choice, first.0), &choice.mix, "mix")?,
            None => None,
        };
        let judged_mix = mix.is_some();
        finalists.extend(mix);
        let all = scorer.rows();
        let mut rows = if self.strategy == Strategy::Nearest { FIRST_ROWS.min(all) } else { all };
        loop {
            let verdict = self.compare(&mut scorer, &finalists, rows, !choice.abstains)?;
            if rows == all || verdict.is_sure() {
                let asked = Asked::default();
                let mut v = Verified { finalists, verdict, start: None, judged_mix, split, rows, asked };
                if self.mixing && self.strategy == Strategy::Nearest {
                    self.weaken(&mut scorer, ctx, &mut v)?;
                }
                return Ok(Verified { asked: Asked::of(&scorer), ..v });
            }
            let left = finalists.into_iter().zip(&verdict.first).filter(|(_, share)| can_win(**share));
            finalists = left.map(|(finalist, _)| finalist).collect();
            rows = (2 * rows).min(all);
        }
    }

    /// What is most like the user's styled rows need not be the best start: a user who shows a style
    /// now and then starts better from a part of it. So the winner is tried at lower strengths, by the
    /// loss of all rows; where even the least is surely worse than the base, the base is the start.
    fn weaken(&self, scorer: &mut Scorer<'_>, ctx: &dyn Context, v: &mut Verified) -> Result<(), Failure> {
        let Some(best) = v.verdict.best else { return Ok(()) };
        let mut loss = v.verdict.losses[best];
        for (i, strength) in STRENGTHS.iter().enumerate() {
            let winner = &v.finalists[best];
            let weights: Vec<_> = winner.weights.iter().map(|(at, w)| (*at, w * strength)).collect();
            let Some(weaker) = self.merged(ctx, winner.lead, &weights, &format!("weaker-{i}"))? else {
                break;
            };
            let found = self.compare(scorer, std::slice::from_ref(&weaker), v.rows, v.verdict.near)?;
            if found.losses[0] >= loss {
                break;
            }
            loss = found.losses[0];
            v.start = Some((weaker, loss));
            (v.verdict.brought, v.verdict.helps) = (found.brought, found.helps);
        }
        if v.verdict.is_surely_worse() {
            (v.verdict.best, v.verdict.confidence) = (None, 1.0 - v.verdict.helps);
        }
        Ok(())
    }

    /// A mix as a finalist, if it can be merged.
    fn merged(
        &self,
        ctx: &dyn Context,
        lead: Ranked,
        weights: &[(usize, f64)],
        folder: &str,
    ) -> Result<Option<Finalist>, Failure> {
        let merged = Merged::of(self.place, weights, &ctx.scratch().join(folder), ctx)?;
        Ok(merged.map(|merged| Finalist { lead, weights: weights.to_vec(), merged: Some(merged) }))
    }

    /// What the likelihood of the first `n` rows says of the finalists.
    fn compare(
        &self,
        scorer: &mut Scorer<'_>,
        finalists: &[Finalist],
        n: usize,
        near: bool,
    ) -> Result<Verdict, Failure> {
        let mut scores = Vec::with_capacity(finalists.len());
        for finalist in finalists {
            let found = match &finalist.merged {
                Some(mix) => scorer.score_mix(mix, n)?,
                None => scorer.score(self.place.pllm(finalist.lead.index)?, n)?,
            };
            scores.push(found.to_vec());
        }
        let base = match self.place.manifest.uses.get("base") {
            Some(base) => Some(scorer.score(base, n)?.to_vec()),
            None => None,
        };
        let scores: Vec<_> = scores.iter().map(Vec::as_slice).collect();
        Ok(judge(&scores, base.as_deref(), near, self.seed))
    }

    /// The pLLMs that are compared.
    fn finalists(&self, scorer: &mut Scorer<'_>, choice: &Choice) -> Result<Vec<Finalist>, Failure> {
        let places = match self.strategy {
            Strategy::Nearest => {
                let nearest = choice.close.iter().take(self.shortlist);
                return Ok(nearest.copied().map(Finalist::single).collect());
            }
            Strategy::Exhaustive => (0..self.place.catalog.pllms.len()).collect(),
            Strategy::Hyperband => hyperband(scorer, &self.place.all()?, self.seed)?,
            Strategy::Bayesian => {
                let all = self.place.all()?;
                let budget = self.budget.unwrap_or(all.len());
                bayesian(scorer, self.place.catalog, &all, budget, self.seed)?
            }
        };
        Ok(places.into_iter().map(|index| Finalist::single(ranked(choice, index))).collect())
    }
}

/// What is known of a pLLM's distance; those that are far away are not measured again.
fn ranked(choice: &Choice, index: usize) -> Ranked {
    let known = choice.close.iter().find(|r| r.index == index).copied();
    known.unwrap_or(Ranked { index, distance: f64::NAN, strength: 1.0, gain: 0.0 })
}

/// What asking for likelihoods has cost.
#[derive(Default)]
pub(crate) struct Asked {
    pub forward_passes: u64,
    /// Tokens a second through a model forward.
    pub speed: Option<f64>,
    /// Models that were asked, with their bytes.
    pub sizes: BTreeMap<Digest, u64>,
}

impl Asked {
    fn of(scorer: &Scorer<'_>) -> Self {
        Self {
            forward_passes: scorer.forward_passes,
            speed: (scorer.seconds > 0.0).then(|| scorer.tokens as f64 / scorer.seconds),
            sizes: scorer.sizes().clone(),
        }
    }
}
