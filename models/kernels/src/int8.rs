//! Products of few rows with quantized weights in whole numbers, for generation: the rows are
//! rounded to 8 bits, 32 numbers to a scale, and multiplied byte by byte.
//!
//! Σ w·x over a run = s d Σ q·p + o d Σ p, where w = s q + o (q unsigned) and x ≈ d p (p signed).
//! Sums of bytes are exact and runs are added in order, so a row's results do not depend on the
//! others, on threads, or on which of the ways below is taken.

use std::ops::Range;

use super::Parts;
use super::quant::{QuantType, QuantizedBlocks, RUN};
use super::row_order::RowOrder;
use super::simd::{fma, vectorized};
use super::team;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod formats;

/// Rows of W that are worked on together.
const STRIP: usize = 16;

/// Rows rounded to bytes, run after run; in each run, row after row.
pub struct Rounded {
    rows: usize,
    runs: usize,
    bytes: Vec<i8>,
    scale: Vec<f32>,
    /// Of each half of a run: scale × sum of its bytes.
    sums: Vec<[f32; 2]>,
}

impl Rounded {
    /// Rounds `rows` rows of `width` numbers, whole runs.
    ///
    /// # Panics
    /// If x has fewer numbers.
    pub fn new(x: &[f32], rows: usize, width: usize) -> Self {
        /// Numbers that a task rounds at least.
        const TASK: usize = 1 << 14;
        assert!(width.is_multiple_of(RUN) && x.len() >= rows * width, "whole runs of all rows");
        let runs = width / RUN;
        let count = runs * rows;
        let (mut bytes, mut scale) = (vec![0; count * RUN], vec![0.0; count]);
        let mut sums = vec![[0.0; 2]; count];
        let (to_bytes, to_scale, to_sums) =
            (Parts::new(&mut bytes), Parts::new(&mut scale), Parts::new(&mut sums));
        let together = (TASK / (rows * RUN).max(1)).max(1);
        team::for_each(runs.div_ceil(together), |task| {
            for run in task * together..((task + 1) * together).min(runs) {
                // SAFETY: each task has runs of its own.
                let (bytes, scale, sums) = unsafe {
                    (
                        to_bytes.slice(run * rows * RUN, rows * RUN),
                        to_scale.slice(run * rows, rows),
                        to_sums.slice(run * rows, rows),
                    )
                };
                for r in 0..rows {
                    let from = &x[r * width + run * RUN..][..RUN];
                    scale[r] = round(from, &mut bytes[r * RUN..(r + 1) * RUN], &mut sums[r]);
                }
            }
        });
        Self { rows, runs, bytes, scale, sums }
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

/// Products of the same rows of x with a matrix: y = x Wᵀ, rows of y `stride` apart.
pub struct Product<'a> {
    /// W.
    pub w: Weights<'a>,
    /// y.
    pub y: &'a mut [f32],
    /// Distance of its rows.
    pub stride: usize,
}

/// Writes y = x Wᵀ for each W, all in one fork and join.
///
/// # Panics
/// If the shapes do not fit.
pub fn products(x: &Rounded, products: &mut [Product]) {
    /// Tasks for each thread, so that one that is held up holds up little.
    const TASKS: usize = 4;
    /// Multiplies-adds below which one task does it all.
    const SMALL: usize = 1 << 16;
    let n = x.rows;
    if n == 0 {
        return;
    }
    let mut all = Vec::new();
    let mut strips = 0;
    for p in products.iter_mut().filter(|p| p.w.rows > 0) {
        assert!(p.w.cols == x.runs * RUN && p.y.len() >= (n - 1) * p.stride + p.w.rows, "shapes fit");
        let whole = p.w.data.blocks.len() >= p.w.data.byte(p.w.rows * p.w.cols);
        assert!(whole && p.w.cols.is_multiple_of(p.w.data.quant.block()), "whole rows");
        all.push((strips, p.w, Parts::new(p.y), p.stride));
        strips += p.w.rows.div_ceil(STRIP);
    }
    let work = |range: Range<usize>| {
        let mut spare = Strip::default();
        for strip in range {
            let (before, w, out, stride) = &all[all.partition_point(|p| p.0 <= strip) - 1];
            let first = (strip - before) * STRIP;
            spare.products(w, first, x, |r, values| {
                // SAFETY: this task alone has these columns.
                unsafe { out.slice(r * stride + first, values.len()) }.copy_from_slice(values);
            });
        }
    };
    let size = n * strips * STRIP * x.runs * RUN;
    let tasks = if size < SMALL { 1 } else { strips.min(TASKS * rayon::current_num_threads()) };
    team::for_each(tasks, |i| work(i * strips / tasks..(i + 1) * strips / tasks));
}

/// Some rows of W, in the order in which they are multiplied.
#[derive(Default)]
struct Strip {
    /// Of each run 8 × [`STRIP`] × 4 bytes: of every row the first four, the next four, …
    bytes: Vec<u8>,
    /// Of each run and half, one a row.
    scale: Vec<[[f32; STRIP]; 2]>,
    offset: Vec<[[f32; STRIP]; 2]>,
    /// What W is quantized as.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the plain code does not ask"))]
    quant: Option<QuantType>,
    /// Whether the halves of a run differ.
    split: bool,
    /// The run of W and x that its first is.
    first_run: usize,
}

impl Strip {
    fn runs(&self) -> usize {
        self.scale.len()
    }

    /// Gives each row of x its products with up to [`STRIP`] rows of W from `first` on.
    fn products(&mut self, w: &Weights, first: usize, x: &Rounded, mut each: impl FnMut(usize, &[f32])) {
        let live = STRIP.min(w.rows - first);
        #[cfg(target_arch = "x86_64")]
        if x.rows == 1 && avx512::available() {
            return each(0, &avx512::one_row(w, x, first)[..live]);
        }
        if x.rows == 1 {
            let mut sums = [0f32; STRIP];
            one_row(w, x, first, &mut sums[..live]);
            return each(0, &sums[..live]);
        }
        /// Rows of x that are multiplied together; so many stay in registers.
        const GROUP: usize = 16;
        /// Runs that are multiplied while they lie in the first cache, where x is one group.
        const NEAR: usize = 8;
        let chunk = if x.rows <= GROUP { NEAR } else { x.runs };
        let mut sums = [[0f32; STRIP]; GROUP];
        for begin in (0..x.runs).step_by(chunk) {
            let end = (begin + chunk).min(x.runs);
            self.fill(w, first, live, begin..end);
            for row in (0..x.rows).step_by(GROUP) {
                let sums = &mut sums[..GROUP.min(x.rows - row)];
                if begin == 0 {
                    sums.fill([0.0; STRIP]);
                }
                self.multiply(x, row, sums);
                if end == x.runs {
                    sums.iter().enumerate().for_each(|(i, sum)| each(row + i, &sum[..live]));
                }
            }
        }
    }

    /// Takes up some runs of rows of W.
    fn fill(&mut self, w: &Weights, first: usize, live: usize, range: Range<usize>) {
        let runs = range.len();
        self.first_run = range.start;
        self.bytes.resize(runs * RUN * STRIP, 0);
        self.scale.resize(runs, Default::default());
        self.offset.resize(runs, Default::default());
        self.quant = Some(w.data.quant);
        self.split = w.data.quant == QuantType::Q6K;
        #[cfg(target_arch = "x86_64")]
        if avx512::available() {
            return avx512::fill(self, w, first);
        }
        fill(self, w, first, live);
    }

    /// Adds the products of rows of x from `first` on to their sums.
    fn multiply(&self, x: &Rounded, first: usize, sums: &mut [[f32; STRIP]]) {
        #[cfg(target_arch = "x86_64")]
        if avx512::available() {
            return avx512::group(self, x, first, sums);
        }
        #[cfg(target_arch = "x86_64")]
        if avx2::available() {
            return avx2::group(self, x, first, sums);
        }
        group(self, x, first, sums);
    }
}

vectorized! {
    fn fill(strip: &mut Strip, w: &Weights, first: usize, live: usize) {
        let (runs, all) = (strip.runs(), w.cols / RUN);
        let place: [usize; STRIP] = std::array::from_fn(|r| w.order.place(first + r) * all + strip.first_run);
        for i in 0..runs {
            let bytes = &mut strip.bytes[i * RUN * STRIP..][..RUN * STRIP];
            for r in 0..live {
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

    /// The products of one row of x with rows of W from `first` on, read where they lie.
    fn one_row(w: &Weights, x: &Rounded, first: usize, sums: &mut [f32]) {
        let split = w.data.quant == QuantType::Q6K;
        for (r, sum) in sums.iter_mut().enumerate() {
            let place = w.order.place(first + r) * x.runs;
            let mut total = 0f32;
            for i in 0..x.runs {
                let run = w.data.run(place + i);
                let p = &x.bytes[i * RUN..][..RUN];
                let mut dots = [0i32; 2];
                for (half, dot) in dots.iter_mut().enumerate() {
                    for (q, p) in run.q[half * 16..][..16].iter().zip(&p[half * 16..][..16]) {
                        *dot += i32::from(*q) * i32::from(*p);
                    }
                }
                let (d, halves) = (x.scale[i], x.sums[i]);
                if split {
                    for half in 0..2 {
                        total = fma::<FMA>(run.offset[half], halves[half], total);
                        total = fma::<FMA>(dots[half] as f32, run.scale[half] * d, total);
                    }
                } else {
                    total = fma::<FMA>(run.offset[0], halves[0] + halves[1], total);
                    total = fma::<FMA>((dots[0] + dots[1]) as f32, run.scale[0] * d, total);
                }
            }
            *sum = total;
        }
    }

    /// Rows of x from `first` on.
    fn group(strip: &Strip, x: &Rounded, first: usize, sums: &mut [[f32; STRIP]]) {
        for run in 0..strip.runs() {
            let w = &strip.bytes[run * RUN * STRIP..][..RUN * STRIP];
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = (strip.first_run + run) * x.rows + first + i;
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
            product(&mut y, &x, n, Weights { data: packed, rows, cols, order: RowOrder::Plain });
            for (i, y) in y.iter().enumerate() {
                let (r, o) = (i / rows, i % rows);
                let exact: f64 = (0..cols).map(|c| value(r, c) * f64::from(w[o * cols + c])).sum();
                assert!((f64::from(*y) - exact).abs() < 2e-4, "{}: {y} and {exact}", quant.name());
            }
        }
    }

    fn product(y: &mut [f32], x: &[f32], n: usize, w: Weights) {
        products(&Rounded::new(x, n, w.cols), &mut [Product { stride: w.rows, w, y }]);
    }

    #[test]
    fn a_row_is_the_same_bits_alone_and_among_others_and_on_any_instruction_set() {
        // Widths of one run, of an odd number of runs, and of whole blocks.
        for (quant, cols) in
            QuantType::ALL.into_iter().flat_map(|q| [(q, q.block()), (q, 3 * q.block()), (q, 512)])
        {
            let (n, rows) = (21, 33);
            let x = Tensors::numbers(n * cols, 2);
            let blocks = blocks(quant, rows * cols, 4);
            let data = QuantizedBlocks { quant, blocks: &blocks };
            for order in [RowOrder::Plain, RowOrder::Pairs(3)] {
                // Pairs are of whole heads.
                let rows = if order == RowOrder::Plain { rows } else { 30 };
                let w = Weights { data, rows, cols, order };
                let mut all = vec![0.0; n * rows];
                product(&mut all, &x, n, w);
                for count in [1, 2, 7, 16, 20] {
                    let mut some = vec![0.0; count * rows];
                    product(&mut some, &x, count, w);
                    assert_eq!(
                        some[..],
                        all[..count * rows],
                        "{}, {cols} columns, {count} rows",
                        quant.name()
                    );
                }
                let rounded = Rounded::new(&x, n, cols);
                for first in (0..rows).step_by(STRIP) {
                    let live = STRIP.min(rows - first);
                    let mut strip = Strip::default();
                    strip.fill(&w, first, live, 0..cols / RUN);
                    fill(&mut strip, &w, first, live);
                    let mut ways = vec![[[0.0; STRIP]; 5]; 1];
                    group(&strip, &rounded, 3, &mut ways[0]);
                    #[cfg(target_arch = "x86_64")]
                    if avx2::available() {
                        ways.push(Default::default());
                        avx2::group(&strip, &rounded, 3, &mut ways[1]);
                    }
                    for (r, plain) in ways.iter().flat_map(|way| way.iter().enumerate()) {
                        let found = &all[(3 + r) * rows + first..][..live];
                        assert_eq!(plain[..live], *found, "{}, {cols} columns", quant.name());
                    }
                    let mut alone = [0.0; STRIP];
                    one_row(&w, &Rounded::new(&x, 1, cols), first, &mut alone[..live]);
                    assert_eq!(alone[..live], all[first..][..live], "{}, {cols} columns", quant.name());
                }
            }
        }
    }
}
