//! Blocks of quantized weights as GGUF files hold them: read as they are, decoded 32 numbers at a
//! time.
//!
//! The layouts are those of ggml's `block_q8_0`, `block_q4_0`, `block_q4_1`, `block_q5_0`,
//! `block_q5_1`, `block_q4_K`, `block_q5_K` and `block_q6_K`; every block is made of runs of 32
//! numbers. A number is `scale · q + offset` with an unsigned q of a byte, scale and
//! offset shared by 32 numbers, or by 16 in Q6_K.

use half::f16;
use rayon::prelude::*;

use super::simd::{fma, vectorized};

/// Numbers that are decoded at once.
pub const RUN: usize = 32;

/// How numbers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantType {
    /// 8 bits and a scale for 32 numbers: 8.5 bits a number.
    Q8_0,
    /// 4 bits and a scale for 32 numbers: 4.5 bits a number.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32 numbers: 5 bits a number.
    Q4_1,
    /// 5 bits and a scale for 32 numbers: 5.5 bits a number.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32 numbers: 6 bits a number.
    Q5_1,
    /// 4 bits; 6-bit scales and minima for 32 numbers, two scales over 256: 4.5 bits a number.
    Q4K,
    /// 5 bits; 6-bit scales and minima for 32 numbers, two scales over 256: 5.5 bits a number.
    Q5K,
    /// 6 bits; 8-bit scales for 16 numbers, one scale over 256: 6.5625 bits a number.
    Q6K,
}

impl QuantType {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Q8_0, Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q4K, Self::Q5K, Self::Q6K];

    /// Numbers of a block.
    pub const fn block(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q8_0 => 2 + 32,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q4K => 4 + 12 + 128,
            Self::Q5K => 4 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Where the half floats of a block lie, in bytes from its beginning.
    pub(crate) const fn halves(self) -> &'static [usize] {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q5_0 => &[0],
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => &[0, 2],
            Self::Q6K => &[208],
        }
    }

    /// The name in files and settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }
}

/// Packed numbers; whole blocks.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedBlocks<'a> {
    /// How.
    pub quant: QuantType,
    /// The blocks.
    pub blocks: &'a [u8],
}

/// A run of 32 numbers: unsigned bytes, and scale and offset of each half.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The bytes.
    pub q: [u8; RUN],
    /// What the bytes of each half are multiplied with.
    pub scale: [f32; 2],
    /// The offset.
    pub offset: [f32; 2],
}

impl<'a> QuantizedBlocks<'a> {
    /// Run `i` of all.
    #[inline(always)]
    pub fn run(&self, i: usize) -> Run {
        let (size, per) = (self.quant.bytes(), self.quant.block() / RUN);
        let block = &self.blocks[i / per * size..][..size];
        match self.quant {
            QuantType::Q8_0 => q8_0(block),
            QuantType::Q4_0 => q4_0(block),
            QuantType::Q4_1 => q4_1(block),
            QuantType::Q5_0 => q5_0(block),
            QuantType::Q5_1 => q5_1(block),
            QuantType::Q4K => q4_k(block, i % per),
            QuantType::Q5K => q5_k(block, i % per),
            QuantType::Q6K => q6_k(block, i % per),
        }
    }

    /// Whether all its numbers are finite: its scales are, as everything else is whole numbers.
    pub fn is_finite(&self) -> bool {
        let finite = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).is_finite();
        let blocks = self.blocks.par_chunks_exact(self.quant.bytes()).with_min_len(1 << 10);
        blocks.all(|block| self.quant.halves().iter().all(|at| finite(block, *at)))
    }

    /// Some of its numbers, whole blocks.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        let blocks = &self.blocks[self.byte(range.start)..self.byte(range.end)];
        Self { quant: self.quant, blocks }
    }

    /// Where the block of number `at` begins.
    #[inline(always)]
    pub fn byte(&self, at: usize) -> usize {
        at / self.quant.block() * self.quant.bytes()
    }

    /// Writes numbers `at..at + out.len()` as f32.
    ///
    /// # Panics
    /// If they are not whole runs.
    pub fn decode(&self, at: usize, out: &mut [f32]) {
        assert!(
            at.is_multiple_of(RUN) && out.len().is_multiple_of(RUN),
            "packed numbers are read in runs of {RUN}"
        );
        decode(self, at / RUN, out);
    }
}

vectorized! {
    fn decode(packed: &QuantizedBlocks, first: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_exact_mut(RUN).enumerate() {
            let run = packed.run(first + i);
            for half in 0..2 {
                let (scale, offset) = (run.scale[half], run.offset[half]);
                for (o, q) in out[half * 16..][..16].iter_mut().zip(&run.q[half * 16..][..16]) {
                    *o = fma::<FMA>(scale, f32::from(*q), offset);
                }
            }
        }
    }
}

/// A finite half float: its exponent lands 112 too low in an f32, which a product corrects exactly.
#[inline(always)]
pub(super) fn half(bytes: &[u8]) -> f32 {
    let bits = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let size = f32::from_bits((bits & 0x7FFF) << 13) * f32::from_bits((127 + 112) << 23);
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

/// Signed bytes, made unsigned by adding 128.
#[inline(always)]
fn q8_0(block: &[u8]) -> Run {
    let d = half(block);
    let mut q = [0; RUN];
    for (q, b) in q.iter_mut().zip(&block[2..]) {
        *q = b ^ 0x80;
    }
    Run { q, scale: [d; 2], offset: [-128.0 * d; 2] }
}

#[inline(always)]
fn q4_0(block: &[u8]) -> Run {
    let d = half(block);
    Run { q: nibbles(&block[2..]), scale: [d; 2], offset: [-8.0 * d; 2] }
}

#[inline(always)]
fn q4_1(block: &[u8]) -> Run {
    Run { q: nibbles(&block[4..]), scale: [half(block); 2], offset: [half(&block[2..]); 2] }
}

#[inline(always)]
fn q5_0(block: &[u8]) -> Run {
    let d = half(block);
    Run { q: fifth_bits(nibbles(&block[6..]), &block[2..6]), scale: [d; 2], offset: [-16.0 * d; 2] }
}

#[inline(always)]
fn q5_1(block: &[u8]) -> Run {
    let q = fifth_bits(nibbles(&block[8..]), &block[4..8]);
    Run { q, scale: [half(block); 2], offset: [half(&block[2..]); 2] }
}

/// Numbers with the bit of each, in order, above their four.
#[inline(always)]
fn fifth_bits(mut q: [u8; RUN], bits: &[u8]) -> [u8; RUN] {
    for (i, q) in q.iter_mut().enumerate() {
        *q |= ((bits[i / 8] >> (i % 8)) & 1) << 4;
    }
    q
}

/// The low halves of 16 bytes, then the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u8; RUN] {
    std::array::from_fn(|i| (bytes[i % 16] >> (i / 16 * 4)) & 15)
}

/// Scale and offset of a run of Q4_K or Q5_K.
///
/// Scales and minima of 8 runs lie in 12 bytes: the first four in the low six bits of bytes 0–3 and
/// 4–7; of the others the low four bits in bytes 8–11, the high two in the upper bits of the rest.
#[inline(always)]
pub(super) fn four_bit_scale(block: &[u8], run: usize) -> (f32, f32) {
    let (d, dmin, s) = (half(block), half(&block[2..]), &block[4..16]);
    let (scale, min) = match run {
        0..4 => (s[run] & 63, s[run + 4] & 63),
        _ => ((s[run + 4] & 15) | (s[run - 4] >> 6 << 4), (s[run + 4] >> 4) | (s[run] >> 6 << 4)),
    };
    (d * f32::from(scale), -dmin * f32::from(min))
}

#[inline(always)]
fn q4_k(block: &[u8], run: usize) -> Run {
    let (scale, offset) = four_bit_scale(block, run);
    let shift = 4 * (run % 2);
    let mut q = [0; RUN];
    for (q, b) in q.iter_mut().zip(&block[16 + run / 2 * 32..][..RUN]) {
        *q = (b >> shift) & 15;
    }
    Run { q, scale: [scale; 2], offset: [offset; 2] }
}

/// As Q4_K, with the fifth bits between: bit `run` of 32 bytes.
#[inline(always)]
fn q5_k(block: &[u8], run: usize) -> Run {
    let (scale, offset) = four_bit_scale(block, run);
    let shift = 4 * (run % 2);
    let mut q = [0; RUN];
    let low = &block[48 + run / 2 * 32..][..RUN];
    for ((q, l), h) in q.iter_mut().zip(low).zip(&block[16..48]) {
        *q = ((l >> shift) & 15) | (((h >> run) & 1) << 4);
    }
    Run { q, scale: [scale; 2], offset: [offset; 2] }
}

/// Low four bits in 128 bytes, high two in 64, both by halves of 128 numbers; 16 signed scales.
#[inline(always)]
fn q6_k(block: &[u8], run: usize) -> Run {
    let (part, quarter) = (run / 4, run % 4);
    let low = &block[part * 64 + quarter % 2 * 32..][..RUN];
    let high = &block[128 + part * 32..][..RUN];
    let scales = &block[192 + part * 8 + quarter * 2..][..2];
    let d = half(&block[208..]);
    let mut q = [0; RUN];
    for ((q, l), h) in q.iter_mut().zip(low).zip(high) {
        *q = ((l >> (quarter / 2 * 4)) & 15) | (((h >> (2 * quarter)) & 3) << 4);
    }
    let scale = [d * f32::from(scales[0] as i8), d * f32::from(scales[1] as i8)];
    Run { q, scale, offset: scale.map(|s| -32.0 * s) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::blocks;

    #[test]
    fn half_floats_are_read_exactly() {
        for bits in (0..0x7C00u16).flat_map(|b| [b, b | 0x8000]) {
            assert_eq!(half(&bits.to_le_bytes()), f16::from_bits(bits).to_f32());
        }
    }

    #[test]
    fn a_part_is_the_same_as_in_the_whole() {
        for quant in QuantType::ALL {
            let blocks = blocks(quant, 2048, 8);
            let all = QuantizedBlocks { quant, blocks: &blocks };
            let (mut whole, mut part) = (vec![0.0; 2048], vec![0.0; 64]);
            all.decode(0, &mut whole);
            assert!(
                whole.iter().any(|v| *v != 0.0) && whole.iter().all(|v| v.abs() < 1.0),
                "{}",
                quant.name()
            );
            all.decode(512 + 96, &mut part);
            assert_eq!(part, whole[608..672], "from the middle of a block");
        }
    }
}
