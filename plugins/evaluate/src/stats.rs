//! Intervals.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Quantile of the normal distribution that leaves 2.5% above.
const Z95: f64 = 1.959_963_984_540_054;

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

/// Percentile-bootstrap 95% interval (Efron, 1979) of `Σ numerator / Σ denominator` over rows drawn
/// with replacement. None of fewer than two rows.
pub fn bootstrap_ratio(rows: &[(f64, f64)], resamples: usize, seed: u64) -> Option<(f64, f64)> {
    if rows.len() < 2 || resamples == 0 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ratios: Vec<f64> = (0..resamples)
        .map(|_| {
            let (mut above, mut below) = (0.0, 0.0);
            for _ in 0..rows.len() {
                let (a, b) = rows[rng.random_range(0..rows.len())];
                above += a;
                below += b;
            }
            above / below
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    Some((quantile(&ratios, 0.025), quantile(&ratios, 0.975)))
}

/// Linear interpolation between the sorted values.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_bootstrap_is_seeded() {
        let rows: Vec<_> = (1..20).map(|i| (f64::from(i), 10.0)).collect();
        assert_eq!(bootstrap_ratio(&rows, 100, 1), bootstrap_ratio(&rows, 100, 1));
        assert_ne!(bootstrap_ratio(&rows, 100, 1), bootstrap_ratio(&rows, 100, 2));
        assert_eq!(bootstrap_ratio(&rows[..1], 100, 1), None);
    }
}
