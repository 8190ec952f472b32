//! Mappings of model files, at addresses that huge pages can lie at.

use std::sync::OnceLock;

use libc::{c_int, off_t};
use zen5turbo_host::memory::map::{self, HUGE_PAGE, SMALL_PAGE};
use zen5turbo_host::memory::{Budget, MarkedFile};

use super::counters;
use super::reader::{self, Start};
use super::sources::{self, Origin, Pin};
use crate::config::config;
use crate::ggml::copies::own_range;
use crate::log::log;
use crate::pages::{HugePages, thp_available};
use crate::placement;
use crate::reason::Reason;
use crate::startup::{self, State};
use crate::stats;

/// Smaller files are not worth a thread.
const FEWEST_BYTES: usize = 16 << 20;

/// The first bytes of a model file: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
const MAGIC: [u8; 4] = *b"GGUF";

/// Whether an `mmap` with these arguments may be one of a model file: a few compares.
#[inline]
pub fn may_be_model(addr: usize, len: usize, prot: c_int, flags: c_int, fd: c_int) -> bool {
    fd >= 0 && len >= FEWEST_BYTES && addr == 0 && prot == libc::PROT_READ && flags & libc::MAP_FIXED == 0
}

/// Maps a model file at an address that huge pages can lie at. `None` when this is no model, when
/// nothing is to be done here, or when anything is refused: then the program's own call decides.
pub fn map(len: usize, flags: c_int, fd: c_int, offset: off_t) -> Option<usize> {
    let is_wanted = config().huge_pages != HugePages::Off || config().prefetch.reads_pages();
    if matches!(startup::state(), State::Disabled | State::Passthrough) || !is_wanted {
        return None;
    }
    let kind = flags & (libc::MAP_SHARED | libc::MAP_PRIVATE);
    if kind != libc::MAP_SHARED && kind != libc::MAP_PRIVATE || map::first_bytes(fd) != Some(MAGIC) {
        return None;
    }
    let offset = u64::try_from(offset).ok()?;
    // What the program wants to wait for can be read while it goes on.
    let is_late = flags & libc::MAP_POPULATE != 0 && config().prefetch.reads_pages();
    let (bytes, len) = (len, len.checked_next_multiple_of(SMALL_PAGE)?);
    let spare = Budget::of_this_process().spare();
    let start = if is_late { reader::start_of(fd, offset..offset + len as u64, spare) } else { Start::Populate };
    let now = if start == Start::Populate { flags } else { flags & !libc::MAP_POPULATE };
    // Of a model that is larger than memory, a touch shall not bring more than it needs.
    let huge = config().huge_pages != HugePages::Off && spare >= len as u64 && thp_available();
    if !unmapping_is_seen() {
        stats::event_once(Reason::UnmappingUnseen);
        return None;
    }
    placement::settle(); // read ahead is for all nodes
    // Opened first: what cannot be read ahead or copied is mapped as ever.
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
    if let Start::ReadPart(_) = start {
        let pin = Pin::new();
        pin.numbered(number).into_iter().for_each(reader::too_large);
    }
    match start {
        Start::Populate => {}
        Start::Read => reader::begin(number, u64::MAX),
        Start::ReadPart(bytes) => reader::begin(number, bytes),
    }
    counters::mapped(len);
    log!(debug, "a model of {} MiB is mapped at {at:#x}, where huge pages can lie", len >> 20);
    Some(at)
}

/// Whether the program's calls of `munmap` and `mremap` come here: another preloaded library may have its own, before ours.
fn unmapping_is_seen() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        [c"munmap", c"mremap"].iter().all(|name| {
            // SAFETY: a C string.
            let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            cfg!(test) || own_range().contains(&(found as usize))
        })
    })
}

/// Maps the file at an address that huge pages can lie at, unless that is taken in this moment. Nothing is reserved for it: under a
/// limit of locked memory that would count as well. `huge` asks for huge pages of the page cache.
fn place(len: usize, flags: c_int, fd: c_int, offset: u64, huge: bool) -> std::io::Result<usize> {
    let near = map::free_address(len, HUGE_PAGE)?;
    if !huge {
        return map::map_file(near, len, libc::PROT_READ, flags, fd, offset);
    }
    let at = map::map_file(near, len, libc::PROT_READ, flags & !libc::MAP_POPULATE, fd, offset)?;
    // SAFETY: neither takes anything away. What could not be read is what MAP_POPULATE would have left for a touch to find.
    unsafe {
        let _ = map::advise(at..at + len, libc::MADV_HUGEPAGE);
        if flags & libc::MAP_POPULATE != 0 && map::advise(at..at + len, libc::MADV_POPULATE_READ).is_err() {
            // Before Linux 5.14: read now, mapped when touched.
            let _ = map::advise(at..at + len, libc::MADV_WILLNEED);
        }
    }
    Ok(at)
}
