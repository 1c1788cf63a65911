//! Principal directions.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, MatRef, Par, diag::Diag};

use super::matrix::{Matrix, norm};

/// The `k` orthonormal directions (row by row) along which centred rows vary most, by falling
/// variance; fewer where the rows do not vary in as many. On one thread, so that the result is the
/// same everywhere. `None` where the decomposition does not converge.
pub fn principal(x: &Matrix, k: usize) -> Option<Matrix> {
    // The smaller of the two Gram matrices has the same spectrum.
    let by_rows = x.rows < x.cols;
    let gram = if by_rows { x.times_transposed(x) } else { x.gram_of_columns() };
    let (values, vectors) = eigen(&gram)?;
    let largest = values.last().copied().unwrap_or(0.0);
    let mut directions = Vec::new();
    for j in (0..gram.rows).rev().take(k).take_while(|&j| values[j] > 1e-10 * largest) {
        let column: Vec<f64> = (0..gram.rows).map(|i| vectors[(i, j)]).collect();
        let mut v = if by_rows { x.transpose_times(&column) } else { column };
        let length = norm(&v);
        v.iter_mut().for_each(|x| *x /= length);
        directions.push(v);
    }
    (!directions.is_empty()).then(|| Matrix::from_rows(&directions))
}

/// Eigenvalues, rising, and eigenvectors as columns.
fn eigen(symmetric: &Matrix) -> Option<(Vec<f64>, Mat<f64>)> {
    let n = symmetric.rows;
    let a = MatRef::from_row_major_slice(&symmetric.data, n, n);
    let mut values = Diag::<f64>::zeros(n);
    let mut vectors = Mat::<f64>::zeros(n, n);
    let par = Par::Seq;
    let room = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, faer::prelude::default());
    let mut memory = MemBuffer::new(room);
    let stack = MemStack::new(&mut memory);
    self_adjoint_evd(a, values.as_mut(), Some(vectors.as_mut()), par, stack, faer::prelude::default())
        .ok()?;
    let values = (0..n).map(|i| values.column_vector()[i]).collect();
    Some((values, vectors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::dot;

    #[test]
    fn directions_are_orthonormal_and_ordered_whichever_side_is_longer() {
        for (rows, cols) in [(40, 6), (5, 30)] {
            let data =
                (0..rows * cols).map(|i| ((i * 7919 % 101) as f64 / 50.0 - 1.0) / (1 + i % cols) as f64);
            let x = Matrix { rows, cols, data: data.collect() };
            let p = principal(&x, 4).expect("it converges");
            assert_eq!(p.rows, 4);
            let spread: Vec<f64> = p.iter().map(|v| norm(&x.times(v))).collect();
            assert!(spread.windows(2).all(|w| w[0] >= w[1]), "{spread:?}");
            for i in 0..4 {
                for j in 0..4 {
                    let expected = f64::from(u8::from(i == j));
                    assert!((dot(p.row(i), p.row(j)) - expected).abs() < 1e-8);
                }
            }
        }
    }
}
