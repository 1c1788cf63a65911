//! RMSNorm: y = x / sqrt(mean(x²) + eps) · w, over the last dimension.

use rayon::prelude::*;

use super::profile::{Part, timed};
use super::simd::{fma, lane_sum, vectorized};
use super::{ROWS, linear::column_sums};

vectorized! {
    fn forward_rows(y: &mut [f32], inverse: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
        let h = w.len();
        for ((y, x), inv) in y.chunks_exact_mut(h).zip(x.chunks_exact(h)).zip(inverse) {
            let mean = lane_sum(h, |i, s| fma::<FMA>(x[i], x[i], s)) / h as f32;
            *inv = 1.0 / (mean + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = *x * *inv * *w;
            }
        }
    }

    fn again_rows(y: &mut [f32], inverse: &[f32], x: &[f32], w: &[f32]) {
        let h = w.len();
        for ((y, x), inv) in y.chunks_exact_mut(h).zip(x.chunks_exact(h)).zip(inverse) {
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = *x * *inv * *w;
            }
        }
    }

    // dx += inv (dy w - x inv² mean(dy w x)); `dw` gets dy x inv of each row.
    fn backward_rows(dx: &mut [f32], dw: Option<&mut [f32]>, dy: &[f32], x: &[f32], inverse: &[f32], w: &[f32]) {
        let h = w.len();
        for (((dx, dy), x), inv) in
            dx.chunks_exact_mut(h).zip(dy.chunks_exact(h)).zip(x.chunks_exact(h)).zip(inverse)
        {
            let dot = lane_sum(h, |i, s| fma::<FMA>(dy[i] * w[i], x[i], s));
            let c = dot * inv * inv / h as f32;
            for (((dx, dy), x), w) in dx.iter_mut().zip(dy).zip(x).zip(w) {
                *dx += inv * (dy * w - x * c);
            }
        }
        if let Some(dw) = dw {
            for (((dw, dy), x), inv) in
                dw.chunks_exact_mut(h).zip(dy.chunks_exact(h)).zip(x.chunks_exact(h)).zip(inverse)
            {
                for ((dw, dy), x) in dw.iter_mut().zip(dy).zip(x) {
                    *dw = dy * x * inv;
                }
            }
        }
    }
}

/// Writes y and, for the backward pass, 1 / sqrt(mean(x²) + eps) of each row.
pub fn forward(y: &mut [f32], inverse: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    let piece = w.len() * ROWS;
    let rows = y.par_chunks_mut(piece).zip(inverse.par_chunks_mut(ROWS)).zip(x.par_chunks(piece));
    timed(Part::Norm, || rows.for_each(|((y, inverse), x)| forward_rows(y, inverse, x, w, eps)));
}

/// Writes y again, from what the forward pass found.
pub fn again(y: &mut [f32], inverse: &[f32], x: &[f32], w: &[f32]) {
    let piece = w.len() * ROWS;
    let rows = y.par_chunks_mut(piece).zip(inverse.par_chunks(ROWS)).zip(x.par_chunks(piece));
    timed(Part::Norm, || rows.for_each(|((y, inverse), x)| again_rows(y, inverse, x, w)));
}

/// dx += the gradient of x; `dw` += that of w, where it is trained.
pub fn backward(dx: &mut [f32], dw: Option<&mut [f32]>, dy: &[f32], x: &[f32], inverse: &[f32], w: &[f32]) {
    let piece = w.len() * ROWS;
    let rows = dx
        .par_chunks_mut(piece)
        .zip(dy.par_chunks(piece))
        .zip(x.par_chunks(piece))
        .zip(inverse.par_chunks(ROWS));
    let Some(dw) = dw else {
        return timed(Part::Norm, || {
            rows.for_each(|(((dx, dy), x), inv)| backward_rows(dx, None, dy, x, inv, w));
        });
    };
    let mut each = vec![0.0; dy.len()];
    rows.zip(each.par_chunks_mut(piece))
        .for_each(|((((dx, dy), x), inv), each)| backward_rows(dx, Some(each), dy, x, inv, w));
    column_sums(dw, &each, inverse.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::dot;
    use crate::testing::{Tensors, check_gradients};

    #[test]
    fn gradients_agree_with_differences() {
        let (n, h) = (3, 10);
        let mut t = Tensors::new(3);
        let (x, w) = (t.push(n * h), t.push(h));
        let probe = Tensors::numbers(n * h, 9);
        let run = |t: &Tensors| {
            let (mut y, mut inv) = (vec![0.0; n * h], vec![0.0; n]);
            forward(&mut y, &mut inv, t.get(x), t.get(w), 1e-5);
            (y, inv)
        };
        let (_, inv) = run(&t);
        let mut g = vec![vec![0.0; n * h], vec![0.0; h]];
        let [dx, dw] = g.as_mut_slice() else { unreachable!() };
        backward(dx, Some(dw), &probe, t.get(x), &inv, t.get(w));
        check_gradients(&t, &g, |t| dot(&run(t).0, &probe));
        let mut again = vec![0.0; n * h];
        super::again(&mut again, &inv, t.get(x), t.get(w));
        assert_eq!(again, run(&t).0);
    }
}
