//! From the mapping of a model file to the queue of pages that products read.

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use libc::{c_int, off_t};
use zen5turbo_host::memory::map::{self, GIANT_PAGE, HUGE_PAGE, Region, SMALL_PAGE};
use zen5turbo_host::memory::{Budget, page_cache};

use super::mapping::{Mapping, ModelFile, Page};
use super::reader::{self, Start};
use super::{counters, promoter, registry};
use crate::config::config;
use crate::log::log;
use crate::pages::{HugePages, thp_available};
use crate::reason::Reason;
use crate::startup::{self, State};
use crate::stats;

/// Smaller files are not worth a thread.
const FEWEST_BYTES: usize = 16 << 20;

/// The first bytes of a model file: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
const MAGIC: [u8; 4] = *b"GGUF";

/// Room before the first 1 GiB page of a mapping. llama.cpp unmaps what lies before the tensors, a vocabulary of
/// ten MB at most, and a page with a hole cannot be replaced.
const HEAD: usize = 16 << 20;

/// What a program may take beside its model at the least: buffers, and the pages of its libraries.
const BESIDE: u64 = 128 << 20;

/// Pages were queued that the promoter does not know of yet.
static QUEUED: AtomicBool = AtomicBool::new(false);

/// Whether an `mmap` with these arguments may be one of a model file: a few compares.
#[inline]
pub fn may_be_model(addr: usize, len: usize, prot: c_int, flags: c_int, fd: c_int) -> bool {
    fd >= 0 && len >= FEWEST_BYTES && addr == 0 && prot == libc::PROT_READ && flags & libc::MAP_FIXED == 0
}

/// Maps a model file at an address that huge pages can lie at. `None` when this is no model, when
/// nothing is to be done here, or when anything is refused: then the program's own call decides.
pub fn map(len: usize, flags: c_int, fd: c_int, offset: off_t) -> Option<usize> {
    let is_wanted = config().huge_pages != HugePages::Off || config().prefetch.reads_pages();
    // A process in which ggml has not been seen is not touched: what it maps now it does not map for ggml.
    let is_active = startup::state() == State::Active || cfg!(any(test, feature = "fuzzing"));
    if !is_active || !is_wanted {
        return None;
    }
    // SAFETY: the program's descriptor, which it is mapping from while this is called.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let kind = flags & (libc::MAP_SHARED | libc::MAP_PRIVATE);
    if kind != libc::MAP_SHARED && kind != libc::MAP_PRIVATE
        || !page_cache::is_plain_file(file)
        || map::first_bytes(fd) != Some(MAGIC)
    {
        return None;
    }
    if registry::lock().locks_future {
        stats::event_once(Reason::MemoryLocked);
        return None; // see `changes::locked_all`
    }
    let offset = u64::try_from(offset).ok()?;
    let len = len.checked_next_multiple_of(SMALL_PAGE)?;
    let in_memory = page_cache::is_memory(file);
    if in_memory {
        stats::event_once(Reason::FileInMemory);
    }
    let budget = Budget::of_this_process();
    // What the program wants to wait for can be read while it goes on.
    let is_late = flags & libc::MAP_POPULATE != 0 && config().prefetch.reads_pages() && !in_memory;
    let start = if is_late { reader::start_of(fd, offset..offset + len as u64, &budget) } else { Start::Populate };
    let now = if start == Start::Populate { flags } else { flags & !libc::MAP_POPULATE };
    // Where pages may have to be evicted, they shall go and come one by one: a touch of a huge one brings 2 MiB back.
    let room = budget.room_for_files().unwrap_or(0);
    let has_room = room >= len as u64 + len as u64 / 4 + BESIDE;
    let is_too_large = matches!(start, Start::ReadPart(_));
    let huge = config().huge_pages != HugePages::Off && !is_too_large && has_room && thp_available();
    let Ok(mapping) = place(len, now, fd, offset, huge && !in_memory) else {
        stats::event(Reason::MappingNotPlaced);
        return None;
    };
    let to_read = match start {
        Start::Populate => None,
        Start::Read => Some(u64::MAX),
        Start::ReadPart(bytes) => Some(bytes),
    };
    let at = register(mapping, to_read);
    if config().prefetch.reads_pages() && !in_memory {
        reader::mapped(at, is_too_large, room);
    }
    Some(at)
}

/// Address space, then the file over it: nobody else can get in between. `huge` asks for huge pages of the page cache.
fn place(len: usize, flags: c_int, fd: c_int, offset: u64, huge: bool) -> std::io::Result<Mapping> {
    let giant = config().huge_pages == HugePages::One && len >= HEAD + GIANT_PAGE;
    let reserved = if giant { Region::reserve_after(HEAD, len, GIANT_PAGE)? } else { Region::reserve(len, HUGE_PAGE)? };
    let file = ModelFile::new(fd)?;
    // Handed over before it can fail: by then the kernel may have given these addresses up, and to unmap
    // them could hit what another thread has mapped there. If they stay reserved, that costs nothing.
    let range = reserved.into_range();
    let map = if huge { page_cache::map_huge } else { map::map_file_over };
    // SAFETY: over address space that is ours alone.
    unsafe { map(range.clone(), libc::PROT_READ, flags, file.fd.as_raw_fd(), offset)? };
    let kept = flags & (libc::MAP_SHARED | libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    let mut mapping = Mapping::new(0, range, file, offset, kept);
    mapping.asks_huge = huge;
    Ok(mapping)
}

fn register(mut mapping: Mapping, to_read: Option<u64>) -> usize {
    let range = mapping.range.clone();
    let mut locked = registry::lock();
    let number = locked.number();
    mapping.number = number;
    locked.mappings.push(mapping);
    locked.update_bounds();
    drop(locked);
    if let Some(bytes) = to_read {
        reader::begin(number, bytes);
    }
    counters::mapped(range.len());
    log!(debug, "a model of {} MiB is mapped at {:#x}, where huge pages can lie", range.len() >> 20, range.start);
    range.start
}

/// Takes note of the weights that the products of a graph read, in their order. Costs little when
/// they are known already; skipped when somebody is changing a mapping now, the next graph will tell.
pub fn used(weights: impl Iterator<Item = Range<usize>> + Clone) {
    if !registry::any() {
        return;
    }
    let Some(mut locked) = registry::try_lock() else { return };
    reader::order(&mut locked, weights.clone());
    if locked.stopped || promoter::is_paused() || config().huge_pages == HugePages::Off {
        return;
    }
    let registry = &mut *locked;
    let mut new = 0;
    for range in weights {
        let Some(mapping) = registry.mappings.iter_mut().find(|m| m.range.contains(&range.start)) else { continue };
        if mapping.is_too_large {
            continue; // pages of our own would leave even less room
        }
        for i in mapping.pages_of(&range) {
            if mapping.page(i) == Page::File {
                mapping.set(i..i + 1, Page::Wanted);
                registry.queue.push_back((mapping.number, i));
                new += HUGE_PAGE;
            }
        }
    }
    if new > 0 {
        counters::wanted(new);
        QUEUED.store(true, Relaxed);
    }
}

/// A graph has ended: what was queued can be promoted now. Not earlier, so that the first token does
/// not wait for the copying.
#[inline]
pub fn graph_ended() {
    if QUEUED.load(Relaxed) && QUEUED.swap(false, Relaxed) {
        promoter::start();
    }
}
