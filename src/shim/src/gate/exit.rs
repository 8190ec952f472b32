//! The handler that runs when the program exits.

use super::guard::guarded;
use super::stats_file;
use crate::weights::copier;

/// Registers the exit handler.
pub fn register() {
    extern "C" fn at_exit() {
        guarded((), copier::stop_at_exit);
        guarded((), stats_file::write_at_exit);
    }
    // SAFETY: the handler is a function of this library, which is never unloaded (`-z nodelete`), and does not unwind.
    unsafe { libc::atexit(at_exit) };
}
