//! Right sides of a product, in the types and orders that weights are stored in.

use std::arch::x86_64::*;

use super::arithmetic::Bf16Pairs;
use super::transpose::transpose;
use super::{RightOperand, STRIP};
use crate::quant::{QuantizedBlocks, RUN};
use crate::row_order::RowOrder;

/// Asks for the numbers of the next strip while this one is multiplied: rows of W lie far apart, so
/// the processor does not see them coming.
#[inline(always)]
fn expect<T>(data: &[T], at: usize, numbers: usize) {
    const LINE: usize = 64;
    let from = data.as_ptr().wrapping_add(at).cast::<i8>();
    for byte in (0..numbers * size_of::<T>()).step_by(LINE) {
        // SAFETY: a prefetch reads nothing and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(byte)) };
    }
}

/// A stored number of 16 bits or more that AVX-512 widens to f32.
pub trait Element: Copy + Sync {
    /// 16 numbers from an address.
    ///
    /// # Safety
    /// They can be read, and the machine has AVX-512.
    unsafe fn load(from: *const Self) -> __m512;

    /// One number from an address, 16 times.
    ///
    /// # Safety
    /// As [`Self::load`], of one number.
    unsafe fn broadcast(from: *const Self) -> __m512;

    /// Numbers of a word of 32 bits.
    const PER_WORD: usize;

    /// 16 words from an address, of which `numbers` numbers are read and the others are 0.
    ///
    /// # Safety
    /// `numbers` can be read, and the machine has AVX-512 F and BW.
    unsafe fn load_words(from: *const Self, numbers: usize) -> __m512;

    /// The numbers of 16 words: the first of each, and the second where it has two.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    unsafe fn parts(words: __m512) -> [__m512; 2];
}

/// Up to 32 numbers of 16 bits.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn load_halves(from: *const u8, numbers: usize) -> __m512 {
    let mask = if numbers >= 32 { u32::MAX } else { (1u32 << numbers) - 1 };
    // SAFETY: masked numbers are not read; the others are there.
    _mm512_castsi512_ps(unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) })
}

impl Element for f32 {
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: passed on to the caller.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn broadcast(from: *const Self) -> __m512 {
        // SAFETY: passed on to the caller.
        _mm512_set1_ps(unsafe { *from })
    }

    const PER_WORD: usize = 1;

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn load_words(from: *const Self, numbers: usize) -> __m512 {
        let mask = if numbers >= 16 { u16::MAX } else { (1u16 << numbers) - 1 };
        // SAFETY: masked numbers are not read; the others are there.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn parts(words: __m512) -> [__m512; 2] {
        [words; 2]
    }
}

impl Element for half::bf16 {
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: passed on to the caller.
        let halves = unsafe { _mm256_loadu_si256(from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn broadcast(from: *const Self) -> __m512 {
        // SAFETY: passed on to the caller.
        let bits = u32::from(unsafe { *from }.to_bits()) << 16;
        _mm512_castsi512_ps(_mm512_set1_epi32(bits as i32))
    }

    const PER_WORD: usize = 2;

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn load_words(from: *const Self, numbers: usize) -> __m512 {
        // SAFETY: passed on to the caller.
        unsafe { load_halves(from.cast(), numbers) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn parts(words: __m512) -> [__m512; 2] {
        let words = _mm512_castps_si512(words);
        let high = _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(high)]
    }
}

impl Element for half::f16 {
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: passed on to the caller.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn broadcast(from: *const Self) -> __m512 {
        // SAFETY: passed on to the caller.
        let half = unsafe { *from }.to_bits();
        _mm512_cvtph_ps(_mm256_set1_epi16(half as i16))
    }

    const PER_WORD: usize = 2;

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn load_words(from: *const Self, numbers: usize) -> __m512 {
        // SAFETY: passed on to the caller.
        unsafe { load_halves(from.cast(), numbers) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn parts(words: __m512) -> [__m512; 2] {
        let words = _mm512_castps_si512(words);
        let float = |w| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(w));
        [float(words), float(_mm512_srli_epi32::<16>(words))]
    }
}

/// A matrix W, row-major: its numbers, a slice of a [`Element`] type or [`QuantizedBlocks`] ones.
#[derive(Clone, Copy)]
pub struct StoredMatrix<D> {
    /// Its numbers. Rows of packed ones are whole runs.
    pub data: D,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Distance of its rows.
    pub stride: usize,
    /// In what order its rows lie.
    pub order: RowOrder,
}

impl<D> StoredMatrix<D> {
    /// Where number `col` of a row lies.
    #[inline(always)]
    pub fn at(&self, row: usize, col: usize) -> usize {
        self.order.place(row) * self.stride + col
    }
}

/// A matrix as a right side: B = W.
pub struct Rows<D>(pub StoredMatrix<D>);

/// A matrix whose rows are a right side's columns: B = Wᵀ.
pub struct Columns<D>(pub StoredMatrix<D>);

impl<T: Element> RightOperand for Rows<&[T]> {
    fn shape(&self) -> (usize, usize) {
        (self.0.rows, self.0.cols)
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn pack(&self, k: usize, depth: usize, c: usize, to: &mut [f32], _: &mut [f32]) {
        let w = &self.0;
        let wide = STRIP.min(w.cols - c);
        for (i, to) in to.chunks_exact_mut(STRIP).take(depth).enumerate() {
            let at = w.at(k + i, c);
            let from = &w.data[at..][..wide];
            expect(w.data, at + STRIP, STRIP);
            // SAFETY: whole strips are inside the row, and narrower ones are read through a copy.
            unsafe {
                if wide == STRIP {
                    _mm512_storeu_ps(to.as_mut_ptr(), T::load(from.as_ptr()));
                    _mm512_storeu_ps(to[16..].as_mut_ptr(), T::load(from[16..].as_ptr()));
                } else {
                    let mut row = [w.data[0]; STRIP];
                    row[..wide].copy_from_slice(from);
                    _mm512_storeu_ps(to.as_mut_ptr(), T::load(row.as_ptr()));
                    _mm512_storeu_ps(to[16..].as_mut_ptr(), T::load(row[16..].as_ptr()));
                    to[wide..].fill(0.0);
                }
            }
        }
    }
}

impl<T: Element> RightOperand for Columns<&[T]> {
    fn shape(&self) -> (usize, usize) {
        (self.0.cols, self.0.rows)
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn pack(&self, k: usize, depth: usize, c: usize, to: &mut [f32], _: &mut [f32]) {
        let w = &self.0;
        let wide = STRIP.min(w.rows - c);
        let row = |r: usize| &w.data[w.at(c + r, k)..][..depth];
        for r in 0..wide {
            expect(w.data, w.at(c + STRIP + r, k), depth);
        }
        // SAFETY: rows have `depth` numbers, and `to` has `depth` × STRIP.
        unsafe { transpose_strip(row, wide, depth, to) };
    }
}

/// Pairs of rows: the numbers of two rows of W side by side.
impl RightOperand<Bf16Pairs> for Rows<&[half::bf16]> {
    fn shape(&self) -> (usize, usize) {
        (self.0.rows, self.0.cols)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pack(&self, k: usize, depth: usize, c: usize, to: &mut [f32], _: &mut [f32]) {
        let w = &self.0;
        let wide = STRIP.min(w.cols - c);
        let row = |i: usize| &w.data[w.at(k + i, c)..][..wide];
        for (pair, to) in to.chunks_exact_mut(STRIP).take(depth.div_ceil(2)).enumerate() {
            let (first, second) = (2 * pair, 2 * pair + 1);
            expect(w.data, w.at(k + first, c) + STRIP, STRIP);
            // SAFETY: `wide` numbers of each row are read; 32 words fit.
            unsafe {
                let low = load_halves(row(first).as_ptr().cast(), wide);
                let high = match second < depth {
                    true => load_halves(row(second).as_ptr().cast(), wide),
                    false => _mm512_setzero_ps(),
                };
                for half in 0..2 {
                    let part = |v: __m512| {
                        let v = _mm512_castps_si512(v);
                        let quarter = if half == 0 {
                            _mm512_extracti64x4_epi64::<0>(v)
                        } else {
                            _mm512_extracti64x4_epi64::<1>(v)
                        };
                        _mm512_cvtepu16_epi32(quarter)
                    };
                    let words = _mm512_or_si512(part(low), _mm512_slli_epi32::<16>(part(high)));
                    _mm512_storeu_si512(to[16 * half..].as_mut_ptr().cast(), words);
                }
            }
        }
    }
}

/// Pairs of columns lie side by side already: words of rows of W are transposed as they are.
impl RightOperand<Bf16Pairs> for Columns<&[half::bf16]> {
    fn shape(&self) -> (usize, usize) {
        (self.0.cols, self.0.rows)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pack(&self, k: usize, depth: usize, c: usize, to: &mut [f32], _: &mut [f32]) {
        let w = &self.0;
        let (wide, words) = (STRIP.min(w.rows - c), depth.div_ceil(2));
        for r in 0..wide {
            expect(w.data, w.at(c + STRIP + r, k), depth);
        }
        for half in 0..2 {
            let live = wide.saturating_sub(half * 16).min(16);
            for word in (0..words).step_by(16) {
                let numbers = (depth - 2 * word).min(32);
                let mut block = [_mm512_setzero_ps(); 16];
                for (r, b) in block.iter_mut().enumerate().take(live) {
                    let row = &w.data[w.at(c + 16 * half + r, k + 2 * word)..][..numbers];
                    // SAFETY: `numbers` numbers are there.
                    *b = unsafe { load_halves(row.as_ptr().cast(), numbers) };
                }
                let turned = transpose(block).into_iter().zip(word..words);
                for (v, word) in turned {
                    let to = &mut to[word * STRIP + 16 * half..][..16];
                    // SAFETY: 16 words fit.
                    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) };
                }
            }
        }
    }
}

impl RightOperand for Rows<QuantizedBlocks<'_>> {
    fn shape(&self) -> (usize, usize) {
        (self.0.rows, self.0.cols)
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn pack(&self, k: usize, depth: usize, c: usize, to: &mut [f32], _: &mut [f32]) {
        let w = &self.0;
        for (i, to) in to.chunks_exact_mut(STRIP).take(depth).enumerate() {
            unpack(&w.data, w.at(k + i, c) / RUN, to);
        }
    }
}

impl RightOperand for Columns<QuantizedBlocks<'_>> {
    fn shape(&self) -> (usize, usize) {
        (self.0.cols, self.0.rows)
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn pack(&self, k: usize, depth: usize, c: usize, to: &mut [f32], spare: &mut [f32]) {
        let w = &self.0;
        let wide = STRIP.min(w.rows - c);
        for (r, row) in spare.chunks_exact_mut(depth).take(wide).enumerate() {
            let first = w.at(c + r, k) / RUN;
            let next = w.at(c + STRIP + r, k) / RUN * RUN;
            expect(w.data.blocks, w.data.byte(next), w.data.byte(depth));
            row.chunks_exact_mut(RUN).enumerate().for_each(|(i, to)| unpack(&w.data, first + i, to));
        }
        // SAFETY: rows have `depth` numbers, and `to` has `depth` × STRIP.
        unsafe { transpose_strip(|r| &spare[r * depth..][..depth], wide, depth, to) };
    }
}

/// Writes `depth` × [`STRIP`] numbers, of `wide` rows of `depth` numbers each.
///
/// # Safety
/// The machine has AVX-512.
#[target_feature(enable = "avx512f")]
pub unsafe fn transpose_strip<'a, T: Element + 'a>(
    row: impl Fn(usize) -> &'a [T],
    wide: usize,
    depth: usize,
    to: &mut [f32],
) {
    assert!(to.len() >= depth * STRIP);
    let whole = depth / 16 * 16;
    for half in 0..2 {
        let rows: [&[T]; 16] =
            std::array::from_fn(|r| if half * 16 + r < wide { row(half * 16 + r) } else { &[] });
        let live = wide.saturating_sub(half * 16).min(16);
        for k in (0..whole).step_by(16) {
            let mut block = [_mm512_setzero_ps(); 16];
            for (b, row) in block.iter_mut().zip(&rows[..live]) {
                // SAFETY: 16 numbers from k on are in the row.
                *b = unsafe { T::load(row.as_ptr().add(k)) };
            }
            for (i, v) in transpose(block).into_iter().enumerate() {
                // SAFETY: inside `to`, as asserted.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr().add((k + i) * STRIP + half * 16), v) };
            }
        }
        for k in whole..depth {
            let to = &mut to[k * STRIP + half * 16..][..16];
            to.fill(0.0);
            for (to, row) in to.iter_mut().zip(&rows[..live]) {
                let one = [row[k]; 16];
                // SAFETY: 16 numbers are there.
                *to = _mm512_cvtss_f32(unsafe { T::load(one.as_ptr()) });
            }
        }
    }
}

/// Writes a run as f32.
#[target_feature(enable = "avx512f")]
#[inline]
fn unpack(data: &QuantizedBlocks, run: usize, to: &mut [f32]) {
    let run = data.run(run);
    let to = &mut to[..RUN];
    for half in 0..2 {
        let (scale, offset) = (_mm512_set1_ps(run.scale[half]), _mm512_set1_ps(run.offset[half]));
        // SAFETY: both have 16 numbers from there on.
        unsafe {
            let q = _mm512_cvtepu8_epi32(_mm_loadu_si128(run.q[half * 16..].as_ptr().cast()));
            let v = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(q), offset);
            _mm512_storeu_ps(to[half * 16..].as_mut_ptr(), v);
        }
    }
}
