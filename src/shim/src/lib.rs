//! libzen5turbo.so: preloaded into an unmodified llama.cpp, it computes the expensive operations.
//!
//! The way through the code: `startup` (configuration, gate) decides whether anything is done in this
//! process; the functions in `exports` are what the program calls; `loader` finds the copies of ggml and
//! the originals of the hooked functions; `graph` plans the products of a graph and computes them; `tuning` decides where
//! ggml's own kernels are faster; `direct` has the functions for single rows; `stats` and `log` tell about it.

// Without most of the exports most of the rest is not reached.
#![cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]

use zen5turbo_ggml as ggml;

mod blas;
mod buffers;
mod config;
mod direct;
mod exports;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod graph;
mod guard;
#[cfg_attr(test, allow(dead_code))] // reached by exports that a test program does not have
mod heap;
mod loader;
mod log;
mod memory;
mod pages;
mod placement;
mod prefetch;
mod reason;
mod startup;
mod stats;
#[cfg_attr(test, allow(dead_code))] // as above
mod streaming;
mod threads;
mod tuning;
