//! What becomes of a defect of ours, and of a request to end the thread, inside the program's calls.
//!
//! Nothing was decided yet: [`guarded`] counts the defect and the original does the work. It was decided that an operation
//! is computed here: other threads of the graph compute their parts of it, and nobody can take it back. Then [`committed`]
//! ends the process with one line, since a wrong answer that counts as computed is worse.

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

/// What the last panic said, and where.
static LAST: Mutex<String> = Mutex::new(String::new());

unsafe extern "C-unwind" {
    /// glibc's. To enable cancellation can end a thread that is cancelled asynchronously, by unwinding.
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE` of glibc.
const CANCEL_DISABLE: c_int = 1;

/// Runs `f`; a panic, which is a defect of ours, is counted and becomes `fallback`.
///
/// A thread that somebody has cancelled (`pthread_cancel`) does not end in here: the C library's functions that look for that
/// are called in hooks of functions that do not, such as mmap.
pub fn guarded<T>(fallback: T, f: impl FnOnce() -> T) -> T {
    let mut before = 0;
    // SAFETY: a state, and the place of the old one.
    unsafe { pthread_setcancelstate(CANCEL_DISABLE, &raw mut before) };
    let result = catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        survived();
        fallback
    });
    // SAFETY: the state that it was.
    unsafe { pthread_setcancelstate(before, std::ptr::null_mut()) };
    result
}

/// Runs `f`, which nobody else can do any more: a panic ends the process.
#[inline]
pub fn committed<T>(f: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| give_up())
}

/// Replaces the panic message of the standard library, of which this library has its own copy: what is said is said by
/// whoever catches the panic.
pub fn keep_panics_for_one_line() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("unknown");
        // "panic in a function that cannot unwind", "panic in a destructor during cleanup": nobody will catch it.
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

/// Counts a panic that is over; the first one is said.
#[cold]
fn survived() {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    stats::event(Reason::InternalError);
    if !REPORTED.swap(true, Relaxed) {
        log::line(format_args!("internal error, left to the original ggml; please report it: {}", last()));
    }
}

/// Ends the process, with one line of the first thread that gets here.
#[cold]
fn give_up() -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if !ENDING.swap(true, Relaxed) {
        log::line(format_args!(
            "error: internal error in an operation that was begun, whose result would be wrong: the program ends; please report it: {}",
            last()
        ));
        // SAFETY: no preconditions.
        unsafe { libc::abort() }
    }
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// Panics where a test asked for it (`ZEN5TURBO_TEST_PANIC`).
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
