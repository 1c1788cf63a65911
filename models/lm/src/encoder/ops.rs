//! The encoder's operations over packed texts, as custom operations of candle for the CPU.
//!
//! Each works on its caller's thread alone. Matrices are row-major; a row is a token.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::config::Activation;
use super::math;
use crate::kernels::simd;

/// x (tokens, in), weight (out, in), bias (out) → act(x·weightᵀ + bias) (tokens, out).
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, act: Option<Activation>) -> Result<Tensor> {
    x.apply_op3_no_bwd(weight, bias, &Linear { act })
}

/// x, residual (tokens, h), gain and shift (2, h) → the layer norm of x + residual (tokens, h).
pub(super) fn add_norm(x: &Tensor, residual: &Tensor, affine: &Tensor, epsilon: f32) -> Result<Tensor> {
    x.apply_op3_no_bwd(residual, affine, &AddNorm { epsilon })
}

/// Queries, keys and values side by side (tokens, 3h) → attention within each text (tokens, h).
/// `lengths` are the tokens of the texts, one after another.
pub(super) fn attention(qkv: &Tensor, lengths: &[usize], heads: usize) -> Result<Tensor> {
    qkv.apply_op1_no_bwd(&Attention { lengths: lengths.to_vec(), heads })
}

/// x (tokens, h) → each text's mean over its tokens, L2-normalised (texts, h).
pub(super) fn pool(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Pool { lengths: lengths.to_vec() })
}

struct Linear {
    act: Option<Activation>,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "encoder-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, inner) = lx.shape().dims2()?;
        let (outer, same) = lw.shape().dims2()?;
        if same != inner || lb.shape().elem_count() != outer {
            bail!("linear: {:?} times {:?} plus {:?}", lx.shape(), lw.shape(), lb.shape());
        }
        let (x, w, b) = (floats(x, lx)?, floats(w, lw)?, floats(b, lb)?);
        let mut out: Vec<f32> = Vec::with_capacity(tokens * outer);
        for _ in 0..tokens {
            out.extend_from_slice(b);
        }
        matmul(
            MatMut::from_row_major_slice_mut(&mut out, tokens, outer),
            Accum::Add,
            MatRef::from_row_major_slice(x, tokens, inner),
            MatRef::from_row_major_slice(w, outer, inner).transpose(),
            1.0,
            Par::Seq,
        );
        match self.act {
            None => {}
            Some(Activation::Gelu) => math::gelu(&mut out),
            Some(Activation::GeluTanh) => math::gelu_tanh(&mut out),
            Some(Activation::Relu) => out.iter_mut().for_each(|x| *x = x.max(0.0)),
        }
        Ok((CpuStorage::F32(out), (tokens, outer).into()))
    }
}

struct AddNorm {
    epsilon: f32,
}

impl CustomOp3 for AddNorm {
    fn name(&self) -> &'static str {
        "encoder-add-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        residual: &CpuStorage,
        lr: &Layout,
        affine: &CpuStorage,
        la: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, hidden) = lx.shape().dims2()?;
        if lr.shape() != lx.shape() || la.shape().dims() != [2, hidden] {
            bail!("add-norm: {:?} plus {:?} with {:?}", lx.shape(), lr.shape(), la.shape());
        }
        let (gain, shift) = floats(affine, la)?.split_at(hidden);
        let residual = floats(residual, lr)?;
        let mut out = floats(x, lx)?.to_vec();
        for (row, residual) in out.chunks_exact_mut(hidden).zip(residual.chunks_exact(hidden)) {
            math::add_norm(row, residual, gain, shift, self.epsilon);
        }
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

struct Attention {
    lengths: Vec<usize>,
    heads: usize,
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "encoder-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, triple) = layout.shape().dims2()?;
        if triple % (3 * self.heads) != 0 || tokens != self.lengths.iter().sum::<usize>() {
            bail!("attention: {:?} of {} heads over {:?}", layout.shape(), self.heads, self.lengths);
        }
        let (hidden, head) = (triple / 3, triple / 3 / self.heads);
        let qkv = floats(qkv, layout)?;
        let mut out = vec![0.0f32; tokens * hidden];
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let mut scores = vec![0.0f32; longest * longest];
        let mut start = 0;
        for &n in &self.lengths {
            for h in 0..self.heads {
                // Column h·head of this text's rows; the slice ends with its last row.
                let part = |which: usize| {
                    let from = start * triple + which * hidden + h * head;
                    let to = (start + n - 1) * triple + which * hidden + (h + 1) * head;
                    MatRef::from_row_major_slice_with_stride(&qkv[from..to], n, head, triple)
                };
                let scores = &mut scores[..n * n];
                matmul(
                    MatMut::from_row_major_slice_mut(scores, n, n),
                    Accum::Replace,
                    part(0),
                    part(1).transpose(),
                    1.0 / (head as f32).sqrt(),
                    Par::Seq,
                );
                scores.chunks_exact_mut(n).for_each(math::softmax);
                let from = start * hidden + h * head;
                let to = (start + n - 1) * hidden + (h + 1) * head;
                // Not `from_row_major_slice_with_stride_mut`, which in faer 0.24.4 swaps the strides
                // and writes past the slice.
                let part_of_out =
                    MatMut::from_column_major_slice_with_stride_mut(&mut out[from..to], head, n, hidden);
                matmul(
                    part_of_out.transpose_mut(),
                    Accum::Replace,
                    MatRef::from_row_major_slice(scores, n, n),
                    part(2),
                    1.0,
                    Par::Seq,
                );
            }
            start += n;
        }
        Ok((CpuStorage::F32(out), (tokens, hidden).into()))
    }
}

struct Pool {
    lengths: Vec<usize>,
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "encoder-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, hidden) = layout.shape().dims2()?;
        if tokens != self.lengths.iter().sum::<usize>() {
            bail!("pool: {:?} over {:?}", layout.shape(), self.lengths);
        }
        let x = floats(x, layout)?;
        let mut out = vec![0.0f32; self.lengths.len() * hidden];
        let mut rows = x.chunks_exact(hidden);
        for (mean, &n) in out.chunks_exact_mut(hidden).zip(&self.lengths) {
            for row in rows.by_ref().take(n) {
                simd::add(mean, row);
            }
            // The mean's length does not matter once normalised; the floor is sentence-transformers'.
            let norm = simd::sum_squares(mean).sqrt().max(1e-12);
            simd::scale(mean, 1.0 / norm);
        }
        Ok((CpuStorage::F32(out), (self.lengths.len(), hidden).into()))
    }
}

/// The numbers of a contiguous f32 tensor.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("an encoder operation was given a tensor that is not contiguous");
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}
