#![no_main]

use headstart_fuzz::safetensors;

#[global_allocator]
static ALLOCATOR: headstart_fuzz::Bounded = headstart_fuzz::Bounded;

libfuzzer_sys::fuzz_target!(init: headstart_fuzz::init(), |data: &[u8]| safetensors(data));
