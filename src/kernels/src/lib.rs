//! Matrix products with ggml's quantised weights, by micro-kernels with the weight rows in lanes.
//!
//! The way of a product: activations are quantised to interleaved tiles ([`act`]), sixteen weight
//! rows at a time are unpacked into a panel that stays in the nearest cache ([`pack`]), and a
//! micro-kernel ([`micro`]) multiplies panel and tile. [`kernel::Kernel`] holds the three for one
//! weight type and one ISA, [`registry`] lists them all. For few columns `rows` multiplies
//! without panels.
//!
//! No operating system, no globals, no ggml pointers. x86-64 only.

// Every function here that touches vectors or raw rows is `unsafe fn` with its conditions in the
// documentation; repeating `unsafe {}` around each intrinsic would hide the few places that matter.
#![allow(unsafe_op_in_unsafe_fn)]
// What a kernel is called with is registers; a struct of it would be written to memory and read again for every sixteen rows.
#![allow(clippy::too_many_arguments)]

pub mod act;
pub mod attention;
pub mod copy;
pub mod dequantize;
pub mod dot;
pub mod fetch;
pub mod formats;
pub mod isa;
pub mod kernel;
pub mod micro;
pub mod mix;
pub mod pack;
mod prefetch;
pub mod registry;
pub mod repacked;
mod rows;
pub mod width;

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports))] // what only tests need of the helpers
mod tests;

#[cfg(feature = "fuzzing")]
pub use tests::arbitrary as fuzzing;
