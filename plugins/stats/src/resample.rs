//! Seeded resampling, and the intervals that rest on it.

use headstart_protocol::Digest;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::summary::quantile;

/// Resamples: each gives the places of the rows that were drawn.
pub struct Draws {
    rng: ChaCha8Rng,
    from: usize,
    each: usize,
    left: usize,
}

impl Iterator for Draws {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        self.left = self.left.checked_sub(1)?;
        Some((0..self.each).map(|_| self.rng.random_range(0..self.from)).collect())
    }
}

/// `draws` resamples of `each` rows, drawn with replacement out of `from`. The same seed gives the same
/// draws. Nothing can be drawn out of no row: then there are no draws.
pub fn resample(from: usize, each: usize, draws: usize, seed: u64) -> Draws {
    let left = if from == 0 { 0 } else { draws };
    Draws { rng: ChaCha8Rng::seed_from_u64(seed), from, each, left }
}

/// For each of `draws` resamples of `n` rows, how often each row was drawn.
pub fn bootstrap(n: usize, draws: usize, seed: u64) -> Vec<Vec<u32>> {
    let count = |drawn: Vec<usize>| {
        let mut times = vec![0u32; n];
        drawn.into_iter().for_each(|i| times[i] += 1);
        times
    };
    resample(n, n, draws, seed).map(count).collect()
}

/// The 95% interval of a statistic's bootstrap values: their 2.5% and 97.5% quantiles (Efron, 1979).
/// Sorts the values; NaN where there are none.
pub fn interval_of(values: &mut [f64]) -> (f64, f64) {
    (quantile(values, 0.025), quantile(values, 0.975))
}

/// The 95% bootstrap interval of a statistic over `all`. NaN where there are none.
pub fn bootstrap_interval(
    all: &[f64],
    statistic: &dyn Fn(&[f64]) -> f64,
    draws: usize,
    seed: u64,
) -> (f64, f64) {
    let draw = |times: Vec<u32>| {
        let drawn: Vec<f64> =
            all.iter().zip(&times).flat_map(|(x, &t)| std::iter::repeat_n(*x, t as usize)).collect();
        statistic(&drawn)
    };
    interval_of(&mut bootstrap(all.len(), draws, seed).into_iter().map(draw).collect::<Vec<_>>())
}

/// The 95% bootstrap interval of `Σ numerator / Σ denominator` over rows. None of fewer than two rows.
pub fn bootstrap_ratio(rows: &[(f64, f64)], draws: usize, seed: u64) -> Option<(f64, f64)> {
    if rows.len() < 2 || draws == 0 {
        return None;
    }
    let ratio = |drawn: Vec<usize>| {
        let (above, below) = drawn.into_iter().fold((0.0, 0.0), |(a, b), i| (a + rows[i].0, b + rows[i].1));
        above / below
    };
    let mut ratios: Vec<f64> = resample(rows.len(), rows.len(), draws, seed).map(ratio).collect();
    Some(interval_of(&mut ratios))
}

/// A seed for a named part of a computation, so that parts do not share their draws and adding one
/// does not change the others.
pub fn derived_seed(seed: u64, name: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = Digest::of(format!("{seed}:{name}").as_bytes()).0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_whole_and_repeatable() {
        let a = bootstrap(7, 20, 3);
        assert_eq!(a, bootstrap(7, 20, 3));
        assert_ne!(a, bootstrap(7, 20, 4));
        assert!(a.iter().all(|times| times.iter().sum::<u32>() == 7));
        assert!(bootstrap(0, 20, 3).is_empty());
        assert!(resample(3, 9, 5, 1).all(|drawn| drawn.len() == 9 && drawn.iter().all(|i| *i < 3)));
    }

    #[test]
    fn the_bootstrap_covers_as_often_as_it_says() {
        // 200 samples of 60 rows whose true ratio is 2: about 95% of the intervals hold it.
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let held = (0..200).filter(|seed| {
            let row = |_| {
                let tokens = f64::from(rng.random_range(5..50u32));
                (tokens * (2.0 + rng.random_range(-0.5..0.5)), tokens)
            };
            let rows: Vec<_> = (0..60).map(row).collect();
            let (low, high) = bootstrap_ratio(&rows, 400, *seed).expect("rows");
            low <= 2.0 && 2.0 <= high
        });
        let held = held.count();
        assert!((180..=199).contains(&held), "{held} of 200");
    }

    #[test]
    fn intervals_are_seeded() {
        let rows: Vec<_> = (1..20).map(|i| (f64::from(i), 10.0)).collect();
        assert_eq!(bootstrap_ratio(&rows, 100, 1), bootstrap_ratio(&rows, 100, 1));
        assert_ne!(bootstrap_ratio(&rows, 100, 1), bootstrap_ratio(&rows, 100, 2));
        assert_eq!(bootstrap_ratio(&rows[..1], 100, 1), None);
        let all: Vec<f64> = rows.iter().map(|r| r.0).collect();
        let (low, high) = bootstrap_interval(&all, &crate::mean, 400, 1);
        assert!(low < 10.0 && 10.0 < high, "{low} {high}");
    }

    #[test]
    fn named_parts_have_their_own_seeds() {
        assert_eq!(derived_seed(1, "a"), derived_seed(1, "a"));
        assert_ne!(derived_seed(1, "a"), derived_seed(1, "b"));
        assert_ne!(derived_seed(1, "a"), derived_seed(2, "a"));
    }
}
