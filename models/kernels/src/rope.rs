//! Rotary position embedding: dimension i of a head rotates with dimension i + d/2 by an angle that
//! grows with the position (the layout of the published Llama and Qwen2 files).

use rayon::prelude::*;

use super::ROWS;
use super::profile::{Part, timed};
use super::simd::vectorized;

/// Cosines and sines of positions `0..len`.
#[derive(Debug)]
pub struct Rope {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// For positions `0..len` and these frequencies, one a pair of dimensions.
    pub fn new(frequencies: &[f32], len: usize) -> Self {
        let angles = || (0..len).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        let half = frequencies.len();
        Self {
            half,
            cos: angles().map(|a| a.cos() as f32).collect(),
            sin: angles().map(|a| a.sin() as f32).collect(),
        }
    }

    /// Positions that it covers.
    pub fn len(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Whether it covers none.
    pub fn is_empty(&self) -> bool {
        self.cos.is_empty()
    }

    /// Cosines and sines of a position, one a pair of dimensions.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Rotates every head of rows of `width` in place; row i is at `positions[i]`. `sign` -1 rotates
    /// back, which is the gradient.
    pub fn rotate(&self, x: &mut [f32], width: usize, positions: &[u32], sign: f32) {
        let all = x.par_chunks_mut(width * ROWS).zip(positions.par_chunks(ROWS));
        timed(Part::Rope, || {
            all.for_each(|(rows, positions)| {
                for (row, position) in rows.chunks_exact_mut(width).zip(positions) {
                    let (cos, sin) = self.at(*position as usize);
                    rotate_row(row, cos, sin, sign);
                }
            });
        });
    }
}

vectorized! {
    fn rotate_row(row: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in row.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let s = sign * s;
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd;
    use crate::testing::{Tensors, check_gradients};

    #[test]
    fn gradients_agree_with_differences() {
        let rope = Rope::new(&[1.0, 0.1, 0.01], 9);
        let (positions, probe) = ([0, 3, 8, 1], Tensors::numbers(4 * 12, 2));
        let mut t = Tensors::new(31);
        t.push(4 * 12);
        // Turning the gradient back is the backward pass.
        let mut dx = probe.clone();
        rope.rotate(&mut dx, 12, &positions, -1.0);
        check_gradients(&t, &[dx], |t| {
            let mut x = t.get(0).to_vec();
            rope.rotate(&mut x, 12, &positions, 1.0);
            simd::dot(&x, &probe)
        });
    }

    #[test]
    fn rotating_back_undoes_it() {
        let rope = Rope::new(&[1.0, 0.1, 0.01], 9);
        let before = Tensors::numbers(4 * 12, 1);
        let mut x = before.clone();
        rope.rotate(&mut x, 12, &[0, 3, 8, 1], 1.0);
        assert_eq!(x[..12], before[..12], "position 0 stays");
        assert!(x[12..24] != before[12..24]);
        rope.rotate(&mut x, 12, &[0, 3, 8, 1], -1.0);
        assert!(x.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
