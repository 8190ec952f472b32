//! The results of system calls, and `errno`.

use std::ffi::c_long;
use std::io;

/// The result of a system call, or its error.
pub(crate) fn check(result: c_long) -> io::Result<usize> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// Runs `f` and puts `errno` back to what it was before: for hooks, whose callers look at it.
pub fn keep_errno<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: the location is the calling thread's, valid as long as it runs.
    let (location, saved) = unsafe {
        let location = libc::__errno_location();
        (location, *location)
    };
    let result = f();
    // SAFETY: the location is still the calling thread's.
    unsafe { *location = saved };
    result
}
