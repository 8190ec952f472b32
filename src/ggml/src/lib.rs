//! ggml's ABI, in one place: the preload library, `zen5turbo doctor`, `zen5turbo tune`, the benches and the tests use it.
//!
//! - [`abi`]: structures and constants of ggml's headers.
//! - [`functions`]: every function of ggml that is called, with its name and its signature.
//! - [`rows`]: ggml's functions for single rows and for repacked weights.
//! - [`hooks`]: the functions that the preload library stands in for, and its own C API: all that it exports.
//! - [`types`]: the numbers of ggml's types.
//! - [`layout`]: the questions that tell whether a ggml has the structures of [`abi`].
//! - [`checked`]: what ggml hands over, checked before it is used.
//! - [`build`]: what tells one build of ggml from another.
//!
//! Nothing here looks a symbol up or opens a library. A function that needs ggml's functions takes a `find`, which gives the
//! address of a function by its name.
//!
//! Names and block sizes of weight types stand in `zen5turbo_kernels::formats`, because the kernels read these blocks and
//! import nothing of ours.

pub mod abi;
pub mod build;
pub mod checked;
pub mod functions;
pub mod hooks;
pub mod layout;
pub mod rows;
pub mod types;

/// The releases of ggml whose structures are those of [`abi`], in words.
pub const KNOWN_RELEASES: &str = "0.2 to 0.26";

/// The start of the file names of ggml's libraries.
pub const LIBRARY_PREFIX: &str = "libggml";
