//! Where the time goes: wall-clock time by kind of work, counted while it is switched on.
//!
//! Work is timed by the thread that asks for it, so the parts of one computation add up to its
//! time; the rest is everything else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Matrix products, decoding of stored weights included.
    Product,
    /// Attention.
    Attention,
    /// RMSNorm.
    Norm,
    /// Rotary embedding.
    Rope,
    /// SwiGLU.
    Swiglu,
    /// Softmax and loss over logits, and the choice of tokens.
    Logits,
    /// Sums of hidden states.
    Residual,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Product, Self::Attention, Self::Norm, Self::Rope, Self::Swiglu, Self::Logits, Self::Residual];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Product => "matrix products",
            Self::Attention => "attention",
            Self::Norm => "norms",
            Self::Rope => "rotary embedding",
            Self::Swiglu => "swiglu",
            Self::Logits => "softmax of logits",
            Self::Residual => "residual sums",
        }
    }
}

static ON: AtomicBool = AtomicBool::new(false);
static NANOSECONDS: [AtomicU64; Part::ALL.len()] = [const { AtomicU64::new(0) }; Part::ALL.len()];

/// Begins to count, from zero.
pub fn start() {
    NANOSECONDS.iter().for_each(|n| n.store(0, Ordering::Relaxed));
    ON.store(true, Ordering::Relaxed);
}

/// Seconds of each part since [`start`].
pub fn seconds() -> [(Part, f64); Part::ALL.len()] {
    Part::ALL.map(|p| (p, NANOSECONDS[p as usize].load(Ordering::Relaxed) as f64 / 1e9))
}

/// Does some work and counts its time.
#[inline]
pub fn timed<T>(part: Part, work: impl FnOnce() -> T) -> T {
    if !ON.load(Ordering::Relaxed) {
        return work();
    }
    let start = Instant::now();
    let result = work();
    NANOSECONDS[part as usize].fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    result
}
