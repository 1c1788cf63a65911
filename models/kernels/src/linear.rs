//! Linear layers: frozen or trained weight, in its stored type, with or without a LoRA pair beside
//! it.
//!
//! y = x Wᵀ + b + s (x Aᵀ) Bᵀ, with W `[out, in]`, A `[rank, in]`, B `[out, rank]`.

use faer::Accum;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::dropout::Dropout;
use super::gemm::{gemm, mat};
use super::matrix::Matrix;
use super::simd;

/// A LoRA pair.
#[derive(Clone, Copy, Debug)]
pub struct LoraRef<'a> {
    /// A, `[rank, in]`.
    pub a: &'a [f32],
    /// B, `[out, rank]`.
    pub b: &'a [f32],
    /// Rank.
    pub rank: usize,
    /// What B A x is multiplied with.
    pub scale: f32,
    /// Dropout of x on its way into A.
    pub dropout: Option<Dropout<'a>>,
}

/// A linear layer.
#[derive(Clone, Copy, Debug)]
pub struct LinearRef<'a> {
    /// W, `[out, in]`.
    pub weight: Matrix<'a>,
    /// Bias, of length `out`.
    pub bias: Option<&'a [f32]>,
    /// The LoRA pair beside it.
    pub lora: Option<LoraRef<'a>>,
}

/// Where the gradients of a linear layer are added to; none for frozen parts.
#[derive(Debug, Default)]
pub struct LinearGrad<'a> {
    /// Of W.
    pub weight: Option<&'a mut [f32]>,
    /// Of the bias.
    pub bias: Option<&'a mut [f32]>,
    /// Of A.
    pub a: Option<&'a mut [f32]>,
    /// Of B.
    pub b: Option<&'a mut [f32]>,
}

impl LinearGrad<'_> {
    /// Whether a gradient depends on what the layer read.
    pub fn wants_input(&self) -> bool {
        self.weight.is_some() || self.a.is_some()
    }
}

impl LinearRef<'_> {
    /// As [`Self::forward`], with rows rounded to 8 bits where the weight is quantized.
    pub fn forward_rounded(&self, y: &mut [f32], x: &[f32], n: usize) -> Vec<f32> {
        self.weight.forward_rounded(y, x, n);
        self.beside(y, x, n)
    }

    /// As [`Self::forward_rounded`] for several layers that read the same rows; what each returns.
    pub fn forward_rounded_together<const N: usize>(
        layers: [(&Self, &mut [f32]); N],
        x: &[f32],
        n: usize,
    ) -> [Vec<f32>; N] {
        let (layers, mut products): (Vec<&Self>, Vec<(Matrix, &mut [f32])>) =
            layers.into_iter().map(|(layer, y)| (layer, (layer.weight, y))).unzip();
        Matrix::forward_rounded_together(&mut products, x, n);
        let mut beside = layers.into_iter().zip(products).map(|(layer, (_, y))| layer.beside(y, x, n));
        std::array::from_fn(|_| beside.next().unwrap_or_default())
    }

    /// Writes y for `n` rows of x and returns x Aᵀ (empty without LoRA), for [`Self::backward`].
    pub fn forward(&self, y: &mut [f32], x: &[f32], n: usize) -> Vec<f32> {
        self.weight.forward(y, x, n);
        self.beside(y, x, n)
    }

    /// y += bias and the LoRA pair's part; returns x Aᵀ.
    fn beside(&self, y: &mut [f32], x: &[f32], n: usize) -> Vec<f32> {
        let (out, inner) = (self.weight.rows, self.weight.cols);
        if let Some(bias) = self.bias {
            y[..n * out].par_chunks_mut(out * super::ROWS).for_each(|rows| {
                rows.chunks_mut(out).for_each(|row| simd::add(row, bias));
            });
        }
        let Some(l) = &self.lora else { return Vec::new() };
        let mut u = vec![0.0; n * l.rank];
        let dropped = l.dropout.map(|d| d.of(&x[..n * inner], inner));
        let x = mat(dropped.as_deref().unwrap_or(x), n, inner);
        gemm(&mut u, Accum::Replace, x, mat(l.a, l.rank, inner).transpose(), 1.0);
        let b = mat(l.b, out, l.rank).transpose();
        gemm(y, Accum::Add, mat(&u, n, l.rank), b, l.scale);
        u
    }

    /// dx (+)= the gradient of x, and adds those of the parameters to `grad`. `u` is what
    /// [`Self::forward`] returned. Without `dx` only parameters get gradients.
    pub fn backward(
        &self,
        dx: Option<(&mut [f32], Accum)>,
        grad: &mut LinearGrad,
        dy: &[f32],
        x: &[f32],
        u: &[f32],
        n: usize,
    ) {
        let (out, inner) = (self.weight.rows, self.weight.cols);
        let dy_rows = mat(dy, n, out);
        if let Some(dw) = &mut grad.weight {
            gemm(dw, Accum::Add, dy_rows.transpose(), mat(x, n, inner), 1.0);
        }
        if let Some(db) = &mut grad.bias {
            column_sums(db, dy, n);
        }
        let du = self.lora.map(|l| {
            let mut du = vec![0.0; n * l.rank];
            gemm(&mut du, Accum::Replace, dy_rows, mat(l.b, out, l.rank), l.scale);
            if let Some(db) = &mut grad.b {
                gemm(db, Accum::Add, dy_rows.transpose(), mat(u, n, l.rank), l.scale);
            }
            if let Some(da) = &mut grad.a {
                let dropped = l.dropout.map(|d| d.of(&x[..n * inner], inner));
                let x = mat(dropped.as_deref().unwrap_or(x), n, inner);
                gemm(da, Accum::Add, mat(&du, n, l.rank).transpose(), x, 1.0);
            }
            du
        });
        let Some((dx, accum)) = dx else { return };
        self.weight.backward(dx, accum, dy, n);
        let (Some(l), Some(du)) = (&self.lora, du) else { return };
        let (du, a) = (mat(&du, n, l.rank), mat(l.a, l.rank, inner));
        match l.dropout {
            None => gemm(dx, Accum::Add, du, a, 1.0),
            Some(dropout) => {
                let mut behind = Buffer::new(n * inner);
                gemm(&mut behind, Accum::Replace, du, a, 1.0);
                dropout.back(&mut dx[..n * inner], &behind, inner);
            }
        }
    }
}

/// sums += column sums of a row-major matrix of `n` rows, rows taken in order.
pub fn column_sums(sums: &mut [f32], rows: &[f32], n: usize) {
    const COLUMNS: usize = 128;
    let width = sums.len();
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, part)| {
        for row in rows.chunks(width).take(n) {
            simd::add(part, &row[i * COLUMNS..i * COLUMNS + part.len()]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Storage;
    use crate::testing::{Tensors, check_gradients};

    #[test]
    fn gradients_of_weight_bias_and_lora_agree_with_differences() {
        gradients_agree(None);
    }

    #[test]
    fn gradients_with_dropout_agree_with_differences() {
        gradients_agree(Some(Dropout { share: 0.4, tokens: &[3, 1, 4, 1, 5], layer: 9 }));
    }

    fn gradients_agree(dropout: Option<Dropout>) {
        let (n, inner, out, rank) = (5, 7, 6, 2);
        let mut t = Tensors::new(11);
        let sizes = [n * inner, out * inner, out, rank * inner, out * rank];
        let at: Vec<usize> = sizes.iter().map(|s| t.push(*s)).collect();
        let probe = Tensors::numbers(n * out, 5);
        fn layer<'a>(t: &'a Tensors, at: &[usize], dropout: Option<Dropout<'a>>) -> LinearRef<'a> {
            let lora = LoraRef { a: t.get(at[3]), b: t.get(at[4]), rank: 2, scale: 0.7, dropout };
            let weight = Matrix::new(6, 7, Storage::F32(t.get(at[1])));
            LinearRef { weight, bias: Some(t.get(at[2])), lora: Some(lora) }
        }
        let loss = |t: &Tensors| {
            let mut y = vec![0.0; n * out];
            layer(t, &at, dropout).forward(&mut y, t.get(at[0]), n);
            simd::dot(&y, &probe)
        };
        let l = layer(&t, &at, dropout);
        let mut y = vec![0.0; n * out];
        let u = l.forward(&mut y, t.get(at[0]), n);
        let mut g: Vec<Vec<f32>> = sizes.iter().map(|s| vec![0.0; *s]).collect();
        let [dx, dw, db, da, dbb] = g.as_mut_slice() else { unreachable!() };
        let mut grad = LinearGrad { weight: Some(dw), bias: Some(db), a: Some(da), b: Some(dbb) };
        l.backward(Some((dx, Accum::Replace)), &mut grad, &probe, t.get(at[0]), &u, n);
        check_gradients(&t, &g, loss);
    }
}
