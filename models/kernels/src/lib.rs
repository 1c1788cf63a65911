//! The arithmetic, on plain slices: each operation forward and backward.
//!
//! Everything is parallel over the rayon pool that it is called in, cut into pieces by shape alone
//! and reduced in a fixed order, so results are the same bits for any number of threads.
//! Activations are row-major `[tokens, width]`, the sequences of a batch packed without padding.
//!
//! Rust alone: no C, no files, no tensor library. What needs an instruction set is chosen when the
//! program runs ([`instruction_set`]), or forced by [`isa::VARIABLE`].
//!
//! # Layout
//! - [`Matrix`], [`Storage`], [`QuantizedBlocks`]: weights in the type that they are stored in.
//! - [`gemm()`], [`LinearRef`]: products; `avx512_gemm` and `int8` are chosen by the machine and the type.
//! - [`attention`], [`norm`], [`swiglu`], [`embedding`], [`Rope`], [`Dropout`], [`cross_entropy()`]: the
//!   parts of a decoder; [`KvCache`]: attention of one new token.
//! - [`encoder`]: the parts of a sentence encoder.
//! - [`team`]: threads for the many small products of generation; [`isa`]: instruction sets.
//! - [`adamw`]: the step of the optimizer.
//! - [`Buffer`], [`simd`], [`profile`]: working memory, loops, and where the time goes.

pub mod adamw;
pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512_gemm;
mod buffer;
mod cross_entropy;
mod decode;
mod dropout;
pub mod embedding;
pub mod encoder;
mod gemm;
mod int8;
pub mod isa;
mod linear;
mod matrix;
pub mod norm;
pub mod profile;
mod quant;
mod rope;
mod row_order;
pub mod simd;
pub mod swiglu;
pub mod team;

#[cfg(test)]
mod testing;

pub use buffer::{Buffer, limit_pool};
pub use cross_entropy::{Gradients as LossGradients, chunk as loss_chunk, cross_entropy};
pub use decode::{KvCache, attend_each};
pub use dropout::{Dropout, mix};
pub use faer::Accum;
pub use gemm::{gemm, mat};
pub use linear::{LinearGrad, LinearRef, LoraRef};
pub use matrix::{Matrix, Pages, STREAMED, Storage};
pub use quant::{QuantType, QuantizedBlocks, RUN};
pub use rope::Rope;
pub use row_order::RowOrder;

/// The instruction set that the kernels use on this machine: `avx512`, `avx2`, `neon` or `baseline`.
/// Results of different ones differ in their last bits. One that is forced on a machine that has a better
/// one has a name of its own, `avx2_forced` or `baseline_forced`: faer, which multiplies there, is not
/// forced.
pub fn instruction_set() -> &'static str {
    use isa::InstructionSet::{Avx2, Avx512, Avx512Vnni, Baseline};
    let (best, used) = (isa::InstructionSet::best(), isa::in_use());
    match used {
        // VNNI multiplies bytes, with the same bits.
        Avx512 | Avx512Vnni => "avx512",
        Avx2 if used < best => "avx2_forced",
        Avx2 => "avx2",
        Baseline if used < best => "baseline_forced",
        Baseline if cfg!(target_arch = "aarch64") => "neon",
        Baseline => "baseline",
    }
}

/// Tokens that one parallel piece of an elementwise operation covers.
pub(crate) const ROWS: usize = 16;

/// A slice that parallel tasks write disjoint parts of.
pub(crate) struct Parts<T>(*mut T, usize);

/// A buffer of numbers that tasks write parts of.
pub(crate) type Shared = Parts<f32>;

impl<T> Clone for Parts<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Parts<T> {}

// SAFETY: tasks only reach disjoint ranges, which `slice` leaves to its callers to guarantee.
unsafe impl<T: Send> Send for Parts<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    /// Shares a buffer among tasks.
    pub fn new(buffer: &mut [T]) -> Self {
        Self(buffer.as_mut_ptr(), buffer.len())
    }

    /// `len` elements from `at`.
    ///
    /// # Safety
    /// No two live slices overlap, and the buffer outlives them.
    pub unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [T] {
        assert!(at + len <= self.1, "a task's part lies inside the buffer");
        // SAFETY: in bounds by the assertion; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }

    /// The address of element `at`, for strided matrix views.
    pub fn at(self, at: usize) -> *mut T {
        assert!(at <= self.1, "a task's part lies inside the buffer");
        self.0.wrapping_add(at)
    }
}
