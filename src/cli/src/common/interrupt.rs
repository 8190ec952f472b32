//! Ctrl-C and its kin while something is measured: a flag that is looked at, so that what was done is
//! kept and what was begun is taken back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};

/// The exit status of a shell for what Ctrl-C has ended.
pub const STATUS: u8 = 130;

/// The measurement was ended by a signal.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by a signal")
    }
}

impl std::error::Error for Interrupted {}

/// A flag that Ctrl-C, a closed terminal or a request to end set, instead of ending this process.
pub fn stop_at_signals() -> Result<&'static AtomicBool> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot set a signal handler")?;
    }
    // As long-lived as the handlers, which are never removed.
    Ok(Box::leak(Box::new(stop)))
}
