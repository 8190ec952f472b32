//! libzen5turbo.so: preloaded into an unmodified llama.cpp, it computes the expensive operations.
//!
//! The way through the code: [`startup`] (configuration, gate) decides whether anything is done in
//! this process; the functions in [`exports`] are what the program calls.

mod config;
mod exports;
mod ggml;
mod graph;
mod log;
mod reason;
mod startup;
mod stats;
mod tuning;
