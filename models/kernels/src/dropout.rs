//! Dropout of a LoRA pair's input: each number is zero with some probability, and divided by the
//! rest of it otherwise (Srivastava et al. 2014, scaled while training).
//!
//! Which numbers are zero is a hash of the token's key, the layer and the number's place. So it
//! needs no memory, the backward pass draws the same again, and neither threads nor the way in
//! which a step is cut into micro-batches change it.

use rayon::prelude::*;

use super::ROWS;
use super::buffer::Buffer;

/// Dropout of one layer's input.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// Share of numbers that are set to zero, in [0, 1).
    pub share: f32,
    /// A key of each token.
    pub tokens: &'a [u64],
    /// Tells the layer apart from all others.
    pub layer: u64,
}

/// A well-mixed hash of one number (SplitMix64's finalizer, Steele et al. 2014).
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Dropout<'_> {
    /// x, `width` numbers a token, with dropout.
    pub fn of(&self, x: &[f32], width: usize) -> Buffer {
        let mut out = Buffer::new(x.len());
        self.each(&mut out, x, width, |to, x| *to = x);
        out
    }

    /// dx += what of `d`, the gradient behind the dropout, passes.
    pub fn back(&self, dx: &mut [f32], d: &[f32], width: usize) {
        self.each(dx, d, width, |to, d| *to += d);
    }

    fn each(&self, to: &mut [f32], from: &[f32], width: usize, put: impl Fn(&mut f32, f32) + Sync) {
        let keep = 1.0 / (1.0 - self.share);
        // The upper half of a hash is below this for the share that is dropped.
        let below = (f64::from(self.share) * f64::from(u32::MAX)) as u64;
        let rows = to.par_chunks_mut(width * ROWS).zip(from.par_chunks(width * ROWS));
        rows.zip(self.tokens.par_chunks(ROWS)).for_each(|((to, from), keys)| {
            let rows = to.chunks_exact_mut(width).zip(from.chunks_exact(width)).zip(keys);
            for ((to, from), key) in rows {
                let key = mix(key ^ self.layer);
                for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
                    let passes = mix(key.wrapping_add(i as u64)) >> 32 >= below;
                    put(to, if passes { from * keep } else { 0.0 });
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_and_so_is_the_mean() {
        let (width, n) = (200, 40);
        let keys: Vec<u64> = (0..n).collect();
        let x = vec![1.0; width * n as usize];
        let mut last = None;
        for layer in 0..3 {
            let out = Dropout { share: 0.3, tokens: &keys, layer }.of(&x, width).to_vec();
            let zero = out.iter().filter(|v| **v == 0.0).count() as f32 / x.len() as f32;
            let mean = out.iter().sum::<f32>() / x.len() as f32;
            assert!((zero - 0.3).abs() < 0.02 && (mean - 1.0).abs() < 0.03, "{zero} {mean}");
            assert!(last.replace(out.clone()) != Some(out), "layers differ");
        }
    }

    #[test]
    fn a_token_keeps_its_zeros_wherever_it_stands() {
        let x = vec![1.0; 3 * 64];
        let of = |keys: &[u64]| Dropout { share: 0.5, tokens: keys, layer: 7 }.of(&x, 64).to_vec();
        let (a, b) = (of(&[1, 2, 3]), of(&[3, 1, 2]));
        assert_eq!(a[..64], b[64..128]);
        assert_eq!(a[128..], b[..64]);
    }
}
