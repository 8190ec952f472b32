//! Finds the copies of ggml in this process, and the originals of the hooked functions.
//!
//! - [`symbols`] looks names up. No other file calls `dlsym`, `dlvsym`, `dlopen` or `dladdr`.
//! - [`objects`] lists the loaded libraries and their addresses. No other file calls `dl_iterate_phdr`.
//! - [`interposable`] reads relocations, to find out whether the calls of a library reach a preloaded one.
//! - [`scope`] finds the originals that one library sees.
//! - [`probe`] checks a copy of ggml, and finds out what its type and operation numbers mean.
//! - [`pools`] has the functions for thread pools of a copy of ggml.
//! - [`libraries`] keeps the libraries that call hooks, each with the originals that it is bound to.
//! - [`originals`] finds the originals of hooks that are called from a library which does not see them.
//! - `unwinder` finds the unwinder of the process.

pub mod interposable;
pub mod libraries;
pub mod objects;
pub mod originals;
pub mod pools;
pub mod probe;
pub mod scope;
pub mod symbols;
// Programs of tests and of fuzzing have their own.
#[cfg(not(any(test, feature = "fuzzing")))]
mod unwinder;

pub use interposable::is_interposable;
pub use libraries::{BoundLibrary, caller, pool_functions};
pub use objects::{in_one_object, is_defined_elsewhere, is_own};
pub use pools::PoolFunctions;
pub use probe::{Abi, MatrixOp, Op};
pub use scope::{Scope, library_of, only_definer};
