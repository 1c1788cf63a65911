//! Rows of an embedding `[vocab, width]`, looked up.

use rayon::prelude::*;

use super::matrix::Matrix;
use super::{ROWS, Shared, simd};

/// Writes each id's row of the table, `[ids, width]`.
pub fn forward(out: &mut [f32], table: &Matrix, ids: &[u32]) {
    let width = table.cols;
    out.par_chunks_mut(width * ROWS).zip(ids.par_chunks(ROWS)).for_each(|(rows, ids)| {
        rows.chunks_exact_mut(width).zip(ids).for_each(|(row, id)| table.row(*id as usize, row));
    });
}

/// Adds the gradient `dy` `[ids, width]` of looked-up rows to that of the table.
pub fn backward(grad: &mut [f32], dy: &[f32], ids: &[u32], width: usize) {
    // Tokens of one id are added up in order; ids share nothing.
    let mut order: Vec<(u32, usize)> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    order.sort_unstable();
    let out = Shared::new(grad);
    let runs: Vec<_> = order.chunk_by(|a, b| a.0 == b.0).collect();
    runs.par_iter().for_each(|run| {
        // SAFETY: each id has one run, so this task alone has its row.
        let row = unsafe { out.slice(run[0].0 as usize * width, width) };
        for (_, at) in *run {
            simd::add(row, &dy[at * width..(at + 1) * width]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Storage;
    use crate::testing::{Tensors, check_gradients};

    #[test]
    fn gradients_agree_with_differences() {
        let (vocab, width) = (5, 3);
        let ids: Vec<u32> = (0..40).map(|i| i * i % 4).collect();
        let mut t = Tensors::new(2);
        let table = t.push(vocab * width);
        let probe = Tensors::numbers(ids.len() * width, 6);
        let mut grad = vec![vec![0.0; vocab * width]];
        backward(&mut grad[0], &probe, &ids, width);
        assert!(grad[0][4 * width..].iter().all(|g| *g == 0.0), "no token has id 4");
        check_gradients(&t, &grad, |t| {
            let mut out = vec![0.0; ids.len() * width];
            forward(&mut out, &Matrix::new(vocab, width, Storage::F32(t.get(table))), &ids);
            simd::dot(&out, &probe)
        });
    }
}
