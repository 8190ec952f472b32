//! What the page cache holds of a file, found out by reading it: for a process whose seccomp filter may kill at preadv2.

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::proc::{field, read_text};

/// One sample in 64 may be missing of a file that counts as cached. The kernel says "missing" also of a page that it
/// is just moving (khugepaged making a huge page of it, compaction), and one such page is no reason to read all again.
pub(super) const MAY_MISS: usize = 64;

/// Places that are looked at, at most, spread over the file: each costs reading a small file.
const MOST: u64 = 256;

/// Whether the page cache holds these bytes, by every `step`-th one or fewer: reads one byte at each and looks whether this thread had
/// something read from a device for it. `None` when the kernel does not tell. A few pages of a file that is missing are read, and waited for.
#[must_use]
pub fn are_cached(file: BorrowedFd<'_>, bytes: Range<u64>, step: usize) -> Option<bool> {
    let step = (step as u64).max(bytes.end.saturating_sub(bytes.start).div_ceil(MOST)).max(1);
    let may_miss = (bytes.end.saturating_sub(bytes.start)).div_ceil(step) / MAY_MISS as u64;
    let (mut before, mut missing, mut byte) = (bytes_read_in()?, 0, 0_u8);
    for at in bytes.step_by(step as usize) {
        // SAFETY: a buffer of one byte. The call itself: glibc's would act on a pending `pthread_cancel`.
        unsafe { libc::syscall(libc::SYS_pread64, file.as_raw_fd(), &raw mut byte, 1, at) };
        let now = bytes_read_in()?;
        missing += u64::from(now != before);
        before = now;
        if missing > may_miss {
            return Some(false);
        }
    }
    Some(true)
}

/// Bytes that devices had to read for this thread; `None` in a kernel that does not account for them.
fn bytes_read_in() -> Option<u64> {
    field(&read_text("/proc/thread-self/io").ok()?, "read_bytes")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::memory::map::{HUGE_PAGE, tests::file};
    use crate::memory::page_cache;

    #[test]
    fn it_agrees_with_the_kernel_s_own_answer() {
        let len = 8 * HUGE_PAGE as u64;
        let file = file(len as usize);
        file.sync_all().unwrap(); // dirty pages stay
        assert_ne!(are_cached(file.as_fd(), 0..len, HUGE_PAGE), Some(false), "just written");
        page_cache::release_cache(file.as_fd(), 0, 0);
        if bytes_read_in().is_some() && page_cache::is_cached(file.as_fd(), len / 2..len, HUGE_PAGE) == Some(false) {
            assert_eq!(are_cached(file.as_fd(), 0..len / 2, HUGE_PAGE), Some(false));
        }
        assert_ne!(are_cached(file.as_fd(), 0..0, HUGE_PAGE), Some(false));
    }
}
