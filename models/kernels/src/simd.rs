//! Loops that the compiler vectorizes, compiled twice on x86-64: for AVX2 with FMA, chosen at run
//! time, and for the baseline.

/// Defines functions whose body is compiled for AVX2 with FMA and for the baseline. Inside,
/// `fma::<FMA>(a, b, c)` is `a * b + c`, fused where the machine can.
macro_rules! vectorized {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                if $crate::simd::has_avx2() {
                    // SAFETY: the features were just detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    )*};
}
pub(crate) use vectorized;

/// Whether this machine runs the AVX2 form of [`vectorized`] functions.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx2() -> bool {
    crate::isa::in_use() >= crate::isa::InstructionSet::Avx2
}

/// `a * b + c`, fused where `FMA` says that the machine can.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x to about 2 ulp, without branches, for x from -87 to 88; beyond, the ends of that range.
///
/// Range reduction by ln 2 in two parts and a polynomial of degree 6 (Cephes `expf`).
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 × 2^23: adding it leaves an integer in the low bits
    // Plain comparisons, which become single instructions and let NaN pass.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<FMA>(n, -0.693_359_4, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_2e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    let y = fma::<FMA>(p * r, r, r) + 1.0;
    y * f32::from_bits(shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23)
}

/// e^x to about 1 ulp, without branches, for x from -708 to 0; below, the end of that range.
///
/// Range reduction by ln 2 in two parts, then Taylor's polynomial of degree 13.
#[inline(always)]
fn exp64<const FMA: bool>(x: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0; // 1.5 × 2^52: adding it leaves an integer in the low bits
    const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    let fma = |a: f64, b: f64, c: f64| if FMA { a.mul_add(b, c) } else { a * b + c };
    let x = if x < -708.0 { -708.0 } else { x };
    let shifted = fma(x, std::f64::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma(n, -LN_2[1], fma(n, -LN_2[0], x));
    // 1 / 13!, 1 / 12!, … 1 / 0!
    let mut p = 1.605_904_383_682_161_3e-10;
    for c in [
        2.087_675_698_786_81e-9,
        2.505_210_838_544_172e-8,
        2.755_731_922_398_589e-7,
        2.755_731_922_398_589_3e-6,
        2.480_158_730_158_73e-5,
        1.984_126_984_126_984e-4,
        1.388_888_888_888_889e-3,
        8.333_333_333_333_333e-3,
        4.166_666_666_666_666_4e-2,
        1.666_666_666_666_666_6e-1,
        0.5,
        1.0,
        1.0,
    ] {
        p = fma(p, r, c);
    }
    p * f64::from_bits(shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(1023) << 52)
}

/// Lanes of the sums below; fixed, so that sums do not depend on the machine's vector width.
const LANES: usize = 16;

/// Sum of `f(i)` over `0..n` in [`LANES`] interleaved parts.
#[inline(always)]
pub(crate) fn lane_sum(n: usize, f: impl Fn(usize, f32) -> f32) -> f32 {
    let mut acc = [0f32; LANES];
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (l, a) in acc.iter_mut().enumerate() {
            *a = f(i + l, *a);
        }
        i += LANES;
    }
    for (l, i) in (whole..n).enumerate() {
        acc[l] = f(i, acc[l]);
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            acc[l] += acc[l + width];
        }
    }
    acc[0]
}

vectorized! {
    /// Σ a·b.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        let b = &b[..a.len()];
        lane_sum(a.len(), |i, s| fma::<FMA>(a[i], b[i], s))
    }

    /// Σ a².
    pub fn sum_squares(a: &[f32]) -> f32 {
        lane_sum(a.len(), |i, s| fma::<FMA>(a[i], a[i], s))
    }

    /// Replaces x by e^(x - shift) and returns the sum.
    pub fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
        for v in x.iter_mut() {
            *v = exp::<FMA>(*v - shift);
        }
        lane_sum(x.len(), |i, s| s + x[i])
    }

    /// Largest of the numbers; negative infinity for none.
    pub fn max(x: &[f32]) -> f32 {
        let mut acc = [f32::NEG_INFINITY; LANES];
        let mut chunks = x.chunks_exact(LANES);
        for c in &mut chunks {
            for (a, v) in acc.iter_mut().zip(c) {
                *a = if *v > *a { *v } else { *a };
            }
        }
        chunks.remainder().iter().chain(&acc).fold(f32::NEG_INFINITY, |m, v| m.max(*v))
    }

    /// Writes e^((logit - top) / temperature) for each of some logits; their sum. `top` is the largest.
    pub fn softmax_weights(out: &mut [f64], logits: &[f32], top: f32, temperature: f64) -> f64 {
        let top = f64::from(top);
        for (to, l) in out.iter_mut().zip(logits) {
            *to = exp64::<FMA>((f64::from(*l) - top) / temperature);
        }
        let mut acc = [0f64; LANES];
        for part in out.chunks(LANES) {
            acc.iter_mut().zip(part).for_each(|(a, v)| *a += v);
        }
        acc.iter().sum()
    }

    /// x *= c.
    pub fn scale(x: &mut [f32], c: f32) {
        for v in x.iter_mut() {
            *v *= c;
        }
    }

    /// y += x.
    pub fn add(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// y += x over the pool.
pub fn par_add(y: &mut [f32], x: &[f32]) {
    use super::profile::{Part, timed};
    use rayon::prelude::*;
    const PIECE: usize = 1 << 14;
    timed(Part::Residual, || {
        if y.len() <= PIECE {
            return add(y, x);
        }
        y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| add(y, x));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_one() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            for y in [exp::<false>(x), exp::<true>(x)] {
                assert!((f64::from(y) / exact - 1.0).abs() < 3e-7, "exp({x}) = {y}, not {exact}");
            }
        }
    }

    #[test]
    fn weights_of_a_softmax_are_close_to_the_exact_ones() {
        let logits: Vec<f32> = (0..60_000).map(|i| -0.013 * i as f32).collect();
        let mut found = vec![0.0; logits.len()];
        for temperature in [1.0, 0.7, 3.0] {
            let sum = softmax_weights(&mut found, &logits, 0.0, temperature);
            assert!((sum / found.iter().sum::<f64>() - 1.0).abs() < 1e-14);
            for (l, w) in logits.iter().zip(&found) {
                let exact = (f64::from(*l) / temperature).max(-708.0).exp();
                assert!((w / exact - 1.0).abs() < 1e-15, "exp({l} / {temperature}) = {w:e}, not {exact:e}");
            }
        }
    }

    #[test]
    fn sums_of_odd_lengths_are_whole() {
        for n in [0, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(dot(&a, &a), a.iter().map(|v| v * v).sum::<f32>());
            assert_eq!(max(&a), a.last().copied().unwrap_or(f32::NEG_INFINITY));
        }
    }
}
