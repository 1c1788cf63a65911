//! What the finalists' likelihood of the user's rows says: which is best, whether it helps, and how
//! sure that is.
//!
//! A user may write in a style only now and then. So a finalist is judged as a mixture: each row is
//! either in its style or plain, with a share π of styled ones that is fitted (by EM), and its evidence
//! is how much more likely the rows are so than with the base alone, Σ log(π p(row) / p₀(row) + 1 − π).
//! It is to likelihood what the fitted strength is to distance. Ranking by the plain loss instead would
//! find whatever disturbs the unstyled rows least.
//!
//! Where to start a training is another question, and the plain loss answers it: a start is never one
//! under which the rows are less likely than under another that was compared.

use headstart_lm::RowScore;
use headstart_stats::{DRAWS, bootstrap, interval_of};

/// A pLLM helps if its loss is lower than the base's in at least this share of draws over rows.
const LEAST_SURE: f64 = 0.9;

/// Share of draws in which an outcome may be another one and yet be called sure.
const DOUBT: f64 = 0.01;

/// Steps of EM; the share of one mixture settles in a few.
const EM_STEPS: usize = 50;

/// What likelihood says of some finalists.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Place of the best among the finalists; none where none helps.
    pub best: Option<usize>,
    /// Share of the draws in which each finalist is the best.
    pub first: Vec<f64>,
    /// Share of the draws in which the best is better than the base; 1 where the base is not known.
    pub helps: f64,
    /// Whether the user is nearer to some pLLM than chance would have it.
    pub near: bool,
    /// Loss of each finalist, nats a token.
    pub losses: Vec<f64>,
    /// Fitted share of rows in each finalist's style; empty where the base is not known.
    pub shares: Vec<f64>,
    /// Loss of the base, where it is known.
    pub base_loss: Option<f64>,
}

impl Verdict {
    /// Whether the best is worse than the base in all but one of a hundred draws.
    fn is_surely_worse(&self) -> bool {
        self.helps <= DOUBT
    }

    /// Whether further rows would hardly change the outcome.
    pub fn is_sure(&self) -> bool {
        let helps = self.helps >= 1.0 - DOUBT || (self.near && self.best.is_some());
        one_can_win(&self.first) && (helps || (!self.near && self.is_surely_worse()))
    }
}

/// Whether a single candidate is left that may be the best of all.
pub fn one_can_win(shares: &[f64]) -> bool {
    shares.iter().filter(|share| can_win(**share)).count() == 1
}

/// Whether a finalist that is the best in this share of draws may be the best of all.
pub fn can_win(share: f64) -> bool {
    share >= DOUBT
}

/// Compares finalists over the same rows, and the best with the base: a paired bootstrap, in which every
/// draw of rows is the same for all models. The best is chosen if its loss is surely lower than the
/// base's, or if the user is `near`: nearer to some pLLM than chance would have it.
pub fn judge(finalists: &[&[RowScore]], base: Option<&[RowScore]>, near: bool, seed: u64) -> Verdict {
    let n = finalists.first().map_or(0, |s| s.len());
    let once = vec![1; n];
    let losses: Vec<f64> = finalists.iter().map(|rows| loss(rows, &once)).collect();
    let base_loss = base.map(|rows| loss(rows, &once));
    let (shares, evidence): (Vec<f64>, Vec<Vec<f64>>) = match base {
        Some(base) => finalists.iter().map(|rows| mixture(rows, base)).unzip(),
        // Without a base there is no plain way to write; the likelihood itself is the evidence.
        None => (Vec::new(), finalists.iter().map(|rows| rows.iter().map(|r| -r.nll).collect()).collect()),
    };
    let first = |times: &[u32]| {
        let sum = |e: &[f64]| e.iter().zip(times).map(|(x, &t)| f64::from(t) * x).sum::<f64>();
        let all: Vec<f64> = evidence.iter().map(|e| sum(e)).collect();
        (0..all.len()).max_by(|&a, &b| all[a].total_cmp(&all[b]).then(b.cmp(&a)))
    };
    let Some(best) = first(&once) else {
        return Verdict { best: None, first: Vec::new(), helps: 0.0, near, losses, shares, base_loss };
    };
    let (mut helps, mut firsts) = (0usize, vec![0usize; finalists.len()]);
    let draws = bootstrap(n, DRAWS, seed);
    for times in &draws {
        let gain = base.map(|rows| loss(rows, times) - loss(finalists[best], times));
        helps += usize::from(gain.is_none_or(|g| g > 0.0));
        first(times).into_iter().for_each(|i| firsts[i] += 1);
    }
    let share = |count: usize| count as f64 / draws.len() as f64;
    let chosen = share(helps) >= LEAST_SURE || (near && shares.get(best).is_some_and(|s| *s > 0.0));
    Verdict {
        best: chosen.then_some(best),
        first: firsts.into_iter().map(share).collect(),
        helps: share(helps),
        near,
        losses,
        shares,
        base_loss,
    }
}

/// How much less likely the rows are under `base` than under `other`, nats a token, with the 95% interval
/// over paired draws of rows: low, middle, high.
pub fn gain(base: &[RowScore], other: &[RowScore], seed: u64) -> [f64; 3] {
    let of = |times: &[u32]| loss(base, times) - loss(other, times);
    let middle = of(&vec![1; base.len()]);
    let draws = bootstrap(base.len(), DRAWS, seed);
    let (low, high) = interval_of(&mut draws.iter().map(|t| of(t)).collect::<Vec<_>>());
    [low.min(middle), middle, high.max(middle)]
}

/// For each candidate, the share of draws over rows in which its loss is the lowest; of equals, the first.
pub fn lowest(candidates: &[&[RowScore]], seed: u64) -> Vec<f64> {
    let n = candidates.first().map_or(0, |c| c.len());
    let draws = bootstrap(n, DRAWS, seed);
    let mut counts = vec![0usize; candidates.len()];
    for times in &draws {
        let losses = candidates.iter().map(|c| loss(c, times)).enumerate();
        if let Some((best, _)) = losses.min_by(|a, b| a.1.total_cmp(&b.1)) {
            counts[best] += 1;
        }
    }
    counts.into_iter().map(|n| n as f64 / draws.len().max(1) as f64).collect()
}

/// Nats a token over all rows.
pub fn mean_loss(rows: &[RowScore]) -> f64 {
    loss(rows, &vec![1; rows.len()])
}

/// Nats a token over rows, each counted as often as `times` says.
fn loss(rows: &[RowScore], times: &[u32]) -> f64 {
    let sum =
        |f: &dyn Fn(&RowScore) -> f64| rows.iter().zip(times).map(|(r, &t)| f64::from(t) * f(r)).sum::<f64>();
    sum(&|r| r.nll) / sum(&|r| r.tokens as f64).max(1.0)
}

/// The fitted share of rows in a finalist's style, and each row's evidence for the mixture against the
/// base alone.
fn mixture(rows: &[RowScore], base: &[RowScore]) -> (f64, Vec<f64>) {
    let ratios: Vec<f64> = rows.iter().zip(base).map(|(r, b)| b.nll - r.nll).collect();
    let mut share = 0.5f64;
    for _ in 0..EM_STEPS {
        let styled = |d: &f64| share / (share + (1.0 - share) * (-d).exp());
        share = ratios.iter().map(styled).sum::<f64>() / ratios.len().max(1) as f64;
    }
    // log(π eᵈ + 1 − π), so that neither end overflows.
    let evidence = |d: &f64| {
        let top = d.max(0.0);
        top + (share * (d - top).exp() + (1.0 - share) * (-top).exp()).ln()
    };
    let all = ratios.iter().map(evidence).collect();
    (share, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(nll: impl Fn(usize) -> f64) -> Vec<RowScore> {
        (0..20).map(|i| RowScore { nll: nll(i), tokens: 10, bytes: 40 }).collect()
    }

    #[test]
    fn the_most_likely_wins_and_a_close_race_is_unsure() {
        let (a, b, base) =
            (scores(|i| 20.0 + i as f64), scores(|i| 15.0 + i as f64), scores(|i| 25.0 + i as f64));
        let verdict = judge(&[&a, &b], Some(&base), false, 1);
        assert_eq!((verdict.best, verdict.first[1]), (Some(1), 1.0));
        assert!((verdict.losses[1] - 2.45).abs() < 1e-9 && verdict.base_loss == Some(3.45));
        let [low, gain, high] = gain(&base, &b, 1);
        assert!((gain - 1.0).abs() < 1e-9 && (high - low) < 1e-9, "the same in every row");
        let (a, b) = (scores(|i| 20.0 + (i % 2) as f64 * 2.0), scores(|_| 20.9));
        let verdict = judge(&[&a, &b], None, false, 1);
        assert!(verdict.best == Some(1) && (0.4..0.95).contains(&verdict.first[1]), "{verdict:?}");
    }

    #[test]
    fn more_rows_are_asked_for_while_the_outcome_is_open() {
        let (good, base) = (scores(|i| 15.0 + i as f64), scores(|i| 25.0 + i as f64));
        let rival = scores(|i| 15.0 + i as f64 + if i % 3 == 0 { -4.0 } else { 1.5 });
        let first = |rows: &[RowScore], n: usize| rows[..n].to_vec();
        let verdict = |n, near| judge(&[&first(&good, n), &first(&base, n)], Some(&first(&base, n)), near, 1);
        assert!(verdict(6, false).is_sure() && verdict(6, true).is_sure(), "better in every row");
        let close = judge(&[&good, &rival], Some(&base), true, 1);
        assert!(!close.is_sure() && close.first.iter().all(|s| can_win(*s)), "{close:?}");
        // Whether a lone finalist helps can be open as well; near users are given it anyway.
        let lucky = scores(|i| 25.0 + i as f64 + if i % 2 == 0 { -3.0 } else { 2.0 });
        assert!(!judge(&[&lucky], Some(&base), false, 1).is_sure());
        assert!(judge(&[&lucky], Some(&base), true, 1).is_sure());
        assert!(judge(&[&scores(|i| 27.0 + i as f64)], Some(&base), false, 1).is_sure(), "surely worse");
    }

    #[test]
    fn where_the_base_is_as_likely_nothing_is_chosen() {
        let (a, b) = (scores(|_| 20.0), scores(|_| 22.0));
        assert_eq!(judge(&[&a, &b], Some(&a), false, 1).best, None);
        assert_eq!(judge(&[&a, &b], None, false, 1).best, Some(0), "without a base, the better one");
        // Better on average, but by two rows in twenty.
        let lucky = scores(|i| if i < 2 { 10.0 } else { 20.5 });
        let verdict = judge(&[&lucky], Some(&a), false, 1);
        assert!(verdict.best.is_none() && verdict.helps > 0.5, "{verdict:?}");
        let worse = judge(&[&b], Some(&a), true, 1);
        assert!(worse.shares[0] < 0.2, "rows all of which the base says better: {worse:?}");
    }

    #[test]
    fn the_lowest_loss_wins_a_race_of_starts() {
        let (a, b) = (scores(|i| 20.0 + i as f64), scores(|i| 15.0 + i as f64));
        assert_eq!(lowest(&[&a, &b], 1), [0.0, 1.0]);
        assert_eq!(lowest(&[&a, &a], 1), [1.0, 0.0], "the first of equals");
        let close = lowest(&[&b, &scores(|i| 15.0 + i as f64 + if i % 2 == 0 { 2.0 } else { -2.0 })], 1);
        assert!(!one_can_win(&close) && (close[0] + close[1] - 1.0).abs() < 1e-9, "{close:?}");
    }

    #[test]
    fn a_style_shown_now_and_then_is_told_from_one_that_disturbs_least() {
        // A third of the rows are styled. The right pLLM is far better on those and worse on the rest;
        // another is a little worse everywhere, and has the lower loss.
        let base = scores(|_| 40.0);
        let right = scores(|i| if i % 3 == 0 { 30.0 } else { 50.0 });
        let bland = scores(|_| 41.0);
        let verdict = judge(&[&bland, &right], Some(&base), true, 1);
        assert!(verdict.losses[0] < verdict.losses[1]);
        assert_eq!(verdict.best, Some(1), "{verdict:?}");
        assert!((verdict.shares[1] - 7.0 / 20.0).abs() < 0.05, "{verdict:?}");
        assert_eq!(judge(&[&bland, &right], Some(&base), false, 1).best, None, "far away, it does not help");
    }
}
