//! The page cache: what it holds of a file, and in which pages.
//!
//! Since Linux 5.18 the cache of some file systems can hold a file in pages of 2 MiB (XFS; ext4 from 6.16 on). It
//! reads them so where a mapping that asks for huge pages is touched first, and a mapping of a
//! suitable address then has the whole page in one entry of the page table: no copy, no memory of its own, and all
//! processes share it. Elsewhere the same calls give small pages.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;

use crate::seccomp;
use crate::syscall::check;

use super::map::{HUGE_PAGE, Region, advise, map_file_over, unmap};
use super::samples::{self, MAY_MISS};

/// `RWF_NOWAIT` of Linux 4.14: a read that would have to wait for the disk fails.
const RWF_NOWAIT: c_int = 8;

/// Whether the page cache holds the byte at `bytes.start` of the file and every `step`-th one from
/// there on, but for one in `MAY_MISS`. Where more are missing the search ends, and the kernel may begin to read there.
/// `None` when the kernel does not tell: file systems without such reads (overlayfs, FUSE), an old kernel, a filter of
/// system calls. (`mincore` tells only those who could write the file, and says "cached" to all others.)
#[must_use]
pub fn is_cached(file: BorrowedFd<'_>, bytes: Range<u64>, step: usize) -> Option<bool> {
    if seccomp::is_filtered() {
        return samples::are_cached(file, bytes, step); // a filter may kill at preadv2
    }
    let mut byte = 0_u8;
    let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let may_miss = (bytes.end.saturating_sub(bytes.start) as usize).div_ceil(step) / MAY_MISS;
    let mut missing = 0;
    for at in bytes.step_by(step) {
        // SAFETY: one buffer of one byte, which lives until the call returns.
        let n = unsafe { libc::syscall(libc::SYS_preadv2, file.as_raw_fd(), &raw const part, 1, at, 0, RWF_NOWAIT) };
        match check(n) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => missing += 1,
            Err(_) => return None,
        }
        if missing > may_miss {
            return Some(false);
        }
    }
    Some(true)
}

/// Which file system holds an open file; its number in linux/magic.h. `None` when that is not told.
fn file_system(file: BorrowedFd<'_>) -> Option<u32> {
    let mut record = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: filled by the call; zeroes are a valid record. By the system call itself, so that no hook is met.
    let record = unsafe {
        check(libc::syscall(libc::SYS_fstatfs, file.as_raw_fd(), record.as_mut_ptr())).ok()?;
        record.assume_init()
    };
    Some(record.f_type as u32)
}

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS_MAGIC: u32 = 0x8584_58f6;

/// Whether the file is memory itself: on tmpfs, ramfs or hugetlbfs. There is nothing to be read ahead, nothing to be
/// released, and a copy would be a second one.
#[must_use]
pub fn is_memory(file: BorrowedFd<'_>) -> bool {
    let memory = [libc::TMPFS_MAGIC as u32, RAMFS_MAGIC, libc::HUGETLBFS_MAGIC as u32];
    file_system(file).is_some_and(|magic| memory.contains(&magic))
}

/// Whether this is a regular file whose pages are small ones: no pipe or device, of which reading a byte may take it from
/// somebody, and not of hugetlbfs, which has addresses and pages of its own.
#[must_use]
pub fn is_plain_file(file: BorrowedFd<'_>) -> bool {
    let mut record = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: filled by the call; zeroes are a valid record.
    let mode = unsafe {
        match check(libc::syscall(libc::SYS_fstat, file.as_raw_fd(), record.as_mut_ptr())) {
            Ok(_) => record.assume_init().st_mode,
            Err(_) => return false,
        }
    };
    mode & libc::S_IFMT == libc::S_IFREG && file_system(file) != Some(libc::HUGETLBFS_MAGIC as u32)
}

/// Maps the file, from byte `offset` on, over `range`, and asks for huge pages where its bytes are not cached yet.
/// `MAP_POPULATE` in `flags` has all of it read and mapped, as far as possible.
///
/// # Errors
/// The kernel's to the mapping; what was there may be gone.
///
/// # Safety
/// The range is memory that the caller may replace.
pub unsafe fn map_huge(range: Range<usize>, prot: c_int, flags: c_int, fd: c_int, offset: u64) -> io::Result<()> {
    // SAFETY: by contract.
    unsafe { map_file_over(range.clone(), prot, flags & !libc::MAP_POPULATE, fd, offset)? };
    // SAFETY: neither takes anything away.
    let populated = unsafe {
        let _ = advise(range.clone(), libc::MADV_HUGEPAGE);
        if flags & libc::MAP_POPULATE == 0 {
            return Ok(());
        }
        advise(range.clone(), libc::MADV_POPULATE_READ)
    };
    match populated {
        // Before Linux 5.14.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            // SAFETY: by contract, with the same file.
            unsafe { map_file_over(range, prot, flags, fd, offset) }
        }
        // What could not be read is what MAP_POPULATE would have left for a touch to find.
        _ => Ok(()),
    }
}

/// Reads bytes of a file into the page cache and waits for them, without copying them and without
/// touching a mapping of the program's. `offset` is a multiple of the page; where it is one of the huge page and
/// `huge` is asked for, the cache gets huge pages, if it can.
///
/// By a mapping that is populated and removed: unlike `readahead`, this is not limited to the
/// device's read-ahead size, and the cache gets large folios.
///
/// # Errors
/// No address space, too many mappings, a refusal, or a file that cannot be mapped.
pub fn read_in(file: BorrowedFd<'_>, offset: u64, len: usize, huge: bool) -> io::Result<()> {
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // The addresses are handed over before the file is mapped: when that fails, they may be somebody else's.
    let range = Region::reserve(len, HUGE_PAGE)?.into_range();
    let map = if huge { map_huge } else { map_file_over };
    // SAFETY: over address space that nobody else knows, which is then given up.
    unsafe {
        map(range.clone(), libc::PROT_READ, flags, file.as_raw_fd(), offset)?;
        unmap(range);
    }
    Ok(())
}

/// Tells the kernel that these bytes of a file need not stay in the page cache. Pages that somebody
/// has mapped stay.
pub fn release_cache(file: BorrowedFd<'_>, offset: u64, len: u64) {
    // SAFETY: no memory is accessed; a refusal changes nothing.
    unsafe { libc::syscall(libc::SYS_fadvise64, file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED) };
}

/// The page table of this process, to ask for huge pages in it.
#[derive(Debug)]
pub struct PageTable(File);

/// `struct pm_scan_arg` of linux/fs.h; addresses, sizes and bits of `PAGE_IS_*`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Found {
    start: u64,
    end: u64,
    categories: u64,
}

/// `PAGEMAP_SCAN` of Linux 6.7: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 = 3 << 30 | (size_of::<Scan>() as u64) << 16 | (b'f' as u64) << 8 | 16;
/// `PAGE_IS_FILE` and `PAGE_IS_HUGE`.
const HUGE_AND_OF_A_FILE: u64 = 1 << 2 | 1 << 6;

impl PageTable {
    /// That of the process that calls; a child made by `fork` has to open its own.
    ///
    /// # Errors
    /// No procfs, or no descriptor is free.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// The parts of `range`, in order, at which a huge page of the page cache is mapped.
    ///
    /// # Errors
    /// Before Linux 6.7 there is no answer.
    pub fn huge_file_pages(&self, range: Range<usize>) -> io::Result<Vec<Range<usize>>> {
        let mut parts = Vec::new();
        let mut found = [Found::default(); 16];
        let mut at = range.start as u64;
        while at < range.end as u64 {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                start: at,
                end: range.end as u64,
                vec: found.as_mut_ptr() as u64,
                vec_len: found.len() as u64,
                category_mask: HUGE_AND_OF_A_FILE,
                return_mask: HUGE_AND_OF_A_FILE,
                ..Scan::default()
            };
            // SAFETY: the record and the room for answers live until the call returns, and the kernel writes no
            // more than `vec_len` of them.
            let n = check(unsafe { libc::syscall(libc::SYS_ioctl, self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) })?;
            parts.extend(found[..n].iter().map(|f| f.start as usize..f.end as usize));
            if scan.walk_end <= at {
                break; // not by any kernel known; and no endless loop by another one
            }
            at = scan.walk_end;
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::map::{SMALL_PAGE, tests::file};
    use std::os::fd::AsFd;

    #[test]
    fn what_is_read_in_is_resident_and_what_is_released_is_not() {
        let file = file(2 * HUGE_PAGE + 5);
        file.sync_all().unwrap(); // dirty pages stay
        let (half, end) = (HUGE_PAGE as u64, 2 * HUGE_PAGE as u64 + 5);
        assert_eq!(is_cached(file.as_fd(), 0..end, SMALL_PAGE), Some(true), "just written");
        release_cache(file.as_fd(), 0, 0);
        // A file system in memory, as /tmp may be, keeps its pages; others drop them.
        assert!(is_memory(file.as_fd()) || is_cached(file.as_fd(), 0..end, HUGE_PAGE) == Some(false));
        read_in(file.as_fd(), 0, HUGE_PAGE, true).unwrap();
        assert_eq!(is_cached(file.as_fd(), 0..half, SMALL_PAGE), Some(true));
        read_in(file.as_fd(), half, HUGE_PAGE + 5, false).unwrap();
        assert_eq!(is_cached(file.as_fd(), 0..end, SMALL_PAGE), Some(true));
        assert!(read_in(file.as_fd(), 1, HUGE_PAGE, true).is_err() && read_in(file.as_fd(), 0, 0, false).is_err());
    }

    #[test]
    fn files_of_memory_and_what_is_no_file_are_told() {
        let memory = std::fs::File::open("/dev/shm").unwrap();
        assert!(is_memory(memory.as_fd()) && !is_plain_file(memory.as_fd()), "a folder of tmpfs");
        for path in ["/dev/zero", "/proc"] {
            let file = std::fs::File::open(path).unwrap();
            assert!(!is_memory(file.as_fd()) || path == "/dev/zero", "{path}");
            assert!(!is_plain_file(file.as_fd()), "{path}");
        }
        assert!(is_plain_file(std::fs::File::open("/proc/self/exe").unwrap().as_fd()));
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(!is_plain_file(reader.as_fd()));
        // A pipe has no such reads.
        assert_eq!(is_cached(reader.as_fd(), 0..1, 1), None);
    }

    /// The kernel may keep a page that is released: file systems in memory do, and large folios.
    #[test]
    fn one_page_that_is_missing_of_many_does_not_make_a_file_cold() {
        let file = file(MAY_MISS * SMALL_PAGE);
        file.sync_all().unwrap();
        let (page, end) = (SMALL_PAGE as u64, (MAY_MISS * SMALL_PAGE) as u64);
        let release = |at: u64| {
            release_cache(file.as_fd(), at, page);
            is_cached(file.as_fd(), at..at + page, SMALL_PAGE) == Some(false)
        };
        release(5 * page);
        assert_eq!(is_cached(file.as_fd(), 0..end, SMALL_PAGE), Some(true));
        // Every page, because the searches above may have had the kernel read some again.
        if (0..MAY_MISS as u64).all(|i| release(i * page)) {
            assert_eq!(is_cached(file.as_fd(), 0..end, SMALL_PAGE), Some(false));
        }
    }

    /// Whether the file system's cache can have huge pages is its own matter; that they are told from small ones, and
    /// that the bytes are right, is ours.
    #[test]
    fn huge_pages_of_the_cache_are_told_from_others() {
        const LEN: usize = 4 * HUGE_PAGE;
        let file = file(LEN + 5);
        file.sync_all().unwrap();
        release_cache(file.as_fd(), 0, 0);
        let range = Region::reserve(LEN, HUGE_PAGE).unwrap().into_range();
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: over address space of our own.
        unsafe { map_huge(range.clone(), libc::PROT_READ, flags, file.as_raw_fd(), 0).unwrap() };
        // SAFETY: mapped, with as many bytes in the file.
        let bytes = unsafe { std::slice::from_raw_parts(range.start as *const u8, LEN) };
        assert!(bytes.iter().enumerate().all(|(i, &b)| b == (i / 7) as u8));
        let table = PageTable::open().unwrap();
        if let Ok(huge) = table.huge_file_pages(range.clone()) {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let ours = &smaps[smaps.find(&format!("{:x}-", range.start)).unwrap()..];
            let line = ours.lines().find(|line| line.starts_with("FilePmdMapped")).unwrap();
            let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            assert_eq!(huge.iter().map(Range::len).sum::<usize>(), kib << 10, "{huge:?}");
            assert!(huge.iter().all(|h| range.start <= h.start && h.end <= range.end));
            // Of its own pages: none of a file.
            let own = Region::new(2 * HUGE_PAGE, crate::memory::Pages::Transparent).unwrap();
            own.populate().unwrap();
            assert!(table.huge_file_pages(own.range()).unwrap().is_empty());
        }
        // SAFETY: not used any more.
        unsafe { unmap(range) };
    }

    #[test]
    fn a_mapping_that_cannot_be_made_is_an_error_and_one_that_cannot_be_read_is_not() {
        let file = file(SMALL_PAGE);
        let range = Region::reserve(HUGE_PAGE, HUGE_PAGE).unwrap().into_range();
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: over address space of our own.
        unsafe {
            assert!(map_huge(range.clone(), libc::PROT_READ, flags, -1, 0).is_err());
            // Longer than the file: what lies behind it would be a signal.
            map_huge(range.clone(), libc::PROT_READ, flags, file.as_raw_fd(), 0).unwrap();
            unmap(range);
        }
    }
}
