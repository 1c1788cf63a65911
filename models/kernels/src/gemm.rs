//! The matrix product: faer's kernel, cut into tiles that the pool works through.
//!
//! faer adds up over the inner dimension in blocks whose size depends on that dimension only, so
//! an element of the result does not depend on the tiling, on the number of threads, or on how
//! many other rows are multiplied at once. A single row would take another path (matrix × vector,
//! other order of sums); it is computed as two.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::Shared;
#[cfg(target_arch = "x86_64")]
use super::{avx512_gemm, row_order::RowOrder};

/// A row-major matrix of `rows` × `cols` in the beginning of a slice.
pub fn mat(data: &[f32], rows: usize, cols: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(&data[..rows * cols], rows, cols)
}

/// Multiplies-adds below which one task does the whole product.
const SMALL: usize = 1 << 17;
/// Tiles that a product is cut into at least, where it is large enough.
const TILES: usize = 8;

/// `dst (+)= alpha · lhs · rhs`, `dst` row-major and `lhs.nrows()` × `rhs.ncols()`.
pub fn gemm(dst: &mut [f32], accum: Accum, lhs: MatRef<f32>, rhs: MatRef<f32>, alpha: f32) {
    let (m, n) = (lhs.nrows(), rhs.ncols());
    gemm_into(dst, n, accum, lhs, rhs, alpha);
    debug_assert!(dst.len() >= m * n);
}

/// As [`gemm`], into a part of a wider row-major matrix: rows of `dst` are `stride` apart.
pub fn gemm_into(
    dst: &mut [f32],
    stride: usize,
    accum: Accum,
    lhs: MatRef<f32>,
    rhs: MatRef<f32>,
    alpha: f32,
) {
    let (m, n, k) = (lhs.nrows(), rhs.ncols(), lhs.ncols());
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(dst.len() >= (m - 1) * stride + n, "the result fits its buffer");
    #[cfg(target_arch = "x86_64")]
    if avx512_gemm::available() && wide_product(dst, stride, accum, lhs, rhs, alpha) {
        return;
    }
    if m == 1 {
        return one_row(&mut dst[..n], accum, lhs, rhs, alpha);
    }
    let (tm, tn) = tiles(m, n, k);
    if tm >= m && tn >= n {
        // SAFETY: the view lies inside `dst`, as asserted above.
        let view = unsafe { MatMut::from_raw_parts_mut(dst.as_mut_ptr(), m, n, stride as isize, 1) };
        return matmul(view, accum, lhs, rhs, alpha, Par::Seq);
    }
    let (down, across) = (m.div_ceil(tm), n.div_ceil(tn));
    let out = Shared::new(dst);
    (0..down * across).into_par_iter().with_max_len(1).for_each(|i| {
        let (r0, c0) = (i / across * tm, i % across * tn);
        let (r, c) = (tm.min(m - r0), tn.min(n - c0));
        // SAFETY: tiles do not overlap and lie inside `dst`, as asserted above.
        let tile = unsafe { MatMut::from_raw_parts_mut(out.at(r0 * stride + c0), r, c, stride as isize, 1) };
        matmul(tile, accum, lhs.subrows(r0, r), rhs.subcols(c0, c), alpha, Par::Seq);
    });
}

/// The product by [`avx512_gemm`], where the right side lies in rows or columns; false where it does not.
#[cfg(target_arch = "x86_64")]
fn wide_product(
    dst: &mut [f32],
    stride: usize,
    accum: Accum,
    lhs: MatRef<f32>,
    rhs: MatRef<f32>,
    alpha: f32,
) -> bool {
    let (inner, columns) = (rhs.nrows(), rhs.ncols());
    let (down, across) = (rhs.row_stride(), rhs.col_stride());
    let stored = |rows: usize, cols: usize, stride: usize| {
        let numbers = (rows.max(1) - 1) * stride + cols;
        // SAFETY: the view's numbers, from its first to its last.
        let data = unsafe { std::slice::from_raw_parts(rhs.as_ptr(), numbers) };
        avx512_gemm::StoredMatrix { data, rows, cols, stride, order: RowOrder::Plain }
    };
    match (usize::try_from(down), usize::try_from(across)) {
        (Ok(stride_in), Ok(1)) => {
            let w = stored(inner, columns, stride_in);
            avx512_gemm::product(dst, stride, accum, lhs, &avx512_gemm::Rows(w), alpha);
        }
        (Ok(1), Ok(stride_in)) => {
            let w = stored(columns, inner, stride_in);
            match accum {
                Accum::Replace if alpha == 1.0 => avx512_gemm::forward(dst, stride, lhs, &w),
                _ => avx512_gemm::product(dst, stride, accum, lhs, &avx512_gemm::Columns(w), alpha),
            }
        }
        _ => return false,
    }
    true
}

/// A tile's rows and columns, from the shape alone. Tiles of 96 and more of the columns keep
/// faer's kernel full; tall tiles spare it from packing the right side again and again.
fn tiles(m: usize, n: usize, k: usize) -> (usize, usize) {
    if m.saturating_mul(n).saturating_mul(k) <= SMALL {
        return (m, n);
    }
    let tm = m.div_ceil(TILES).next_multiple_of(48).clamp(96, 512);
    let down = m.div_ceil(tm);
    let across = TILES.div_ceil(down);
    let tn = n.div_ceil(across).next_multiple_of(96).clamp(96, 4096);
    // One row left alone in a tile would be summed in another order.
    let tm = if m % tm == 1 { tm + 1 } else { tm };
    let tn = if n % tn == 1 { tn + 1 } else { tn };
    (tm, tn)
}

fn one_row(dst: &mut [f32], accum: Accum, lhs: MatRef<f32>, rhs: MatRef<f32>, alpha: f32) {
    let k = lhs.ncols();
    let row: Vec<f32> = (0..k).map(|i| lhs[(0, i)]).collect();
    let twice = [row.as_slice(), row.as_slice()].concat();
    let mut out = vec![0.0; 2 * dst.len()];
    gemm(&mut out, Accum::Replace, mat(&twice, 2, k), rhs, alpha);
    match accum {
        Accum::Replace => dst.copy_from_slice(&out[..dst.len()]),
        Accum::Add => super::simd::add(dst, &out[..dst.len()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed;
        let step = |_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(step).collect()
    }

    /// A row's product is the same bits whatever else is multiplied with it, at any thread count.
    #[test]
    fn a_row_does_not_depend_on_the_batch_or_the_threads() {
        for (n, k, o) in
            [(193, 64, 200), (97, 700, 385), (65, 90, 100), (50, 48, 96), (20, 32, 32), (9, 8, 16)]
        {
            let (x, w) = (numbers(n * k, 1), numbers(o * k, 2));
            let run = |threads: usize, rows: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut y = vec![0.0; rows * o];
                pool.install(|| {
                    gemm(&mut y, Accum::Replace, mat(&x, rows, k), mat(&w, o, k).transpose(), 1.0);
                });
                y
            };
            let whole = run(1, n);
            assert_eq!(whole, run(3, n));
            for rows in [1, 2, 3, 7, n / 3, n / 2, n - 1] {
                assert_eq!(whole[..rows * o], run(2, rows), "{rows} of {n} rows, inner {k}, out {o}");
            }
        }
    }

    #[test]
    fn all_shapes_agree_with_the_plain_sum() {
        for (m, n, k) in [(1, 5, 3), (2, 1, 9), (300, 7, 33), (97, 193, 17), (128, 256, 40)] {
            let (a, b) = (numbers(m * k, 3), numbers(n * k, 4));
            let mut c = numbers(m * n, 5);
            let before = c.clone();
            gemm(&mut c, Accum::Add, mat(&a, m, k), mat(&b, n, k).transpose(), 0.5);
            for i in 0..m {
                for j in 0..n {
                    let sum: f32 = (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum();
                    assert!((c[i * n + j] - before[i * n + j] - 0.5 * sum).abs() < 1e-5);
                }
            }
        }
    }
}
