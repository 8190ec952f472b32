//! libzen5turbo.so: preloaded into an unmodified llama.cpp, it computes the expensive operations.
//!
//! The way through the code, from the top: `exports` has the functions that the program calls; `gate` decides whether anything is
//! done in this process, and starts, ends and reports; `graph` plans the operations of a graph and computes them; `rows` has the
//! functions for single rows; `threads` has those that compute a graph; `buffers` and `weights` have their memory, and `placement`
//! says on which NUMA nodes it lies; `tuning` decides where ggml's own kernels are faster; `loader` finds the copies of ggml in this
//! process and the originals of the hooked functions; `stats` counts and `log` tells. A folder imports only what stands behind it in this list, which a
//! test checks (`tests/imports.rs`).

// Without most of the exports most of the rest is not reached.
#![cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]

mod buffers;
// A program that fuzzes parts of the library must not have what stands for libc's functions or starts something.
#[cfg(not(feature = "fuzzing"))]
mod exports;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gate;
mod graph;
mod loader;
mod log;
mod pages;
mod placement;
mod rows;
mod stats;
mod threads;
mod tuning;
mod weights;

use zen5turbo_config as config;
use zen5turbo_ggml as ggml;
use zen5turbo_telemetry::reason;
