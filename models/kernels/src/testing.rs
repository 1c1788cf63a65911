//! Central differences, to hold backward passes against, and made-up quantized weights.

use half::f16;

use crate::quant::QuantType;

/// Blocks of `n` numbers below 1: random bytes under scales that are small enough.
pub fn blocks(quant: QuantType, n: usize, seed: u32) -> Vec<u8> {
    let count = n / quant.block() * quant.bytes();
    let mut out: Vec<u8> = Tensors::numbers(count, seed).iter().map(|v| ((v + 0.5) * 256.0) as u8).collect();
    let scale: f32 = match quant {
        QuantType::Q8_0 => 1.0 / 160.0,
        QuantType::Q4_0 => 1.0 / 10.0,
        QuantType::Q4_1 => 1.0 / 20.0,
        QuantType::Q5_0 => 1.0 / 20.0,
        QuantType::Q5_1 => 1.0 / 40.0,
        QuantType::Q4K => 1.0 / 2000.0,
        QuantType::Q5K => 1.0 / 4000.0,
        QuantType::Q6K => 1.0 / 5000.0,
    };
    for (i, block) in out.chunks_exact_mut(quant.bytes()).enumerate() {
        for at in quant.halves() {
            let d = f16::from_f32(scale * (1.0 - (i % 7) as f32 / 10.0));
            block[*at..at + 2].copy_from_slice(&d.to_le_bytes());
        }
    }
    out
}

/// Inputs of a function under test.
#[derive(Clone)]
pub struct Tensors {
    all: Vec<Vec<f32>>,
    seed: u32,
}

impl Tensors {
    /// None yet.
    pub fn new(seed: u32) -> Self {
        Self { all: Vec::new(), seed }
    }

    /// Numbers in [-0.5, 0.5).
    pub fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        let step = |_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(step).collect()
    }

    /// Adds a tensor of `n` numbers and returns its index.
    pub fn push(&mut self, n: usize) -> usize {
        self.seed += 1;
        self.all.push(Self::numbers(n, self.seed));
        self.all.len() - 1
    }

    /// A tensor.
    pub fn get(&self, i: usize) -> &[f32] {
        &self.all[i]
    }
}

/// Holds `grads` (one a tensor) against central differences of `loss`, to 1% of the largest
/// gradient of the tensor: f32 differences give no more.
pub fn check_gradients(at: &Tensors, grads: &[Vec<f32>], loss: impl Fn(&Tensors) -> f32) {
    const STEP: f32 = 1e-2;
    for (t, grad) in grads.iter().enumerate() {
        let largest = grad.iter().fold(1e-3f32, |m, g| m.max(g.abs()));
        for (i, g) in grad.iter().enumerate() {
            let shifted = |by: f32| {
                let mut x = at.clone();
                x.all[t][i] += by;
                loss(&x)
            };
            // Fourth order, so that the step may be wide enough for f32.
            let d = (8.0 * (shifted(STEP) - shifted(-STEP)) - (shifted(2.0 * STEP) - shifted(-2.0 * STEP)))
                / (12.0 * STEP);
            assert!((g - d).abs() < 1e-2 * largest, "tensor {t}, number {i}: backward {g}, difference {d}");
        }
    }
}
