//! The arithmetic, on plain slices: each operation forward and backward.
//!
//! Everything is parallel over the rayon pool that it is called in, cut into pieces by shape alone
//! and reduced in a fixed order, so results are the same bits for any number of threads.
//! Activations are row-major `[tokens, width]`, the sequences of a batch one behind the other
//! without padding.

pub mod attention;
pub mod buffer;
pub mod cross_entropy;
pub mod decode;
pub mod dropout;
pub mod gemm;
pub mod int8;
pub mod linear;
pub mod matrix;
pub mod norm;
pub mod profile;
pub mod quant;
pub mod rope;
pub mod simd;
pub mod swiglu;
#[cfg(target_arch = "x86_64")]
pub mod wide;

#[cfg(test)]
pub(crate) mod testing;

/// The instruction set that the kernels use on this machine: `avx512`, `avx2`, `neon` or `baseline`.
/// Results of different ones differ in their last bits.
pub fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if wide::available() {
            return "avx512";
        }
        if simd::has_avx2() {
            return "avx2";
        }
    }
    if cfg!(target_arch = "aarch64") { "neon" } else { "baseline" }
}

/// Tokens that one parallel piece of an elementwise operation covers.
pub(crate) const ROWS: usize = 16;

/// A pointer that parallel tasks write disjoint parts through.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32, usize);

// SAFETY: tasks only reach disjoint ranges, which `slice` leaves to its callers to guarantee.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Shares a buffer among tasks.
    pub fn new(buffer: &mut [f32]) -> Self {
        Self(buffer.as_mut_ptr(), buffer.len())
    }

    /// `len` numbers from `at`.
    ///
    /// # Safety
    /// No two live slices overlap, and the buffer outlives them.
    pub unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at + len <= self.1, "a task's part lies inside the buffer");
        // SAFETY: in bounds by the assertion; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }

    /// The address of number `at`, for strided matrix views.
    pub fn at(self, at: usize) -> *mut f32 {
        assert!(at <= self.1, "a task's part lies inside the buffer");
        self.0.wrapping_add(at)
    }
}
