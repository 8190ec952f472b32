//! Anonymous memory on large pages: the system calls, and what this machine offers.
//!
//! Nothing here changes `errno`, allocates or locks, unless it says so: the callers are hooks in
//! other people's programs.

use libc::{c_int, c_void};

/// Bytes of a huge page of the second level: what transparent huge pages are, and the alignment
/// that they need.
pub const HUGE_2M: usize = 2 << 20;

/// Bytes of an ordinary page on x86-64.
pub const PAGE: usize = 4 << 10;

/// Whether the kernel gives transparent huge pages to memory that asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thp {
    /// Memory that asks gets them.
    Available,
    /// `/sys/kernel/mm/transparent_hugepage/enabled` is `never`, or does not exist.
    Never,
    /// They were switched off for this process by `prctl(PR_SET_THP_DISABLE)`, its own or its parent's.
    OffForProcess,
}

impl Thp {
    /// Asks the kernel. Reads a file and a flag; allocates.
    #[must_use]
    pub fn detect() -> Self {
        // SAFETY: asks for a flag; the arguments that this request does not use must be 0.
        let off = keep_errno(|| unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) });
        if off == 1 {
            return Self::OffForProcess;
        }
        let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        Self::from_setting(&text)
    }

    /// Reads a setting such as `always [madvise] never`.
    fn from_setting(text: &str) -> Self {
        if text.contains("[always]") || text.contains("[madvise]") { Self::Available } else { Self::Never }
    }
}

/// Reserved huge pages are shared by the whole machine: why a mapping on them was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugetlbError {
    /// `mmap` refused: none reserved, not enough of them, or no permission.
    NoPages,
    /// A page could not be faulted in (a hugetlb limit of the cgroup, or a kernel before 5.14 that
    /// cannot say so): touching it would have been SIGBUS.
    NotPopulated,
}

/// Runs `f` and puts `errno` back to what it was before.
pub fn keep_errno<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: the location is the calling thread's, valid as long as it runs.
    let (location, saved) = unsafe {
        let location = libc::__errno_location();
        (location, *location)
    };
    let result = f();
    // SAFETY: as above.
    unsafe { *location = saved };
    result
}

/// Maps `len` bytes (a multiple of [`PAGE`]) of anonymous memory at an address that is a multiple of
/// [`HUGE_2M`]; `None` when there is no room. Nothing is resident yet.
#[must_use]
pub fn map_aligned(len: usize) -> Option<usize> {
    let padded = len.checked_add(HUGE_2M)?;
    let start = map(padded, 0)?;
    let aligned = start.next_multiple_of(HUGE_2M);
    // SAFETY: both ends lie in the mapping just made and outside the part that is kept.
    unsafe {
        unmap(start, aligned - start);
        unmap(aligned + len, start + padded - aligned - len);
    }
    Some(aligned)
}

/// Maps `len` bytes (a multiple of [`HUGE_2M`]) on reserved pages of 2 MiB, all of them faulted in.
///
/// # Errors
/// Where the pages cannot be had; nothing is mapped then.
pub fn map_hugetlb_2m(len: usize) -> Result<usize, HugetlbError> {
    let start = map(len, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB).ok_or(HugetlbError::NoPages)?;
    // SAFETY: the mapping just made.
    if unsafe { advise(start, len, libc::MADV_POPULATE_WRITE) } {
        return Ok(start);
    }
    // SAFETY: as above; nobody else knows of it.
    unsafe { unmap(start, len) };
    Err(HugetlbError::NotPopulated)
}

/// Asks for transparent huge pages on a range; false when the kernel refuses.
///
/// # Safety
/// The range is memory of the caller's, `start` a multiple of [`PAGE`].
pub unsafe fn advise_huge(start: usize, len: usize) -> bool {
    // SAFETY: by contract; the advice changes no content.
    unsafe { advise(start, len, libc::MADV_HUGEPAGE) }
}

/// Gives a range back; one of length 0 is nothing. False when the kernel refuses, and it stays.
///
/// # Safety
/// Nobody uses the range any more; it is whole pages of mappings made here.
pub unsafe fn unmap(start: usize, len: usize) -> bool {
    // SAFETY: by contract.
    len == 0 || keep_errno(|| unsafe { libc::munmap(start as *mut c_void, len) }) == 0
}

fn map(len: usize, flags: c_int) -> Option<usize> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a new mapping, where the kernel likes.
    let p = keep_errno(|| unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) });
    (p != libc::MAP_FAILED).then_some(p as usize)
}

unsafe fn advise(start: usize, len: usize, advice: c_int) -> bool {
    // SAFETY: by contract of the callers.
    keep_errno(|| unsafe { libc::madvise(start as *mut c_void, len, advice) }) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_the_word_in_brackets() {
        assert_eq!(Thp::from_setting("always [madvise] never\n"), Thp::Available);
        assert_eq!(Thp::from_setting("[always] madvise never\n"), Thp::Available);
        assert_eq!(Thp::from_setting("always madvise [never]\n"), Thp::Never);
        assert_eq!(Thp::from_setting(""), Thp::Never);
    }

    #[test]
    fn aligned_memory_is_zero_and_ends_where_it_was_asked_to() {
        let len = 3 * HUGE_2M + PAGE;
        let start = map_aligned(len).expect("memory");
        assert_eq!(start % HUGE_2M, 0);
        // SAFETY: just mapped.
        unsafe {
            assert!(advise_huge(start, len) || Thp::detect() == Thp::Never);
            let bytes = std::slice::from_raw_parts_mut(start as *mut u8, len);
            assert!(bytes.iter().all(|&b| b == 0));
            bytes[len - 1] = 1;
            assert!(unmap(start, len));
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_none_and_errno_stays() {
        // SAFETY: errno of this thread.
        unsafe { *libc::__errno_location() = 7 };
        assert_eq!(map_aligned(1 << 60), None);
        assert_eq!(map_aligned(usize::MAX - HUGE_2M), None);
        assert_eq!(map_hugetlb_2m(1 << 60), Err(HugetlbError::NoPages));
        // SAFETY: as above.
        assert_eq!(unsafe { *libc::__errno_location() }, 7);
    }
}
