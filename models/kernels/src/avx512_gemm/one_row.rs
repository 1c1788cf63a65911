//! y = x Wᵀ for one row of x: W is read once, where it is stored, at the speed of memory.
//!
//! Registers hold 16 rows of W side by side: 16 × 16 words are transposed in registers, a word being
//! one number of 32 bits or two of 16. [`super::skinny`] has rows of x side by side, of which there
//! is one here.
//!
//! The sums are those of [`super::product`], bit for bit: the same blocks of the inner dimension,
//! added up in the same order.

use std::arch::x86_64::*;

use faer::MatRef;

use super::packing::{Element, StoredMatrix};
use super::transpose::transpose;
use super::{Shared, depth};
use crate::team;

/// Numbers of a register, and rows of W side by side.
const LANES: usize = 16;
/// Registers of rows of W that are worked on in turns, so that sums of one need not wait.
const TURNS: usize = 2;

/// `dst = lhs · Wᵀ`.
///
/// # Panics
/// If the shapes do not fit; callers have checked [`super::available`] and that `lhs` has one row.
pub fn product<T: Element>(dst: &mut [f32], lhs: MatRef<f32>, w: &StoredMatrix<&[T]>) {
    let (n, k) = (w.rows, lhs.ncols());
    assert!(lhs.nrows() == 1 && k == w.cols && k > 0, "one row, and one inner dimension");
    assert!(dst.len() >= n, "the result fits its buffer");
    assert!(w.data.len() >= n.saturating_sub(1) * w.stride + k, "the weight is whole");
    let x: Vec<f32> = (0..k).map(|i| lhs[(0, i)]).collect();
    let out = Shared::new(dst);
    let work = |strips: std::ops::Range<usize>| {
        for first in strips.map(|s| s * TURNS * LANES) {
            // SAFETY: the machine has AVX-512; strips are columns of their own.
            unsafe { one_strip(out, &x, w, first) };
        }
    };
    /// Multiplies-adds below which one task does it all, and tasks for each thread.
    const SMALL: usize = 1 << 16;
    const TASKS: usize = 4;
    let strips = n.div_ceil(TURNS * LANES);
    let tasks = if n * k <= SMALL { 1 } else { strips.min(TASKS * rayon::current_num_threads()) };
    team::for_each(tasks, |i| work(i * strips / tasks..(i + 1) * strips / tasks));
}

/// The columns of the result from `first` on.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn one_strip<T: Element>(out: Shared, x: &[f32], w: &StoredMatrix<&[T]>, first: usize) {
    let (k, deep) = (w.cols, depth(w.cols));
    // After the last row, the last one again: its sums are not written.
    let start = |r: usize| w.data[w.at((first + r).min(w.rows - 1), 0)..][..k].as_ptr();
    let rows: [[*const T; LANES]; TURNS] =
        std::array::from_fn(|turn| std::array::from_fn(|r| start(turn * LANES + r)));
    let mut sums = [_mm512_setzero_ps(); TURNS];
    for begin in (0..k).step_by(deep) {
        let end = (begin + deep).min(k);
        let mut new = [_mm512_setzero_ps(); TURNS];
        for at in (begin..end).step_by(T::PER_WORD * LANES) {
            let x = &x[at..end.min(at + T::PER_WORD * LANES)];
            for (rows, new) in rows.iter().zip(&mut new) {
                // SAFETY: rows of W have the numbers that x has.
                *new = unsafe { add::<T>(*new, rows, x, at) };
            }
        }
        for (sum, new) in sums.iter_mut().zip(new) {
            *sum = _mm512_add_ps(new, *sum);
        }
    }
    for (turn, sum) in sums.into_iter().enumerate() {
        let column = first + turn * LANES;
        let live = w.rows.saturating_sub(column).min(LANES);
        let mask = ((1u32 << live) - 1) as __mmask16;
        if live > 0 {
            // SAFETY: `live` numbers of the result, which only this task writes.
            unsafe { _mm512_mask_storeu_ps(out.at(column), mask, sum) };
        }
    }
}

/// Adds the products of up to 16 words of each row, from column `at` on, with as many numbers of x.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn add<T: Element>(mut sum: __m512, rows: &[*const T; LANES], x: &[f32], at: usize) -> __m512 {
    let mut words = [_mm512_setzero_ps(); LANES];
    for (word, row) in words.iter_mut().zip(rows) {
        // SAFETY: passed on to the caller.
        *word = unsafe { T::load_words(row.add(at), x.len()) };
    }
    let words = transpose(words);
    if x.len() == T::PER_WORD * LANES {
        for (word, x) in words.into_iter().zip(x.chunks_exact(T::PER_WORD)) {
            // SAFETY: the features are there.
            let parts = unsafe { T::parts(word) };
            for (w, x) in parts.into_iter().zip(x) {
                sum = _mm512_fmadd_ps(w, _mm512_set1_ps(*x), sum);
            }
        }
        return sum;
    }
    for (i, x) in x.iter().enumerate() {
        // SAFETY: the features are there.
        let parts = unsafe { T::parts(words[i / T::PER_WORD]) };
        sum = _mm512_fmadd_ps(parts[i % T::PER_WORD], _mm512_set1_ps(*x), sum);
    }
    sum
}
