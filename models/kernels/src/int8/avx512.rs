//! Products of bytes with AVX-512: 64 an instruction with VNNI.
//!
//! One row of x is multiplied with W where it lies: 16 rows of W are read side by side, and their
//! sums of 32 products are brought into the lanes of one register. For more rows of x the bytes of
//! 16 rows of W are transposed once, and each row of x needs no sum across lanes.

use std::arch::x86_64::*;

use super::formats::{self, Factors, Format, RowStarts};
use super::{RUN, Rounded, STRIP, Strip, Weights};
use crate::isa::{InstructionSet, in_use};
use crate::quant::QuantType;

/// Whether VNNI is in use.
pub fn available() -> bool {
    in_use() >= InstructionSet::Avx512Vnni
}

/// Runs `$body` with `$format` as the type of a quantization.
macro_rules! with_format {
    ($quant:expr, $format:ident => $body:expr) => {
        match $quant {
            QuantType::Q8_0 => {
                type $format = formats::Q8_0;
                $body
            }
            QuantType::Q4_0 => {
                type $format = formats::Q4_0;
                $body
            }
            QuantType::Q4_1 => {
                type $format = formats::Q4_1;
                $body
            }
            QuantType::Q5_0 => {
                type $format = formats::Q5_0;
                $body
            }
            QuantType::Q5_1 => {
                type $format = formats::Q5_1;
                $body
            }
            QuantType::Q4K => {
                type $format = formats::Q4K;
                $body
            }
            QuantType::Q5K => {
                type $format = formats::Q5K;
                $body
            }
            QuantType::Q6K => {
                type $format = formats::Q6K;
                $body
            }
        }
    };
}

/// Where 16 rows begin from `first` on; after the last of W the last one again.
fn starts(w: &Weights, first: usize) -> RowStarts {
    let size = w.data.byte(w.cols);
    std::array::from_fn(|r| {
        let row = (first + r).min(w.rows - 1);
        w.data.blocks[w.order.place(row) * size..][..size].as_ptr()
    })
}

/// The products of one row of x with 16 rows of W from `first` on.
///
/// # Panics
/// If x is not one row of the width of W; callers have checked [`available`].
pub fn one_row(w: &Weights, x: &Rounded, first: usize) -> [f32; STRIP] {
    assert!(x.rows == 1 && x.runs * RUN == w.cols && first < w.rows, "one row of the width of W");
    let rows = starts(w, first);
    // SAFETY: the features are there; rows are whole.
    with_format!(w.data.quant, F => unsafe { one_row_of::<F>(&rows, x) })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn one_row_of<F: Format>(rows: &RowStarts, x: &Rounded) -> [f32; STRIP] {
    let zero = _mm512_setzero_ps();
    let mut factors = [Factors { scale: [zero; 2], offset: [zero; 2] }; 8];
    let mut sum = zero;
    let step = F::TOGETHER.max(2);
    for begin in (0..x.runs).step_by(step) {
        let count = step.min(x.runs - begin);
        for (i, to) in factors[..count].chunks_mut(F::TOGETHER).enumerate() {
            // SAFETY: rows have these blocks.
            unsafe { F::factors(rows, begin / F::TOGETHER + i, to) };
        }
        for pair in (0..count).step_by(2) {
            let both = count - pair > 1;
            // SAFETY: rows have these runs, and x too.
            let dots = unsafe { dots::<F>(rows, begin + pair, both, x) };
            for half in 0..if both { 2 } else { 1 } {
                let at = begin + pair + half;
                sum = fused::<F>(sum, &dots[half], &factors[pair + half], x.scale[at], x.sums[at]);
            }
        }
    }
    let mut out = [0.0; STRIP];
    // SAFETY: 16 numbers fit.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    out
}

/// Adds a run to 16 sums: `dots` of its halves; `scale` and sums of x.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn fused<F: Format>(
    mut sum: __m512,
    dots: &[__m512i; 2],
    w: &Factors,
    scale: f32,
    halves: [f32; 2],
) -> __m512 {
    let d = _mm512_set1_ps(scale);
    if F::SPLIT {
        for half in 0..2 {
            sum = _mm512_fmadd_ps(w.offset[half], _mm512_set1_ps(halves[half]), sum);
            sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[half]), _mm512_mul_ps(w.scale[half], d), sum);
        }
        return sum;
    }
    sum = _mm512_fmadd_ps(w.offset[0], _mm512_set1_ps(halves[0] + halves[1]), sum);
    let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(dots[0], dots[1]));
    _mm512_fmadd_ps(dot, _mm512_mul_ps(w.scale[0], d), sum)
}

/// Of two runs, and of each of their halves, the sums of 16 rows. Without [`Format::SPLIT`] the
/// first half has the sum of both.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn dots<F: Format>(rows: &RowStarts, run: usize, both: bool, x: &Rounded) -> [[__m512i; 2]; 2] {
    let zero = _mm512_setzero_si512();
    let mask = if both { u64::MAX } else { u64::from(u32::MAX) };
    // SAFETY: x has 32 bytes for each run, and those beyond the last are not read.
    let p = unsafe { _mm512_maskz_loadu_epi8(mask, x.bytes[run * RUN..].as_ptr()) };
    let mut sums = [zero; STRIP];
    for (sum, row) in sums.iter_mut().zip(rows) {
        // SAFETY: passed on to the caller.
        *sum = _mm512_dpbusd_epi32(zero, unsafe { F::bytes(*row, run, both) }, p);
    }
    // Four lanes of each row, then four rows in four lanes.
    let mut fours = [zero; 4];
    for (i, four) in fours.iter_mut().enumerate() {
        let add = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (a, b) = (add(sums[4 * i], sums[4 * i + 1]), add(sums[4 * i + 2], sums[4 * i + 3]));
        *four = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    }
    let [a, b, c, d] = fours;
    let (e, o) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b));
    let (f, q) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xDD>(c, d));
    if F::SPLIT {
        let low = |v, w| _mm512_shuffle_i32x4::<0x88>(v, w);
        let high = |v, w| _mm512_shuffle_i32x4::<0xDD>(v, w);
        return [[low(e, f), low(o, q)], [high(e, f), high(o, q)]];
    }
    let (v, w) = (_mm512_add_epi32(e, o), _mm512_add_epi32(f, q));
    [[_mm512_shuffle_i32x4::<0x88>(v, w), zero], [_mm512_shuffle_i32x4::<0xDD>(v, w), zero]]
}

/// Fills a strip.
pub fn fill(strip: &mut Strip, w: &Weights, first: usize) {
    let rows = starts(w, first);
    let runs = strip.first_run + strip.runs();
    assert!(runs * RUN <= w.cols && strip.first_run.is_multiple_of(8), "the strip's runs are those of W");
    // SAFETY: the features are there where callers have checked `available`; rows are whole.
    with_format!(w.data.quant, F => unsafe { fill_of::<F>(strip, &rows) });
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn fill_of<F: Format>(strip: &mut Strip, rows: &RowStarts) {
    let (begin, runs) = (strip.first_run, strip.runs());
    let zero = _mm512_setzero_ps();
    let mut factors = [Factors { scale: [zero; 2], offset: [zero; 2] }; 8];
    for block in 0..runs / F::TOGETHER {
        // SAFETY: rows have these blocks.
        unsafe { F::factors(rows, begin / F::TOGETHER + block, &mut factors) };
        for (i, f) in factors[..F::TOGETHER].iter().enumerate() {
            let run = block * F::TOGETHER + i;
            for half in 0..2 {
                // SAFETY: 16 numbers fit.
                unsafe {
                    _mm512_storeu_ps(strip.scale[run][half].as_mut_ptr(), f.scale[half]);
                    _mm512_storeu_ps(strip.offset[run][half].as_mut_ptr(), f.offset[half]);
                }
            }
        }
    }
    // SAFETY: rows have these runs.
    unsafe { F::turn(rows, begin, &mut strip.bytes[..runs * formats::TURNED]) };
}

/// Adds the products of rows of x from `first` on with a strip to their sums.
///
/// # Panics
/// If x has no such rows; callers have checked [`available`].
pub fn group(strip: &Strip, x: &Rounded, first: usize, sums: &mut [[f32; STRIP]]) {
    assert!(first + sums.len() <= x.rows && strip.first_run + strip.runs() <= x.runs);
    let (mut at, n) = (0, sums.len());
    while at < n {
        let part = [16, 8, 4, 2, 1].into_iter().find(|p| *p <= n - at).unwrap_or(1);
        let to = &mut sums[at..at + part];
        // SAFETY: the features are there; the rows are in x.
        unsafe {
            match part {
                16 => rows::<16>(strip, x, first + at, to),
                8 => rows::<8>(strip, x, first + at, to),
                4 => rows::<4>(strip, x, first + at, to),
                2 => rows::<2>(strip, x, first + at, to),
                _ => rows::<1>(strip, x, first + at, to),
            }
        }
        at += part;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn rows<const N: usize>(strip: &Strip, x: &Rounded, first: usize, sums: &mut [[f32; STRIP]]) {
    let mut sum = [_mm512_setzero_ps(); N];
    for (sum, from) in sum.iter_mut().zip(&*sums) {
        // SAFETY: 16 numbers are there.
        *sum = unsafe { _mm512_loadu_ps(from.as_ptr()) };
    }
    for run in 0..strip.runs() {
        let w = &strip.bytes[run * RUN * STRIP..][..RUN * STRIP];
        // SAFETY: the slices hold what is read.
        unsafe {
            let w: [__m512i; 8] = std::array::from_fn(|i| _mm512_loadu_si512(w.as_ptr().add(64 * i).cast()));
            let load = |v: &[f32; STRIP]| _mm512_loadu_ps(v.as_ptr());
            let factors = Factors {
                scale: strip.scale[run].each_ref().map(load),
                offset: strip.offset[run].each_ref().map(load),
            };
            for (r, sum) in sum.iter_mut().enumerate() {
                let at = (strip.first_run + run) * x.rows + first + r;
                let p = x.bytes[at * RUN..][..RUN].as_ptr();
                let four = |i: usize| _mm512_set1_epi32(p.add(4 * i).cast::<i32>().read_unaligned());
                let mut dots = [_mm512_setzero_si512(); 2];
                for i in 0..4 {
                    dots[0] = _mm512_dpbusd_epi32(dots[0], w[i], four(i));
                    dots[1] = _mm512_dpbusd_epi32(dots[1], w[4 + i], four(4 + i));
                }
                *sum = match strip.split {
                    true => fused::<formats::Q6K>(*sum, &dots, &factors, x.scale[at], x.sums[at]),
                    false => fused::<formats::Q8_0>(*sum, &dots, &factors, x.scale[at], x.sums[at]),
                };
            }
        }
    }
    for (to, sum) in sums.iter_mut().zip(sum) {
        // SAFETY: 16 numbers fit.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) };
    }
}
