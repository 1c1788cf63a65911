//! A row-major matrix.

/// A dense matrix of `rows` × `cols` numbers, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// The numbers, row by row.
    pub data: Vec<f64>,
}

impl Matrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// A matrix with the given rows, which must be equally long.
    pub fn from_rows(rows: &[Vec<f64>]) -> Self {
        let cols = rows.first().map_or(0, Vec::len);
        assert!(rows.iter().all(|r| r.len() == cols), "rows of a matrix are equally long");
        Self { rows: rows.len(), cols, data: rows.concat() }
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// Row `i`, to be changed.
    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f64]> {
        (0..self.rows).map(|i| self.row(i))
    }

    /// Mean of the rows; zeros where there are none.
    pub fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.cols];
        for row in self.iter() {
            axpy(&mut mean, 1.0, row);
        }
        let n = self.rows.max(1) as f64;
        mean.iter_mut().for_each(|x| *x /= n);
        mean
    }

    /// `self` · `x`, of length `rows`.
    pub fn times(&self, x: &[f64]) -> Vec<f64> {
        self.iter().map(|row| dot(row, x)).collect()
    }

    /// `self`ᵀ · `x`, of length `cols`.
    pub fn transpose_times(&self, x: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.cols];
        for (row, &w) in self.iter().zip(x) {
            axpy(&mut out, w, row);
        }
        out
    }

    /// `self` · `other`ᵀ, `self.rows` × `other.rows`.
    pub fn times_transposed(&self, other: &Matrix) -> Matrix {
        assert_eq!(self.cols, other.cols, "factors of a product fit each other");
        let data = self.iter().flat_map(|a| other.iter().map(move |b| dot(a, b))).collect();
        Matrix { rows: self.rows, cols: other.rows, data }
    }

    /// `self` · `other`, `self.rows` × `other.cols`.
    pub fn product(&self, other: &Matrix) -> Matrix {
        assert_eq!(self.cols, other.rows, "factors of a product fit each other");
        let mut out = Matrix::zeros(self.rows, other.cols);
        for i in 0..self.rows {
            let row = other.transpose_times(self.row(i));
            out.row_mut(i).copy_from_slice(&row);
        }
        out
    }

    /// `self`ᵀ · `self`, `cols` × `cols`.
    pub fn gram_of_columns(&self) -> Matrix {
        let mut out = Matrix::zeros(self.cols, self.cols);
        for row in self.iter() {
            for (i, &x) in row.iter().enumerate() {
                if x != 0.0 {
                    axpy(&mut out.row_mut(i)[..=i], x, &row[..=i]);
                }
            }
        }
        for i in 0..self.cols {
            for j in 0..i {
                out.data[j * self.cols + i] = out.data[i * self.cols + j];
            }
        }
        out
    }

    /// The lower triangle L with L Lᵀ = `self`, for a symmetric positive definite matrix.
    /// `None` where it is not positive definite.
    pub fn cholesky(&self) -> Option<Matrix> {
        let n = self.rows;
        let mut l = Matrix::zeros(n, n);
        for i in 0..n {
            for j in 0..=i {
                let s = self.data[i * n + j] - dot(&l.row(i)[..j], &l.row(j)[..j]);
                if i == j {
                    if s <= 0.0 || !s.is_finite() {
                        return None;
                    }
                    l.data[i * n + i] = s.sqrt();
                } else {
                    l.data[i * n + j] = s / l.data[j * n + j];
                }
            }
        }
        Some(l)
    }

    /// The inverse of a lower triangle with a non-zero diagonal.
    pub fn invert_lower(&self) -> Matrix {
        let n = self.rows;
        let mut inverse = Matrix::zeros(n, n);
        for i in 0..n {
            let (done, rest) = inverse.data.split_at_mut(i * n);
            let row = &mut rest[..n];
            for k in 0..i {
                axpy(&mut row[..=k], -self.data[i * n + k], &done[k * n..k * n + k + 1]);
            }
            row[i] = 1.0;
            let pivot = self.data[i * n + i];
            row[..=i].iter_mut().for_each(|x| *x /= pivot);
        }
        inverse
    }

    /// An orthonormal basis, row by row, of the span of the rows, of `limit` vectors at most: by
    /// Gram-Schmidt, always taking the row with the largest remainder, the first among equals.
    pub fn row_basis(&self, limit: usize) -> Matrix {
        let mut rest = self.clone();
        let mut norms: Vec<f64> = rest.iter().map(|r| dot(r, r)).collect();
        let largest = norms.iter().copied().fold(0.0, f64::max);
        let mut basis: Vec<Vec<f64>> = Vec::new();
        while basis.len() < limit.min(self.rows).min(self.cols) {
            let (at, &top) = norms
                .iter()
                .enumerate()
                .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))
                .expect("a row is left");
            if top <= largest * 1e-12 {
                break;
            }
            let mut v = rest.row(at).to_vec();
            for b in &basis {
                let c = dot(&v, b);
                axpy(&mut v, -c, b);
            }
            let length = norm(&v);
            v.iter_mut().for_each(|x| *x /= length);
            for (i, squared) in norms.iter_mut().enumerate() {
                let c = dot(rest.row(i), &v);
                axpy(rest.row_mut(i), -c, &v);
                *squared = dot(rest.row(i), rest.row(i));
            }
            norms[at] = 0.0;
            basis.push(v);
        }
        Matrix { rows: basis.len(), cols: self.cols, data: basis.concat() }
    }
}

/// Sum of products. Eight partial sums in a fixed order: fast, and the same everywhere.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    let mut sums = [0.0; 8];
    let (xs, ys) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// `y` += `a` · `x`.
pub fn axpy(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

/// Euclidean length.
pub fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-8)
    }

    fn square(n: usize) -> impl Strategy<Value = Matrix> {
        proptest::collection::vec(-1.0..1.0f64, n * n).prop_map(move |data| Matrix { rows: n, cols: n, data })
    }

    proptest! {
        #[test]
        fn cholesky_and_its_inverse_undo_each_other(m in square(11)) {
            let mut spd = m.gram_of_columns();
            (0..11).for_each(|i| spd.data[i * 12] += 0.5);
            let l = spd.cholesky().expect("positive definite");
            prop_assert!(close(&l.times_transposed(&l).data, &spd.data));
            let unit = l.invert_lower().product(&l);
            for i in 0..11 {
                for j in 0..11 {
                    prop_assert!((unit.data[i * 11 + j] - f64::from(u8::from(i == j))).abs() < 1e-8);
                }
            }
        }

        #[test]
        fn a_basis_spans_the_rows(m in square(9)) {
            let b = m.row_basis(9);
            for row in m.iter() {
                prop_assert!(close(&b.transpose_times(&b.times(row)), row));
            }
        }
    }

    #[test]
    fn an_indefinite_matrix_has_no_cholesky_factor() {
        assert_eq!(Matrix::from_rows(&[vec![1.0, 2.0], vec![2.0, 1.0]]).cholesky(), None);
    }
}
