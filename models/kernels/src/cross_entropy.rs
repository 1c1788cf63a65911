//! Output layer and cross-entropy in one, over chunks of tokens: the logits of all tokens never
//! exist, and each chunk's gradients are made while its logits are at hand.

use faer::Accum;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::gemm::{gemm, mat};
use super::matrix::Matrix;
use super::profile::{Part, timed};
use super::simd;

/// Where gradients go to.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the hidden states; overwritten.
    pub hidden: &'a mut [f32],
    /// Of the output layer, where it is trained; added to.
    pub weight: Option<&'a mut [f32]>,
    /// What each token's loss counts, usually 1 / number of tokens.
    pub scale: f32,
}

/// Tokens of a chunk: about four megabytes of logits, but enough rows to feed the matrix product.
pub fn chunk(vocab: usize) -> usize {
    ((1 << 20) / vocab.max(1)).clamp(128, 512)
}

/// Negative log-likelihoods of `targets` (nats), one a row of `hidden`; gradients where asked.
pub fn cross_entropy(
    hidden: &[f32],
    weight: Matrix,
    targets: &[u32],
    mut gradients: Option<Gradients>,
) -> Vec<f32> {
    let (vocab, width) = (weight.rows, weight.cols);
    let rows = chunk(vocab).min(targets.len());
    let mut logits = Buffer::new(rows * vocab);
    let mut losses = Vec::with_capacity(targets.len());
    for (i, targets) in targets.chunks(rows.max(1)).enumerate() {
        let n = targets.len();
        let part = i * rows * width..(i * rows + n) * width;
        let (x, logits) = (&hidden[part.clone()], &mut logits[..n * vocab]);
        weight.forward(logits, x, n);
        let scale = gradients.as_ref().map(|g| g.scale);
        let each = logits.par_chunks_exact_mut(vocab).zip(targets);
        timed(Part::Logits, || {
            losses.par_extend(each.map(|(row, target)| row_loss(row, *target as usize, scale)));
        });
        if let Some(g) = &mut gradients {
            weight.backward(&mut g.hidden[part], Accum::Replace, logits, n);
            if let Some(dw) = &mut g.weight {
                gemm(dw, Accum::Add, mat(logits, n, vocab).transpose(), mat(x, n, width), 1.0);
            }
        }
    }
    losses
}

/// The loss of a row of logits, which become their gradients where `scale` is given.
fn row_loss(row: &mut [f32], target: usize, scale: Option<f32>) -> f32 {
    let (top, hit) = (simd::max(row), row[target]);
    let sum = simd::exp_sum(row, top);
    if let Some(scale) = scale {
        simd::scale(row, scale / sum);
        row[target] -= scale;
    }
    top + sum.ln() - hit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Storage;
    use crate::testing::{Tensors, check_gradients};

    #[test]
    fn gradients_agree_with_differences_over_several_chunks() {
        let (n, width, vocab) = (130, 2, 3); // a chunk is at most 512 and at least 128 tokens
        let mut t = Tensors::new(5);
        let (x, w) = (t.push(n * width), t.push(vocab * width));
        let targets: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
        let matrix = |t: &Tensors| t.get(w).to_vec();
        let mean = |t: &Tensors| {
            let w = matrix(t);
            let w = Matrix::new(vocab, width, Storage::F32(&w));
            let all = cross_entropy(t.get(x), w, &targets, None);
            (all.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64) as f32
        };
        let mut g = vec![vec![0.0; n * width], vec![0.0; vocab * width]];
        let [dx, dw] = g.as_mut_slice() else { unreachable!() };
        let gradients = Gradients { hidden: dx, weight: Some(dw), scale: 1.0 / n as f32 };
        let wide = matrix(&t);
        let weight = Matrix::new(vocab, width, Storage::F32(&wide));
        cross_entropy(t.get(x), weight, &targets, Some(gradients));
        check_gradients(&t, &g, mean);
    }

    #[test]
    fn chunks_do_not_change_a_row() {
        let (n, width, vocab) = (700, 8, 11);
        let (x, w) = (Tensors::numbers(n * width, 1), Tensors::numbers(vocab * width, 2));
        let weight = Matrix::new(vocab, width, Storage::F32(&w));
        let targets = vec![4; n];
        let all = cross_entropy(&x, weight, &targets, None);
        assert_eq!(all[690..], cross_entropy(&x[690 * width..], weight, &targets[690..], None));
    }
}
