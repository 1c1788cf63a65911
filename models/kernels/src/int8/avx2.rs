//! Products of bytes with AVX2: 32 an instruction where W has at most 6 bits, 16 over Q8_0.

use std::arch::x86_64::*;

use super::{RUN, Rounded, STRIP, Strip};
use crate::isa::{InstructionSet, in_use};
use crate::quant::QuantType;

/// Whether AVX2 is in use.
pub fn available() -> bool {
    in_use() >= InstructionSet::Avx2
}

/// Rows of W whose sums a register has.
const LANES: usize = 8;

/// Adds the products of rows of x from `first` on with a strip to their sums.
///
/// # Panics
/// If x has no such rows; callers have checked [`available`].
pub fn group(strip: &Strip, x: &Rounded, first: usize, sums: &mut [[f32; STRIP]]) {
    assert!(first + sums.len() <= x.rows && strip.first_run + strip.runs() <= x.runs);
    // SAFETY: the feature is there; the strip has whole runs.
    unsafe {
        match strip.quant {
            // Two products of 8 bits and 7 do not fit 16 bits.
            Some(QuantType::Q8_0) | None => group_of::<16>(strip, x, first, sums),
            Some(QuantType::Q6K) => group_of::<6>(strip, x, first, sums),
            Some(_) => group_of::<5>(strip, x, first, sums),
        }
    }
}

/// Where the bytes of W have `BITS` bits at most: 5, 6 or (8, taken as) 16.
#[target_feature(enable = "avx2,fma")]
unsafe fn group_of<const BITS: usize>(strip: &Strip, x: &Rounded, first: usize, sums: &mut [[f32; STRIP]]) {
    for run in 0..strip.runs() {
        let w = &strip.bytes[run * RUN * STRIP..][..RUN * STRIP];
        for (i, sums) in sums.iter_mut().enumerate() {
            let at = (strip.first_run + run) * x.rows + first + i;
            let p = &x.bytes[at * RUN..][..RUN];
            for (side, sum) in sums.chunks_exact_mut(LANES).enumerate() {
                // SAFETY: each half of a run has four times 64 bytes, of which 32 are this side's.
                let dots = [0, 1].map(|half| unsafe {
                    let w = w[half * 4 * STRIP * 4 + side * 4 * LANES..].as_ptr();
                    if BITS == 16 { wide_dots(w, &p[half * 16..]) } else { dots::<BITS>(w, &p[half * 16..]) }
                });
                // SAFETY: a side has eight numbers.
                unsafe { add(sum, dots, strip, (run, side), x.scale[at], x.sums[at]) };
            }
        }
    }
}

/// Of half a run, the sums of 8 rows whose bytes have so few bits that sums of two products fit 16.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn dots<const BITS: usize>(w: *const u8, p: &[i8]) -> __m256i {
    let one = _mm256_set1_epi16(1);
    let (mut pairs, mut sum) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for (four, p) in p.chunks_exact(4).take(4).enumerate() {
        // SAFETY: 32 bytes are there.
        let w = unsafe { _mm256_loadu_si256(w.add(four * STRIP * 4).cast()) };
        let p = i32::from_le_bytes([p[0] as u8, p[1] as u8, p[2] as u8, p[3] as u8]);
        let products = _mm256_maddubs_epi16(w, _mm256_set1_epi32(p));
        if BITS <= 5 {
            // Eight products of 31 · 127 fit.
            pairs = _mm256_add_epi16(pairs, products);
        } else {
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, one));
        }
    }
    if BITS <= 5 { _mm256_madd_epi16(pairs, one) } else { sum }
}

/// As [`dots`], of bytes of 8 bits.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn wide_dots(w: *const u8, p: &[i8]) -> __m256i {
    let mut sums = [_mm256_setzero_si256(); 2];
    for (four, p) in p.chunks_exact(4).take(4).enumerate() {
        let p = i32::from_le_bytes([p[0] as u8, p[1] as u8, p[2] as u8, p[3] as u8]);
        let p = _mm256_cvtepi8_epi16(_mm_set1_epi32(p));
        for (side, sum) in sums.iter_mut().enumerate() {
            // SAFETY: 16 bytes are there.
            let w = unsafe { _mm_loadu_si128(w.add(four * STRIP * 4 + 16 * side).cast()) };
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(w), p));
        }
    }
    let order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
    _mm256_permutevar8x32_epi32(_mm256_hadd_epi32(sums[0], sums[1]), order)
}

/// Adds a run to 8 sums, in the order of the plain code.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn add(
    to: &mut [f32],
    dots: [__m256i; 2],
    strip: &Strip,
    (run, side): (usize, usize),
    d: f32,
    halves: [f32; 2],
) {
    // SAFETY: the caller's slices have eight numbers.
    unsafe {
        let factor = |of: &[[f32; STRIP]; 2], half: usize| _mm256_loadu_ps(of[half][side * LANES..].as_ptr());
        let mut sum = _mm256_loadu_ps(to.as_ptr());
        let mut part = |half: usize, whole: f32, dot: __m256i| {
            sum = _mm256_fmadd_ps(factor(&strip.offset[run], half), _mm256_set1_ps(whole), sum);
            let scale = _mm256_mul_ps(factor(&strip.scale[run], half), _mm256_set1_ps(d));
            sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sum);
        };
        if strip.split {
            part(0, halves[0], dots[0]);
            part(1, halves[1], dots[1]);
        } else {
            part(0, halves[0] + halves[1], _mm256_add_epi32(dots[0], dots[1]));
        }
        _mm256_storeu_ps(to.as_mut_ptr(), sum);
    }
}
