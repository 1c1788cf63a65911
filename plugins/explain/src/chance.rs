//! How near to some pLLM those are who write in no style: what decides whether a user is near by more
//! than chance.
//!
//! A model's answers differ from a person's texts in more than style. Where a reference is known, plain
//! texts of people against the base's answers, its rows are drawn from, so that users without a style
//! are imitated with everything that people's texts have and models' have not.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::math::{Matrix, axpy, dot};
use crate::metric::nearness;
use crate::words::round;
use headstart_stats::{bootstrap, derived_seed, quantile, resample};

/// Numbers of texts for which users are imitated.
const TEXTS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// Users that are imitated for each.
const DRAWS: usize = 300;

/// Rows of a reference below which it tells nothing.
const FEWEST: usize = 8;

/// pLLMs that imitated users are compared with at most.
const MOST: usize = 4096;

/// Share of users without a style who are less near than this.
const SHARE: f64 = 0.95;

/// The gain (see [`nearness`]) that all but a twentieth of users without a style stay below, by the
/// number of their texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chance(Vec<(usize, f64)>);

impl Chance {
    /// From the whitened rows of a reference, its mean taken off, and the pLLMs' whitened vectors with
    /// their noise. The mean itself is known no better than its rows tell, so that it is drawn as well.
    pub fn fit(rows: &Matrix, vectors: &Matrix, noise: &[f64], seed: u64) -> Option<Self> {
        if rows.rows < FEWEST || vectors.rows == 0 {
            return None;
        }
        // Evenly spaced, where there are more than can be compared in a moment.
        let step = vectors.rows.div_ceil(MOST);
        let compared: Vec<usize> = (0..vectors.rows).step_by(step).collect();
        let squares: Vec<f64> = compared.iter().map(|&i| dot(vectors.row(i), vectors.row(i))).collect();
        let best = |user: &[f64]| {
            let gain =
                |(&i, square): (&usize, &f64)| nearness(dot(user, vectors.row(i)), *square, noise[i]).1;
            compared.iter().zip(&squares).map(gain).fold(f64::NEG_INFINITY, f64::max)
        };
        let of = |n: &usize| {
            let users = draws(rows.rows, *n, derived_seed(seed, &format!("texts {n}")));
            let means = bootstrap(rows.rows, DRAWS, derived_seed(seed, &format!("means {n}")));
            let gain = |(user, mean): (Vec<f64>, &Vec<u32>)| {
                let weights: Vec<f64> = mean.iter().map(|&t| f64::from(t) / rows.rows as f64).collect();
                let mut user = rows.transpose_times(&user);
                axpy(&mut user, -1.0, &rows.transpose_times(&weights));
                best(&user)
            };
            let mut gains: Vec<f64> = users.into_par_iter().zip(&means).map(gain).collect();
            (*n, round(quantile(&mut gains, SHARE)))
        };
        Some(Self(TEXTS.iter().map(of).collect()))
    }

    /// The gain for this number of texts: on a straight line between those that were imitated, over the
    /// logarithm of their number. Never below 0: who is nearer to the base is near to no pLLM.
    pub fn of(&self, texts: usize) -> f64 {
        let after = self.0.iter().position(|p| p.0 >= texts).unwrap_or(self.0.len().saturating_sub(1));
        let (Some(high), Some(low)) = (self.0.get(after), self.0.get(after.saturating_sub(1))) else {
            return 0.0;
        };
        if high.0 <= texts || low.0 == high.0 {
            return high.1.max(0.0);
        }
        let log = |n: usize| (n.max(1) as f64).ln();
        let part = (log(texts) - log(low.0)) / (log(high.0) - log(low.0));
        (low.1 + part * (high.1 - low.1)).max(0.0)
    }
}

/// Weights of rows: `n` of them drawn with replacement, [`DRAWS`] times.
fn draws(rows: usize, n: usize, seed: u64) -> Vec<Vec<f64>> {
    let weights = |drawn: Vec<usize>| {
        let mut weights = vec![0.0; rows];
        drawn.into_iter().for_each(|i| weights[i] += 1.0 / n as f64);
        weights
    };
    resample(rows, n, DRAWS, seed).map(weights).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Rows of unit variance in twenty dimensions, their mean taken off.
    fn rows(n: usize, seed: u64) -> Matrix {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || (0..12).map(|_| rng.random::<f64>() - 0.5).sum::<f64>();
        let mut all =
            Matrix::from_rows(&(0..n).map(|_| (0..20).map(|_| normal()).collect()).collect::<Vec<_>>());
        let mean = all.mean();
        (0..n).for_each(|i| axpy(all.row_mut(i), -1.0, &mean));
        all
    }

    fn vectors() -> Matrix {
        Matrix::from_rows(
            &(0..8).map(|i| (0..20).map(|j| if i == j { 4.0 } else { 0.0 }).collect()).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_twentieth_of_those_without_a_style_is_nearer() {
        let chance = Chance::fit(&rows(60, 1), &vectors(), &[0.0; 8], 1).expect("enough rows");
        let best = |user: &[f64]| {
            vectors().iter().map(|v| nearness(dot(user, v), 16.0, 0.0).1).fold(f64::NEG_INFINITY, f64::max)
        };
        // Other people, whose mean the reference estimates from sixty.
        let offset = rows(2000, 2).mean();
        let near = (0..300).filter(|s| {
            let mut user = rows(400, 3 + s).iter().take(8).map(<[f64]>::to_vec).collect::<Vec<_>>();
            user.iter_mut().for_each(|r| axpy(r, -1.0, &offset));
            best(&Matrix::from_rows(&user).mean()) > chance.of(8)
        });
        let near = near.count();
        assert!((2..40).contains(&near), "{near} of 300");
        assert!(chance.of(1) > chance.of(10) && chance.of(10) > chance.of(256), "{chance:?}");
        assert_eq!(chance.of(1000), chance.of(256));
    }

    #[test]
    fn a_reference_of_few_rows_tells_nothing() {
        assert_eq!(Chance::fit(&rows(4, 1), &vectors(), &[0.0; 8], 1), None);
    }
}
