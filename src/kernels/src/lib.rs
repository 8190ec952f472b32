//! Matrix products with ggml's quantised weights, by micro-kernels with the weight rows in lanes.
//!
//! The way of a product: activations are quantised to interleaved tiles ([`act`]), sixteen weight
//! rows at a time are unpacked into a panel that stays in the level-1 cache ([`pack`]), and a
//! micro-kernel ([`micro`]) multiplies panel and tile. A [`kernel::Kernel`] holds the three for one
//! weight type and one ISA, [`registry`] lists all kernels. Few columns are multiplied without panels ([`gemv`]), or
//! fused ([`micro::fused`]): [`kernel::Method`] names the ways.
//!
//! [`ops`] has the operations that are no products.
//!
//! No operating system, no globals but the features of the CPU, no ggml pointers. x86-64 only.

// Every function here that touches vectors or raw rows is `unsafe fn` with its conditions in the
// documentation; repeating `unsafe {}` around each intrinsic would hide the few places that matter.
#![allow(unsafe_op_in_unsafe_fn)]
// The arguments of a kernel stay in registers. A struct of them would be written to memory and read again for every sixteen rows.
#![allow(clippy::too_many_arguments)]

pub mod act;
pub mod attention;
pub mod copy;
pub mod dequantize;
pub mod dot;
pub mod formats;
pub mod gemv;
pub mod isa;
pub mod kernel;
pub mod micro;
pub mod mix;
pub mod ops;
pub mod pack;
pub mod prefetch;
pub mod registry;
pub mod repacked;
pub mod width;

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports))] // some helpers serve only the tests
mod tests;

#[cfg(feature = "fuzzing")]
pub use tests::arbitrary as fuzzing;
