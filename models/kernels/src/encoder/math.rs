//! Element-wise functions over rows, on the vectorised loops of [`crate::simd`].

use crate::simd::{exp, fma, lane_sum, max, sum_squares, vectorized};

/// Φ(x) with an error below 3e-7; Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
#[inline(always)]
fn normal_cdf<const FMA: bool>(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / fma::<FMA>(0.327_591_1, z, 1.0);
    let mut p = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = fma::<FMA>(p, t, c);
    }
    let tail = 0.5 * p * t * exp::<FMA>(-z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

vectorized! {
    /// x·Φ(x), in place.
    pub(super) fn gelu(xs: &mut [f32]) {
        for x in xs.iter_mut() {
            *x *= normal_cdf::<FMA>(*x);
        }
    }

    /// The approximation of x·Φ(x) with the hyperbolic tangent, in place: as (1 + tanh u) / 2 is
    /// 1 / (1 + e^-2u).
    pub(super) fn gelu_tanh(xs: &mut [f32]) {
        for x in xs.iter_mut() {
            let u = 0.797_884_6 * (*x + 0.044_715 * *x * *x * *x);
            *x /= 1.0 + exp::<FMA>(-2.0 * u);
        }
    }

    /// The softmax of a row, in place.
    pub(super) fn softmax(row: &mut [f32]) {
        let largest = max(row);
        for x in row.iter_mut() {
            *x = exp::<FMA>(*x - largest);
        }
        let scale = 1.0 / lane_sum(row.len(), |i, s| s + row[i]);
        for x in row.iter_mut() {
            *x *= scale;
        }
    }

    /// Layer norm of x + residual, in place: (y - mean) / √(variance + ε) · gain + shift.
    pub(super) fn add_norm(x: &mut [f32], residual: &[f32], gain: &[f32], shift: &[f32], epsilon: f32) {
        let n = x.len() as f32;
        for (x, r) in x.iter_mut().zip(residual) {
            *x += r;
        }
        let mean = lane_sum(x.len(), |i, s| s + x[i]) / n;
        for x in x.iter_mut() {
            *x -= mean;
        }
        let scale = 1.0 / (sum_squares(x) / n + epsilon).sqrt();
        for ((x, g), s) in x.iter_mut().zip(gain).zip(shift) {
            *x = fma::<FMA>(*x * scale, *g, *s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_exact_functions() {
        // erf(z) = 2/√π Σ (-1)^n z^(2n+1) / (n! (2n+1)), to 60 terms: exact enough up to 4.
        let phi = |x: f64| {
            let z = x / std::f64::consts::SQRT_2;
            let (mut term, mut sum) = (z, z);
            for n in 1..60 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            0.5 + sum / std::f64::consts::PI.sqrt()
        };
        let xs: Vec<f32> = (-4000..4000).map(|i| i as f32 * 1e-3).collect();
        let (mut erf, mut tanh) = (xs.clone(), xs.clone());
        gelu(&mut erf);
        gelu_tanh(&mut tanh);
        for ((x, g), t) in xs.iter().zip(erf).zip(tanh) {
            let exact = f64::from(*x) * phi(f64::from(*x));
            assert!((f64::from(g) - exact).abs() < 4e-7 * f64::from(x.abs()).max(0.1), "gelu {x}");
            let u = (2.0 / std::f64::consts::PI).sqrt() * f64::from(*x) * (1.0 + 0.044715 * f64::from(x * x));
            let exact = 0.5 * f64::from(*x) * (1.0 + u.tanh());
            assert!((f64::from(t) - exact).abs() < 1e-6, "gelu_tanh {x}");
        }
    }

    #[test]
    fn softmax_sums_to_one_at_any_length() {
        for n in [1, 15, 16, 17, 40] {
            let mut row: Vec<f32> = (0..n).map(|i| 50.0 - i as f32).collect();
            softmax(&mut row);
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(row.windows(2).all(|w| (w[1] / w[0] - (-1.0f32).exp()).abs() < 1e-6));
        }
    }
}
