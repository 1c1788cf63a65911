//! The matrix product for x86-64 with AVX-512: tiles of 13 × 32 numbers in registers, the right
//! side decoded from its stored type while it is packed.
//!
//! With [`Bf16Pairs`] both sides are bf16, two of the inner dimension in a word, and an instruction makes
//! 32 products.
//!
//! C = alpha · A · B (+ C), C row-major. B is packed in strips of 32 columns, a block of the inner
//! dimension at a time (Goto & van de Geijn 2008; the right side takes the place of their left).
//! The blocks of the inner dimension depend on its length alone and each element adds up in order,
//! so results do not depend on tiles, threads, or how many rows there are.

#![cfg(target_arch = "x86_64")]

use faer::{Accum, MatRef};

use super::Shared;
use super::buffer::Buffer;
use super::isa::{self, InstructionSet};
use super::team;

mod arithmetic;
mod one_row;
mod packing;
mod skinny;
mod transpose;

use arithmetic::{Arithmetic, Bf16Pairs, Single};

pub use packing::{Columns, Element, Rows, StoredMatrix};
pub(super) use transpose::transpose;

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

/// Whether products of bf16 are in use too.
pub fn bf16_available() -> bool {
    isa::bf16()
}

/// A right side, packed for an arithmetic.
pub trait RightOperand<A: Arithmetic = Single>: Sync {
    /// Its rows, the inner dimension, and its columns.
    fn shape(&self) -> (usize, usize);
    /// Writes rows `k..k + depth` of columns `c..c + STRIP`, row after row of words, zeros for columns
    /// beyond the last and for what a word lacks. `spare` has room for `STRIP` × `depth` numbers more.
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
    product_of::<Single, R>(dst, stride, accum, lhs, rhs, alpha);
}

/// As [`product`] with both sides in bf16: `lhs` is rounded to the nearest.
///
/// # Panics
/// As [`product`]; callers have checked [`bf16_available`].
pub fn bf16_product<R: RightOperand<Bf16Pairs>>(
    dst: &mut [f32],
    stride: usize,
    accum: Accum,
    lhs: MatRef<f32>,
    rhs: &R,
) {
    product_of::<Bf16Pairs, R>(dst, stride, accum, lhs, rhs, 1.0);
}

fn product_of<A: Arithmetic, R: RightOperand<A>>(
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
    let left = pack_left::<A>(lhs, count);
    let strips = n.div_ceil(STRIP);
    let (tall, across) = tasks(m, strips, k);
    let down = count.div_ceil(tall);
    let out = Shared::new(dst);
    let work = |i: usize| {
        let tiles = (i / across * tall)..((i / across + 1) * tall).min(count);
        let strips = tile(strips, across, i % across);
        // SAFETY: `available`; tasks have tiles of their own, inside `dst` as asserted above.
        unsafe { task::<A, R>(out, stride, accum, (&left, m, count), rhs, alpha, tiles, strips) };
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
        2..=skinny::MOST => skinny::product(dst, stride, lhs, w),
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
fn pack_left<A: Arithmetic>(lhs: MatRef<f32>, count: usize) -> Buffer {
    let (m, k) = (lhs.nrows(), lhs.ncols());
    let mut to = Buffer::new(m * k.div_ceil(A::PER_WORD));
    let deep = depth(k);
    let shared = Shared::new(&mut to);
    let one = |t: usize| {
        let rows = tile(m, count, t);
        for first in (0..k).step_by(deep) {
            let d = deep.min(k - first);
            let (before, words) = (first / A::PER_WORD, d.div_ceil(A::PER_WORD));
            // SAFETY: tiles of blocks do not overlap; blocks begin with whole words.
            let to = unsafe { shared.slice(before * m + rows.start * words, rows.len() * words) };
            A::pack_tile(to, lhs.submatrix(rows.start, first, rows.len(), d));
        }
    };
    if m * k < 1 << 15 {
        (0..count).for_each(one)
    } else {
        team::for_each(count, one)
    }
    to
}

/// Some tiles of some strips.
#[target_feature(enable = "avx512f,avx512bw")]
#[expect(clippy::too_many_arguments, reason = "one task of one product")]
unsafe fn task<A: Arithmetic, R: RightOperand<A>>(
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
        let (before, words) = (first / A::PER_WORD, d.div_ceil(A::PER_WORD));
        let add = first > 0 || accum == Accum::Add;
        for s in strips.clone() {
            let c = s * STRIP;
            // SAFETY: the features are there; blocks and strips begin where `pack` wants them.
            unsafe { rhs.pack(first, d, c, &mut strip[..STRIP * words], spare) };
            let wide = STRIP.min(n - c);
            for t in tiles.clone() {
                let rows = tile(m, count, t);
                let a = left[before * m + rows.start * words..].as_ptr();
                // SAFETY: the tile lies inside the result, and only this task writes it.
                unsafe {
                    let to = Tile { to: out.at(rows.start * stride + c), stride, wide, alpha, add };
                    A::tile(rows.len(), words, a, strip.as_ptr(), to);
                }
            }
        }
    }
}

/// Where a tile's numbers go.
#[derive(Clone, Copy)]
pub struct Tile {
    to: *mut f32,
    stride: usize,
    wide: usize,
    alpha: f32,
    add: bool,
}
