//! Products of few rows with quantized weights in whole numbers, for generation: the rows are
//! rounded to 8 bits, 32 numbers to a scale, and multiplied byte by byte.
//!
//! Σ w·x over a run = s d Σ q·p + o d Σ p, where w = s q + o (q unsigned) and x ≈ d p (p signed).
//! Sums of bytes are exact and runs are added in order, so a row's results do not depend on the
//! others, on threads, or on which of the two ways below is taken.

use rayon::prelude::*;

use super::Shared;
use super::quant::{QuantType, QuantizedBlocks, RUN};
use super::row_order::RowOrder;
use super::simd::{fma, vectorized};

/// Rows of W that are worked on together.
const STRIP: usize = 16;

/// Rows rounded to bytes, run after run; in each run, row after row.
struct Rounded {
    rows: usize,
    bytes: Vec<i8>,
    scale: Vec<f32>,
    /// Of each half of a run: scale × sum of its bytes.
    sums: Vec<[f32; 2]>,
}

impl Rounded {
    fn new(x: &[f32], rows: usize, width: usize) -> Self {
        let runs = width / RUN;
        let count = runs * rows;
        let (mut bytes, mut scale) = (vec![0; count * RUN], vec![0.0; count]);
        let mut sums = vec![[0.0; 2]; count];
        let parts = bytes
            .par_chunks_exact_mut(rows * RUN)
            .zip(scale.par_chunks_exact_mut(rows))
            .zip(sums.par_chunks_exact_mut(rows));
        parts.enumerate().with_min_len(4).for_each(|(run, ((bytes, scale), sums))| {
            for r in 0..rows {
                let from = &x[r * width + run * RUN..][..RUN];
                scale[r] = round(from, &mut bytes[r * RUN..(r + 1) * RUN], &mut sums[r]);
            }
        });
        Self { rows, bytes, scale, sums }
    }
}

vectorized! {
    /// Rounds a run to bytes of at most 127; its scale.
    fn round(x: &[f32], bytes: &mut [i8], sums: &mut [f32; 2]) -> f32 {
        /// Adding it leaves the nearest whole number in the low bits.
        const MAGIC: f32 = 12_582_912.0;
        let mut largest = 0f32;
        for v in x {
            largest = if v.abs() > largest { v.abs() } else { largest };
        }
        let scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        for (half, sum) in sums.iter_mut().enumerate() {
            let mut total = 0i32;
            for (b, v) in bytes[half * 16..][..16].iter_mut().zip(&x[half * 16..][..16]) {
                let whole = fma::<FMA>(*v, inverse, MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
                *b = whole as i8;
                total += whole;
            }
            *sum = scale * total as f32;
        }
        scale
    }
}

/// W, `[rows, cols]` in whole runs.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// Its numbers.
    pub data: QuantizedBlocks<'a>,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// In what order its rows lie.
    pub order: RowOrder,
}

/// y = x Wᵀ for `n` rows of x; rows of y are `stride` apart.
pub fn product(y: &mut [f32], stride: usize, x: &[f32], n: usize, w: &Weights) {
    let (rows, cols) = (w.rows, w.cols);
    if n == 0 || rows == 0 {
        return;
    }
    assert!(cols % RUN == 0 && y.len() >= (n - 1) * stride + rows && x.len() >= n * cols, "shapes fit");
    let x = Rounded::new(x, n, cols);
    let out = Shared::new(y);
    let strips = rows.div_ceil(STRIP);
    let work = |strips: std::ops::Range<usize>| {
        let mut spare = Strip::new(cols / RUN);
        for s in strips {
            let first = s * STRIP;
            spare.fill(w, first, STRIP.min(rows - first));
            spare.multiply(&x, |r, values| {
                // SAFETY: this task alone has these columns.
                unsafe { out.slice(r * stride + first, values.len()) }.copy_from_slice(values);
            });
        }
    };
    let parts = strips.min(4 * rayon::current_num_threads());
    if n * rows * cols < 1 << 16 || parts <= 1 {
        return work(0..strips);
    }
    (0..parts)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|i| work(i * strips / parts..(i + 1) * strips / parts));
}

/// Some rows of W, in the order in which they are multiplied.
struct Strip {
    live: usize,
    /// Of each run 8 × [`STRIP`] × 4 bytes: of every row the first four, the next four, …
    bytes: Vec<u8>,
    /// Of each run and half, one a row.
    scale: Vec<[[f32; STRIP]; 2]>,
    offset: Vec<[[f32; STRIP]; 2]>,
    /// Whether the halves of a run differ.
    split: bool,
}

impl Strip {
    fn new(runs: usize) -> Self {
        Self {
            live: 0,
            bytes: vec![0; runs * RUN * STRIP],
            scale: vec![[[0.0; STRIP]; 2]; runs],
            offset: vec![[[0.0; STRIP]; 2]; runs],
            split: false,
        }
    }

    fn fill(&mut self, w: &Weights, first: usize, live: usize) {
        self.live = live;
        self.split = w.data.quant == QuantType::Q6K;
        #[cfg(target_arch = "x86_64")]
        if vnni::fill(self, w, first) {
            return;
        }
        fill(self, w, first);
    }

    /// Gives each row of x its products with the strip.
    fn multiply(&self, x: &Rounded, mut each: impl FnMut(usize, &[f32])) {
        let mut sums = [[0f32; STRIP]; 16];
        for first in (0..x.rows).step_by(sums.len()) {
            let count = sums.len().min(x.rows - first);
            #[cfg(target_arch = "x86_64")]
            let done = vnni::group(self, x, first, &mut sums[..count]);
            #[cfg(not(target_arch = "x86_64"))]
            let done = false;
            if !done {
                group(self, x, first, &mut sums[..count]);
            }
            for (i, sum) in sums[..count].iter().enumerate() {
                each(first + i, &sum[..self.live]);
            }
        }
    }
}

vectorized! {
    fn fill(strip: &mut Strip, w: &Weights, first: usize) {
        let runs = strip.scale.len();
        let place: [usize; STRIP] = std::array::from_fn(|r| w.order.place(first + r) * runs);
        for i in 0..runs {
            let bytes = &mut strip.bytes[i * RUN * STRIP..][..RUN * STRIP];
            for r in 0..strip.live {
                let run = w.data.run(place[r] + i);
                for (four, q) in run.q.chunks_exact(4).enumerate() {
                    bytes[(four * STRIP + r) * 4..][..4].copy_from_slice(q);
                }
                for half in 0..2 {
                    strip.scale[i][half][r] = run.scale[half];
                    strip.offset[i][half][r] = run.offset[half];
                }
            }
        }
    }

    /// Rows of x from `first` on.
    fn group(strip: &Strip, x: &Rounded, first: usize, sums: &mut [[f32; STRIP]]) {
        sums.fill([0.0; STRIP]);
        for run in 0..strip.scale.len() {
            let w = &strip.bytes[run * RUN * STRIP..][..RUN * STRIP];
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = run * x.rows + first + i;
                let (p, d) = (&x.bytes[at * RUN..][..RUN], x.scale[at]);
                let mut dots = [[0i32; STRIP]; 2];
                for (four, p) in p.chunks_exact(4).enumerate() {
                    let w = &w[four * STRIP * 4..][..STRIP * 4];
                    for (dot, w) in dots[four / 4].iter_mut().zip(w.chunks_exact(4)) {
                        for (w, p) in w.iter().zip(p) {
                            *dot += i32::from(*w) * i32::from(*p);
                        }
                    }
                }
                let halves = x.sums[at];
                for r in 0..STRIP {
                    let (s, o) = (&strip.scale[run], &strip.offset[run]);
                    if strip.split {
                        for half in 0..2 {
                            sum[r] = fma::<FMA>(o[half][r], halves[half], sum[r]);
                            sum[r] = fma::<FMA>(dots[half][r] as f32, s[half][r] * d, sum[r]);
                        }
                    } else {
                        sum[r] = fma::<FMA>(o[0][r], halves[0] + halves[1], sum[r]);
                        sum[r] = fma::<FMA>((dots[0][r] + dots[1][r]) as f32, s[0][r] * d, sum[r]);
                    }
                }
            }
        }
    }
}

/// With AVX-512 VNNI: 64 products of bytes an instruction.
#[cfg(target_arch = "x86_64")]
mod vnni {
    use super::super::avx512_gemm::transpose;
    use super::super::quant::{four_bit_scale, half};
    use super::{QuantType, QuantizedBlocks, RUN, Rounded, STRIP, Strip, Weights};
    use std::arch::x86_64::*;

    fn available() -> bool {
        is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
    }

    /// Fills a strip; false where the machine or the packing does not allow it.
    pub fn fill(strip: &mut Strip, w: &Weights, first: usize) -> bool {
        if !available() || !matches!(w.data.quant, QuantType::Q8_0 | QuantType::Q4K) {
            return false;
        }
        // SAFETY: the features were just detected.
        unsafe { fill_pairs(strip, w, first) };
        true
    }

    /// Two runs at a time: the 64 bytes of each row are 16 numbers of 32 bits, turned as such.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn fill_pairs(strip: &mut Strip, w: &Weights, first: usize) {
        let runs = strip.scale.len();
        let place: [usize; STRIP] = std::array::from_fn(|r| w.order.place(first + r) * runs);
        for i in (0..runs).step_by(2) {
            let both = (runs - i).min(2);
            let mut rows = [_mm512_setzero_ps(); STRIP];
            for r in 0..strip.live {
                let (bytes, scale, offset) = match w.data.quant {
                    QuantType::Q8_0 => eight_bits(&w.data, place[r] + i, both),
                    _ => four_bits(&w.data, place[r] + i),
                };
                rows[r] = _mm512_castsi512_ps(bytes);
                for run in 0..both {
                    strip.scale[i + run][0][r] = scale[run];
                    strip.offset[i + run][0][r] = offset[run];
                }
            }
            let to = strip.bytes[i * RUN * STRIP..][..both * RUN * STRIP].chunks_exact_mut(64);
            for (to, v) in to.zip(transpose(rows)) {
                // SAFETY: 64 bytes fit.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr().cast(), v) };
            }
        }
    }

    /// The bytes, scales and offsets of one or two runs of Q8_0.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn eight_bits(data: &QuantizedBlocks, run: usize, both: usize) -> (__m512i, [f32; 2], [f32; 2]) {
        const SIZE: usize = QuantType::Q8_0.bytes();
        let blocks = &data.blocks[run * SIZE..][..both * SIZE];
        // SAFETY: each block has 32 bytes behind its scale; of one block alone the first is read twice.
        let q = unsafe {
            let low = _mm256_loadu_si256(blocks.as_ptr().add(2).cast());
            let high = _mm256_loadu_si256(blocks.as_ptr().add((both - 1) * SIZE + 2).cast());
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        };
        let d = [half(blocks), half(&blocks[(both - 1) * SIZE..])];
        (_mm512_xor_si512(q, _mm512_set1_epi8(-128)), d, d.map(|d| -128.0 * d))
    }

    /// Of two runs of Q4_K, the low and the high halves of the same 32 bytes.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn four_bits(data: &QuantizedBlocks, run: usize) -> (__m512i, [f32; 2], [f32; 2]) {
        const SIZE: usize = QuantType::Q4K.bytes();
        let block = &data.blocks[run / 8 * SIZE..][..SIZE];
        let (first, second) = (four_bit_scale(block, run % 8), four_bit_scale(block, run % 8 + 1));
        let from = &block[16 + run % 8 / 2 * 32..][..32];
        // SAFETY: 32 bytes are there.
        let bytes = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
        let mask = _mm256_set1_epi8(15);
        let low = _mm256_and_si256(bytes, mask);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
        let q = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        (q, [first.0, second.0], [first.1, second.1])
    }

    /// False where the machine does not have it.
    pub fn group(strip: &Strip, x: &Rounded, first: usize, sums: &mut [[f32; STRIP]]) -> bool {
        if !available() {
            return false;
        }
        assert!(first + sums.len() <= x.rows);
        // SAFETY: the features were just detected.
        unsafe {
            match sums.len() {
                16 => rows::<16>(strip, x, first, sums),
                n => {
                    let mut at = 0;
                    for bit in [8, 4, 2, 1] {
                        if n & bit != 0 {
                            let part = &mut sums[at..at + bit];
                            match bit {
                                8 => rows::<8>(strip, x, first + at, part),
                                4 => rows::<4>(strip, x, first + at, part),
                                2 => rows::<2>(strip, x, first + at, part),
                                _ => rows::<1>(strip, x, first + at, part),
                            }
                            at += bit;
                        }
                    }
                }
            }
        }
        true
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn rows<const N: usize>(strip: &Strip, x: &Rounded, first: usize, sums: &mut [[f32; STRIP]]) {
        let mut sum = [_mm512_setzero_ps(); N];
        for run in 0..strip.scale.len() {
            let at = run * x.rows + first;
            let p = &x.bytes[at * RUN..(at + N) * RUN];
            let (d, halves) = (&x.scale[at..at + N], &x.sums[at..at + N]);
            let w = &strip.bytes[run * RUN * STRIP..(run + 1) * RUN * STRIP];
            // SAFETY: the slices above hold what is read.
            unsafe {
                let w: [__m512i; 8] =
                    std::array::from_fn(|i| _mm512_loadu_si512(w.as_ptr().add(64 * i).cast()));
                let load = |v: &[f32; STRIP]| _mm512_loadu_ps(v.as_ptr());
                let (s, o) = (strip.scale[run].each_ref().map(load), strip.offset[run].each_ref().map(load));
                for r in 0..N {
                    let four = |i: usize| {
                        _mm512_set1_epi32(p.as_ptr().add(r * RUN + 4 * i).cast::<i32>().read_unaligned())
                    };
                    let mut dots = [_mm512_setzero_si512(); 2];
                    for i in 0..4 {
                        dots[0] = _mm512_dpbusd_epi32(dots[0], w[i], four(i));
                        dots[1] = _mm512_dpbusd_epi32(dots[1], w[4 + i], four(4 + i));
                    }
                    let d = _mm512_set1_ps(d[r]);
                    if strip.split {
                        for half in 0..2 {
                            sum[r] = _mm512_fmadd_ps(o[half], _mm512_set1_ps(halves[r][half]), sum[r]);
                            let dot = _mm512_cvtepi32_ps(dots[half]);
                            sum[r] = _mm512_fmadd_ps(dot, _mm512_mul_ps(s[half], d), sum[r]);
                        }
                    } else {
                        let whole = _mm512_set1_ps(halves[r][0] + halves[r][1]);
                        sum[r] = _mm512_fmadd_ps(o[0], whole, sum[r]);
                        let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(dots[0], dots[1]));
                        sum[r] = _mm512_fmadd_ps(dot, _mm512_mul_ps(s[0], d), sum[r]);
                    }
                }
            }
        }
        for (to, sum) in sums.iter_mut().zip(sum) {
            // SAFETY: 16 numbers fit.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantType;
    use crate::testing::{Tensors, blocks};

    #[test]
    fn products_are_those_of_the_decoded_weights_and_rounded_rows() {
        let (n, rows, cols) = (23, 37, 512);
        let x = Tensors::numbers(n * cols, 9);
        let rounded = Rounded::new(&x, n, cols);
        let value = |r: usize, c: usize| {
            let at = c / RUN * n + r;
            f64::from(rounded.scale[at]) * f64::from(rounded.bytes[at * RUN + c % RUN])
        };
        assert!((0..n * cols).all(|i| (value(i / cols, i % cols) - f64::from(x[i])).abs() < 0.5 / 127.0));
        for quant in QuantType::ALL {
            let blocks = blocks(quant, rows * cols, 4);
            let packed = QuantizedBlocks { quant, blocks: &blocks };
            let mut w = vec![0.0; rows * cols];
            packed.decode(0, &mut w);
            let mut y = vec![0.0; n * rows];
            product(&mut y, rows, &x, n, &Weights { data: packed, rows, cols, order: RowOrder::Plain });
            for (i, y) in y.iter().enumerate() {
                let (r, o) = (i / rows, i % rows);
                let exact: f64 = (0..cols).map(|c| value(r, c) * f64::from(w[o * cols + c])).sum();
                assert!((f64::from(*y) - exact).abs() < 2e-4, "{}: {y} and {exact}", quant.name());
            }
        }
    }

    #[test]
    fn a_row_is_the_same_bits_alone_and_among_others_and_without_vnni() {
        let (n, rows, cols) = (21, 33, 256);
        let x = Tensors::numbers(n * cols, 2);
        for quant in QuantType::ALL {
            let blocks = blocks(quant, rows * cols, 4);
            let packed = QuantizedBlocks { quant, blocks: &blocks };
            let mut all = vec![0.0; n * rows];
            let w = Weights { data: packed, rows, cols, order: RowOrder::Plain };
            product(&mut all, rows, &x, n, &w);
            for count in [1, 2, 7, 16, 20] {
                let mut some = vec![0.0; count * rows];
                product(&mut some, rows, &x, count, &w);
                assert_eq!(some[..], all[..count * rows], "{}, {count} rows", quant.name());
            }
            let (rounded, mut strip) = (Rounded::new(&x, n, cols), Strip::new(cols / RUN));
            (strip.live, strip.split) = (STRIP, quant == QuantType::Q6K);
            fill(&mut strip, &w, 0);
            let mut plain = [[0.0; STRIP]; 5];
            group(&strip, &rounded, 3, &mut plain);
            for (r, plain) in plain.iter().enumerate() {
                assert_eq!(plain[..], all[(3 + r) * rows..][..STRIP], "{}", quant.name());
            }
        }
    }
}
