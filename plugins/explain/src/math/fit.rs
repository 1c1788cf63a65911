//! Least squares on normal equations: minimise |v − Σ cⱼ aⱼ|², given the Gram matrix Gᵢⱼ = aᵢ·aⱼ
//! and bⱼ = aⱼ·v.

use super::matrix::{Matrix, dot};

/// Solves least squares with 0 ≤ cⱼ ≤ `upper` by cyclic coordinate descent, which converges for
/// every positive semidefinite Gram matrix.
pub fn bounded(gram: &Matrix, b: &[f64], upper: f64) -> Vec<f64> {
    descend(gram, b, |c| c.clamp(0.0, upper), 0.0)
}

/// Solves least squares with penalty `lambda` |c|².
pub fn ridge(gram: &Matrix, b: &[f64], lambda: f64) -> Vec<f64> {
    let mut g = gram.clone();
    (0..g.rows).for_each(|i| g.data[i * (g.cols + 1)] += lambda);
    match g.cholesky() {
        // c = L⁻ᵀ L⁻¹ b
        Some(l) => {
            let inverse = l.invert_lower();
            inverse.transpose_times(&inverse.times(b))
        }
        None => descend(gram, b, |c| c, lambda),
    }
}

fn descend(gram: &Matrix, b: &[f64], project: impl Fn(f64) -> f64, lambda: f64) -> Vec<f64> {
    let n = b.len();
    let mut c = vec![0.0; n];
    for _ in 0..5000 {
        let mut largest = 0.0f64;
        for j in 0..n {
            let g = gram.data[j * n + j] + lambda;
            if g <= 0.0 {
                continue;
            }
            let gradient = b[j] - dot(gram.row(j), &c) - lambda * c[j];
            let next = project(c[j] + gradient / g);
            largest = largest.max((next - c[j]).abs() * g.sqrt());
            c[j] = next;
        }
        if largest < 1e-10 {
            break;
        }
    }
    c
}

/// How much of |v|² a solution explains: 2 c·b − cᵀ G c.
pub fn gain(gram: &Matrix, b: &[f64], c: &[f64]) -> f64 {
    2.0 * dot(b, c) - dot(&gram.times(c), c)
}

/// The rows and columns of a Gram matrix, and the entries of `b`, that `chosen` names.
pub fn subset(gram: &Matrix, b: &[f64], chosen: &[usize]) -> (Matrix, Vec<f64>) {
    let rows: Vec<Vec<f64>> =
        chosen.iter().map(|&i| chosen.iter().map(|&j| gram.data[i * gram.cols + j]).collect()).collect();
    (Matrix::from_rows(&rows), chosen.iter().map(|&i| b[i]).collect())
}

/// Chooses at most `limit` atoms one after another, each time the one that explains most together
/// with those already chosen, all refitted within 0 and `upper`. Ends where the best further atom
/// explains less than `least`. Two atoms are chosen together only where `apart` holds of them.
/// Returns the atoms in the order of choice, with their coefficients.
pub fn forward(
    gram: &Matrix,
    b: &[f64],
    upper: f64,
    limit: usize,
    least: f64,
    apart: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, f64)> {
    let mut chosen: Vec<usize> = Vec::new();
    let mut coefficients: Vec<f64> = Vec::new();
    let mut explained = 0.0;
    while chosen.len() < limit {
        let mut best: Option<(f64, usize, Vec<f64>)> = None;
        for j in (0..b.len()).filter(|&j| chosen.iter().all(|&i| i != j && apart(i, j))) {
            let mut trial = chosen.clone();
            trial.push(j);
            let (g, rhs) = subset(gram, b, &trial);
            let c = bounded(&g, &rhs, upper);
            let now = gain(&g, &rhs, &c);
            if c[trial.len() - 1] > 0.0 && best.as_ref().is_none_or(|(top, ..)| now > *top) {
                best = Some((now, j, c));
            }
        }
        match best {
            Some((now, j, c)) if now - explained >= least => {
                chosen.push(j);
                coefficients = c;
                explained = now;
            }
            _ => break,
        }
    }
    chosen.into_iter().zip(coefficients).filter(|(_, c)| *c > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(atoms: &[Vec<f64>], v: &[f64]) -> (Matrix, Vec<f64>) {
        let a = Matrix::from_rows(atoms);
        (a.times_transposed(&a), a.times(v))
    }

    #[test]
    fn bounds_hold_and_matter() {
        let atoms = [vec![1.0, 0.0], vec![0.6, 0.8]];
        let (g, b) = problem(&atoms, &[1.0, -1.0]);
        let c = bounded(&g, &b, f64::INFINITY);
        assert!((c[0] - 1.0).abs() < 1e-9 && c[1] == 0.0, "{c:?}");
        let (g, b) = problem(&atoms, &[3.0, 0.0]);
        assert_eq!(bounded(&g, &b, 1.0)[0], 1.0);
    }

    #[test]
    fn forward_choice_names_one_word_for_one_direction() {
        // The second atom is nearly a synonym of the first; the third is the rest of the target.
        let atoms = [vec![1.0, 0.0, 0.0], vec![0.95, 0.3, 0.0], vec![0.0, 0.0, 1.0]];
        let (g, b) = problem(&atoms, &[1.0, 0.0, 0.5]);
        let found = forward(&g, &b, f64::INFINITY, 3, 1e-3, |_, _| true);
        assert_eq!(found.iter().map(|(j, _)| *j).collect::<Vec<_>>(), [0, 2]);
        assert!((found[1].1 - 0.5).abs() < 1e-9);
    }

    proptest! {
        /// Karush-Kuhn-Tucker: at zero the gradient does not pull up, elsewhere it vanishes.
        #[test]
        fn non_negative_solutions_are_optimal(
            a in proptest::collection::vec(proptest::collection::vec(-1.0..1.0f64, 6), 4),
            v in proptest::collection::vec(-1.0..1.0f64, 6),
        ) {
            let (g, b) = problem(&a, &v);
            let c = bounded(&g, &b, f64::INFINITY);
            let gc = g.times(&c);
            for j in 0..4 {
                let gradient = b[j] - gc[j];
                prop_assert!(c[j] >= 0.0);
                prop_assert!(gradient < 1e-6);
                prop_assert!(c[j] < 1e-9 || gradient.abs() < 1e-6, "{c:?} {gradient}");
            }
        }
    }
}
