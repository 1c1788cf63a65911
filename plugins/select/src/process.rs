//! A Gaussian process over pLLMs' vectors (Rasmussen and Williams, Gaussian Processes for Machine
//! Learning, 2006, algorithm 2.1).

use headstart_explain::math::{Matrix, dot};
use headstart_stats::quantile;

/// A fitted process: squared-exponential kernel, as wide as known points are apart, as high as the
/// losses vary.
pub struct Process {
    points: Vec<Vec<f64>>,
    /// (K + noise)⁻¹.
    inverse: Matrix,
    /// (K + noise)⁻¹ (y − mean).
    weights: Vec<f64>,
    mean: f64,
    variance: f64,
    /// Squared width of the kernel.
    width: f64,
}

impl Process {
    /// Fits losses with standard errors at points. None where all points are one.
    pub fn fit(points: &[&[f64]], found: &[(f64, f64)]) -> Option<Self> {
        let n = points.len();
        let mut apart: Vec<f64> = (0..n)
            .flat_map(|i| (0..i).map(move |j| (i, j)))
            .map(|(i, j)| square(points[i], points[j]))
            .collect();
        let width = quantile(&mut apart, 0.5);
        if n < 2 || width <= 0.0 {
            return None;
        }
        let mean = found.iter().map(|f| f.0).sum::<f64>() / n as f64;
        let variance = found.iter().map(|f| (f.0 - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let variance = variance.max(1e-9);
        let mut kernel = Matrix::zeros(n, n);
        for i in 0..n {
            for j in 0..n {
                kernel.row_mut(i)[j] = variance * (-0.5 * square(points[i], points[j]) / width).exp();
            }
            kernel.row_mut(i)[i] += found[i].1.powi(2) + 1e-6 * variance;
        }
        let inverse = kernel.cholesky()?.invert_lower().gram_of_columns();
        let off: Vec<f64> = found.iter().map(|f| f.0 - mean).collect();
        let weights = inverse.times(&off);
        let points = points.iter().map(|p| p.to_vec()).collect();
        Some(Self { points, inverse, weights, mean, variance, width })
    }

    /// Mean and standard deviation of the loss at a point.
    pub fn predict(&self, at: &[f64]) -> (f64, f64) {
        let near: Vec<f64> =
            self.points.iter().map(|p| self.variance * (-0.5 * square(p, at) / self.width).exp()).collect();
        let known = dot(&self.inverse.times(&near), &near);
        (self.mean + dot(&self.weights, &near), (self.variance - known).max(0.0).sqrt())
    }
}

fn square(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points_are_predicted_and_far_ones_unsure() {
        let points: [&[f64]; 3] = [&[0.0], &[1.0], &[2.0]];
        let process =
            Process::fit(&points, &[(1.0, 0.001), (2.0, 0.001), (4.0, 0.001)]).expect("three points");
        let (mean, deviation) = process.predict(&[1.0]);
        assert!((mean - 2.0).abs() < 0.01 && deviation < 0.05, "{mean} {deviation}");
        let (mean, deviation) = process.predict(&[50.0]);
        assert!((mean - 7.0 / 3.0).abs() < 1e-6 && deviation > 1.0, "the prior: {mean} {deviation}");
        assert!(Process::fit(&[&[1.0], &[1.0]], &[(1.0, 0.1), (2.0, 0.1)]).is_none());
    }
}
