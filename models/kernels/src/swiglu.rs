//! SwiGLU: a = silu(g) · u, with silu(g) = g / (1 + e^-g).

use rayon::prelude::*;

use super::profile::{Part, timed};
use super::simd::{exp, vectorized};

/// Numbers that one task takes.
const PIECE: usize = 1 << 13;

vectorized! {
    fn forward_piece(a: &mut [f32], g: &[f32], u: &[f32]) {
        for ((a, g), u) in a.iter_mut().zip(g).zip(u) {
            *a = g / (1.0 + exp::<FMA>(-g)) * u;
        }
    }

    fn backward_piece(dg: &mut [f32], du: &mut [f32], g: &[f32], u: &[f32], da: &[f32]) {
        for ((((dg, du), g), u), da) in dg.iter_mut().zip(du).zip(g).zip(u).zip(da) {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-g));
            let silu = g * sigmoid;
            *dg = da * u * (sigmoid + silu * (1.0 - sigmoid));
            *du = da * silu;
        }
    }
}

/// Writes a.
pub fn forward(a: &mut [f32], g: &[f32], u: &[f32]) {
    let all = a.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).zip(u.par_chunks(PIECE));
    timed(Part::Swiglu, || all.for_each(|((a, g), u)| forward_piece(a, g, u)));
}

/// Writes the gradients of g and u.
pub fn backward((dg, du): (&mut [f32], &mut [f32]), (g, u): (&[f32], &[f32]), da: &[f32]) {
    let all = dg
        .par_chunks_mut(PIECE)
        .zip(du.par_chunks_mut(PIECE))
        .zip(g.par_chunks(PIECE))
        .zip(u.par_chunks(PIECE))
        .zip(da.par_chunks(PIECE));
    timed(Part::Swiglu, || {
        all.for_each(|((((dg, du), g), u), da)| backward_piece(dg, du, g, u, da));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::dot;
    use crate::testing::{Tensors, check_gradients};

    #[test]
    fn gradients_agree_with_differences() {
        let n = 40;
        let mut t = Tensors::new(7);
        let (g, u) = (t.push(n), t.push(n));
        let probe = Tensors::numbers(n, 2);
        let grads = {
            let (mut dg, mut du) = (vec![0.0; n], vec![0.0; n]);
            backward((&mut dg, &mut du), (t.get(g), t.get(u)), &probe);
            vec![dg, du]
        };
        check_gradients(&t, &grads, |t| {
            let mut a = vec![0.0; n];
            forward(&mut a, t.get(g), t.get(u));
            dot(&a, &probe)
        });
    }
}
