//! Matrices of weights in the type that they are stored in, and products with them.

use std::ops::Range;

use faer::Accum;
use half::{bf16, f16};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::avx512_gemm::{self, Columns, Rows, StoredMatrix};
use super::buffer::Buffer;
use super::gemm::{gemm, gemm_into, mat};
use super::int8;
use super::profile::{Part, timed};
use super::quant::QuantizedBlocks;
use super::row_order::RowOrder;

/// Numbers of a matrix, as stored.
#[derive(Clone, Copy, Debug)]
pub enum Storage<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// IEEE half floats.
    F16(&'a [f16]),
    /// The upper halves of 32-bit floats.
    Bf16(&'a [bf16]),
    /// Quantized blocks; rows are whole blocks.
    Quantized(QuantizedBlocks<'a>),
}

impl Storage<'_> {
    /// Writes numbers `at..at + out.len()` as f32.
    pub fn decode(&self, at: usize, out: &mut [f32]) {
        let range = at..at + out.len();
        match self {
            Self::F32(d) => out.copy_from_slice(&d[range]),
            Self::F16(d) => out.iter_mut().zip(&d[range]).for_each(|(o, v)| *o = v.to_f32()),
            Self::Bf16(d) => out
                .iter_mut()
                .zip(&d[range])
                .for_each(|(o, v)| *o = f32::from_bits(u32::from(v.to_bits()) << 16)),
            Self::Quantized(p) => p.decode(at, out),
        }
    }

    /// Whether none of its numbers is a NaN or an infinity.
    pub fn is_finite(&self) -> bool {
        /// Numbers that a task looks at.
        const PIECE: usize = 1 << 14;
        match self {
            Self::F32(d) => d.par_chunks(PIECE).all(|d| d.iter().all(|v| v.is_finite())),
            Self::F16(d) => d.par_chunks(PIECE).all(|d| d.iter().all(|v| v.is_finite())),
            Self::Bf16(d) => d.par_chunks(PIECE).all(|d| d.iter().all(|v| v.is_finite())),
            Self::Quantized(q) => q.is_finite(),
        }
    }

    fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::F32(d) => Self::F32(&d[range]),
            Self::F16(d) => Self::F16(&d[range]),
            Self::Bf16(d) => Self::Bf16(&d[range]),
            Self::Quantized(p) => Self::Quantized(p.part(range)),
        }
    }

    /// Bytes of so many of its numbers.
    fn size(&self, numbers: usize) -> usize {
        match self {
            Self::F32(_) => numbers * 4,
            Self::F16(_) | Self::Bf16(_) => numbers * 2,
            Self::Quantized(p) => numbers / p.quant.block() * p.quant.bytes(),
        }
    }
}

/// Memory whose pages can be given back to the system and come back when they are read again, such
/// as a mapped file.
pub trait Pages: Sync {
    /// Gives back the pages of these bytes.
    fn release(&self, bytes: Range<usize>);
}

/// A row-major matrix as stored.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Its numbers.
    pub data: Storage<'a>,
    /// In what order its rows lie.
    pub order: RowOrder,
    /// For a streamed matrix, the memory whose pages are given back after use, and the byte at which
    /// the matrix begins in it.
    pub pages: Option<(&'a dyn Pages, usize)>,
    /// Whether products with it are products of bf16, where its numbers are: the other side is rounded
    /// to bf16, sums stay f32. Without instructions for them ([`crate::isa::bf16`]) they are not.
    pub bf16: bool,
}

impl std::fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix({} × {})", self.rows, self.cols)
    }
}

/// Rows of W that are decoded at once where the product does not do it: the block that faer sums
/// over, so that a stored type does not change the order of sums. A multiple of every head's width.
const PANEL: usize = 512;
/// Bytes of a streamed matrix that are in memory at once, about.
pub const STREAMED: usize = 16 << 20;

impl<'a> Matrix<'a> {
    /// Of rows in their order, kept where they are.
    pub fn new(rows: usize, cols: usize, data: Storage<'a>) -> Self {
        Self { rows, cols, data, order: RowOrder::Plain, pages: None, bf16: false }
    }

    /// Writes a row as f32.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.data.decode(self.order.place(row) * self.cols, out);
    }

    /// y = x Wᵀ for `n` rows of x.
    pub fn forward(&self, y: &mut [f32], x: &[f32], n: usize) {
        timed(Part::Product, || {
            self.each_part(|first, part| part.forward_into(&mut y[first..], self.rows, x, n));
        });
    }

    /// y = x Wᵀ for `n` rows of x, rounded to 8 bits where W is quantized.
    pub fn forward_rounded(&self, y: &mut [f32], x: &[f32], n: usize) {
        timed(Part::Product, || {
            self.each_part(|first, part| match part.data {
                Storage::Quantized(data) => {
                    let w = int8::Weights { data, rows: part.rows, cols: part.cols, order: part.order };
                    let product = int8::Product { w, y: &mut y[first..], stride: self.rows };
                    int8::products(&int8::Rounded::new(x, n, part.cols), &mut [product]);
                }
                _ => part.forward_into(&mut y[first..], self.rows, x, n),
            });
        });
    }

    /// As [`Self::forward_rounded`] for several matrices that read the same rows: in one fork and join
    /// where all are quantized and none is streamed.
    pub fn forward_rounded_together(all: &mut [(Self, &mut [f32])], x: &[f32], n: usize) {
        let together =
            |(m, _): &(Self, &mut [f32])| matches!(m.data, Storage::Quantized(_)) && m.pages.is_none();
        if !all.iter().all(together) {
            return all.iter_mut().for_each(|(m, y)| m.forward_rounded(y, x, n));
        }
        timed(Part::Product, || {
            let mut products: Vec<_> = all.iter_mut().filter_map(|(m, y)| m.rounded_product(y)).collect();
            let Some(width) = products.first().map(|p| p.w.cols) else { return };
            int8::products(&int8::Rounded::new(x, n, width), &mut products);
        });
    }

    /// Its product with rounded rows, where it is quantized.
    fn rounded_product<'b>(&'b self, y: &'b mut [f32]) -> Option<int8::Product<'b>> {
        let Storage::Quantized(data) = self.data else { return None };
        let w = int8::Weights { data, rows: self.rows, cols: self.cols, order: self.order };
        Some(int8::Product { w, y, stride: self.rows })
    }

    /// dx (+)= dy W for `n` rows of dy.
    pub fn backward(&self, dx: &mut [f32], accum: Accum, dy: &[f32], n: usize) {
        let mut accum = accum;
        timed(Part::Product, || {
            self.each_part(|first, part| {
                part.backward_into(dx, accum, dy, (self.rows, first), n);
                accum = Accum::Add;
            });
        });
    }

    /// Calls `f(first row, rows)` with the whole matrix, or where it is streamed with one part after
    /// the other, whose pages are given back.
    fn each_part(&self, mut f: impl FnMut(usize, &Matrix)) {
        let Some((pages, at)) = self.pages else { return f(0, self) };
        let rows = (STREAMED / self.data.size(self.cols).max(1)).next_multiple_of(PANEL);
        for first in (0..self.rows).step_by(rows) {
            let count = rows.min(self.rows - first);
            let data = self.data.part(first * self.cols..(first + count) * self.cols);
            f(first, &Matrix { rows: count, data, pages: None, ..*self });
            let begin = at + self.data.size(first * self.cols);
            pages.release(begin..begin + self.data.size(count * self.cols));
        }
    }

    /// Its numbers for products of bf16, where they are and such products are asked for.
    #[cfg(target_arch = "x86_64")]
    fn pairs(&self) -> Option<StoredMatrix<&'a [bf16]>> {
        match self.data {
            Storage::Bf16(data) if self.bf16 && avx512_gemm::bf16_available() => Some(self.stored(data)),
            _ => None,
        }
    }

    /// The same with products of f32.
    pub fn exact(self) -> Self {
        Self { bf16: false, ..self }
    }

    #[cfg(target_arch = "x86_64")]
    fn stored<D>(&self, data: D) -> StoredMatrix<D> {
        StoredMatrix { data, rows: self.rows, cols: self.cols, stride: self.cols, order: self.order }
    }

    fn forward_into(&self, y: &mut [f32], stride: usize, x: &[f32], n: usize) {
        let (x, a) = (mat(x, n, self.cols), Accum::Replace);
        #[cfg(target_arch = "x86_64")]
        if let Some(w) = self.pairs() {
            return avx512_gemm::bf16_product(y, stride, a, x, &Columns(w));
        }
        #[cfg(target_arch = "x86_64")]
        if avx512_gemm::available() {
            return match self.data {
                Storage::F32(data) => avx512_gemm::forward(y, stride, x, &self.stored(data)),
                Storage::F16(data) => avx512_gemm::forward(y, stride, x, &self.stored(data)),
                Storage::Bf16(data) => avx512_gemm::forward(y, stride, x, &self.stored(data)),
                Storage::Quantized(data) => {
                    avx512_gemm::product(y, stride, a, x, &Columns(self.stored(data)), 1.0);
                }
            };
        }
        self.panels(|first, rows, w| {
            gemm_into(&mut y[first..], stride, a, x, mat(w, rows, self.cols).transpose(), 1.0);
        });
    }

    /// The part of dy's rows of `width` numbers that belongs to this matrix begins at `first`.
    fn backward_into(
        &self,
        dx: &mut [f32],
        accum: Accum,
        dy: &[f32],
        (width, first): (usize, usize),
        n: usize,
    ) {
        let dy = mat(dy, n, width).subcols(first, self.rows);
        #[cfg(target_arch = "x86_64")]
        if let Some(w) = self.pairs() {
            return avx512_gemm::bf16_product(dx, self.cols, accum, dy, &Rows(w));
        }
        #[cfg(target_arch = "x86_64")]
        if avx512_gemm::available() {
            let d = self.cols;
            return match self.data {
                Storage::F32(data) => avx512_gemm::product(dx, d, accum, dy, &Rows(self.stored(data)), 1.0),
                Storage::F16(data) => avx512_gemm::product(dx, d, accum, dy, &Rows(self.stored(data)), 1.0),
                Storage::Bf16(data) => avx512_gemm::product(dx, d, accum, dy, &Rows(self.stored(data)), 1.0),
                Storage::Quantized(data) => {
                    avx512_gemm::product(dx, d, accum, dy, &Rows(self.stored(data)), 1.0)
                }
            };
        }
        let mut accum = accum;
        self.panels(|first, rows, w| {
            gemm(dx, accum, dy.subcols(first, rows), mat(w, rows, self.cols), 1.0);
            accum = Accum::Add;
        });
    }

    /// Calls `f(first row, rows, numbers)` with f32 panels that cover the matrix in order.
    fn panels(&self, mut f: impl FnMut(usize, usize, &[f32])) {
        if let (Storage::F32(data), RowOrder::Plain) = (self.data, self.order) {
            return f(0, self.rows, data);
        }
        let mut panel = Buffer::new(PANEL.min(self.rows) * self.cols);
        for first in (0..self.rows).step_by(PANEL) {
            let rows = PANEL.min(self.rows - first);
            let part = &mut panel[..rows * self.cols];
            part.par_chunks_mut(self.cols).enumerate().for_each(|(r, row)| self.row(first + r, row));
            f(first, rows, part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantType;
    use crate::testing::{Tensors, blocks};

    /// Products with a matrix as stored, against those with its numbers as f32.
    fn same_products(stored: Matrix) {
        let (n, rows, cols) = (5, stored.rows, stored.cols);
        let mut plain = vec![0.0; rows * cols];
        plain.chunks_mut(cols).enumerate().for_each(|(r, row)| stored.row(r, row));
        let plain = Matrix::new(rows, cols, Storage::F32(&plain));
        let (x, dy) = (Tensors::numbers(n * cols, 1), Tensors::numbers(n * rows, 3));
        let forward = |m: &Matrix| {
            let mut y = vec![0.0; n * rows];
            m.forward(&mut y, &x, n);
            y
        };
        assert_eq!(forward(&stored), forward(&plain), "forward");
        let backward = |m: &Matrix| {
            let mut dx = Tensors::numbers(n * cols, 7);
            m.backward(&mut dx, Accum::Add, &dy, n);
            dx
        };
        assert_eq!(backward(&stored), backward(&plain), "backward");
    }

    #[test]
    fn stored_types_and_orders_give_the_bits_of_their_decoded_values() {
        let (inner, out) = (96, 1100);
        let numbers = Tensors::numbers(out * inner, 2);
        let halves: Vec<bf16> = numbers.iter().map(|v| bf16::from_f32(*v)).collect();
        let ieee: Vec<f16> = numbers.iter().map(|v| f16::from_f32(*v)).collect();
        let bytes: Vec<u8> = numbers
            .chunks(32)
            .flat_map(|c| {
                let bytes = c.iter().map(|v| (v * 254.0) as i8 as u8);
                f16::from_f32(0.01).to_le_bytes().into_iter().chain(bytes).collect::<Vec<_>>()
            })
            .collect();
        let packed = QuantizedBlocks { quant: QuantType::Q8_0, blocks: &bytes };
        for data in
            [Storage::F32(&numbers), Storage::Bf16(&halves), Storage::F16(&ieee), Storage::Quantized(packed)]
        {
            same_products(Matrix::new(out, inner, data));
            same_products(Matrix { order: RowOrder::Pairs(11), ..Matrix::new(out, inner, data) });
        }
    }

    #[test]
    fn a_row_is_the_same_bits_alone_and_among_others() {
        // Whole registers, parts of them, several blocks of the inner dimension, odd rows of W.
        for (inner, out) in [(64, 32), (33, 47), (700, 70), (1, 3), (352, 16), (1000, 129)] {
            let numbers = Tensors::numbers(out * inner, 2);
            let halves: Vec<bf16> = numbers.iter().map(|v| bf16::from_f32(*v)).collect();
            let ieee: Vec<f16> = numbers.iter().map(|v| f16::from_f32(*v)).collect();
            let n = 70;
            let x = Tensors::numbers(n * inner, 5);
            for data in [Storage::F32(&numbers), Storage::Bf16(&halves), Storage::F16(&ieee)] {
                let w = Matrix::new(out, inner, data);
                let mut all = vec![0.0; n * out];
                w.forward(&mut all, &x, n);
                for count in [1, 2, 5, 20, 64] {
                    let mut some = vec![0.0; count * out];
                    w.forward(&mut some, &x, count);
                    assert_eq!(some[..], all[..count * out], "{inner} × {out}, {count} rows");
                }
            }
        }
    }

    /// Against sums in f64 of what was not rounded, products of bf16 are no further off than those of
    /// PyTorch, which rounds both sides and the result.
    #[test]
    fn products_of_bf16_are_no_further_off_than_with_rounded_results() {
        let (n, inner, out) = (16, 576, 96);
        let halves: Vec<bf16> = Tensors::numbers(out * inner, 2).iter().map(|v| bf16::from_f32(*v)).collect();
        let x = Tensors::numbers(n * inner, 5);
        let mut y = vec![0.0; n * out];
        Matrix { bf16: true, ..Matrix::new(out, inner, Storage::Bf16(&halves)) }.forward(&mut y, &x, n);
        let (mut own, mut rounded, mut size) = (0.0, 0.0, 0.0);
        for (i, y) in y.iter().enumerate() {
            let (row, w) = (&x[i / out * inner..][..inner], &halves[i % out * inner..][..inner]);
            let sum = |number: fn(f32) -> f64| -> f64 {
                row.iter().zip(w).map(|(x, w)| number(*x) * w.to_f64()).sum()
            };
            let (exact, of_rounded) = (sum(f64::from), sum(|x| bf16::from_f32(x).to_f64()));
            own += (f64::from(*y) - exact).powi(2);
            rounded += (bf16::from_f64(of_rounded).to_f64() - exact).powi(2);
            size += exact * exact;
        }
        let (own, rounded) = ((own / size).sqrt(), (rounded / size).sqrt());
        println!("relative deviation from f64: {own:.2e}, with rounded results {rounded:.2e}");
        assert!(own < rounded, "{own:e} and {rounded:e}");
        assert_eq!(own > 1e-6, crate::isa::bf16(), "{own:e}: in bf16 where the processor has it");
    }

    /// Products of bf16 are those of rounded numbers, added up in f32: the sum of k products is off
    /// by k roundings of 2⁻²⁴ at most.
    #[test]
    fn products_of_bf16_are_those_of_rounded_numbers() {
        for (inner, out) in [(64, 32), (33, 47), (700, 70), (1, 3), (352, 17), (641, 129)] {
            let halves: Vec<bf16> =
                Tensors::numbers(out * inner, 2).iter().map(|v| bf16::from_f32(*v)).collect();
            let n = 29;
            let (x, dy) = (Tensors::numbers(n * inner, 5), Tensors::numbers(n * out, 6));
            let w = Matrix { bf16: true, ..Matrix::new(out, inner, Storage::Bf16(&halves)) };
            let (mut y, mut dx) = (vec![0.0; n * out], Tensors::numbers(n * inner, 8));
            let before = dx.clone();
            w.forward(&mut y, &x, n);
            w.backward(&mut dx, Accum::Add, &dy, n);
            let rounded = |v: f32| match crate::isa::bf16() {
                true => bf16::from_f32(v).to_f64(),
                false => f64::from(v),
            };
            let close = |found: f32, terms: &[f64]| {
                let (sum, size): (f64, f64) = (terms.iter().sum(), terms.iter().map(|t| t.abs()).sum());
                let bound = (terms.len() + 2) as f64 * size * 2f64.powi(-24);
                assert!((f64::from(found) - sum).abs() <= bound, "{inner} × {out}: {found}, not {sum}");
            };
            for (i, y) in y.iter().enumerate() {
                let (r, o) = (i / out, i % out);
                let term = |k: usize| rounded(x[r * inner + k]) * halves[o * inner + k].to_f64();
                close(*y, &(0..inner).map(term).collect::<Vec<_>>());
            }
            for (i, dx) in dx.iter().enumerate() {
                let (r, c) = (i / inner, i % inner);
                let term = |o: usize| rounded(dy[r * out + o]) * halves[o * inner + c].to_f64();
                let terms: Vec<f64> = (0..out).map(term).chain([f64::from(before[i])]).collect();
                close(*dx, &terms);
            }
            let mut one = vec![0.0; out];
            for r in 0..n {
                w.forward(&mut one, &x[r * inner..], 1);
                assert_eq!(one, y[r * out..(r + 1) * out], "a row alone");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_found_in_every_type() {
        let numbers = Tensors::numbers(512, 2);
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let with =
                |at: usize| numbers.iter().enumerate().map(move |(i, v)| if i == at { odd } else { *v });
            assert!(Storage::F32(&numbers).is_finite());
            assert!(!Storage::F32(&with(511).collect::<Vec<_>>()).is_finite());
            assert!(!Storage::F16(&with(3).map(f16::from_f32).collect::<Vec<_>>()).is_finite());
            assert!(!Storage::Bf16(&with(3).map(bf16::from_f32).collect::<Vec<_>>()).is_finite());
            for quant in QuantType::ALL {
                let mut blocks = blocks(quant, 512, 1);
                assert!(Storage::Quantized(QuantizedBlocks { quant, blocks: &blocks }).is_finite());
                let last = blocks.len() - quant.bytes() + quant.halves()[quant.halves().len() - 1];
                blocks[last..last + 2].copy_from_slice(&f16::from_f32(odd).to_le_bytes());
                let odd = Storage::Quantized(QuantizedBlocks { quant, blocks: &blocks });
                assert!(!odd.is_finite(), "{}", quant.name());
            }
        }
    }
}
