//! ggml's functions for single rows: `dequantize_row_*` (GET_ROWS, attention over a quantised cache, BLAS),
//! `quantize_row_*` (activations of what ggml computes, writing to a quantised cache) and `ggml_vec_dot_*`.
//! They are called directly and through ggml's tables of types, and are there in builds without the operation hook.
//! And its products of repacked weights, see [`gemm`].
//!
//! A function is taken over only where ours was measured to be faster, and only after it was compared, in this
//! process, with the one it replaces (see [`trial`]). Which one that is depends on the library that calls; what
//! was found out is kept with that library, and of the first one also in the function's [`FastPath`](fast_path::FastPath).
//!
//! [`functions`] is the list of them; the exports of the same names are made from it.

mod choose;
pub mod fast_path;
pub mod functions;
mod gemm;
mod memory;
mod report;
mod sgemm;
mod trial;

pub use choose::target;
pub use fast_path::forget;
pub use report::report;
