//! Maps model files at addresses that are aligned for huge pages.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use libc::{c_int, off_t};
use zen5turbo_host::memory::map::{self, HUGE_PAGE, SMALL_PAGE};
use zen5turbo_host::memory::{Budget, MarkedFile, page_cache};

use super::counters;
use super::reader::{self, Start};
use super::sources::{self, Origin};
use crate::config::config;
use crate::gate::state::{self, State};
use crate::loader::is_own;
use crate::loader::symbols::first;
use crate::log::log;
use crate::pages::{HugePages, thp_available};
use crate::placement;
use crate::reason::Reason;
use crate::stats;

/// Smaller files are left to the program: a thread that reads them would not pay.
const FEWEST_BYTES: usize = 16 << 20;

/// The first bytes of a model file: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
const MAGIC: [u8; 4] = *b"GGUF";

/// The memory that a program needs beside its model at least: buffers, and the pages of its libraries.
const BESIDE: u64 = 128 << 20;

/// Whether an `mmap` with these arguments may map a model file. This costs a few compares.
#[inline]
pub fn may_be_model(addr: usize, len: usize, prot: c_int, flags: c_int, fd: c_int) -> bool {
    fd >= 0 && len >= FEWEST_BYTES && addr == 0 && prot == libc::PROT_READ && flags & libc::MAP_FIXED == 0
}

/// Maps a model file at an address that is aligned for huge pages. `None` when the file is not a model, when the
/// settings or the machine rule it out, or when the kernel refuses something. The program's own call is made then.
pub fn map(len: usize, flags: c_int, fd: c_int, offset: off_t) -> Option<usize> {
    let is_wanted = config().huge_pages != HugePages::Off || config().prefetch.reads_pages();
    // A process in which ggml was not seen yet does not map this file for ggml.
    let is_active = state::current() == State::Active || cfg!(any(test, feature = "fuzzing"));
    if !is_active || !is_wanted {
        return None;
    }
    // SAFETY: the program maps from this descriptor, and keeps it open until this call returns.
    let program_fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let kind = flags & (libc::MAP_SHARED | libc::MAP_PRIVATE);
    if kind != libc::MAP_SHARED && kind != libc::MAP_PRIVATE
        || !page_cache::is_plain_file(program_fd)
        || map::first_bytes(fd) != Some(MAGIC)
    {
        return None;
    }
    // The file itself lies in memory (tmpfs): there is nothing to read ahead, and a copy would need the same memory
    // again.
    if page_cache::is_memory(program_fd) {
        stats::event_once(Reason::FileInMemory);
        return None;
    }
    if !unmapping_is_seen() {
        stats::event_once(Reason::UnmappingUnseen);
        return None;
    }
    let offset = u64::try_from(offset).ok()?;
    let (bytes, len) = (len, len.checked_next_multiple_of(SMALL_PAGE)?);
    let budget = Budget::of_this_process();
    // With MAP_POPULATE the program would wait until the whole file is read. It can go on while the reader reads the
    // file.
    let is_late = flags & libc::MAP_POPULATE != 0 && config().prefetch.reads_pages();
    let room = budget.room_for_files().unwrap_or(0);
    let wanted = offset..offset + len as u64;
    let start = if is_late { reader::start_of(program_fd, wanted, &budget, room) } else { Start::Populate };
    let now = if start == Start::Populate { flags } else { flags & !libc::MAP_POPULATE };
    // If the kernel may have to evict pages, small pages are better: touching an evicted huge page reads 2 MiB.
    let is_too_large = matches!(start, Start::ReadPart(_));
    let has_room = room >= len as u64 + len as u64 / 4 + BESIDE;
    let huge = config().huge_pages != HugePages::Off && !is_too_large && has_room && thp_available();
    placement::init_once(); // pages that are read ahead are interleaved over all NUMA nodes
    // The file is opened before it is mapped: if that fails, nothing can be read ahead or copied, and the program maps
    // it.
    let Ok(file) = MarkedFile::reopen(fd) else {
        stats::event(Reason::FileNotReopened);
        return None;
    };
    let Ok(at) = place(len, now, fd, offset, huge) else {
        stats::event(Reason::MappingNotPlaced);
        file.close();
        return None;
    };
    let range = at..at + len;
    let Some(number) = sources::register(range, Origin::File { file, offset, bytes, asks_huge: huge }) else {
        file.close();
        return Some(at);
    };
    match start {
        Start::Populate => {}
        Start::Read => reader::begin(number, u64::MAX),
        Start::ReadPart(bytes) => reader::begin(number, bytes),
    }
    if config().prefetch.reads_pages() {
        reader::mapped(number, is_too_large, room);
    }
    counters::mapped(len);
    log!(debug, "a model of {} MiB is mapped at {at:#x}, where huge pages can lie", len >> 20);
    Some(at)
}

/// Whether the program's calls of `munmap` and `mremap` reach this library. Another library that is preloaded before
/// this one may define these functions too.
fn unmapping_is_seen() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let is_ours = |name: &CStr| first(name).is_some_and(|found| is_own(found as usize));
        cfg!(test) || [c"munmap", c"mremap"].into_iter().all(is_ours)
    })
}

/// Maps the file at an address that is aligned for huge pages, unless another thread takes that address meanwhile. The
/// address is not reserved first, because a reservation would count towards a limit of locked memory. With `huge`, asks
/// for huge pages of the page cache.
fn place(len: usize, flags: c_int, fd: c_int, offset: u64, huge: bool) -> std::io::Result<usize> {
    let near = map::free_address(len, HUGE_PAGE)?;
    if !huge {
        return map::map_file(near, len, libc::PROT_READ, flags, fd, offset);
    }
    let at = map::map_file(near, len, libc::PROT_READ, flags & !libc::MAP_POPULATE, fd, offset)?;
    // SAFETY: the range is the mapping made above, and neither advice changes its content. A page that could not be
    // read is read when it is touched, as with MAP_POPULATE.
    unsafe {
        let _ = map::advise(at..at + len, libc::MADV_HUGEPAGE);
        if flags & libc::MAP_POPULATE != 0 && map::advise(at..at + len, libc::MADV_POPULATE_READ).is_err() {
            // Before Linux 5.14: read now, mapped when touched.
            let _ = map::advise(at..at + len, libc::MADV_WILLNEED);
        }
    }
    Ok(at)
}
