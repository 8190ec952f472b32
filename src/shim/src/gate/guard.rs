//! Handles a panic of this library inside the program's calls, and a request to cancel the thread.
//!
//! - Before the decision that an operation is computed here: [`guarded`] counts the panic, and ggml's original does the
//!   work.
//! - After that decision: other threads of the graph already compute their parts of the operation, so nobody can hand
//!   it back to ggml. [`committed`] ends the process with one line, because a wrong result would be worse.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use zen5turbo_host::thread;

use crate::config::{Fault, TEST_PANIC, config};
use crate::log;
use crate::reason::Reason;
use crate::stats;

/// Message and place of the last panic.
static LAST: Mutex<String> = Mutex::new(String::new());

unsafe extern "C-unwind" {
    /// glibc's function. It may unwind: enabling cancellation can end a thread that is cancelled asynchronously.
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE` of glibc.
const CANCEL_DISABLE: c_int = 1;

/// Runs `f`. A panic, which is a defect of this library, is counted, and `fallback` is returned.
///
/// Cancellation (`pthread_cancel`) is disabled meanwhile. `f` may call functions of the C library at which a cancelled
/// thread ends, but the hooked function (such as mmap) is not one of these.
pub fn guarded<T>(fallback: T, f: impl FnOnce() -> T) -> T {
    let mut before = 0;
    // SAFETY: glibc has this state, and writes the old one to `before`.
    unsafe { pthread_setcancelstate(CANCEL_DISABLE, &raw mut before) };
    let result = catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        survived();
        fallback
    });
    // SAFETY: glibc gave this state above. Null means that the old one is not wanted.
    unsafe { pthread_setcancelstate(before, std::ptr::null_mut()) };
    result
}

/// Runs `f`, whose work nobody else can do any more: a panic ends the process.
#[inline]
pub fn committed<T>(f: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| give_up())
}

/// Keeps the standard library from printing a message for each panic; the code that catches the panic writes one line
/// instead. This concerns only this library, which has its own copy of the standard library.
pub fn keep_panics_for_one_line() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("unknown");
        // "panic in a function that cannot unwind", "panic in a destructor during cleanup": nobody can catch these.
        if text.starts_with("panic in a ") {
            give_up();
        }
        let (file, number) = info.location().map_or(("?", 0), |l| (l.file(), l.line()));
        if let Ok(mut last) = LAST.lock() {
            *last = format!("{text} ({file}:{number})");
        }
    }));
}

fn last() -> String {
    LAST.lock().map_or_else(|_| String::new(), |last| last.clone())
}

/// Counts a panic that was caught, and logs the first one.
#[cold]
fn survived() {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    stats::event(Reason::InternalError);
    if !REPORTED.swap(true, Relaxed) {
        log::line(format_args!("internal error, left to the original ggml; please report it: {}", last()));
    }
}

/// Ends the process. The first thread that gets here writes one line.
#[cold]
fn give_up() -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if !ENDING.swap(true, Relaxed) {
        log::line(format_args!(
            "error: internal error in an operation that was begun, whose result would be wrong: the program ends; please report it: {}",
            last()
        ));
        // SAFETY: abort has no preconditions.
        unsafe { libc::abort() }
    }
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// Panics at the place that a test asks for (`ZEN5TURBO_TEST_PANIC`).
#[inline]
pub fn fault(at: Fault) {
    if config().test_panic.is_some_and(|fault| fault == at) {
        panic!("asked for by {TEST_PANIC}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_the_fallback() {
        assert_eq!(guarded(7, || panic!("expected by this test")), 7);
        assert_eq!(committed(|| 8), 8);
    }

    #[test]
    fn a_thread_is_not_cancelled_inside_and_as_before_after() {
        let state = || {
            let mut before = -1;
            // SAFETY: changes the state and puts it back.
            unsafe {
                pthread_setcancelstate(CANCEL_DISABLE, &raw mut before);
                pthread_setcancelstate(before, std::ptr::null_mut());
            }
            before
        };
        assert_eq!((state(), guarded(-1, state), state()), (0, CANCEL_DISABLE, 0));
        assert_eq!(guarded(-1, || guarded(-1, state) + state()), 2 * CANCEL_DISABLE);
    }
}
