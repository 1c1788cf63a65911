//! Numbers that sum up others.

/// Quantile of the normal distribution that leaves 2.5% above.
const Z95: f64 = 1.959_963_984_540_054;

/// The mean; NaN where there are no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The median, by linear interpolation; NaN where there are no values.
pub fn median(values: &[f64]) -> f64 {
    quantile(&mut values.to_vec(), 0.5)
}

/// The `share` quantile (0 to 1) by linear interpolation; sorts `values`. NaN where there are none.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Wilson's 95% interval of a share (Wilson, 1927): unlike the simple one it stays within 0 and 1
/// and is right for few trials. (0, 1) of no trial.
pub fn wilson(successes: usize, trials: usize) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let (n, z2) = (trials as f64, Z95 * Z95);
    let share = successes as f64 / n;
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z95 / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    // At the ends rounding would leave the interval a hair off 0 or 1.
    let low = if successes == 0 { 0.0 } else { centre - half };
    let high = if successes == trials { 1.0 } else { centre + half };
    (low, high)
}

/// Kendall's τ-b: concordant minus discordant pairs, over the geometric mean of the pairs that are
/// not tied in either. 0 where all are tied.
pub fn kendall(x: &[f64], y: &[f64]) -> f64 {
    let (mut score, mut in_x, mut in_y) = (0.0, 0.0, 0.0);
    for i in 0..x.len() {
        for j in 0..i {
            let (a, b) = (x[i] - x[j], y[i] - y[j]);
            let sign = |d: f64| if d == 0.0 { 0.0 } else { d.signum() };
            score += sign(a) * sign(b);
            in_x += sign(a).abs();
            in_y += sign(b).abs();
        }
    }
    if in_x > 0.0 && in_y > 0.0 { score / f64::sqrt(in_x * in_y) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.25), 1.5);
        assert!(quantile(&mut [], 0.5).is_nan());
        assert_eq!((median(&[4.0, 1.0, 2.0, 3.0]), mean(&[1.0, 2.0])), (2.5, 1.5));
    }

    #[test]
    fn wilsons_interval() {
        // As scipy.stats.binomtest(…).proportion_ci(method="wilson") gives them.
        let near = |(low, high): (f64, f64), l: f64, h: f64| {
            assert!((low - l).abs() < 5e-5 && (high - h).abs() < 5e-5, "({low}, {high})");
        };
        near(wilson(27, 28), 0.8229, 0.9937);
        near(wilson(5, 10), 0.2366, 0.7634);
        near(wilson(0, 10), 0.0, 0.2775);
        near(wilson(10, 10), 0.7225, 1.0);
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }

    #[test]
    fn kendalls_tau() {
        // As scipy.stats.kendalltau gives them.
        assert!((kendall(&[1., 2., 3., 4.], &[1., 3., 2., 4.]) - 0.666_666_67).abs() < 1e-6);
        assert!((kendall(&[1., 2., 3., 4.], &[1., 1., 2., 3.]) - 0.912_870_93).abs() < 1e-6);
        assert_eq!(kendall(&[1., 2., 3.], &[3., 2., 1.]), -1.0);
        assert_eq!(kendall(&[1., 2.], &[5., 5.]), 0.0);
    }
}
