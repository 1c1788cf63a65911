//! What the tiles of a product are made of: sums of numbers, or of pairs of bf16.

use std::arch::x86_64::*;

use faer::MatRef;

use super::transpose::transpose;
use super::{STRIP, Tile};

/// How products are summed up. Both sides are packed as words of 32 bits, along the inner dimension.
pub trait Arithmetic {
    /// Numbers of a word.
    const PER_WORD: usize;

    /// Packs up to 16 rows of a left side, word after word.
    fn pack_tile(to: &mut [f32], a: MatRef<f32>);

    /// A tile of up to [`super::ROWS`] rows: `a` has `words` × `rows` words, `b` `words` × [`STRIP`].
    ///
    /// # Safety
    /// The machine has what the arithmetic needs, and the pointers cover what is read and written.
    unsafe fn tile(rows: usize, words: usize, a: *const f32, b: *const f32, tile: Tile);
}

/// f32 as it is.
pub struct Single;

/// Pairs of bf16, whose products are added up in f32 (AVX-512 BF16).
pub struct Bf16Pairs;

/// Words of the first `words` columns (of words) of up to 16 rows: `load(row, word)` gives 16 of them.
#[target_feature(enable = "avx512f")]
unsafe fn transpose_tile(to: &mut [f32], rows: usize, words: usize, load: impl Fn(usize, usize) -> __m512) {
    assert!(rows <= 16 && words.is_multiple_of(16) && to.len() >= words * rows);
    let mask = ((1u32 << rows) - 1) as __mmask16;
    for j in (0..words).step_by(16) {
        let mut block = [_mm512_setzero_ps(); 16];
        for (i, b) in block.iter_mut().take(rows).enumerate() {
            *b = load(i, j);
        }
        for (l, column) in transpose(block).into_iter().enumerate() {
            // SAFETY: `rows` words from there on are in `to`, as asserted.
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().add((j + l) * rows), mask, column) };
        }
    }
}

impl Arithmetic for Single {
    const PER_WORD: usize = 1;

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
        // SAFETY: products are only made where AVX-512 is; `whole` numbers of each row lie side by side.
        unsafe { pack_singles(&mut to[..rows * whole], a, whole) };
        for i in 0..rows {
            for j in whole..d {
                // SAFETY: inside the view.
                to[j * rows + i] = unsafe { *a.ptr_at(i, j) };
            }
        }
    }

    unsafe fn tile(rows: usize, words: usize, a: *const f32, b: *const f32, tile: Tile) {
        // SAFETY: passed on to the caller.
        unsafe { single::micro(rows, words, a, b, tile) };
    }
}

impl Arithmetic for Bf16Pairs {
    const PER_WORD: usize = 2;

    fn pack_tile(to: &mut [f32], a: MatRef<f32>) {
        let (rows, d) = (a.nrows(), a.ncols());
        let whole = if a.col_stride() == 1 { d / 32 * 16 } else { 0 };
        // SAFETY: products are only made where AVX-512 BF16 is; the numbers of each row lie side by side.
        unsafe { pack_pairs(&mut to[..rows * whole], a, whole) };
        for i in 0..rows {
            for word in whole..d.div_ceil(2) {
                let number = |j: usize| if j < d { half::bf16::from_f32(a[(i, j)]).to_bits() } else { 0 };
                let pair = u32::from(number(2 * word)) | u32::from(number(2 * word + 1)) << 16;
                to[word * rows + i] = f32::from_bits(pair);
            }
        }
    }

    unsafe fn tile(rows: usize, words: usize, a: *const f32, b: *const f32, tile: Tile) {
        // SAFETY: passed on to the caller.
        unsafe { pairs::micro(rows, words, a, b, tile) };
    }
}

/// The first `words` numbers of each row.
#[target_feature(enable = "avx512f")]
unsafe fn pack_singles(to: &mut [f32], a: MatRef<f32>, words: usize) {
    // SAFETY: the caller's view has these 16 numbers, one behind the other.
    let load = |i: usize, j: usize| unsafe { _mm512_loadu_ps(a.ptr_at(i, j)) };
    // SAFETY: the features are there.
    unsafe { transpose_tile(to, a.nrows(), words, load) };
}

/// The first `words` pairs of each row, rounded to the nearest.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pack_pairs(to: &mut [f32], a: MatRef<f32>, words: usize) {
    let load = |i: usize, word: usize| {
        // SAFETY: the caller's view has these 32 numbers, one behind the other.
        let [low, high] = [0, 16].map(|k| unsafe { _mm512_loadu_ps(a.ptr_at(i, 2 * word).add(k)) });
        // SAFETY: the same bits.
        unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)) }
    };
    // SAFETY: the features are there.
    unsafe { transpose_tile(to, a.nrows(), words, load) };
}

/// Defines `micro`, a tile whose sums add up by `$step(sum, a, b)`.
macro_rules! tiles {
    ($name:ident, $features:literal, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
        mod $name {
            use super::*;

            #[target_feature(enable = $features)]
            pub unsafe fn micro(rows: usize, words: usize, a: *const f32, b: *const f32, tile: Tile) {
                // SAFETY: passed on to the caller.
                unsafe {
                    match rows {
                        1 => tile_of::<1>(words, a, b, tile),
                        2 => tile_of::<2>(words, a, b, tile),
                        3 => tile_of::<3>(words, a, b, tile),
                        4 => tile_of::<4>(words, a, b, tile),
                        5 => tile_of::<5>(words, a, b, tile),
                        6 => tile_of::<6>(words, a, b, tile),
                        7 => tile_of::<7>(words, a, b, tile),
                        8 => tile_of::<8>(words, a, b, tile),
                        9 => tile_of::<9>(words, a, b, tile),
                        10 => tile_of::<10>(words, a, b, tile),
                        11 => tile_of::<11>(words, a, b, tile),
                        12 => tile_of::<12>(words, a, b, tile),
                        _ => tile_of::<13>(words, a, b, tile),
                    }
                }
            }

            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn tile_of<const N: usize>(words: usize, a: *const f32, b: *const f32, tile: Tile) {
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
                    for _ in 0..words {
                        let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                        for (r, sum) in sums.iter_mut().enumerate() {
                            let $a = _mm512_set1_ps(*a.add(r));
                            for ($sum, $b) in sum.iter_mut().zip([b0, b1]) {
                                *$sum = $step;
                            }
                        }
                        (a, b) = (a.add(N), b.add(STRIP));
                    }
                    super::write::<N>(&sums, tile);
                }
            }
        }
    };
}

tiles!(single, "avx512f", |sum, a, b| _mm512_fmadd_ps(a, b, *sum));
tiles!(pairs, "avx512f,avx512bf16", |sum, a, b| {
    let bits = std::mem::transmute::<__m512, __m512bh>;
    _mm512_dpbf16_ps(*sum, bits(a), bits(b))
});

/// Writes a tile's sums, or adds them.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn write<const N: usize>(sums: &[[__m512; 2]; N], tile: Tile) {
    let bits = if tile.wide == STRIP { u32::MAX } else { (1u32 << tile.wide) - 1 };
    let masks = [bits as __mmask16, (bits >> 16) as __mmask16];
    let alpha = _mm512_set1_ps(tile.alpha);
    for (r, sum) in sums.iter().enumerate() {
        for (half, mask) in masks.into_iter().enumerate() {
            let to = tile.to.wrapping_add(r * tile.stride + 16 * half);
            // SAFETY: the caller's tile covers what is read and written.
            unsafe {
                let before = if tile.add { _mm512_maskz_loadu_ps(mask, to) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(to, mask, _mm512_fmadd_ps(sum[half], alpha, before));
            }
        }
    }
}
