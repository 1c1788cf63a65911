//! The matrix product for x86-64 with AVX-512: tiles of 13 × 32 numbers in registers, the right
//! side decoded from its stored type while it is packed.
//!
//! C = alpha · A · B (+ C), C row-major. B is packed in strips of 32 columns, a block of the inner
//! dimension at a time (Goto & van de Geijn 2008; the right side takes the place of their left).
//! The blocks of the inner dimension depend on its length alone and each element adds up in order,
//! so results do not depend on tiles, threads, or how many rows there are.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use faer::{Accum, MatRef};

use super::Shared;
use super::buffer::Buffer;
use super::isa::{self, InstructionSet};
use super::team;

mod one_row;
mod packing;
mod skinny;

pub(super) use packing::transpose;
pub use packing::{Columns, Element, Rows, StoredMatrix};

/// Columns of a strip.
pub const STRIP: usize = 32;
/// Rows of a tile at most: 26 sums, two numbers of B and one of A fill the registers.
const ROWS: usize = 13;
/// Block of the inner dimension at most: a strip of it fits the first cache.
const DEPTH: usize = 320;
/// Rows that a task takes at most.
const TALL: usize = 260;

/// Whether what the kernels need is in use.
pub fn available() -> bool {
    isa::in_use() >= InstructionSet::Avx512
}

/// A right side.
pub trait RightOperand: Sync {
    /// Its rows, the inner dimension, and its columns.
    fn shape(&self) -> (usize, usize);
    /// Writes rows `k..k + depth` of columns `c..c + STRIP`, row after row, zeros for columns
    /// beyond the last. `spare` has room for `STRIP` × `depth` numbers more.
    ///
    /// # Safety
    /// The machine has AVX-512; `k` is a multiple of 32 and `c` one of [`STRIP`].
    unsafe fn pack(&self, k: usize, depth: usize, c: usize, to: &mut [f32], spare: &mut [f32]);
}

/// Length of the blocks that an inner dimension is cut into.
fn depth(inner: usize) -> usize {
    inner.div_ceil(inner.div_ceil(DEPTH).max(1)).next_multiple_of(32).min(inner).max(1)
}

/// Rows of tile `i` of `count`, over `rows`: as equal as can be.
fn tile(rows: usize, count: usize, i: usize) -> std::ops::Range<usize> {
    i * rows / count..(i + 1) * rows / count
}

/// `dst (+)= alpha · lhs · rhs`; rows of `dst` are `stride` apart.
///
/// # Panics
/// If the shapes do not fit; callers have checked [`available`].
pub fn product<R: RightOperand>(
    dst: &mut [f32],
    stride: usize,
    accum: Accum,
    lhs: MatRef<f32>,
    rhs: &R,
    alpha: f32,
) {
    let ((inner, n), m, k) = (rhs.shape(), lhs.nrows(), lhs.ncols());
    if m == 0 || n == 0 {
        return;
    }
    assert!(k == inner && k > 0, "the inner dimensions are one");
    assert!(dst.len() >= (m - 1) * stride + n, "the result fits its buffer");
    let count = m.div_ceil(ROWS);
    let left = pack_left(lhs, count);
    let strips = n.div_ceil(STRIP);
    let (tall, across) = tasks(m, strips, k);
    let down = count.div_ceil(tall);
    let out = Shared::new(dst);
    let work = |i: usize| {
        let tiles = (i / across * tall)..((i / across + 1) * tall).min(count);
        let strips = tile(strips, across, i % across);
        // SAFETY: `available`; tasks have tiles of their own, inside `dst` as asserted above.
        unsafe { task(out, stride, accum, (&left, m, count), rhs, alpha, tiles, strips) };
    };
    team::for_each(down * across, work);
}

/// `dst = lhs · Wᵀ`, as [`product`] gives it.
///
/// # Panics
/// As [`product`].
pub fn forward<T: Element>(dst: &mut [f32], stride: usize, lhs: MatRef<f32>, w: &StoredMatrix<&[T]>) {
    match lhs.nrows() {
        1 => one_row::product(dst, lhs, w),
        1..=skinny::MOST => skinny::product(dst, stride, lhs, w),
        _ => product(dst, stride, Accum::Replace, lhs, &Columns(*w), 1.0),
    }
}

/// Tiles of rows that a task takes, and parts that the strips are cut into.
fn tasks(m: usize, strips: usize, k: usize) -> (usize, usize) {
    /// Multiplies-adds below which one task does it all.
    const SMALL: usize = 1 << 18;
    /// Tasks at least, where the product is large enough.
    const TASKS: usize = 8;
    let count = m.div_ceil(ROWS);
    if m * strips * STRIP * k <= SMALL {
        return (count, 1);
    }
    let down = m.div_ceil(TALL);
    let across = TASKS.div_ceil(down).min(strips);
    let down = if across * down < TASKS { TASKS.div_ceil(across).min(count) } else { down };
    (count.div_ceil(down), across)
}

/// A, a block of the inner dimension after the other, in each of them tile after tile, in each of
/// those a column of A after the other.
fn pack_left(lhs: MatRef<f32>, count: usize) -> Buffer {
    let (m, k) = (lhs.nrows(), lhs.ncols());
    let mut to = Buffer::new(m * k);
    let deep = depth(k);
    let shared = Shared::new(&mut to);
    let one = |t: usize| {
        let rows = tile(m, count, t);
        for first in (0..k).step_by(deep) {
            let d = deep.min(k - first);
            // SAFETY: tiles of blocks do not overlap.
            let to = unsafe { shared.slice(first * m + rows.start * d, rows.len() * d) };
            pack_tile(to, lhs.submatrix(rows.start, first, rows.len(), d));
        }
    };
    if m * k < 1 << 15 {
        (0..count).for_each(one)
    } else {
        team::for_each(count, one)
    }
    to
}

fn pack_tile(to: &mut [f32], a: MatRef<f32>) {
    let (rows, d) = (a.nrows(), a.ncols());
    if a.row_stride() == 1 {
        for (j, to) in to.chunks_exact_mut(rows).enumerate() {
            // SAFETY: a column of the view, `rows` numbers one behind the other.
            to.copy_from_slice(unsafe { std::slice::from_raw_parts(a.ptr_at(0, j), rows) });
        }
        return;
    }
    let whole = if a.col_stride() == 1 { d / 16 * 16 } else { 0 };
    // SAFETY: `product` is only called where AVX-512 is; `whole` numbers of each row lie side by side.
    unsafe { transpose_tile(&mut to[..whole * rows], a, whole) };
    for i in 0..rows {
        for j in whole..d {
            // SAFETY: inside the view.
            to[j * rows + i] = unsafe { *a.ptr_at(i, j) };
        }
    }
}

/// The first `whole` columns of up to 16 rows, 16 columns at a time.
#[target_feature(enable = "avx512f")]
unsafe fn transpose_tile(to: &mut [f32], a: MatRef<f32>, whole: usize) {
    let rows = a.nrows();
    assert!(rows <= 16 && to.len() == whole * rows);
    let mask = ((1u32 << rows) - 1) as __mmask16;
    for j in (0..whole).step_by(16) {
        let mut block = [_mm512_setzero_ps(); 16];
        for (i, b) in block.iter_mut().take(rows).enumerate() {
            // SAFETY: the caller's view has these 16 numbers.
            *b = unsafe { _mm512_loadu_ps(a.ptr_at(i, j)) };
        }
        for (l, column) in transpose(block).into_iter().enumerate() {
            // SAFETY: `rows` numbers from there on are in `to`.
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().add((j + l) * rows), mask, column) };
        }
    }
}

/// Some tiles of some strips.
#[target_feature(enable = "avx512f,avx512bw")]
#[expect(clippy::too_many_arguments, reason = "one task of one product")]
unsafe fn task<R: RightOperand>(
    out: Shared,
    stride: usize,
    accum: Accum,
    (left, m, count): (&[f32], usize, usize),
    rhs: &R,
    alpha: f32,
    tiles: std::ops::Range<usize>,
    strips: std::ops::Range<usize>,
) {
    let (k, n) = rhs.shape();
    let deep = depth(k);
    let mut packed = Buffer::new(2 * STRIP * deep);
    let (strip, spare) = packed.split_at_mut(STRIP * deep);
    for first in (0..k).step_by(deep) {
        let d = deep.min(k - first);
        let add = first > 0 || accum == Accum::Add;
        for s in strips.clone() {
            let c = s * STRIP;
            // SAFETY: the features are there; blocks and strips begin where `pack` wants them.
            unsafe { rhs.pack(first, d, c, &mut strip[..STRIP * d], spare) };
            let wide = STRIP.min(n - c);
            for t in tiles.clone() {
                let rows = tile(m, count, t);
                let a = left[first * m + rows.start * d..].as_ptr();
                // SAFETY: the tile lies inside the result, and only this task writes it.
                unsafe {
                    let to = Tile { to: out.at(rows.start * stride + c), stride, wide, alpha, add };
                    micro(rows.len(), d, a, strip.as_ptr(), to);
                }
            }
        }
    }
}

/// Where a tile's numbers go.
#[derive(Clone, Copy)]
struct Tile {
    to: *mut f32,
    stride: usize,
    wide: usize,
    alpha: f32,
    add: bool,
}

#[target_feature(enable = "avx512f")]
unsafe fn micro(rows: usize, d: usize, a: *const f32, b: *const f32, tile: Tile) {
    // SAFETY: passed on to the caller.
    unsafe {
        match rows {
            1 => tile_of::<1>(d, a, b, tile),
            2 => tile_of::<2>(d, a, b, tile),
            3 => tile_of::<3>(d, a, b, tile),
            4 => tile_of::<4>(d, a, b, tile),
            5 => tile_of::<5>(d, a, b, tile),
            6 => tile_of::<6>(d, a, b, tile),
            7 => tile_of::<7>(d, a, b, tile),
            8 => tile_of::<8>(d, a, b, tile),
            9 => tile_of::<9>(d, a, b, tile),
            10 => tile_of::<10>(d, a, b, tile),
            11 => tile_of::<11>(d, a, b, tile),
            12 => tile_of::<12>(d, a, b, tile),
            _ => tile_of::<13>(d, a, b, tile),
        }
    }
}

/// A tile of `N` rows: `a` has `d` × `N` numbers, `b` `d` × [`STRIP`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn tile_of<const N: usize>(d: usize, a: *const f32, b: *const f32, tile: Tile) {
    // SAFETY: the caller's pointers cover what is read and written.
    unsafe {
        // The result's lines come while the sums are made.
        for r in 0..N {
            let line = tile.to.wrapping_add(r * tile.stride).cast::<i8>();
            _mm_prefetch::<_MM_HINT_T0>(line);
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64));
        }
        let mut sums = [[_mm512_setzero_ps(); 2]; N];
        let (mut a, mut b) = (a, b);
        for _ in 0..d {
            let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let v = _mm512_set1_ps(*a.add(r));
                sum[0] = _mm512_fmadd_ps(v, b0, sum[0]);
                sum[1] = _mm512_fmadd_ps(v, b1, sum[1]);
            }
            (a, b) = (a.add(N), b.add(STRIP));
        }
        let bits = if tile.wide == STRIP { u32::MAX } else { (1u32 << tile.wide) - 1 };
        let masks = [bits as __mmask16, (bits >> 16) as __mmask16];
        let alpha = _mm512_set1_ps(tile.alpha);
        for (r, sum) in sums.iter().enumerate() {
            for (half, mask) in masks.into_iter().enumerate() {
                let to = tile.to.wrapping_add(r * tile.stride + 16 * half);
                let before = if tile.add { _mm512_maskz_loadu_ps(mask, to) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(to, mask, _mm512_fmadd_ps(sum[half], alpha, before));
            }
        }
    }
}
