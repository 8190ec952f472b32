//! The handler that runs in a child that was forked without exec. The child has none of its parent's threads, and
//! counts from zero.

use super::guard::guarded;
use super::{state, stats_file};
use crate::weights::{copier, reader, sources};
use crate::{rows, stats, threads};

/// Registers the handler for forked children. In the child of a program with threads, the handler may only load, store
/// and make system calls.
pub fn register() {
    extern "C" fn in_child() {
        state::set_forked();
        guarded((), || {
            sources::forget_in_child();
            copier::forget_in_child();
            reader::forget_in_child();
        });
        stats::forget();
        rows::forget();
        threads::forget();
        stats_file::forget();
    }
    // SAFETY: the handler is a function of this library, which is never unloaded (`-z nodelete`), and does not unwind.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}
