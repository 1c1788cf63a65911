//! Which pLLMs are asked for their likelihood of the user's rows: the shortlist of the nearest ones,
//! or what the usual searches would ask.

use std::collections::BTreeSet;

use headstart_explain::catalog::Catalog;
use headstart_protocol::{ArtifactRef, Failure};
use headstart_stats::derived_seed;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::process::Process;
use crate::scorer::Scorer;

/// How candidates for verification are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The nearest in the space; their number does not grow with the catalog.
    Nearest,
    /// All of them.
    Exhaustive,
    /// Bayesian optimisation: a Gaussian process over the pLLMs' vectors predicts losses, and the
    /// pLLM with the lowest confidence bound is asked next (Srinivas et al., Gaussian process
    /// optimization in the bandit setting, 2010).
    Bayesian,
    /// Hyperband: many pLLMs on few rows, fewer on more (Li et al., Hyperband, 2018).
    Hyperband,
}

impl Strategy {
    /// As a pipeline file and a selection spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Exhaustive => "exhaustive",
            Self::Bayesian => "bayesian",
            Self::Hyperband => "hyperband",
        }
    }

    /// The strategy of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self, Failure> {
        match name {
            "nearest" => Ok(Self::Nearest),
            "exhaustive" => Ok(Self::Exhaustive),
            "bayesian" => Ok(Self::Bayesian),
            "hyperband" => Ok(Self::Hyperband),
            _ => Err(Failure::input(format!("there is no strategy `{name}`"))),
        }
    }

    /// Whether it needs to know where the user is in the space; the searches ask for likelihoods alone.
    pub fn looks_in_the_space(self) -> bool {
        self == Self::Nearest
    }
}

/// The share by which Hyperband cuts candidates and grows rows.
const ETA: usize = 3;

/// pLLMs that Bayesian optimisation asks before it predicts.
const FIRST: usize = 3;

/// A candidate can be better than the best so far only if this many standard deviations of luck are
/// granted to it.
const KAPPA: f64 = 2.0;

/// Asks pLLMs as Hyperband does. `pllms` are all of them, by place in the catalog; none is dropped by fewer than
/// `least` rows, as far as there are so many. Returns the places of those that were asked about all rows.
///
/// # Errors
/// As [`Scorer::score`].
pub fn hyperband(
    scorer: &mut Scorer<'_>,
    pllms: &[ArtifactRef],
    least: usize,
    seed: u64,
) -> Result<Vec<usize>, Failure> {
    let (n, rows) = (pllms.len(), scorer.rows());
    let mut rng = ChaCha8Rng::seed_from_u64(derived_seed(seed, "hyperband"));
    let last = rows.ilog(ETA) as usize;
    let mut whole = BTreeSet::new();
    for bracket in (0..=last).rev() {
        let mut alive: Vec<usize> = (0..n).collect();
        alive.shuffle(&mut rng);
        alive.truncate(arms(n, bracket, last));
        for round in 0..=bracket {
            let asked = (rows / ETA.pow((bracket - round) as u32)).max(least.clamp(1, rows));
            let mut losses = Vec::with_capacity(alive.len());
            for &i in &alive {
                losses.push((scorer.loss(&pllms[i], asked)?.0, i));
            }
            losses.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            if asked == rows {
                whole.extend(alive.iter().copied());
            }
            losses.truncate((losses.len() / ETA).max(1));
            alive = losses.into_iter().map(|l| l.1).collect();
        }
    }
    Ok(whole.into_iter().collect())
}

/// Candidates of a bracket: all of them in the one that starts with fewest rows.
fn arms(n: usize, bracket: usize, last: usize) -> usize {
    let share = (last + 1) as f64 / (bracket + 1) as f64 / ETA.pow((last - bracket) as u32) as f64;
    ((n as f64 * share).ceil() as usize).clamp(1, n)
}

/// Asks pLLMs as Bayesian optimisation does, `budget` of them at most, and stops earlier where no
/// other is likely to be better. Returns the places of those that were asked.
///
/// # Errors
/// As [`Scorer::score`].
pub fn bayesian(
    scorer: &mut Scorer<'_>,
    catalog: &Catalog,
    pllms: &[ArtifactRef],
    budget: usize,
    seed: u64,
) -> Result<Vec<usize>, Failure> {
    let points: Vec<Vec<f64>> = (0..pllms.len()).map(|i| catalog.vectors.row(i)).collect();
    let mut order: Vec<usize> = (0..pllms.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(derived_seed(seed, "bayesian")));
    let mut asked: Vec<usize> = Vec::new();
    let mut found: Vec<(f64, f64)> = Vec::new();
    let budget = budget.clamp(1, pllms.len());
    while asked.len() < budget {
        let next = if asked.len() < FIRST.min(budget) {
            order[asked.len()]
        } else {
            match promising(&points, &asked, &found) {
                Some(next) => next,
                None => break,
            }
        };
        found.push(scorer.loss(&pllms[next], scorer.rows())?);
        asked.push(next);
    }
    Ok(asked)
}

/// The candidate with the lowest confidence bound, if that is below the best loss so far.
fn promising(points: &[Vec<f64>], asked: &[usize], found: &[(f64, f64)]) -> Option<usize> {
    let known: Vec<&[f64]> = asked.iter().map(|&i| points[i].as_slice()).collect();
    let process = Process::fit(&known, found)?;
    let best = found.iter().map(|f| f.0).fold(f64::INFINITY, f64::min);
    let bound = |i: usize| {
        let (mean, deviation) = process.predict(&points[i]);
        mean - KAPPA * deviation
    };
    let free = (0..points.len()).filter(|i| !asked.contains(i)).map(|i| (bound(i), i));
    free.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
        .filter(|(bound, _)| *bound < best)
        .map(|x| x.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bracket_has_all_candidates_and_the_last_few() {
        let all: Vec<usize> = (0..=3).rev().map(|s| arms(28, s, 3)).collect();
        assert_eq!(all, [28, 13, 7, 5]);
        assert_eq!(arms(2, 0, 3), 1);
    }

    #[test]
    fn a_process_looks_where_losses_fall() {
        // Losses fall along the line; the next best guess is its far end, not its start.
        let points: Vec<Vec<f64>> = (0..10).map(|i| vec![f64::from(i)]).collect();
        let found = [(5.0, 0.01), (4.0, 0.01), (3.0, 0.01)];
        let next = promising(&points, &[2, 4, 6], &found).expect("something better");
        assert!(next > 6, "{next}");
    }

    #[test]
    fn nothing_is_promising_where_all_is_known() {
        let points = vec![vec![0.0], vec![1.0]];
        assert_eq!(promising(&points, &[0, 1], &[(1.0, 0.1), (2.0, 0.1)]), None);
    }
}
