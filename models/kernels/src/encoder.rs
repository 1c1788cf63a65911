//! The operations of a sentence encoder over packed texts.
//!
//! Each works on its caller's thread alone. Matrices are row-major; a row is a token.

mod math;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::simd;

/// The function between the two layers of a block's feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x) with the error function.
    Gelu,
    /// Its approximation with the hyperbolic tangent.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

/// x `[tokens, in]`, weight `[out, in]`, bias `[out]` → act(x·weightᵀ + bias) `[tokens, out]`.
pub fn linear(x: &[f32], weight: &[f32], bias: &[f32], act: Option<Activation>) -> Vec<f32> {
    let outer = bias.len();
    let inner = weight.len() / outer;
    let tokens = x.len() / inner;
    let mut out: Vec<f32> = Vec::with_capacity(tokens * outer);
    for _ in 0..tokens {
        out.extend_from_slice(bias);
    }
    matmul(
        MatMut::from_row_major_slice_mut(&mut out, tokens, outer),
        Accum::Add,
        MatRef::from_row_major_slice(x, tokens, inner),
        MatRef::from_row_major_slice(weight, outer, inner).transpose(),
        1.0,
        Par::Seq,
    );
    match act {
        None => {}
        Some(Activation::Gelu) => math::gelu(&mut out),
        Some(Activation::GeluTanh) => math::gelu_tanh(&mut out),
        Some(Activation::Relu) => out.iter_mut().for_each(|x| *x = x.max(0.0)),
    }
    out
}

/// x becomes the layer norm of x + residual, both `[tokens, h]`.
pub fn add_norm(x: &mut [f32], residual: &[f32], gain: &[f32], shift: &[f32], epsilon: f32) {
    let hidden = gain.len();
    for (row, residual) in x.chunks_exact_mut(hidden).zip(residual.chunks_exact(hidden)) {
        math::add_norm(row, residual, gain, shift, epsilon);
    }
}

/// Queries, keys and values side by side `[tokens, 3h]` → attention within each text `[tokens, h]`.
/// `lengths` are the tokens of the texts, in order.
pub fn attention(qkv: &[f32], lengths: &[usize], hidden: usize, heads: usize) -> Vec<f32> {
    let (triple, head) = (3 * hidden, hidden / heads);
    let mut out = vec![0.0f32; qkv.len() / 3];
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut scores = vec![0.0f32; longest * longest];
    let mut start = 0;
    for &n in lengths {
        for h in 0..heads {
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
    out
}

/// x `[tokens, h]` → each text's mean over its tokens, L2-normalised.
pub fn pool(x: &[f32], lengths: &[usize], hidden: usize) -> Vec<Vec<f32>> {
    let mut rows = x.chunks_exact(hidden);
    let mean = |n: &usize| {
        let mut mean = vec![0.0f32; hidden];
        for row in rows.by_ref().take(*n) {
            simd::add(&mut mean, row);
        }
        // The mean's length does not matter once normalised; the floor is sentence-transformers'.
        let norm = simd::sum_squares(&mean).sqrt().max(1e-12);
        simd::scale(&mut mean, 1.0 / norm);
        mean
    };
    lengths.iter().map(mean).collect()
}
