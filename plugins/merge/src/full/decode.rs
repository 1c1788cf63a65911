//! Stored numbers as f32.

use half::f16;

use super::checkpoint::Kind;

/// The place of the first number that is NaN or infinite. Without a branch a number where all are finite.
pub(super) fn not_finite(numbers: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    let any = numbers.iter().fold(false, |any, x| any | (x.to_bits() & EXPONENT == EXPONENT));
    if any { numbers.iter().position(|x| !x.is_finite()) } else { None }
}

/// Decodes numbers of a float kind.
pub(super) fn decode(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    match kind {
        Kind::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Kind::F16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f16::from_le_bytes(*b).to_f32();
            }
        }
        Kind::Bf16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
        Kind::Other(..) => unreachable!("only floats are computed with"),
    }
}
