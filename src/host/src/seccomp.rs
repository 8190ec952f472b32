//! Whether system calls may be filtered, by a filter that kills.
//!
//! Most filters refuse with an error, as Docker's does. Others end the process: systemd's `SystemCallFilter=~@resources`
//! at `setpriority`, `sched_setaffinity` and `mbind`, lists made from a trace of the program at every call that it
//! did not make that day. From inside nobody can tell one kind from the other. So where there is a filter, this
//! software makes only calls that the C library, the loader or ggml make in the same process anyway.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::proc::{field, read_text};

/// A filter was found. It stays for as long as the process lives.
static FOUND: AtomicBool = AtomicBool::new(false);

/// Whether the calling thread has a seccomp filter. True also when the kernel does not tell.
///
/// Reads a small file until there is one, since a program can install its filter at any time: to be asked once for a whole
/// undertaking, not for each call in it. Allocates, and may change `errno`.
#[must_use]
pub fn is_filtered() -> bool {
    if FOUND.load(Relaxed) {
        return true;
    }
    // Filters belong to threads; those that a thread starts inherit them.
    let filtered = read_text("/proc/thread-self/status").map_or(true, |status| shows_filter(&status));
    if filtered {
        FOUND.store(true, Relaxed);
    }
    filtered
}

/// Reads `Seccomp:` of a `/proc/PID/status`: 0 is none, 1 the strict mode, 2 a filter.
fn shows_filter(status: &str) -> bool {
    field(status, "Seccomp") != Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_no_is_none() {
        assert!(!shows_filter("NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n"));
        for text in ["Seccomp:\t2\n", "Seccomp:\t1\n", "", "Seccomp:\n", "Seccomp_filters:\t0\n"] {
            assert!(shows_filter(text), "{text}");
        }
    }

    #[test]
    fn the_answer_is_that_of_the_file() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert_eq!(is_filtered(), shows_filter(&status));
        assert_eq!(is_filtered(), shows_filter(&status), "again");
    }
}
