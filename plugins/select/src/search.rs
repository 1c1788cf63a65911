//! A search by likelihood: which pLLMs are compared, and on how many of the user's rows.

use std::collections::BTreeMap;

use headstart_kit::count_rows;
use headstart_lm::RowScore;
use headstart_protocol::release::VERIFYING_ROWS;
use headstart_protocol::{Context, Digest, Failure};

use crate::decide::{Choice, User};
use crate::merged::Merged;
use crate::nearest::{Distance, Ranked};
use crate::place::Place;
use crate::scorer::Scorer;
use crate::strategy::{Strategy, bayesian, hyperband};
use crate::verify::{Verdict, can_win, gain, judge, lowest, mean_loss, one_can_win};

/// Rows on which the shortlist is compared first; each further time on twice as many. Where numbers over fewer rows
/// may not leave, it is compared on as many as may.
const FIRST_ROWS: usize = 6;

/// Strengths at which the recognized style is tried as a start, each only where the one before was better
/// than more.
const STRENGTHS: [f64; 2] = [0.5, 0.25];

/// A search by likelihood.
pub(crate) struct Search<'a> {
    pub place: &'a Place<'a>,
    /// The user, with the rows that choose.
    pub user: &'a User<'a>,
    pub distance: Distance,
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
#[derive(Clone)]
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

    /// A mix whose likelihood is not asked for.
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
    /// The single pLLM under which the rows are most likely; none where the base is as good.
    pub single: Option<Ranked>,
    /// The start: the mix under which the rows are most likely, if there is one better than the single
    /// pLLM, or else that pLLM; none where it is the base.
    pub start: Option<Finalist>,
    /// Loss of the best mix that was compared.
    pub mix_loss: Option<f64>,
    /// How much lower the start's loss is than the base's, with its 95% interval; none where the base is
    /// not known.
    pub brought: Option<[f64; 3]>,
    /// Share of draws over rows in which the same style has the best start.
    pub confidence: f64,
    /// Whether other rows chose than verified.
    pub held_back: bool,
    pub rows: usize,
    pub asked: Asked,
}

/// Those that are left in a comparison, with their scores.
struct Race {
    finalists: Vec<Finalist>,
    scores: Vec<Vec<RowScore>>,
    base: Option<Vec<RowScore>>,
    verdict: Verdict,
}

impl Race {
    /// Scores of the base, if it is known, and of every single pLLM with its place among the finalists.
    fn singles(&self) -> Vec<(Option<usize>, &[RowScore])> {
        let singles = (0..self.finalists.len()).filter(|&i| !self.finalists[i].is_mix());
        let base = self.base.as_deref().map(|scores| (None, scores));
        base.into_iter().chain(singles.map(|i| (Some(i), self.scores[i].as_slice()))).collect()
    }

    /// For each finalist, whether it may be the best single start; and whether that is decided.
    fn open_starts(&self, seed: u64) -> (Vec<bool>, bool) {
        let singles = self.singles();
        let shares = lowest(&singles.iter().map(|s| s.1).collect::<Vec<_>>(), seed);
        let mut open = vec![false; self.finalists.len()];
        for ((at, _), share) in singles.iter().zip(&shares) {
            if let Some(i) = at {
                open[*i] = can_win(*share);
            }
        }
        (open, one_can_win(&shares))
    }

    /// The single start under which the rows are most likely: a place among the finalists, or the base.
    /// Of equals the base, then the nearest.
    fn best_single(&self) -> Option<usize> {
        let singles = self.singles();
        let losses = singles.iter().map(|(at, scores)| (*at, mean_loss(scores)));
        losses.min_by(|a, b| a.1.total_cmp(&b.1)).and_then(|best| best.0)
    }
}

impl Search<'_> {
    /// Compares the finalists on a few rows, then those that can still win on twice as many, until the
    /// style and the best single start are sure or there are no more rows that did not choose. Where the
    /// best single start is still open then, the rows that chose are asked as well. Searches that are
    /// measured beside the shortlist compare theirs on all rows, as published. The recognized style is
    /// then tried at lower strengths.
    ///
    /// # Errors
    /// If a model cannot be loaded or run, or the stage was asked to stop.
    pub fn run(
        &self,
        mut scorer: Scorer<'_>,
        ctx: &dyn Context,
        choice: &Choice,
        split: bool,
    ) -> Result<Verified, Failure> {
        let mut finalists = self.finalists(&mut scorer, ctx, choice)?;
        if let Some(first) = choice.mix.first() {
            finalists.extend(self.merged(ctx, self.ranked(choice, first.0), &choice.mix, "mix")?);
        }
        let (held_back, all) = (scorer.rows(), scorer.all_rows());
        let first = FIRST_ROWS.max(ctx.least_rows()).min(held_back);
        let mut rows = if self.strategy == Strategy::Nearest { first } else { held_back };
        loop {
            let race = self.race(&mut scorer, finalists, rows, !choice.abstains)?;
            let (open, decided) = race.open_starts(self.seed);
            if rows == all || (decided && (race.verdict.is_sure() || rows >= held_back)) {
                let split = split && rows <= held_back;
                count_rows(ctx, VERIFYING_ROWS, || scorer.different(rows));
                let found = self.conclude(&mut scorer, ctx, race, rows)?;
                return Ok(Verified { held_back: split, asked: Asked::of(&scorer), ..found });
            }
            let left = race.finalists.into_iter().zip(&race.verdict.first).zip(&open);
            let left = left.filter(|((_, share), open)| can_win(**share) || **open);
            finalists = left.map(|((finalist, _), _)| finalist).collect();
            rows = if rows >= held_back { all } else { (2 * rows).min(held_back) };
        }
    }

    /// The start, from all that was compared. The pLLM most like the user's styled rows need not be it: a
    /// user who shows a style now and then starts better from a part of it, or from the base. So the
    /// recognized style is tried at lower strengths, and the start is what makes all rows most likely.
    fn conclude(
        &self,
        scorer: &mut Scorer<'_>,
        ctx: &dyn Context,
        race: Race,
        rows: usize,
    ) -> Result<Verified, Failure> {
        let mut mixes: Vec<(Finalist, Vec<RowScore>)> = Vec::new();
        for (finalist, scores) in race.finalists.iter().zip(&race.scores).filter(|f| f.0.is_mix()) {
            mixes.push((finalist.clone(), scores.clone()));
        }
        if let Some(best) = race.verdict.best
            && self.mixing
            && self.strategy == Strategy::Nearest
        {
            mixes.extend(self.weaker(scorer, ctx, &race.finalists[best], &race.scores[best])?);
        }
        let single = race.best_single();
        let base = race.base.as_deref();
        let single_scores = single.map(|i| race.scores[i].as_slice()).or(base);
        let loss = |m: &(Finalist, Vec<RowScore>)| mean_loss(&m.1);
        let best_mix = mixes.iter().min_by(|a, b| loss(a).total_cmp(&loss(b)));
        let mix_loss = best_mix.map(loss);
        // A mix is the start only of a style that is shown.
        let better = best_mix
            .filter(|m| race.verdict.best.is_some() && single_scores.is_none_or(|s| loss(m) < mean_loss(s)));
        let start = match (better, single) {
            (Some(mix), _) => Some((mix.0.clone(), mix.1.as_slice())),
            (None, Some(i)) => Some((race.finalists[i].clone(), race.scores[i].as_slice())),
            (None, None) => None,
        };
        let brought = match (&start, base) {
            (Some((_, scores)), Some(base)) => Some(gain(base, scores, self.seed)),
            _ => None,
        };
        let led = start.as_ref().map(|s| s.0.lead.index);
        let confidence = self.agreement(&race, &mixes, led);
        Ok(Verified {
            single: single.map(|i| race.finalists[i].lead),
            start: start.map(|s| s.0),
            mix_loss,
            brought,
            confidence,
            held_back: false,
            rows,
            asked: Asked::default(),
            finalists: race.finalists,
            verdict: race.verdict,
        })
    }

    /// Share of draws over rows in which the lowest loss is led by the same pLLM, or is the base's.
    fn agreement(&self, race: &Race, mixes: &[(Finalist, Vec<RowScore>)], led: Option<usize>) -> f64 {
        let singles = race.singles();
        let lead = |at: &Option<usize>| at.map(|i| race.finalists[i].lead.index);
        let leads = singles.iter().map(|(at, _)| lead(at)).chain(mixes.iter().map(|m| Some(m.0.lead.index)));
        let leads: Vec<Option<usize>> = leads.collect();
        let scores: Vec<&[RowScore]> =
            singles.iter().map(|s| s.1).chain(mixes.iter().map(|m| m.1.as_slice())).collect();
        let shares = lowest(&scores, self.seed);
        leads.iter().zip(shares).filter(|(lead, _)| **lead == led).map(|(_, share)| share).sum()
    }

    /// A style at lower strengths, each as long as the one before was better than more.
    fn weaker(
        &self,
        scorer: &mut Scorer<'_>,
        ctx: &dyn Context,
        style: &Finalist,
        scores: &[RowScore],
    ) -> Result<Vec<(Finalist, Vec<RowScore>)>, Failure> {
        let mut loss = mean_loss(scores);
        let mut out = Vec::new();
        for (i, strength) in STRENGTHS.iter().enumerate() {
            let weights: Vec<_> = style.weights.iter().map(|(at, w)| (*at, w * strength)).collect();
            let Some(weaker) = self.merged(ctx, style.lead, &weights, &format!("weaker-{i}"))? else {
                break;
            };
            let found = self.scores(scorer, &weaker, scores.len())?;
            let before = std::mem::replace(&mut loss, mean_loss(&found));
            out.push((weaker, found));
            if loss >= before {
                break;
            }
        }
        Ok(out)
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

    /// A finalist's scores of the first `n` rows.
    fn scores(
        &self,
        scorer: &mut Scorer<'_>,
        finalist: &Finalist,
        n: usize,
    ) -> Result<Vec<RowScore>, Failure> {
        let found = match &finalist.merged {
            Some(mix) => scorer.score_mix(mix, n)?,
            None => scorer.score(self.place.pllm(finalist.lead.index)?, n)?,
        };
        Ok(found.to_vec())
    }

    /// What the likelihood of the first `n` rows says of the finalists.
    fn race(
        &self,
        scorer: &mut Scorer<'_>,
        finalists: Vec<Finalist>,
        n: usize,
        near: bool,
    ) -> Result<Race, Failure> {
        let scores: Vec<Vec<RowScore>> =
            finalists.iter().map(|f| self.scores(scorer, f, n)).collect::<Result<_, _>>()?;
        let base = match self.place.manifest.uses.get("base") {
            Some(base) => Some(scorer.score(base, n)?.to_vec()),
            None => None,
        };
        let each: Vec<_> = scores.iter().map(Vec::as_slice).collect();
        let verdict = judge(&each, base.as_deref(), near, self.seed);
        Ok(Race { finalists, scores, base, verdict })
    }

    /// The pLLMs that are compared.
    fn finalists(
        &self,
        scorer: &mut Scorer<'_>,
        ctx: &dyn Context,
        choice: &Choice,
    ) -> Result<Vec<Finalist>, Failure> {
        let places = match self.strategy {
            Strategy::Nearest => {
                let nearest = choice.close.iter().take(self.shortlist);
                return Ok(nearest.copied().map(Finalist::single).collect());
            }
            Strategy::Exhaustive => (0..self.place.catalog.pllms.len()).collect(),
            Strategy::Hyperband => hyperband(scorer, &self.place.all()?, ctx.least_rows(), self.seed)?,
            Strategy::Bayesian => {
                let all = self.place.all()?;
                let budget = self.budget.unwrap_or(all.len());
                bayesian(scorer, self.place.catalog, &all, budget, self.seed)?
            }
        };
        Ok(places.into_iter().map(|index| Finalist::single(self.ranked(choice, index))).collect())
    }

    /// How far a pLLM is.
    fn ranked(&self, choice: &Choice, index: usize) -> Ranked {
        let known = choice.close.iter().find(|r| r.index == index).copied();
        // A place in the catalog always has a distance.
        let measured = || self.user.ranked(self.distance, index);
        known.or_else(measured).unwrap_or(Ranked { index, distance: f64::MAX, strength: 1.0, gain: 0.0 })
    }
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
