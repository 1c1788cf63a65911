//! y = x Wᵀ for few rows of x, as many as answers advance together: each number of W is read once,
//! where it is stored, and meets all rows of x in registers. [`super::product`] would turn W around
//! for a handful of tiles.
//!
//! The sums are those of [`super::product`], bit for bit: the same blocks of the inner dimension,
//! added up in the same order.

use std::arch::x86_64::*;

use faer::MatRef;

use super::packing::{Element, StoredMatrix};
use super::transpose::transpose;
use super::{Buffer, Shared, depth};
use crate::team;

/// Rows of x at most.
pub const MOST: usize = 64;
/// Rows of W whose products are transposed around and written at once.
const CHUNK: usize = 48;
/// Numbers of a register.
const LANES: usize = 16;

/// `dst = lhs · Wᵀ`; rows of `dst` are `stride` apart.
///
/// # Panics
/// If the shapes do not fit; callers have checked [`super::available`] and that `lhs` has 1 to
/// [`MOST`] rows.
pub fn product<T: Element>(dst: &mut [f32], stride: usize, lhs: MatRef<f32>, w: &StoredMatrix<&[T]>) {
    let (m, n, k) = (lhs.nrows(), w.rows, lhs.ncols());
    assert!((1..=MOST).contains(&m) && k == w.cols && k > 0, "few rows, and one inner dimension");
    assert!(dst.len() >= (m - 1) * stride + n, "the result fits its buffer");
    assert!(w.data.len() >= n.saturating_sub(1) * w.stride + k, "the weight is whole");
    let out = Shared::new(dst);
    let x = transposed(lhs);
    let work = |chunk: usize| {
        let columns = chunk * CHUNK..((chunk + 1) * CHUNK).min(n);
        // SAFETY: the machine has AVX-512; chunks are columns of their own.
        unsafe {
            match m.div_ceil(LANES) {
                1 => one_chunk::<T, 8, 1>(out, stride, m, &x, w, columns),
                2 => one_chunk::<T, 8, 2>(out, stride, m, &x, w, columns),
                3 => one_chunk::<T, 8, 3>(out, stride, m, &x, w, columns),
                _ => one_chunk::<T, 6, 4>(out, stride, m, &x, w, columns),
            }
        }
    };
    /// Multiplies-adds below which one task does it all, and chunks that a task takes at least.
    const SMALL: usize = 1 << 17;
    const TASK: usize = 1 << 20;
    let chunks = n.div_ceil(CHUNK);
    if m * n * k <= SMALL {
        return (0..chunks).for_each(work);
    }
    let together = (TASK / (m * k * CHUNK)).max(1);
    team::for_each(chunks.div_ceil(together), |task| {
        (task * together..((task + 1) * together).min(chunks)).for_each(work);
    });
}

/// xᵀ, `inner` × rows of x, these filled up with zeros to whole registers.
fn transposed(x: MatRef<f32>) -> Buffer {
    let (m, k) = (x.nrows(), x.ncols());
    let width = m.next_multiple_of(LANES);
    let mut to = Buffer::new(k * width);
    let whole = if x.col_stride() == 1 { k / LANES * LANES } else { 0 };
    for first in (0..m).step_by(LANES) {
        let rows = x.subrows(first, LANES.min(m - first));
        // SAFETY: `product` is only called where AVX-512 is.
        unsafe { transpose_rows(&mut to[first..], width, rows, whole) };
        for j in whole..k {
            let to = &mut to[j * width + first..][..LANES];
            to.fill(0.0);
            to.iter_mut().enumerate().take(rows.nrows()).for_each(|(i, to)| *to = rows[(i, j)]);
        }
    }
    to
}

/// The first `whole` columns of up to 16 rows, `width` numbers apart.
#[target_feature(enable = "avx512f")]
unsafe fn transpose_rows(to: &mut [f32], width: usize, rows: MatRef<f32>, whole: usize) {
    assert!(whole == 0 || to.len() >= (whole - 1) * width + LANES);
    for j in (0..whole).step_by(LANES) {
        let mut block = [_mm512_setzero_ps(); LANES];
        for (i, b) in block.iter_mut().take(rows.nrows()).enumerate() {
            // SAFETY: the row has these 16 numbers, one behind the other.
            *b = unsafe { _mm512_loadu_ps(rows.ptr_at(i, j)) };
        }
        for (l, column) in transpose(block).into_iter().enumerate() {
            // SAFETY: inside `to`, as asserted.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr().add((j + l) * width), column) };
        }
    }
}

/// Up to [`CHUNK`] columns of the result, `R` rows of W at a time, for `L` registers of rows of x.
#[target_feature(enable = "avx512f")]
unsafe fn one_chunk<T: Element, const R: usize, const L: usize>(
    out: Shared,
    stride: usize,
    m: usize,
    x: &[f32],
    w: &StoredMatrix<&[T]>,
    columns: std::ops::Range<usize>,
) {
    const { assert!(CHUNK.is_multiple_of(R)) };
    let deep = depth(w.cols);
    let mut sums = [_mm512_setzero_ps(); CHUNK * MOST / LANES];
    for (i, sums) in sums.chunks_exact_mut(R * L).enumerate().take(columns.len().div_ceil(R)) {
        // Past the last row, the last one again: its sums are not written.
        let rows = std::array::from_fn(|r| {
            let row = (columns.start + i * R + r).min(columns.end - 1);
            w.data[w.at(row, 0)..][..w.cols].as_ptr()
        });
        for first in (0..w.cols).step_by(deep) {
            let d = deep.min(w.cols - first);
            // SAFETY: rows have `inner` numbers, and x as many registers of `L`.
            unsafe { block::<T, R, L>(sums, x.as_ptr(), rows, first..first + d, R * w.stride) };
        }
    }
    for group in (0..columns.len()).step_by(LANES) {
        let live = LANES.min(columns.len() - group);
        let mask = ((1u32 << live) - 1) as __mmask16;
        for l in 0..L {
            let part = std::array::from_fn(|c| sums[(group + c) * L + l]);
            for (i, row) in transpose(part).into_iter().enumerate().take(m.saturating_sub(l * LANES)) {
                let to = out.at((l * LANES + i) * stride + columns.start + group);
                // SAFETY: `live` numbers of this row of the result, which only this task writes.
                unsafe { _mm512_mask_storeu_ps(to, mask, row) };
            }
        }
    }
}

/// Adds the products over a block of the inner dimension to the sums of `R` rows of W. `ahead` is
/// how many numbers of W lie between these rows and those that come next.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn block<T: Element, const R: usize, const L: usize>(
    sums: &mut [__m512],
    x: *const f32,
    rows: [*const T; R],
    inner: std::ops::Range<usize>,
    ahead: usize,
) {
    const LINE: usize = 64;
    let mut new = [[_mm512_setzero_ps(); L]; R];
    // SAFETY: the caller's pointers cover what is read; a prefetch reads nothing.
    unsafe {
        for k in inner {
            if (k * size_of::<T>()).is_multiple_of(LINE) {
                rows.iter().for_each(|w| _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(ahead + k).cast()));
            }
            let x: [__m512; L] = std::array::from_fn(|l| _mm512_loadu_ps(x.add((k * L + l) * LANES)));
            for (w, new) in rows.iter().zip(&mut new) {
                let w = T::broadcast(w.add(k));
                new.iter_mut().zip(&x).for_each(|(new, x)| *new = _mm512_fmadd_ps(w, *x, *new));
            }
        }
    }
    for (sum, new) in sums.iter_mut().zip(new.as_flattened()) {
        *sum = _mm512_add_ps(*new, *sum);
    }
}
