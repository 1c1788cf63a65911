//! Quantized rows of W as AVX-512 reads them: 16 rows at a time, two runs of each.
//!
//! Numbers are those of [`crate::quant::Run`], bit for bit: bytes, scales and offsets.

use std::arch::x86_64::*;

use super::STRIP;
use crate::avx512_gemm::transpose;
use crate::quant::QuantType;

/// The first bytes of 16 rows.
pub type RowStarts = [*const u8; STRIP];

/// What the bytes of a run are multiplied with and what is added, of 16 rows: of each half of the run.
#[derive(Clone, Copy)]
pub struct Factors {
    /// Scales.
    pub scale: [__m512; 2],
    /// Offsets.
    pub offset: [__m512; 2],
}

/// A way in which rows are quantized.
pub trait Format {
    /// Which.
    const QUANT: QuantType;
    /// Whether the halves of a run have scales of their own.
    const SPLIT: bool = false;
    /// Runs whose factors are read together.
    const TOGETHER: usize = Self::QUANT.block() / 32;

    /// The bytes of runs `run` and `run + 1` of a row; `run` is even. Where `both` is false there is
    /// no second one, and its bytes are of any value.
    ///
    /// # Safety
    /// The row has these runs, and the machine AVX-512 F and BW.
    unsafe fn bytes(row: *const u8, run: usize, both: bool) -> __m512i;

    /// Factors of the runs of block `block` of 16 rows, written one after the other.
    ///
    /// # Safety
    /// As [`Self::bytes`].
    unsafe fn factors(rows: &RowStarts, block: usize, to: &mut [Factors]);

    /// Writes the bytes of runs from `first` on, [`TURNED`] for each: of every row the first four, the
    /// next four, … Of types with blocks of 256 numbers, whole blocks.
    ///
    /// # Safety
    /// As [`Self::bytes`].
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn turn(rows: &RowStarts, first: usize, to: &mut [u8]) {
        let runs = to.len() / TURNED;
        for run in (0..runs).step_by(2) {
            let both = runs - run > 1;
            // SAFETY: passed on to the caller.
            let words = turned(|r| unsafe { Self::bytes(rows[r], first + run, both) });
            for (four, word) in words.into_iter().enumerate().take(if both { 16 } else { 8 }) {
                store(to, run + four / 8, four % 8, word);
            }
        }
    }
}

/// Bytes of a run of 16 rows.
pub const TURNED: usize = 32 * STRIP;

/// Of 16 rows of 64 bytes the first four bytes of each, the next four, …
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn turned(row: impl Fn(usize) -> __m512i) -> [__m512i; 16] {
    let mut lines = [_mm512_setzero_ps(); STRIP];
    for (r, line) in lines.iter_mut().enumerate() {
        *line = _mm512_castsi512_ps(row(r));
    }
    let turned = transpose(lines);
    let mut words = [_mm512_setzero_si512(); STRIP];
    for (word, line) in words.iter_mut().zip(turned) {
        *word = _mm512_castps_si512(line);
    }
    words
}

/// Writes four bytes of a run of 16 rows.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn store(to: &mut [u8], run: usize, four: usize, word: __m512i) {
    let to = &mut to[run * TURNED + four * 64..][..64];
    // SAFETY: 64 bytes fit.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), word) };
}

/// The halves of bytes, low and high.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn split(word: __m512i) -> [__m512i; 2] {
    let mask = _mm512_set1_epi8(15);
    [_mm512_and_si512(word, mask), _mm512_and_si512(_mm512_srli_epi32::<4>(word), mask)]
}

/// 16 half floats, one of each row, as f32.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn halves(rows: &RowStarts, at: usize) -> __m512 {
    // SAFETY: the caller's rows have two bytes at `at`.
    let half = |r: usize| unsafe { rows[r].add(at).cast::<i16>().read_unaligned() };
    _mm512_cvtph_ps(_mm256_setr_epi16(
        half(0),
        half(1),
        half(2),
        half(3),
        half(4),
        half(5),
        half(6),
        half(7),
        half(8),
        half(9),
        half(10),
        half(11),
        half(12),
        half(13),
        half(14),
        half(15),
    ))
}

/// 16 words, one of each row.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn words(rows: &RowStarts, at: usize) -> __m512i {
    // SAFETY: the caller's rows have four bytes at `at`.
    let word = |r: usize| unsafe { rows[r].add(at).cast::<i32>().read_unaligned() };
    _mm512_setr_epi32(
        word(0),
        word(1),
        word(2),
        word(3),
        word(4),
        word(5),
        word(6),
        word(7),
        word(8),
        word(9),
        word(10),
        word(11),
        word(12),
        word(13),
        word(14),
        word(15),
    )
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn load32(from: *const u8) -> __m256i {
    // SAFETY: passed on to the caller.
    unsafe { _mm256_loadu_si256(from.cast()) }
}

/// The same 32 bytes twice.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn twice(from: *const u8) -> __m512i {
    // SAFETY: passed on to the caller.
    unsafe { _mm512_broadcast_i64x4(load32(from)) }
}

/// Of two times 16 bytes the low halves of the first, its high ones, then those of the second.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn nibbles(first: *const u8, second: *const u8) -> __m512i {
    // SAFETY: passed on to the caller.
    let (a, b) = unsafe { (_mm_loadu_si128(first.cast()), _mm_loadu_si128(second.cast())) };
    let both = _mm512_castsi256_si512(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b));
    let lanes = _mm512_shuffle_i64x2::<0b01_01_00_00>(both, both);
    let shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    _mm512_and_si512(_mm512_srlv_epi64(lanes, shift), _mm512_set1_epi8(15))
}

/// Adds 16 to the numbers whose bit is set.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn with_fifth(q: __m512i, first: *const u8, second: *const u8) -> __m512i {
    // SAFETY: the caller's pointers have four bytes.
    let (low, high) =
        unsafe { (first.cast::<u32>().read_unaligned(), second.cast::<u32>().read_unaligned()) };
    _mm512_mask_add_epi8(q, u64::from(low) | u64::from(high) << 32, q, _mm512_set1_epi8(16))
}

/// Scale alone, the offset a multiple of it.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn around(rows: &RowStarts, at: usize, zero: f32) -> Factors {
    // SAFETY: passed on to the caller.
    let d = unsafe { halves(rows, at) };
    Factors { scale: [d; 2], offset: [_mm512_mul_ps(_mm512_set1_ps(-zero), d); 2] }
}

/// Scale and minimum.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn above(rows: &RowStarts, at: usize) -> Factors {
    // SAFETY: passed on to the caller.
    unsafe { Factors { scale: [halves(rows, at); 2], offset: [halves(rows, at + 2); 2] } }
}

macro_rules! block_of_32 {
    ($name:ident, $quant:ident, |$first:ident, $second:ident| $bytes:expr, |$rows:ident, $at:ident| $factors:expr) => {
        #[doc = concat!("[`QuantType::", stringify!($quant), "`].")]
        pub struct $name;
        impl Format for $name {
            const QUANT: QuantType = QuantType::$quant;

            #[target_feature(enable = "avx512f,avx512bw")]
            #[inline]
            unsafe fn bytes(row: *const u8, run: usize, both: bool) -> __m512i {
                const SIZE: usize = QuantType::$quant.bytes();
                let $first = row.wrapping_add(run * SIZE);
                let $second = $first.wrapping_add(if both { SIZE } else { 0 });
                // SAFETY: passed on to the caller; without a second block the first is read twice.
                unsafe { $bytes }
            }

            #[target_feature(enable = "avx512f,avx512bw")]
            #[inline]
            unsafe fn factors($rows: &RowStarts, block: usize, to: &mut [Factors]) {
                let $at = block * Self::QUANT.bytes();
                // SAFETY: passed on to the caller.
                to[0] = unsafe { $factors };
            }
        }
    };
}

block_of_32!(
    Q8_0,
    Q8_0,
    |first, second| {
        let q = _mm512_castsi256_si512(load32(first.add(2)));
        let q = _mm512_inserti64x4::<1>(q, load32(second.add(2)));
        _mm512_xor_si512(q, _mm512_set1_epi8(-128))
    },
    |rows, at| around(rows, at, 128.0)
);
block_of_32!(Q4_0, Q4_0, |first, second| nibbles(first.add(2), second.add(2)), |rows, at| around(
    rows, at, 8.0
));
block_of_32!(Q4_1, Q4_1, |first, second| nibbles(first.add(4), second.add(4)), |rows, at| above(rows, at));
block_of_32!(
    Q5_0,
    Q5_0,
    |first, second| with_fifth(nibbles(first.add(6), second.add(6)), first.add(2), second.add(2)),
    |rows, at| around(rows, at, 16.0)
);
block_of_32!(
    Q5_1,
    Q5_1,
    |first, second| with_fifth(nibbles(first.add(8), second.add(8)), first.add(4), second.add(4)),
    |rows, at| above(rows, at)
);

/// The eight scales and minima of Q4_K and Q5_K ([`crate::quant`] has their layout).
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn six_bit_factors(rows: &RowStarts, at: usize, to: &mut [Factors]) {
    // SAFETY: passed on to the caller; a block has 16 bytes of scales.
    let (d, min, [a, b, c]) = unsafe {
        let words = [4, 8, 12].map(|byte| words(rows, at + byte));
        (halves(rows, at), halves(rows, at + 2), words)
    };
    let dmin = _mm512_mul_ps(min, _mm512_set1_ps(-1.0));
    let (six, four, two) = (_mm512_set1_epi8(0x3F), _mm512_set1_epi8(0x0F), _mm512_set1_epi8(0x30));
    // High two bits, moved above the low four of the later runs.
    let high = |w| _mm512_and_si512(_mm512_srli_epi32::<2>(w), two);
    let scales = [_mm512_and_si512(a, six), _mm512_or_si512(_mm512_and_si512(c, four), high(a))];
    let minima = [
        _mm512_and_si512(b, six),
        _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32::<4>(c), four), high(b)),
    ];
    for (run, to) in to.iter_mut().enumerate().take(8) {
        let byte = |w: __m512i| {
            let shifted = _mm512_srlv_epi32(w, _mm512_set1_epi32(8 * (run % 4) as i32));
            _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(0xFF)))
        };
        let scale = _mm512_mul_ps(d, byte(scales[run / 4]));
        let offset = _mm512_mul_ps(dmin, byte(minima[run / 4]));
        *to = Factors { scale: [scale; 2], offset: [offset; 2] };
    }
}

/// [`QuantType::Q4K`].
pub struct Q4K;
impl Format for Q4K {
    const QUANT: QuantType = QuantType::Q4K;

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn bytes(row: *const u8, run: usize, _: bool) -> __m512i {
        let at = run / 8 * Self::QUANT.bytes() + 16 + run % 8 / 2 * 32;
        // SAFETY: passed on to the caller.
        let both = unsafe { twice(row.add(at)) };
        let shift = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
        _mm512_and_si512(_mm512_srlv_epi64(both, shift), _mm512_set1_epi8(15))
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn factors(rows: &RowStarts, block: usize, to: &mut [Factors]) {
        // SAFETY: passed on to the caller.
        unsafe { six_bit_factors(rows, block * Self::QUANT.bytes(), to) };
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn turn(rows: &RowStarts, first: usize, to: &mut [u8]) {
        for (i, to) in to.chunks_exact_mut(8 * TURNED).enumerate() {
            let at = (first / 8 + i) * Self::QUANT.bytes() + 16;
            for half in 0..2 {
                // SAFETY: passed on to the caller.
                let words = turned(|r| unsafe { _mm512_loadu_si512(rows[r].add(at + 64 * half).cast()) });
                for (i, word) in words.into_iter().enumerate() {
                    let (run, [low, high]) = (4 * half + i / 8 * 2, split(word));
                    store(to, run, i % 8, low);
                    store(to, run + 1, i % 8, high);
                }
            }
        }
    }
}

/// [`QuantType::Q5K`].
pub struct Q5K;
impl Format for Q5K {
    const QUANT: QuantType = QuantType::Q5K;

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn bytes(row: *const u8, run: usize, _: bool) -> __m512i {
        let block = run / 8 * Self::QUANT.bytes();
        // SAFETY: passed on to the caller.
        let (low, high) =
            unsafe { (twice(row.add(block + 48 + run % 8 / 2 * 32)), twice(row.add(block + 16))) };
        let shift = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
        let q = _mm512_and_si512(_mm512_srlv_epi64(low, shift), _mm512_set1_epi8(15));
        let bits = [1u8 << (run % 8), 2u8 << (run % 8)].map(|b| _mm256_set1_epi8(b as i8));
        let bits = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(bits[0]), bits[1]);
        _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(high, bits), q, _mm512_set1_epi8(16))
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn factors(rows: &RowStarts, block: usize, to: &mut [Factors]) {
        // SAFETY: passed on to the caller.
        unsafe { six_bit_factors(rows, block * Self::QUANT.bytes(), to) };
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn turn(rows: &RowStarts, first: usize, to: &mut [u8]) {
        let one = _mm512_set1_epi8(1);
        for (i, to) in to.chunks_exact_mut(8 * TURNED).enumerate() {
            let at = (first / 8 + i) * Self::QUANT.bytes() + 16;
            // SAFETY: passed on to the caller; the second half of what is read is not used.
            let fifths = turned(|r| unsafe { twice(rows[r].add(at)) });
            for half in 0..2 {
                let low = at + 32 + 64 * half;
                // SAFETY: as above.
                let words = turned(|r| unsafe { _mm512_loadu_si512(rows[r].add(low).cast()) });
                for (i, word) in words.into_iter().enumerate() {
                    let (run, fours) = (4 * half + i / 8 * 2, split(word));
                    for (run, four) in (run..).zip(fours) {
                        let bit = _mm512_srl_epi32(fifths[i % 8], _mm_cvtsi32_si128(run as i32));
                        let bit = _mm512_slli_epi32::<4>(_mm512_and_si512(bit, one));
                        store(to, run, i % 8, _mm512_or_si512(four, bit));
                    }
                }
            }
        }
    }
}

/// [`QuantType::Q6K`].
pub struct Q6K;
impl Format for Q6K {
    const QUANT: QuantType = QuantType::Q6K;
    const SPLIT: bool = true;

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn bytes(row: *const u8, run: usize, _: bool) -> __m512i {
        let (block, part, quarter) = (run / 8 * Self::QUANT.bytes(), run % 8 / 4, (run % 4) as i64);
        // SAFETY: passed on to the caller.
        let (low, high) = unsafe {
            let low = row.add(block + part * 64);
            (_mm512_loadu_si512(low.cast()), twice(row.add(block + 128 + part * 32)))
        };
        let low = _mm512_and_si512(
            _mm512_srlv_epi64(low, _mm512_set1_epi64(quarter / 2 * 4)),
            _mm512_set1_epi8(15),
        );
        let (a, b) = (2 * quarter, 2 * quarter + 2);
        let high = _mm512_srlv_epi64(high, _mm512_setr_epi64(a, a, a, a, b, b, b, b));
        let high = _mm512_slli_epi64::<4>(_mm512_and_si512(high, _mm512_set1_epi8(3)));
        _mm512_or_si512(low, high)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn factors(rows: &RowStarts, block: usize, to: &mut [Factors]) {
        let at = block * Self::QUANT.bytes();
        // SAFETY: passed on to the caller; a block ends with 16 scales and a half float.
        let d = unsafe { halves(rows, at + 208) };
        for (four, to) in to.chunks_exact_mut(2).enumerate().take(4) {
            // SAFETY: as above.
            let w = unsafe { words(rows, at + 192 + 4 * four) };
            for (i, to) in to.iter_mut().enumerate() {
                let scale = [0, 1].map(|half| {
                    let left = _mm512_set1_epi32(24 - 8 * (2 * i + half) as i32);
                    let byte = _mm512_srai_epi32::<24>(_mm512_sllv_epi32(w, left));
                    _mm512_mul_ps(d, _mm512_cvtepi32_ps(byte))
                });
                let offset = scale.map(|s| _mm512_mul_ps(_mm512_set1_ps(-32.0), s));
                *to = Factors { scale, offset };
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn turn(rows: &RowStarts, first: usize, to: &mut [u8]) {
        let two = _mm512_set1_epi8(3);
        for (i, to) in to.chunks_exact_mut(8 * TURNED).enumerate() {
            let at = (first / 8 + i) * Self::QUANT.bytes();
            // SAFETY: passed on to the caller.
            let highs = turned(|r| unsafe { _mm512_loadu_si512(rows[r].add(at + 128).cast()) });
            for part in 0..2 {
                // SAFETY: as above.
                let words = turned(|r| unsafe { _mm512_loadu_si512(rows[r].add(at + 64 * part).cast()) });
                for (i, word) in words.into_iter().enumerate() {
                    for (four, quarter) in split(word).into_iter().zip([i / 8, i / 8 + 2]) {
                        let shift = _mm_cvtsi32_si128(2 * quarter as i32);
                        let high = _mm512_srl_epi32(highs[8 * part + i % 8], shift);
                        let high = _mm512_slli_epi32::<4>(_mm512_and_si512(high, two));
                        store(to, 4 * part + quarter, i % 8, _mm512_or_si512(four, high));
                    }
                }
            }
        }
    }
}
