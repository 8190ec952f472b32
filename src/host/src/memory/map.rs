//! Mappings, by the system calls themselves.
//!
//! The shim exports `mmap`, `mremap` and their kin, so a call through libc from here would come back
//! into it; every function of this module enters the kernel directly. Addresses and lengths are in
//! bytes. An error is what the kernel answered, as an [`io::Error`].

use std::io;
use std::ops::Range;

use libc::c_int;

use crate::proc::read_text;
use crate::syscall::check;
pub use crate::syscall::keep_errno;

/// Bytes of a small page.
pub const SMALL_PAGE: usize = 4 << 10;
/// Bytes of a huge page, transparent or of hugetlbfs.
pub const HUGE_PAGE: usize = 2 << 20;
/// Bytes of the largest page.
pub const GIANT_PAGE: usize = 1 << 30;

/// `MADV_POPULATE_WRITE` of Linux 5.14: faults pages in and reports what fails, where a touch would
/// be a signal.
const MADV_POPULATE_WRITE: c_int = 23;

/// `MADV_COLLAPSE` of Linux 6.1: puts what lies in small pages onto huge ones, now.
const MADV_COLLAPSE: c_int = 25;

/// Which pages an anonymous region is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Transparent huge pages, as far as the kernel has them.
    Transparent,
    /// 2 MiB pages of the hugetlb pool.
    Huge,
    /// 1 GiB pages of the hugetlb pool.
    Giant,
}

impl Pages {
    /// Bytes to which a region of these pages is aligned.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Transparent | Self::Huge => HUGE_PAGE,
            Self::Giant => GIANT_PAGE,
        }
    }
}

/// `mmap`.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// With `MAP_FIXED`, the range is memory that the caller may replace.
pub unsafe fn mmap(at: usize, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: u64) -> io::Result<usize> {
    // SAFETY: by the caller; the kernel checks the arguments.
    check(unsafe { libc::syscall(libc::SYS_mmap, at, len, prot, flags, fd, offset) })
}

/// An anonymous, private, writable region of its own, unmapped when dropped.
#[derive(Debug)]
pub struct Region {
    start: usize,
    len: usize,
}

impl Region {
    /// Address space of `len` bytes from a multiple of `align` on, without access and without memory.
    ///
    /// # Errors
    /// No address space, or too many mappings.
    pub fn reserve(len: usize, align: usize) -> io::Result<Self> {
        let whole = len.checked_add(align).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe { mmap(0, whole, libc::PROT_NONE, flags, -1, 0)? };
        let start = at.next_multiple_of(align);
        // SAFETY: both ends lie inside the mapping just made.
        unsafe {
            unmap(at..start);
            unmap(start + len..at + whole);
        }
        Ok(Self { start, len })
    }

    /// A writable region of `len` bytes, a multiple of the page, aligned to it; without memory yet.
    ///
    /// # Errors
    /// No address space, too many mappings, a limit, or no such pages.
    pub fn new(len: usize, pages: Pages) -> io::Result<Self> {
        // Never by MAP_FIXED over a reservation: where that is refused for want of pages or memory, the reservation
        // is gone already, and its addresses may be another thread's by the time they would be unmapped here.
        let kind = match pages {
            Pages::Transparent => {
                let reserved = Self::reserve(len, HUGE_PAGE)?;
                // A kernel without transparent huge pages refuses, and gives small ones either way. First, since
                // after mlockall(MCL_FUTURE) all memory is there as soon as it may be written.
                let _ = reserved.advise(libc::MADV_HUGEPAGE);
                // SAFETY: address space of our own.
                unsafe { protect(reserved.range(), libc::PROT_READ | libc::PROT_WRITE)? };
                return Ok(reserved);
            }
            Pages::Huge => libc::MAP_HUGE_2MB,
            Pages::Giant => libc::MAP_HUGE_1GB,
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | kind;
        // SAFETY: a new mapping at a place of the kernel's choice, which is aligned to its pages.
        let start = unsafe { mmap(0, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)? };
        Ok(Self { start, len })
    }

    /// Memory on small pages, at an address where huge ones can lie.
    ///
    /// # Errors
    /// `ENOMEM`: no address space, or a limit.
    pub fn small(len: usize) -> io::Result<Self> {
        let region = Self::reserve(len, HUGE_PAGE)?;
        // SAFETY: address space of our own.
        unsafe { protect(region.range(), libc::PROT_READ | libc::PROT_WRITE)? };
        Ok(region)
    }

    /// The addresses.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// Gives every page memory. A missing page is an error here, and a signal at a touch elsewhere.
    ///
    /// # Errors
    /// `ENOMEM` (limit, no memory), `EFAULT` or `EHWPOISON` (no page of the pool, a hugetlb limit).
    pub fn populate(&self) -> io::Result<()> {
        // SAFETY: a region of ours; populating takes nothing away.
        unsafe { populate(self.range()) }
    }

    /// `madvise` on the whole region.
    ///
    /// # Errors
    /// The kernel's.
    pub fn advise(&self, advice: c_int) -> io::Result<()> {
        // SAFETY: a region of ours; no advice used here takes memory away that someone refers to.
        unsafe { advise(self.range(), advice) }
    }

    /// Hands the address space over: nothing is unmapped any more.
    #[must_use]
    pub fn into_range(self) -> Range<usize> {
        let range = self.range();
        std::mem::forget(self);
        range
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region is ours, and whoever drops it does not use it.
        unsafe { unmap(self.range()) };
    }
}

/// Unmaps; an empty range is fine. A failure leaves the mapping there, which harms nobody.
///
/// # Safety
/// Nobody uses the memory.
pub unsafe fn unmap(range: Range<usize>) {
    if !range.is_empty() {
        // SAFETY: by contract.
        unsafe { libc::syscall(libc::SYS_munmap, range.start, range.len()) };
    }
}

/// `madvise`.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// As with the advice given: some of them drop the contents.
pub unsafe fn advise(range: Range<usize>, advice: c_int) -> io::Result<()> {
    // SAFETY: by contract.
    check(unsafe { libc::syscall(libc::SYS_madvise, range.start, range.len(), advice) }).map(drop)
}

/// Whether this kernel has [`collapse`], and nothing refuses it.
#[must_use]
pub fn can_collapse() -> bool {
    // SAFETY: no bytes: the kernel looks at the advice only.
    unsafe { advise(HUGE_PAGE..HUGE_PAGE, MADV_COLLAPSE) }.is_ok()
}

/// Puts the huge page at `start`, of anonymous memory that lies on small ones, onto one of its own. The bytes stay, whoever
/// reads or writes them meanwhile; elsewhere nothing happens.
///
/// # Errors
/// `EINVAL`: nothing lies there, or it is not such memory; `EAGAIN`, `EBUSY`: not now; `ENOMEM`: no huge page is to be had.
pub fn collapse(start: usize) -> io::Result<()> {
    // SAFETY: changes on which pages memory lies, not what is in it.
    unsafe { advise(start..start + HUGE_PAGE, MADV_COLLAPSE) }
}

/// `mprotect`.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// Nobody relies on the access that is taken away.
pub unsafe fn protect(range: Range<usize>, prot: c_int) -> io::Result<()> {
    // SAFETY: by contract.
    check(unsafe { libc::syscall(libc::SYS_mprotect, range.start, range.len(), prot) }).map(drop)
}

/// Gives every page of the range memory. A missing page is an error here, and a signal at a touch elsewhere.
///
/// # Errors
/// `ENOMEM` (limit, no memory), `EFAULT` or `EHWPOISON` (no page of the pool, a hugetlb limit); `Unsupported` before Linux 5.14.
///
/// # Safety
/// The range is writable memory of the caller's.
pub unsafe fn populate(range: Range<usize>) -> io::Result<()> {
    // SAFETY: by contract; populating takes nothing away.
    match unsafe { advise(range, MADV_POPULATE_WRITE) } {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Err(io::ErrorKind::Unsupported.into()),
        other => other,
    }
}

/// `mlock`.
///
/// # Errors
/// `ENOMEM` or `EPERM`: the limit of locked memory.
pub fn lock(range: Range<usize>) -> io::Result<()> {
    // SAFETY: no memory is accessed.
    check(unsafe { libc::syscall(libc::SYS_mlock, range.start, range.len()) }).map(drop)
}

/// Why a part of reserved address space got no memory.
#[derive(Debug)]
pub struct NotBacked {
    /// The kernel's answer.
    pub error: io::Error,
    /// The kernel had given the addresses up before it refused, and somebody else has them now: they are the caller's no more.
    pub is_lost: bool,
}

/// Puts writable memory of its own under a part of reserved address space: whole pages of this kind, empty. It is in no core dump,
/// as a file's pages are not, and no child made by `fork` has it.
///
/// # Errors
/// No such pages, or a limit; the part is reserved again.
///
/// # Safety
/// The range is a part of address space that the caller reserved, and nothing that is used lies there.
pub unsafe fn back(range: Range<usize>, pages: Pages) -> Result<(), NotBacked> {
    let kind = match pages {
        Pages::Transparent => 0,
        Pages::Huge => libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
        Pages::Giant => libc::MAP_HUGETLB | libc::MAP_HUGE_1GB,
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | kind;
    // SAFETY: by contract.
    if let Err(error) = unsafe { mmap(range.start, range.len(), libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) } {
        // SAFETY: by contract.
        return Err(NotBacked { error, is_lost: !unsafe { is_reserved_again(range) } });
    }
    // SAFETY: new memory, on which no advice used here takes anything away. A refusal changes nothing that is read.
    unsafe {
        let _ = advise(range.clone(), libc::MADV_DONTDUMP);
        let _ = advise(range, libc::MADV_DONTFORK);
    }
    Ok(())
}

/// Takes the memory away that [`back`] put under a range; it is reserved again.
///
/// # Safety
/// As for [`back`].
pub unsafe fn unback(range: Range<usize>) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: by contract. If it is refused the memory stays, which harms nobody.
    let _ = unsafe { mmap(range.start, range.len(), libc::PROT_NONE, flags, -1, 0) };
}

/// After a refused mapping: whether the addresses are still, or again, reserved for the caller.
///
/// # Safety
/// As for [`back`].
unsafe fn is_reserved_again(range: Range<usize>) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: takes only addresses where nothing is mapped.
    match unsafe { mmap(range.start, range.len(), libc::PROT_NONE, flags, -1, 0) } {
        Ok(at) if at == range.start => true,
        Ok(elsewhere) => {
            // A kernel before 4.17 takes the address for a wish.
            // SAFETY: made a moment ago.
            unsafe { unmap(elsewhere..elsewhere + range.len()) };
            false
        }
        // Something lies there: the reservation, which the kernel had not given up, if all of it has no access.
        Err(_) => lies_reserved(range),
    }
}

/// Whether all of the range is mapped without access, as a reservation is and what somebody else uses is not.
fn lies_reserved(range: Range<usize>) -> bool {
    let text = read_text("/proc/self/maps").unwrap_or_default();
    let mut at = range.start;
    for line in text.lines() {
        let Some((addresses, rest)) = line.split_once(' ') else { continue };
        let Some((from, to)) = addresses.split_once('-') else { continue };
        let [Ok(from), Ok(to)] = [from, to].map(|hex| usize::from_str_radix(hex, 16)) else { continue };
        if from <= at && at < to && rest.starts_with("---p") {
            at = to;
        }
    }
    at >= range.end
}

/// Reads bytes of a file, from byte `offset` on, into memory.
///
/// # Errors
/// A read error, or `UnexpectedEof` when the file is shorter.
///
/// # Safety
/// The range is writable memory that nobody else uses now.
pub unsafe fn read_into(range: Range<usize>, file: c_int, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < range.len() {
        let (at, rest) = (range.start + done, range.len() - done);
        // SAFETY: by contract.
        let n = unsafe { libc::syscall(libc::SYS_pread64, file, at, rest, offset + done as u64) };
        match check(n) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// An address, a multiple of `align`, from which on `len` bytes are free at this moment.
///
/// # Errors
/// No address space, or a limit.
pub fn free_address(len: usize, align: usize) -> io::Result<usize> {
    Region::reserve(len, align).map(|region| region.range().start)
}

/// Maps a file, at `near` if that is free. Returns where it lies.
///
/// # Errors
/// The kernel's.
pub fn map_file(near: usize, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: u64) -> io::Result<usize> {
    // SAFETY: without MAP_FIXED nothing is replaced.
    unsafe { mmap(near, len, prot, flags & !libc::MAP_FIXED, fd, offset) }
}

/// Maps the file, from byte `offset` on, over `range`.
///
/// # Errors
/// The kernel's; what was there may be gone.
///
/// # Safety
/// The range is memory that the caller may replace.
pub unsafe fn map_file_over(range: Range<usize>, prot: c_int, flags: c_int, fd: c_int, offset: u64) -> io::Result<()> {
    // SAFETY: by contract.
    unsafe { mmap(range.start, range.len(), prot, flags | libc::MAP_FIXED, fd, offset) }.map(drop)
}

/// How many of the small pages of `range` are in memory, of how many; `None` when the kernel does
/// not tell, as for a file of somebody else.
#[must_use]
pub fn resident(range: Range<usize>) -> Option<(usize, usize)> {
    let mut seen = vec![0_u8; range.len().div_ceil(SMALL_PAGE)];
    // SAFETY: one byte per page, as many as there are.
    let result = unsafe { libc::syscall(libc::SYS_mincore, range.start, range.len(), seen.as_mut_ptr()) };
    check(result).ok()?;
    Some((seen.iter().filter(|&&b| b & 1 != 0).count(), seen.len()))
}

/// How many mappings this process has; `None` when procfs does not tell. Needs no memory, since there
/// may be none to be had.
#[must_use]
pub fn count() -> Option<usize> {
    use io::Read;
    let mut file = std::fs::File::open("/proc/self/maps").ok()?;
    let (mut lines, mut part) = (0, [0; 4096]);
    loop {
        match file.read(&mut part) {
            Ok(0) => return Some(lines),
            Ok(n) => lines += part[..n].iter().filter(|&&b| b == b'\n').count(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Which file it is, for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file behind a descriptor.
    ///
    /// # Errors
    /// Not an open descriptor.
    pub fn of(fd: c_int) -> io::Result<Self> {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: fstat fills the record when it succeeds.
        let stat = unsafe {
            check(libc::fstat(fd, stat.as_mut_ptr()).into())?;
            stat.assume_init()
        };
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// The first `N` bytes of a file, without moving its position; `None` when it has fewer.
#[must_use]
pub fn first_bytes<const N: usize>(fd: c_int) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: room for N bytes.
    let n = unsafe { libc::syscall(libc::SYS_pread64, fd, bytes.as_mut_ptr(), N, 0_u64) };
    (check(n).ok()? == N).then_some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    fn bytes(range: Range<usize>) -> &'static [u8] {
        // SAFETY: the tests ask for mapped memory only.
        unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) }
    }

    /// A file of these bytes, with no name any more.
    pub fn file(len: usize) -> std::fs::File {
        let path = std::env::temp_dir().join(format!("zen5turbo-map-{}-{len}", std::process::id()));
        let mut file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let content: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
        file.write_all(&content).unwrap();
        file
    }

    #[test]
    fn reserved_space_gets_memory_by_parts_and_is_filled_from_a_file() {
        let file = file(2 * HUGE_PAGE);
        let space = Region::reserve(4 * HUGE_PAGE, HUGE_PAGE).unwrap().into_range();
        let part = space.start + HUGE_PAGE..space.start + 3 * HUGE_PAGE;
        // SAFETY: a part of this test's region.
        unsafe {
            back(part.clone(), Pages::Transparent).unwrap();
            match populate(part.clone()) {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                other => other.unwrap(),
            }
            read_into(part.clone(), file.as_raw_fd(), 0).unwrap();
        }
        assert!(bytes(part.clone()).iter().enumerate().all(|(i, &b)| b == (i / 7) as u8));
        assert_eq!(resident(part.clone()), Some((2 * HUGE_PAGE / SMALL_PAGE, 2 * HUGE_PAGE / SMALL_PAGE)));
        // SAFETY: a part of this test's region, which nobody reads meanwhile.
        unsafe { unback(part.clone()) };
        assert!(lies_reserved(space.clone()), "without access again");
        let short = part.start..part.start + HUGE_PAGE;
        // SAFETY: a part of this test's region, which has no memory any more.
        unsafe {
            back(short.clone(), Pages::Transparent).unwrap();
            let end = read_into(short.clone(), file.as_raw_fd(), 2 * HUGE_PAGE as u64 - 5);
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        assert!(!lies_reserved(short));
        // SAFETY: a region of this test, not used any more.
        unsafe { unmap(space) };
    }

    #[test]
    fn pages_that_are_missing_are_an_error_and_the_space_stays_ours() {
        // More than any pool here has.
        let giant = Region::new(1 << 45, Pages::Giant).and_then(|r| r.populate());
        assert!(giant.is_err());
        let space = Region::reserve(1 << 40, GIANT_PAGE).unwrap();
        // SAFETY: a region of this test.
        let refused = unsafe { back(space.range(), Pages::Giant) }.unwrap_err();
        assert!(!refused.is_lost && lies_reserved(space.range()), "{refused:?}");
    }

    #[test]
    fn a_file_is_mapped_near_and_never_over_what_is_there() {
        let file = file(HUGE_PAGE);
        let near = free_address(HUGE_PAGE, HUGE_PAGE).unwrap();
        assert!(near.is_multiple_of(HUGE_PAGE));
        let map = |near| map_file(near, HUGE_PAGE, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0).unwrap();
        let first = map(near);
        let second = map(first);
        assert_ne!(first, second);
        for at in [first, second] {
            assert_eq!(bytes(at..at + HUGE_PAGE)[HUGE_PAGE - 1], ((HUGE_PAGE - 1) / 7) as u8);
            // SAFETY: mapped above.
            unsafe { unmap(at..at + HUGE_PAGE) };
        }
    }

    /// Without reserved pages, as on most machines, every region is refused here.
    #[test]
    fn a_region_that_is_refused_takes_nobody_elses_memory() {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let region = Region::new(4 * HUGE_PAGE, Pages::Transparent).unwrap();
                        let at = region.range().start as *mut usize;
                        // SAFETY: the region is writable.
                        unsafe {
                            at.write_volatile(at as usize);
                            assert_eq!(at.read_volatile(), at as usize);
                        }
                    }
                });
            }
            for _ in 0..20_000 {
                drop(Region::new(4 * HUGE_PAGE, Pages::Huge));
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn mappings_are_counted() {
        let before = count().unwrap();
        // Every second page of them has other rights than its neighbours.
        let region = Region::reserve(200 * SMALL_PAGE, SMALL_PAGE).unwrap();
        for i in (1..200).step_by(2) {
            let at = region.range().start + i * SMALL_PAGE;
            // SAFETY: a region of ours.
            unsafe { protect(at..at + SMALL_PAGE, libc::PROT_READ).unwrap() };
        }
        // Other tests of this process make a few as well.
        assert!((before + 150..before + 250).contains(&count().unwrap()));
    }

    #[test]
    fn errno_stays_where_it_is_asked_to() {
        // SAFETY: errno of this thread.
        unsafe { *libc::__errno_location() = 7 };
        assert!(keep_errno(|| Region::new(1 << 60, Pages::Transparent)).is_err());
        // SAFETY: errno of this thread.
        assert_eq!(unsafe { *libc::__errno_location() }, 7);
        assert!(Region::reserve(usize::MAX - HUGE_PAGE, HUGE_PAGE).is_err());
    }

    #[test]
    fn a_file_is_known_by_its_identity_and_its_first_bytes() {
        let (a, b) = (file(4096), file(4097));
        assert_ne!(FileId::of(b.as_raw_fd()).unwrap(), FileId::of(a.as_raw_fd()).unwrap());
        assert_eq!(first_bytes::<8>(a.as_raw_fd()), Some([0, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(first_bytes::<4096>(a.as_raw_fd()).unwrap()[4095], (4095 / 7) as u8);
        assert!(FileId::of(-1).is_err() && first_bytes::<1>(-1).is_none());
    }
}
