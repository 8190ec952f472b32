//! Replaces ggml's functions for single rows, and some of its products:
//!
//! - `dequantize_row_*`, for GET_ROWS, attention over a quantised cache, and BLAS;
//! - `quantize_row_*`, for activations of products that ggml computes, and for writing to a quantised cache;
//! - `ggml_vec_dot_*`;
//! - products of repacked weights, see [`gemm`], and `llamafile_sgemm`, see [`sgemm`].
//!
//! ggml calls them directly and through its tables of types. Builds without the operation hook have them too.
//!
//! A function is replaced only if the function of this library was measured to be faster, and only after both were
//! compared in this process (see [`trial`]). The original depends on the library that calls. The decision is kept with
//! that library, and for the first library also in the function's [`FastPath`](fast_path::FastPath).
//!
//! [`functions`] is the list of these functions; the exports of the same names are made from it.

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
