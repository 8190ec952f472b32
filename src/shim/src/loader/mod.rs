//! What is loaded into this process: the originals of the hooked functions, and the copies of ggml.
//!
//! - [`symbols`] looks names up: no other file calls `dlsym`, `dlvsym`, `dlopen` or `dladdr`.
//! - [`objects`] tells what the dynamic linker has loaded, and where: no other file calls `dl_iterate_phdr`.
//! - [`interposable`] reads relocations: whether calls of a library come to a preloaded one.
//! - [`scope`] finds originals from a library's point of view.
//! - [`probe`] checks a copy of ggml, and tells what its numbers mean.
//! - [`pools`] has the functions for thread pools of a copy of ggml.
//! - [`libraries`] has the libraries that call hooks, and the originals that each of them is bound to.

pub mod interposable;
pub mod libraries;
pub mod objects;
pub mod pools;
pub mod probe;
pub mod scope;
pub mod symbols;

pub use interposable::is_interposable;
pub use libraries::{BoundLibrary, caller, pool_functions};
pub use objects::{in_one_object, is_defined_elsewhere, is_own};
pub use pools::PoolFunctions;
pub use probe::{Abi, MatrixOp, Op};
pub use scope::{Scope, find_definer, library_of, only_definer};
