#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zen5turbo_fuzz::kernel_attention(data));
