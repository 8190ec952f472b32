//! What runs in this process, and how it began and ends.
//!
//! [`state`] and [`guard`] lie low: every part asks what the process is. The rest lies above all other parts, which it starts,
//! stops and reports on: [`start`] engages, [`exit`] and [`fork`] run at the end and in forked children, [`report`] makes the
//! statistics document and [`stats_file`] writes it.

mod exit;
mod fork;
pub mod guard;
mod presence;
pub mod report;
pub mod start;
pub mod state;
pub mod stats_file;
