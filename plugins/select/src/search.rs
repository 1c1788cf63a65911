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

/// A search by likelihood.
pub(crate) struct Search<'a> {
    pub place: &'a Place<'a>,
    pub strategy: Strategy,
    /// pLLMs that are compared, where the nearest are.
    pub shortlist: usize,
    /// pLLMs that Bayesian optimisation asks at most; left out, all.
    pub budget: Option<usize>,
    pub seed: u64,
}

/// What may be chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finalist {
    /// A pLLM.
    Single(Ranked),
    /// The mix that distance found, with the pLLM of the largest weight.
    Mix(Ranked),
}

impl Finalist {
    /// The pLLM, or the one that leads the mix.
    pub fn ranked(self) -> Ranked {
        match self {
            Self::Single(ranked) | Self::Mix(ranked) => ranked,
        }
    }
}

/// What likelihood has said.
pub(crate) struct Verified {
    /// Those that were compared on all `rows`.
    pub finalists: Vec<Finalist>,
    pub verdict: Verdict,
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
    /// compare theirs on all rows, as published.
    pub fn run(
        &self,
        mut scorer: Scorer<'_>,
        ctx: &dyn Context,
        choice: &Choice,
        split: bool,
    ) -> Result<Verified, Failure> {
        let mut finalists = self.finalists(&mut scorer, choice)?;
        let merged = Merged::of(self.place, choice, ctx)?;
        if merged.is_some() {
            finalists.push(Finalist::Mix(ranked(choice, choice.mix[0].0)));
        }
        let all = scorer.rows();
        let mut rows = if self.strategy == Strategy::Nearest { FIRST_ROWS.min(all) } else { all };
        loop {
            let verdict = self.compare(&mut scorer, &finalists, merged.as_ref(), rows, !choice.abstains)?;
            if rows == all || verdict.is_sure() {
                let (judged_mix, asked) = (merged.is_some(), Asked::of(&scorer));
                return Ok(Verified { finalists, verdict, judged_mix, split, rows, asked });
            }
            let left = finalists.into_iter().zip(&verdict.first).filter(|(_, share)| can_win(**share));
            finalists = left.map(|(finalist, _)| finalist).collect();
            rows = (2 * rows).min(all);
        }
    }

    /// What the likelihood of the first `n` rows says of the finalists.
    fn compare(
        &self,
        scorer: &mut Scorer<'_>,
        finalists: &[Finalist],
        merged: Option<&Merged>,
        n: usize,
        near: bool,
    ) -> Result<Verdict, Failure> {
        let mut scores = Vec::with_capacity(finalists.len());
        for finalist in finalists {
            let found = match (finalist, merged) {
                (Finalist::Mix(_), Some(mix)) => scorer.score_mix(mix, n)?,
                _ => scorer.score(self.place.pllm(finalist.ranked().index)?, n)?,
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
                return Ok(nearest.copied().map(Finalist::Single).collect());
            }
            Strategy::Exhaustive => (0..self.place.catalog.pllms.len()).collect(),
            Strategy::Hyperband => hyperband(scorer, &self.place.all()?, self.seed)?,
            Strategy::Bayesian => {
                let all = self.place.all()?;
                let budget = self.budget.unwrap_or(all.len());
                bayesian(scorer, self.place.catalog, &all, budget, self.seed)?
            }
        };
        Ok(places.into_iter().map(|index| Finalist::Single(ranked(choice, index))).collect())
    }
}

/// What is known of a pLLM's distance; those that are far away are not measured again.
fn ranked(choice: &Choice, index: usize) -> Ranked {
    let known = choice.close.iter().find(|r| r.index == index).copied();
    known.unwrap_or(Ranked { index, distance: f64::NAN, strength: 1.0, gain: 0.0 })
}

/// What asking for likelihoods has cost.
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
