//! Turning a square of numbers that lies in registers.

use std::arch::x86_64::*;

/// The transpose of 16 × 16 numbers.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn transpose(r: [__m512; 16]) -> [__m512; 16] {
    let mut t = r;
    // Pairs of rows, then of pairs, then quarters of a register.
    for i in (0..16).step_by(2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    let mut u = t;
    for i in (0..16).step_by(4) {
        let pd = |v| _mm512_castps_pd(v);
        let ps = |v| _mm512_castpd_ps(v);
        u[i] = ps(_mm512_unpacklo_pd(pd(t[i]), pd(t[i + 2])));
        u[i + 1] = ps(_mm512_unpackhi_pd(pd(t[i]), pd(t[i + 2])));
        u[i + 2] = ps(_mm512_unpacklo_pd(pd(t[i + 1]), pd(t[i + 3])));
        u[i + 3] = ps(_mm512_unpackhi_pd(pd(t[i + 1]), pd(t[i + 3])));
    }
    // u[4q + j] holds column 4l + j of rows 4q.. in lane l.
    let mut out = u;
    for j in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x44>(u[j], u[4 + j]);
        let high = _mm512_shuffle_f32x4::<0xEE>(u[j], u[4 + j]);
        let low2 = _mm512_shuffle_f32x4::<0x44>(u[8 + j], u[12 + j]);
        let high2 = _mm512_shuffle_f32x4::<0xEE>(u[8 + j], u[12 + j]);
        out[j] = _mm512_shuffle_f32x4::<0x88>(low, low2);
        out[4 + j] = _mm512_shuffle_f32x4::<0xDD>(low, low2);
        out[8 + j] = _mm512_shuffle_f32x4::<0x88>(high, high2);
        out[12 + j] = _mm512_shuffle_f32x4::<0xDD>(high, high2);
    }
    out
}
