//! How raw vectors are seen when words are looked for.
//!
//! What the lexicon says with several examples, those examples say in different ways: about other
//! topics, and with other means. Along directions in which examples of one and the same end of a
//! dimension differ much, a difference says little about words. So a raw vector is scaled, a feature by
//! the step that a reader would notice and by how much examples vary, and then damped along the main
//! directions of that variation: linear discriminant analysis (Fisher, 1936) with a shrunk covariance
//! (Friedman, Regularized discriminant analysis, 1989), whose classes are the ends of dimensions.
//!
//! All of this comes from the lexicon in its space, and nothing from the catalog: a word means the same
//! in every catalog. The constants were chosen on styles composed of held-back examples of the lexicon.

use crate::atoms::Atoms;
use crate::math::{Matrix, axpy, dot, eigen};

/// Squared length of an average atom in the encoder's components, over that in the features. Words
/// are found rightly from a fifth to one; without either part they are not.
const ENCODER_SHARE: f64 = 0.3;

/// How far the covariance is taken as it is, rather than for a multiple of the identity.
const TRUST: f64 = 0.8;

/// Directions that are damped. The others are left as they are.
const DIRECTIONS: usize = 64;

/// A linear map of raw vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Lens {
    /// What raw components are multiplied with first.
    pub scale: Vec<f64>,
    /// Directions in scaled components, row by row; along row u, u·x of x is taken off. So a row of
    /// length 1 removes its direction, and a short one damps it.
    pub damping: Matrix,
}

impl Lens {
    /// Leaves `n` components as they are.
    pub fn plain(n: usize) -> Self {
        Self { scale: vec![1.0; n], damping: Matrix::zeros(0, n) }
    }

    /// The published method's: the space's `d` components as they are, and no features.
    pub fn paper(d: usize, features: usize) -> Self {
        let mut lens = Self::plain(d + features);
        lens.scale[d..].fill(0.0);
        lens
    }

    /// Learns from the lexicon's atoms; the first `d` components are the encoder's, the others
    /// features with these units.
    pub fn fit(atoms: &Atoms, d: usize, units: &[f64]) -> Self {
        let n = atoms.ends.iter().map(|e| e.residuals.rows).sum::<usize>().max(1) as f64;
        let mut variance = vec![0.0; atoms.words.cols];
        for row in atoms.ends.iter().flat_map(|e| e.residuals.iter()) {
            variance.iter_mut().zip(row).for_each(|(v, x)| *v += x * x / n);
        }
        let scale = scale(atoms, &variance, d, units);
        let damping = damping(&variation(atoms, &scale), scale.len());
        Self { scale, damping }
    }

    /// How far chance in the choice of examples has moved each atom, as it is seen: the variance of its
    /// scalar product with a vector of length 1 that is itself such as examples of one thing differ by.
    /// That is tr Σ² / tr Σ of the examples' covariance Σ, scaled to how much those of the word's own end
    /// vary, over the number of examples that the atom averages.
    pub fn atom_variances(&self, atoms: &Atoms) -> Vec<f64> {
        let seen: Vec<Matrix> = atoms.ends.iter().map(|e| self.see_all(&e.residuals)).collect();
        let rows: Vec<Vec<f64>> = seen.iter().flat_map(|m| m.iter().map(<[f64]>::to_vec)).collect();
        if rows.is_empty() {
            return vec![0.0; atoms.averages.len()];
        }
        let all = Matrix::from_rows(&rows);
        let n = rows.len() as f64;
        let total = rows.iter().map(|r| dot(r, r)).sum::<f64>() / n;
        let square = all.times_transposed(&all).data.iter().map(|x| x * x).sum::<f64>() / (n * n);
        let typical = if total > 0.0 { square / total } else { 0.0 };
        let own = |m: &Matrix| m.iter().map(|r| dot(r, r)).sum::<f64>() / (m.rows as f64 * total.max(1e-18));
        let own: Vec<f64> = seen.iter().map(own).collect();
        atoms.averages.iter().map(|a| typical * a.share * a.end.map_or(1.0, |e| own[e])).collect()
    }

    /// A raw vector, as it is seen.
    pub fn see(&self, raw: &[f64]) -> Vec<f64> {
        let mut x: Vec<f64> = raw.iter().zip(&self.scale).map(|(x, s)| x * s).collect();
        self.damp(&mut x);
        x
    }

    /// The raw vector r with r·x = seen·see(x) for every raw x.
    pub fn reader(&self, seen: &[f64]) -> Vec<f64> {
        // Damping is symmetric.
        let mut r = seen.to_vec();
        self.damp(&mut r);
        r.iter_mut().zip(&self.scale).for_each(|(x, s)| *x *= s);
        r
    }

    /// Rows are orthogonal, so they may be taken off one after another.
    fn damp(&self, x: &mut [f64]) {
        for u in self.damping.iter() {
            let along = dot(u, x);
            x.iter_mut().zip(u).for_each(|(x, u)| *x -= along * u);
        }
    }

    /// Rows, seen.
    pub fn see_all(&self, rows: &Matrix) -> Matrix {
        let data = rows.iter().flat_map(|row| self.see(row)).collect();
        Matrix { rows: rows.rows, cols: rows.cols, data }
    }
}

/// A feature is measured in noticeable steps or in what examples vary by, whichever is more. An encoder's
/// component is divided by its variation as far as that is above the mean, which tames the few huge
/// components that language models have; then all of them are brought to [`ENCODER_SHARE`].
fn scale(atoms: &Atoms, variance: &[f64], d: usize, units: &[f64]) -> Vec<f64> {
    let typical = variance[..d].iter().sum::<f64>() / d.max(1) as f64;
    let plain = typical <= 1e-18;
    let encoder = variance[..d].iter().map(|v| if plain { 1.0 } else { 1.0 / (v + typical).sqrt() });
    let features = variance[d..].iter().zip(units).map(|(v, unit)| 1.0 / (v + unit * unit / 4.0).sqrt());
    let mut scale: Vec<f64> = encoder.chain(features).collect();
    let square = |from: usize, to: usize| -> f64 {
        let of = |a: &[f64]| (from..to).map(|i| (a[i] * scale[i]).powi(2)).sum::<f64>();
        atoms.words.iter().map(of).sum()
    };
    let (own, others) = (square(0, d), square(d, scale.len()));
    if own > 0.0 && others > 0.0 {
        let factor = (ENCODER_SHARE * others / own).sqrt();
        scale[..d].iter_mut().for_each(|s| *s *= factor);
    }
    scale
}

/// The residuals of all examples, scaled, without what lies along the average of their end.
fn variation(atoms: &Atoms, scale: &[f64]) -> Matrix {
    let scaled = |row: &[f64]| -> Vec<f64> { row.iter().zip(scale).map(|(x, s)| x * s).collect() };
    let mut rows = Vec::new();
    for end in &atoms.ends {
        let mean = scaled(&end.mean);
        let square = dot(&mean, &mean).max(1e-18);
        for residual in end.residuals.iter() {
            let mut row = scaled(residual);
            let along = dot(&row, &mean) / square;
            axpy(&mut row, -along, &mean);
            rows.push(row);
        }
    }
    if rows.is_empty() { Matrix::zeros(0, scale.len()) } else { Matrix::from_rows(&rows) }
}

/// With eigenvalues λ of the variation's covariance, of mean m, a direction counts by
/// √(m / ((1 − t) m + t λ)), over what the directions beyond the first ones count on average.
fn damping(variation: &Matrix, raw: usize) -> Matrix {
    let none = Matrix::zeros(0, raw);
    if variation.rows < 2 {
        return none;
    }
    let n = variation.rows as f64;
    let Some(mut directions) = eigen::principal(variation, DIRECTIONS.min(raw / 2)) else { return none };
    let square = |u: &[f64]| variation.times(u).iter().map(|x| x * x).sum::<f64>() / n;
    let along: Vec<f64> = directions.iter().map(square).collect();
    let total = dot(&variation.data, &variation.data) / n;
    let mean = total / raw as f64;
    let rest = (total - along.iter().sum::<f64>()).max(0.0) / (raw - directions.rows).max(1) as f64;
    let counts = |variance: f64| (mean / ((1.0 - TRUST) * mean + TRUST * variance)).sqrt();
    for (i, variance) in along.iter().enumerate() {
        let kept = (counts(*variance) / counts(rest)).min(1.0);
        directions.row_mut(i).iter_mut().for_each(|x| *x *= (1.0 - kept).sqrt());
    }
    directions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atoms::{Average, Examples};

    /// Atoms along two features; examples vary threefold along the first, and with the second.
    fn atoms() -> Atoms {
        let words = Matrix::from_rows(&[vec![0.2, 0.1, 1.0, 0.0], vec![0.1, 0.3, 0.0, 1.0]]);
        let residual = |i: usize| {
            let x = if i.is_multiple_of(2) { 3.0 } else { -3.0 };
            let y = if i % 4 < 2 { 0.2 } else { -0.2 };
            vec![0.1 * y, 0.1 * x, x, x / 3.0 + y]
        };
        let residuals = Matrix::from_rows(&(0..40).map(residual).collect::<Vec<_>>());
        let averages = vec![Average { end: Some(0), share: 0.025 }, Average { end: None, share: 0.1 }];
        Atoms { words, ends: vec![Examples { mean: vec![0.0, 0.0, 1.0, -3.0], residuals }], averages }
    }

    #[test]
    fn where_examples_vary_differences_count_less() {
        let lens = Lens::fit(&atoms(), 2, &[0.5, 0.5]);
        let seen = |raw: [f64; 4]| dot(&lens.see(&raw), &lens.see(&raw)).sqrt();
        // In units of their own scale, the common direction counts less than the other one.
        let common = [0.0, 0.0, 1.0 / lens.scale[2], 1.0 / lens.scale[3]];
        let other = [0.0, 0.0, 1.0 / lens.scale[2], -1.0 / lens.scale[3]];
        assert!(seen(common) < 0.9 * seen(other), "{} {}", seen(common), seen(other));
    }

    /// Stronger and weaker examples of one thing do not make that thing count less.
    #[test]
    fn strength_is_no_variation() {
        let mut strong = atoms();
        strong.ends[0].mean = vec![0.0, 0.1, 1.0, 1.0 / 3.0];
        let lens = Lens::fit(&strong, 2, &[0.5, 0.5]);
        let along = |lens: &Lens| dot(&lens.see(&strong.ends[0].mean), &lens.see(&strong.ends[0].mean));
        assert!(along(&lens) > along(&Lens::fit(&atoms(), 2, &[0.5, 0.5])));
    }

    #[test]
    fn a_reader_reads_raw_vectors() {
        let lens = Lens::fit(&atoms(), 2, &[0.5, 0.5]);
        let (x, atom) = ([0.3, -0.2, 1.0, 0.7], lens.see(&[0.1, 0.5, -0.4, 2.0]));
        assert!((dot(&lens.reader(&atom), &x) - dot(&atom, &lens.see(&x))).abs() < 1e-12);
    }

    /// With the plain lens, examples vary by about (3, 1) along one line: variance 10 along it.
    #[test]
    fn atoms_of_more_examples_are_surer() {
        let mut variances = Lens::plain(4).atom_variances(&atoms());
        variances.iter_mut().for_each(|x| *x /= 10.0);
        assert!((variances[0] - 0.025).abs() < 2e-3 && (variances[1] - 0.1).abs() < 1e-2, "{variances:?}");
    }

    #[test]
    fn without_residuals_nothing_is_damped() {
        let alone = Atoms { ends: Vec::new(), ..atoms() };
        assert_eq!(Lens::fit(&alone, 2, &[0.5, 0.5]).damping.rows, 0);
        assert_eq!(Lens::paper(2, 2).see(&[1.0, 2.0, 3.0, 4.0]), [1.0, 2.0, 0.0, 0.0]);
    }
}
