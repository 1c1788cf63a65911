//! SwiGLU: a = silu(g) · u, with silu(g) = g / (1 + e^-g).

use rayon::prelude::*;

use super::simd::{exp, vectorized};

/// Numbers that one task takes.
const PIECE: usize = 1 << 13;

vectorized! {
    fn forward_piece(a: &mut [f32], g: &[f32], u: &[f32]) {
        for ((a, g), u) in a.iter_mut().zip(g).zip(u) {
            *a = g / (1.0 + exp::<FMA>(-g)) * u;
        }
    }

    fn backward_piece(g: &mut [f32], u: &mut [f32], da: &[f32]) {
        for ((g, u), da) in g.iter_mut().zip(u).zip(da) {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-*g));
            let silu = *g * sigmoid;
            let dg = da * *u * (sigmoid + silu * (1.0 - sigmoid));
            *u = da * silu;
            *g = dg;
        }
    }
}

/// Writes a.
pub fn forward(a: &mut [f32], g: &[f32], u: &[f32]) {
    a.par_chunks_mut(PIECE)
        .zip(g.par_chunks(PIECE))
        .zip(u.par_chunks(PIECE))
        .for_each(|((a, g), u)| forward_piece(a, g, u));
}

/// Replaces g and u by their gradients.
pub fn backward(g: &mut [f32], u: &mut [f32], da: &[f32]) {
    g.par_chunks_mut(PIECE)
        .zip(u.par_chunks_mut(PIECE))
        .zip(da.par_chunks(PIECE))
        .for_each(|((g, u), da)| backward_piece(g, u, da));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::dot;
    use crate::kernels::testing::{Tensors, check_gradients};

    #[test]
    fn gradients_agree_with_differences() {
        let n = 40;
        let mut t = Tensors::new(7);
        let (g, u) = (t.push(n), t.push(n));
        let probe = Tensors::numbers(n, 2);
        let grads = {
            let (mut dg, mut du) = (t.get(g).to_vec(), t.get(u).to_vec());
            backward(&mut dg, &mut du, &probe);
            vec![dg, du]
        };
        check_gradients(&t, &grads, |t| {
            let mut a = vec![0.0; n];
            forward(&mut a, t.get(g), t.get(u));
            dot(&a, &probe)
        });
    }
}
