//! libzen5turbo.so: preloaded into an unmodified llama.cpp, it computes the expensive operations.
//!
//! The folders, from the top. A folder imports only folders that stand after it in this list; `tests/imports.rs` checks
//! that.
//!
//! - `exports`: the functions that the program calls.
//! - `gate`: decides whether the library works in this process; starts it, ends it and reports on it.
//! - `graph`: plans the operations of a graph and computes them.
//! - `rows`: the functions for single rows of a matrix.
//! - `threads`: the threads that compute a graph.
//! - `buffers`, `weights`: the memory of buffers and of weights.
//! - `placement`: decides on which NUMA nodes memory lies and threads run.
//! - `tuning`: decides where ggml's own kernels are faster.
//! - `loader`: finds the copies of ggml in this process, and the originals of the hooked functions.
//! - `stats`: the counters. `log`: lines on stderr.

// A build for fuzzing has few exports, so most of the code is not reached.
#![cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]

mod buffers;
// A program that fuzzes parts of the library must not contain functions that replace libc's, nor code that runs at
// start.
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
