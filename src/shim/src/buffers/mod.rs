//! Memory other than mapped weights: ggml's large buffers, the C library's large blocks and large copies, and scratch
//! memory.

pub mod large;
#[cfg_attr(test, allow(dead_code))] // reached by exports that a test program does not have
pub mod malloc_thp;
mod map;
#[cfg_attr(test, allow(dead_code))] // reached by exports that a test program does not have
pub mod nt_copy;
pub mod scratch;
