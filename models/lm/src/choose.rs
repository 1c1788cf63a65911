//! The choice of a token by its logit.

use headstart_kernels::simd;
use rand::Rng;

/// The most probable token (the first of equals), or one drawn by its probability.
///
/// A draw takes the first token at which the sum of the probabilities, added up in the order of the
/// vocabulary, is above a random number. Sums are kept by blocks, so that most tokens are only added up.
pub fn choose(logits: &[f32], temperature: f64, rng: &mut impl Rng) -> u32 {
    /// Tokens of a block.
    const BLOCK: usize = 256;
    let top = simd::max(logits);
    let best = || logits.iter().position(|l| *l == top).unwrap_or(0) as u32;
    if temperature <= 0.0 {
        return best();
    }
    let mut weights = vec![0f64; logits.len()];
    let blocks = weights.chunks_mut(BLOCK).zip(logits.chunks(BLOCK));
    let sums: Vec<f64> = blocks.map(|(to, l)| simd::softmax_weights(to, l, top, temperature)).collect();
    let mut left = rng.random::<f64>() * sums.iter().sum::<f64>();
    for (block, sum) in sums.iter().enumerate() {
        // The last block too is searched only where the draw lies in it.
        if left >= *sum {
            left -= sum;
            continue;
        }
        for (i, weight) in weights[block * BLOCK..].iter().take(BLOCK).enumerate() {
            left -= weight;
            if left < 0.0 {
                return (block * BLOCK + i) as u32;
            }
        }
    }
    best()
}

/// The `count` largest logits, falling, equals in the order of their tokens.
pub fn largest(logits: &[f32], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut all: Vec<usize> = (0..logits.len()).collect();
    if count < all.len() {
        if count > 0 {
            all.select_nth_unstable_by(count - 1, order);
        }
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// A draw as its definition has it, with the library's exponential.
    fn plain(logits: &[f32], temperature: f64, rng: &mut ChaCha8Rng) -> u32 {
        let top = f64::from(logits.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l)));
        let weights: Vec<f64> = logits.iter().map(|l| ((f64::from(*l) - top) / temperature).exp()).collect();
        let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
        let token = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        token.unwrap_or(0) as u32
    }

    fn logits(n: usize, spread: f32, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| spread * (rng.random::<f32>() - 0.5)).collect()
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut counts = [0; 3];
        (0..8000).for_each(|_| counts[choose(&logits, 1.0, &mut rng) as usize] += 1);
        for (count, expected) in counts.iter().zip([1000, 2000, 5000]) {
            assert!(i32::abs(count - expected) < 150, "{counts:?}");
        }
        assert_eq!(choose(&[1.0, 3.0, 3.0], 0.0, &mut rng), 1, "the first of equals");
    }

    #[test]
    fn draws_are_those_of_the_definition() {
        for (n, spread, temperature) in [(1, 1.0, 1.0), (700, 0.1, 0.7), (5000, 30.0, 0.7), (257, 400.0, 0.2)]
        {
            let (mut a, mut b) = (ChaCha8Rng::seed_from_u64(9), ChaCha8Rng::seed_from_u64(9));
            for seed in 0..200 {
                let logits = logits(n, spread, seed);
                assert_eq!(choose(&logits, temperature, &mut a), plain(&logits, temperature, &mut b));
            }
        }
    }

    #[test]
    fn the_largest_are_those_of_a_sort() {
        let mut logits = logits(1000, 2.0, 4);
        (0..1000).step_by(3).for_each(|i| logits[i] = 0.5);
        let mut sorted: Vec<usize> = (0..1000).collect();
        sorted.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        for count in [0, 1, 5, 333, 999, 1000, 2000] {
            assert_eq!(largest(&logits, count), sorted[..count.min(1000)]);
        }
    }
}
