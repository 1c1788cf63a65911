//! Mixes: non-negative weights over several pLLMs.

use headstart_explain::math::{Matrix, axpy, dot, fit};

/// A member's weight must be at least this share of the largest.
const LEAST_WEIGHT: f64 = 0.2;

/// A mix must explain at least this share more than the single pLLM, on held-out rows.
const LEAST_GAIN: f64 = 0.05;

/// A vector's own squared length is this share of what it appears to be, at least.
const LEAST_LENGTH: f64 = 0.1;

/// Rows below which nothing can be held out.
const LEAST_ROWS: usize = 4;

/// Folds of cross-validation at most.
const FOLDS: usize = 10;

/// Mixes candidates so that Σ w · candidate comes nearest to the mean of the user's whitened rows,
/// with weights between 0 and 1 and at most `max` members.
///
/// The mix is kept only if it predicts held-out rows better than the best single candidate does: by
/// more than a twentieth, and by more than the standard error of the difference. `noise` is the
/// squared length that each candidate has by chance. Returns places among the candidates with
/// weights, largest first; empty where no mix is better.
pub fn mix(rows: &Matrix, candidates: &Matrix, noise: &[f64], max: usize) -> Vec<(usize, f64)> {
    if max < 2 || candidates.rows < 2 || rows.rows < LEAST_ROWS {
        return Vec::new();
    }
    let mut gram = candidates.times_transposed(candidates);
    for (i, noise) in noise.iter().enumerate() {
        let square = &mut gram.data[i * (candidates.rows + 1)];
        *square = (*square - noise).max(LEAST_LENGTH * *square);
    }
    // Products of every row with every candidate: all that is needed of the rows.
    let products = rows.times_transposed(candidates);
    let found = solve(&gram, &products.mean(), max);
    if found.len() < 2 || !better(&gram, &products, max) {
        return Vec::new();
    }
    found
}

/// Members and weights for the mean `b` of the products, largest weight first.
fn solve(gram: &Matrix, b: &[f64], max: usize) -> Vec<(usize, f64)> {
    let mut members: Vec<(usize, f64)> = fit::forward(gram, b, 1.0, max, 0.0, |_, _| true);
    loop {
        let largest = members.iter().map(|m| m.1).fold(0.0, f64::max);
        let before = members.len();
        members.retain(|m| m.1 >= LEAST_WEIGHT * largest && m.1 > 0.0);
        if members.len() == before {
            break;
        }
        let chosen: Vec<usize> = members.iter().map(|m| m.0).collect();
        let (g, rhs) = fit::subset(gram, b, &chosen);
        members = chosen.into_iter().zip(fit::bounded(&g, &rhs, 1.0)).collect();
    }
    members.sort_by(|x, y| y.1.total_cmp(&x.1).then(x.0.cmp(&y.0)));
    members
}

/// Whether mixes fitted without a row predict that row better than single candidates do.
fn better(gram: &Matrix, products: &Matrix, max: usize) -> bool {
    let n = products.rows;
    let folds = n.min(FOLDS);
    let total = products.mean();
    let mut singles = Vec::with_capacity(n);
    let mut differences = Vec::with_capacity(n);
    for fold in 0..folds {
        let out: Vec<usize> = (fold..n).step_by(folds).collect();
        let mut b: Vec<f64> = total.iter().map(|x| x * n as f64).collect();
        out.iter().for_each(|&i| axpy(&mut b, -1.0, products.row(i)));
        let left = (n - out.len()) as f64;
        b.iter_mut().for_each(|x| *x /= left);
        let (one, many) = (solve(gram, &b, 1), solve(gram, &b, max));
        for i in out {
            let single = predicted(gram, products.row(i), &one);
            singles.push(single);
            differences.push(predicted(gram, products.row(i), &many) - single);
        }
    }
    let mean = differences.iter().sum::<f64>() / n as f64;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let base = singles.iter().sum::<f64>() / n as f64;
    mean > (variance / n as f64).sqrt() && mean > LEAST_GAIN * base.max(0.0) && mean > 0.0
}

/// How much nearer a row is to the mix than to nothing, in squares.
fn predicted(gram: &Matrix, products: &[f64], members: &[(usize, f64)]) -> f64 {
    let mut w = vec![0.0; products.len()];
    members.iter().for_each(|&(i, x)| w[i] = x);
    2.0 * dot(products, &w) - dot(&gram.times(&w), &w)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn noisy(rng: &mut ChaCha8Rng, base: &[f64]) -> Vec<f64> {
        base.iter().map(|x| x + (0..12).map(|_| rng.random::<f64>() - 0.5).sum::<f64>()).collect()
    }

    /// Candidates of length 4 along axes of a space with twenty dimensions.
    fn candidates() -> Matrix {
        let axis = |i: usize| (0..20).map(|j| if i == j { 4.0 } else { 0.4 }).collect();
        Matrix::from_rows(&(0..6).map(axis).collect::<Vec<_>>())
    }

    fn user(weights: &[(usize, f64)], n: usize, seed: u64) -> Matrix {
        let mut mean = vec![0.0; 20];
        weights.iter().for_each(|&(i, w)| axpy(&mut mean, w, candidates().row(i)));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Matrix::from_rows(&(0..n).map(|_| noisy(&mut rng, &mean)).collect::<Vec<_>>())
    }

    #[test]
    fn a_user_of_two_styles_gets_both_with_their_weights() {
        let found = mix(&user(&[(1, 0.7), (4, 0.4)], 50, 1), &candidates(), &[0.0; 6], 3);
        assert_eq!(found.iter().map(|m| m.0).collect::<Vec<_>>(), [1, 4]);
        assert!((found[0].1 - 0.7).abs() < 0.1 && (found[1].1 - 0.4).abs() < 0.1, "{found:?}");
    }

    #[test]
    fn a_user_of_one_style_gets_no_mix() {
        let mixed = (0..40)
            .filter(|&s| !mix(&user(&[(2, 0.9)], 20, s), &candidates(), &[0.0; 6], 3).is_empty())
            .count();
        assert!(mixed <= 1, "{mixed} of 40");
    }

    #[test]
    fn few_rows_or_one_candidate_are_not_mixed() {
        assert_eq!(mix(&user(&[(1, 0.7), (4, 0.6)], 3, 1), &candidates(), &[0.0; 6], 3), []);
        assert_eq!(mix(&user(&[(1, 0.7), (4, 0.6)], 50, 1), &candidates(), &[0.0; 6], 1), []);
    }
}
