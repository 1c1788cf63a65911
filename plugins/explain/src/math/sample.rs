//! Bootstrap draws and percentiles.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws of the bootstrap unless said otherwise.
pub const DRAWS: usize = 400;

/// For each of `draws` resamples of `n` rows, how often each row was drawn. The same seed gives
/// the same draws.
pub fn bootstrap(n: usize, draws: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || {
        let mut times = vec![0u32; n];
        (0..n).for_each(|_| times[rng.random_range(0..n)] += 1);
        times
    };
    (0..draws).map(|_| draw()).collect()
}

/// The `share` quantile (0 to 1) by linear interpolation; sorts `values`. NaN where there are none.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// A seed for a named part of a computation, so that parts do not share their draws and adding one
/// does not change the others.
pub fn derived_seed(seed: u64, name: &str) -> u64 {
    let digest = headstart_protocol::Digest::of(format!("{seed}:{name}").as_bytes());
    u64::from_le_bytes(digest.0[..8].try_into().expect("a digest has 32 bytes"))
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
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.25), 1.5);
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
