//! Decides whether the library works in this process; starts it, ends it and reports on it.
//!
//! Every folder uses [`state`] (what this process is) and [`guard`] (panics). The other files use all folders:
//!
//! - [`start`] starts the library.
//! - [`exit`] runs at the end of the program, [`fork`] in forked children.
//! - [`report`] makes the statistics document, [`stats_file`] writes it.
//! - [`presence`] looks for ggml in the process.

mod exit;
mod fork;
pub mod guard;
mod presence;
pub mod report;
pub mod start;
pub mod state;
pub mod stats_file;
