//! Bindings to mlx-c, as the published crate has them.
#![allow(non_upper_case_globals, non_camel_case_types, non_snake_case, clippy::all)]

/// IEEE half float; behind pointers only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct float16_t(pub u16);
/// The upper half of a 32-bit float; behind pointers only.
pub type bfloat16_t = u16;

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// What mlx-rs takes a seed from on Apple's systems when it is given none.
#[no_mangle]
pub extern "C" fn mach_approximate_time() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_nanos() as u64)
}
