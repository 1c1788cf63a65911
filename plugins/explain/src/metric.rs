//! The metric in which styles are compared: whitened by how much a style varies from prompt to
//! prompt.
//!
//! Differences along directions in which one and the same pLLM varies between prompts say little;
//! the others say much. So vectors are whitened by the pooled within-pLLM covariance. There are
//! fewer prompts than components, so the covariance is shrunk towards a multiple of the identity,
//! with the intensity of Ledoit and Wolf (A well-conditioned estimator for large-dimensional
//! covariance matrices, 2004). Encoder and features are shrunk separately, each in its own scale.
//!
//! Where it is known how people's plain texts differ from the base's answers, that variation counts half:
//! a user's texts vary as people's do, which is more, and along other directions, than a model's.
//!
//! Of the encoder only the directions along which answers vary most are kept, one for every four
//! rows. Whitening magnifies the others most and knows them least: on real text, keeping them all
//! costs up to ten points of selection accuracy (pipelines/studies/selection.pllm).

use crate::math::{Matrix, axpy, dot, eigen};

/// The longest whitened vector that a catalog keeps; longer ones are projected onto the span of
/// the pLLMs and the lexicon.
pub const MAX_DIM: usize = 448;

/// Rows below which a covariance is taken from the scale alone.
const FEW: usize = 4;

/// Rows for one direction of the encoder's vectors that is kept.
const ROWS_A_DIRECTION: usize = 4;

/// Directions below which none is left out: with so few rows, shrinkage alone must do.
const LEAST_DIRECTIONS: usize = 32;

/// A linear map from raw vectors (encoder, then features) to whitened ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Length of the encoder's part of a raw vector.
    pub d: usize,
    /// q × (d + k): whitened = factor · raw.
    pub factor: Matrix,
    /// How far the encoder's and the features' covariances were shrunk, 0 to 1.
    pub shrinkage: [f64; 2],
}

impl Metric {
    /// Learns the metric from per-prompt vectors, a group a pLLM, and from those of people's plain texts
    /// where they are known. `units` bound the features' scales from below.
    pub fn fit(groups: &[&Matrix], people: Option<&Matrix>, d: usize, units: &[f64]) -> Self {
        Self::of(groups, people, d, units, true)
    }

    /// The same without whitening, to compare with: the encoder's components keep their proportions,
    /// and each feature is brought to its own scale.
    pub fn unwhitened(groups: &[&Matrix], d: usize, units: &[f64]) -> Self {
        Self::of(groups, None, d, units, false)
    }

    fn of(groups: &[&Matrix], people: Option<&Matrix>, d: usize, units: &[f64], whiten: bool) -> Self {
        let (residuals, groups) = match people.filter(|p| p.rows >= FEW) {
            Some(people) => (halved(residuals(groups), residuals(&[people])), groups.len() + 1),
            None => (residuals(groups), groups.len()),
        };
        let encoder = Block::fit(&residuals, groups, 0, d, &[], whiten);
        let features = Block::fit(&residuals, groups, d, units.len(), units, whiten);
        let kept = encoder.whitener.rows;
        let mut factor = Matrix::zeros(kept + units.len(), d + units.len());
        for (block, down, right) in [(&encoder, 0, 0), (&features, kept, d)] {
            for (i, row) in block.whitener.iter().enumerate() {
                factor.row_mut(down + i)[right..right + row.len()].copy_from_slice(row);
            }
        }
        Self { d, factor, shrinkage: [encoder.shrinkage, features.shrinkage] }
    }

    /// The metric of the published method: the space's vector as it is, scaled to the mean length
    /// of `rows`; features do not count.
    pub fn plain(rows: &Matrix, d: usize) -> Self {
        let square: f64 = rows.iter().map(|r| dot(&r[..d], &r[..d])).sum();
        let scale = if square > 0.0 { (rows.rows as f64 / square).sqrt() } else { 1.0 };
        let mut factor = Matrix::zeros(d, rows.cols);
        (0..d).for_each(|i| factor.row_mut(i)[i] = scale);
        Self { d, factor, shrinkage: [0.0, 0.0] }
    }

    /// The same metric on the span of the given raw vectors, if its vectors would be longer than
    /// [`MAX_DIM`]. Distances within the span stay as they are.
    pub fn within(self, span: &Matrix) -> Self {
        if self.factor.rows <= MAX_DIM {
            return self;
        }
        let whitened: Vec<Vec<f64>> = span.iter().map(|row| self.factor.times(row)).collect();
        let basis = Matrix::from_rows(&whitened).row_basis(MAX_DIM);
        Self { factor: basis.product(&self.factor), ..self }
    }

    /// A raw vector, whitened.
    pub fn apply(&self, raw: &[f64]) -> Vec<f64> {
        self.factor.times(raw)
    }
}

/// The matrix (F Fᵀ)⁻¹ F of a factor F, q × (d + k). With it, scalar products of raw vectors can be
/// taken from whitened ones: w · F x = y · x for w = (F Fᵀ)⁻¹ F y, over the directions that F keeps.
pub fn unwhitener(factor: &Matrix) -> Matrix {
    let mut gram = factor.times_transposed(factor);
    let n = gram.rows;
    let mean = (0..n).map(|i| gram.data[i * (n + 1)]).sum::<f64>() / n.max(1) as f64;
    (0..n).for_each(|i| gram.data[i * (n + 1)] += 1e-12 * mean);
    match gram.cholesky() {
        Some(lower) => {
            let inverse = lower.invert_lower();
            inverse.gram_of_columns().product(factor)
        }
        // A factor that keeps a direction twice has no such matrix; what it keeps cannot be told.
        None => Matrix::zeros(factor.rows, factor.cols),
    }
}

/// The residuals of every group's rows from its mean, scaled so that the mean of the
/// squares estimates the variance.
fn residuals(groups: &[&Matrix]) -> Matrix {
    let cols = groups.first().map_or(0, |g| g.cols);
    let mut data = Vec::new();
    for group in groups {
        let mean = group.mean();
        let n = group.rows as f64;
        let unbiased = if n > 1.0 { (n / (n - 1.0)).sqrt() } else { 0.0 };
        for row in group.iter() {
            data.extend(row.iter().zip(&mean).map(|(x, m)| unbiased * (x - m)));
        }
    }
    Matrix { rows: groups.iter().map(|g| g.rows).sum(), cols, data }
}

/// Both residuals below one another, scaled so that each counts half in the covariance of all.
fn halved(mut models: Matrix, mut people: Matrix) -> Matrix {
    let all = (models.rows + people.rows) as f64;
    for part in [&mut models, &mut people] {
        let weight = (all / (2.0 * part.rows as f64)).sqrt();
        part.data.iter_mut().for_each(|x| *x *= weight);
    }
    models.data.append(&mut people.data);
    Matrix { rows: models.rows + people.rows, ..models }
}

struct Block {
    whitener: Matrix,
    shrinkage: f64,
}

impl Block {
    /// Whitens components `at .. at + len` of the residuals. With `units`, each component is first
    /// brought to its own scale; without, all share one. Unless `whiten`, that is all.
    fn fit(residuals: &Matrix, groups: usize, at: usize, len: usize, units: &[f64], whiten: bool) -> Self {
        let n = residuals.rows;
        let mut x = Matrix::zeros(n, len);
        for i in 0..n {
            x.row_mut(i).copy_from_slice(&residuals.row(i)[at..at + len]);
        }
        let mut variance = vec![0.0; len];
        for row in x.iter() {
            variance.iter_mut().zip(row).for_each(|(v, x)| *v += x * x / n as f64);
        }
        let scale: Vec<f64> = if units.is_empty() {
            let mean = variance.iter().sum::<f64>() / len.max(1) as f64;
            vec![if mean > 1e-18 { mean.sqrt() } else { 1.0 }; len]
        } else {
            variance.iter().zip(units).map(|(v, unit)| v.sqrt().max(unit / 2.0)).collect()
        };
        for i in 0..n {
            x.row_mut(i).iter_mut().zip(&scale).for_each(|(x, s)| *x /= s);
        }
        if !whiten {
            let mut whitener = Matrix::zeros(len, len);
            scale.iter().enumerate().for_each(|(i, s)| whitener.row_mut(i)[i] = 1.0 / s);
            return Self { whitener, shrinkage: 1.0 };
        }
        let directions = if units.is_empty() { main_directions(&x, groups) } else { None };
        if let Some(v) = &directions {
            x = x.times_transposed(v);
        }
        let (mut covariance, shrinkage) = ledoit_wolf(&x);
        if !units.is_empty() {
            // A feature that hardly varies in the catalog must not count without bound.
            (0..len).map(|i| i * (len + 1)).for_each(|i| covariance.data[i] = covariance.data[i].max(1.0));
        }
        let lower = covariance.cholesky().expect("a shrunk covariance is positive definite");
        let mut whitener = lower.invert_lower();
        if let Some(v) = &directions {
            whitener = whitener.product(v);
        }
        for i in 0..whitener.rows {
            whitener.row_mut(i).iter_mut().zip(&scale).for_each(|(w, s)| *w /= s);
        }
        Self { whitener, shrinkage }
    }
}

/// The directions that are kept, where there are enough rows to tell them and few enough to matter.
fn main_directions(x: &Matrix, groups: usize) -> Option<Matrix> {
    let k = x.rows.saturating_sub(groups) / ROWS_A_DIRECTION;
    (LEAST_DIRECTIONS..x.cols).contains(&k).then(|| eigen::principal(x, k)).flatten()
}

/// The covariance of centred rows, shrunk towards the identity (times its mean variance), and the
/// intensity of the shrinkage, 0 to 1. Rows already have about unit scale.
fn ledoit_wolf(x: &Matrix) -> (Matrix, f64) {
    let (n, p) = (x.rows, x.cols);
    let mut s = x.gram_of_columns();
    s.data.iter_mut().for_each(|v| *v /= n.max(1) as f64);
    let trace: f64 = (0..p).map(|i| s.data[i * (p + 1)]).sum();
    let mean = trace / p.max(1) as f64;
    let (mean, shrinkage) = if n < FEW || mean <= 1e-12 {
        (1.0, 1.0)
    } else {
        // |S − m I|² and the mean of |x xᵀ − S|², both by their traces.
        let square = dot(&s.data, &s.data);
        let spread = square - mean * mean * p as f64;
        let fourth: f64 = x.iter().map(|r| dot(r, r).powi(2)).sum::<f64>() / n as f64;
        let error = (fourth - square) / n as f64;
        (mean, if spread > 0.0 { (error / spread).clamp(0.0, 1.0) } else { 1.0 })
    };
    // Never fully unshrunk: the result must be positive definite also where a component is constant.
    let shrinkage = shrinkage.max(0.01);
    s.data.iter_mut().for_each(|v| *v *= 1.0 - shrinkage);
    (0..p).for_each(|i| s.data[i * (p + 1)] += shrinkage * mean);
    (s, shrinkage)
}

/// The whitened mean of a pLLM's rows, and the squared length that it has on average by chance: the
/// sum over components of the variance of the mean. Without rows to tell, one over their number a
/// component, which is what whitening aims at.
pub fn whitened_mean(metric: &Metric, rows: &Matrix) -> (Vec<f64>, f64) {
    let mean = metric.apply(&rows.mean());
    let n = rows.rows as f64;
    if rows.rows < FEW {
        return (mean, metric.factor.rows as f64 / n.max(1.0));
    }
    let deviation = |row: &[f64]| {
        let mut z = metric.apply(row);
        axpy(&mut z, -1.0, &mean);
        dot(&z, &z)
    };
    let noise = rows.iter().map(deviation).sum::<f64>() / (n * (n - 1.0));
    (mean, noise)
}

/// The least strength that is fitted: who shows less of a style than this has not chosen it.
const LEAST_STRENGTH: f64 = 0.1;

/// A vector's own squared length is this share of what it appears to be, at least.
const LEAST_LENGTH: f64 = 0.1;

/// How much of a pLLM's style somebody shows, and how much nearer they are to the pLLM at that strength
/// than to the base, in squares; negative where the base is nearer. `product` is the scalar product of
/// both whitened vectors, `square` the squared length of the pLLM's, `noise` the part of it that is
/// chance.
pub fn nearness(product: f64, square: f64, noise: f64) -> (f64, f64) {
    let square = (square - noise).max(LEAST_LENGTH * square);
    let fitted = if square > 0.0 { product / square } else { 0.0 };
    let strength = fitted.clamp(LEAST_STRENGTH, 1.0);
    (strength, strength * (2.0 * product - strength * square))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Rows with standard deviation 3 along the first of four components and 0.5 along the others,
    /// and a feature.
    fn group(n: usize, seed: u64, mean: f64) -> Matrix {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut noise = || (0..12).map(|_| rng.random::<f64>() - 0.5).sum::<f64>();
        let rows: Vec<Vec<f64>> = (0..n)
            .map(|_| {
                let mut row: Vec<f64> = (0..5).map(|_| mean + 0.5 * noise()).collect();
                row[0] = 3.0 * noise();
                row
            })
            .collect();
        Matrix::from_rows(&rows)
    }

    #[test]
    fn whitening_makes_variation_within_pllms_equal_in_all_directions() {
        let groups: Vec<Matrix> = (0..4).map(|i| group(400, i, i as f64)).collect();
        let metric = Metric::fit(&groups.iter().collect::<Vec<_>>(), None, 4, &[0.1]);
        let whitened: Vec<Vec<f64>> = groups[1].iter().map(|r| metric.apply(r)).collect();
        let whitened = Matrix::from_rows(&whitened);
        let mean = whitened.mean();
        for j in 0..5 {
            let variance = whitened.iter().map(|r| (r[j] - mean[j]).powi(2)).sum::<f64>() / 399.0;
            assert!((0.7..1.4).contains(&variance), "component {j}: {variance}");
        }
        assert!(metric.shrinkage[0] < 0.1, "{:?}", metric.shrinkage);
    }

    #[test]
    fn where_people_vary_counts_half() {
        // Models vary along the first component, people along the second, three times as much.
        let models: Vec<Matrix> = (0..4).map(|i| group(100, i, i as f64)).collect();
        let mut people = group(200, 9, 0.0);
        (0..200).for_each(|i| people.row_mut(i).swap(0, 1));
        let metric = Metric::fit(&models.iter().collect::<Vec<_>>(), Some(&people), 4, &[0.1]);
        let length = |j: usize| {
            let mut unit = vec![0.0; 5];
            unit[j] = 1.0;
            dot(&metric.apply(&unit), &metric.apply(&unit)).sqrt()
        };
        assert!((length(0) / length(1) - 1.0).abs() < 0.2, "{} {}", length(0), length(1));
        assert!(length(2) > 3.0 * length(0), "{} {}", length(2), length(0));
    }

    #[test]
    fn one_prompt_or_constant_answers_still_give_a_metric() {
        let one = Matrix::from_rows(&[vec![1.0, 2.0, 3.0]]);
        let metric = Metric::fit(&[&one, &one], None, 2, &[0.5]);
        assert!(metric.apply(one.row(0)).iter().all(|x| x.is_finite()));
        let same = Matrix::from_rows(&vec![vec![1.0, 2.0, 3.0]; 9]);
        let metric = Metric::fit(&[&same], None, 2, &[0.5]);
        assert_eq!(metric.apply(&[1.0, 0.0, 0.0]), [1.0, 0.0, 0.0]);
        assert!((metric.apply(&[0.0, 0.0, 1.0])[2] - 4.0).abs() < 1e-9, "half a unit is one step");
    }

    #[test]
    fn raw_products_are_taken_from_whitened_vectors() {
        let groups: Vec<Matrix> = (0..3).map(|i| group(30, i, i as f64)).collect();
        let metric = Metric::fit(&groups.iter().collect::<Vec<_>>(), None, 4, &[0.1]);
        let (x, y) = (groups[0].row(1), groups[2].row(4));
        let w = unwhitener(&metric.factor).times(y);
        assert!((dot(&w, &metric.apply(x)) - dot(x, y)).abs() < 1e-6 * dot(x, y).abs().max(1.0));
    }

    #[test]
    fn projection_keeps_distances_within_the_span() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let d = MAX_DIM + 40;
        let rows: Vec<Vec<f64>> = (0..12).map(|_| (0..d + 1).map(|_| rng.random()).collect()).collect();
        let rows = Matrix::from_rows(&rows);
        let whole = Metric::fit(&[&rows], None, d, &[0.1]);
        let short = whole.clone().within(&rows);
        assert!(short.factor.rows <= 12);
        let products = |m: &Metric| dot(&m.apply(rows.row(0)), &m.apply(rows.row(5)));
        assert!((products(&whole) - products(&short)).abs() < 1e-6 * products(&whole).abs());
    }
}
