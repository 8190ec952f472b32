//! Gives ggml its large buffers (KV cache, compute buffers, weights that are not mapped) on huge pages.
//!
//! A buffer is taken over only if ggml frees it through `ggml_aligned_free`. If the C library's `free` got memory of
//! this library, the program would crash. ggml's AMX code calls `free` directly, and a compiler may inline
//! `ggml_aligned_free`, which is one call of `free`. So there are three conditions:
//!
//! - The call comes from the library that defines `ggml_aligned_malloc`.
//! - It does not come from `ggml_init`: the function that frees its memory is in the same source file, so the call may
//!   be inlined.
//! - A small buffer was allocated and freed through ggml's own interface, and the free reached this library.

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;

use zen5turbo_host::memory::Budget;
use zen5turbo_host::memory::map::{self, HUGE_PAGE};
use zen5turbo_host::thread;

use super::map::{Buffer, map_buffer};
use crate::gate::guard::guarded;
use crate::ggml::checked::is_address;
use crate::ggml::functions::{
    ggml_backend_buffer_free, ggml_backend_buffer_get_base, ggml_backend_buft_alloc_buffer,
    ggml_backend_cpu_buffer_type, ggml_init,
};
use crate::loader::BoundLibrary;
use crate::loader::symbols::symbol_at;
use crate::log::log;
use crate::placement;
use crate::reason::Reason;
use crate::stats;
use crate::weights::pace::Pace;
use crate::weights::sources;

/// Buffers from this size on are taken over: two huge pages. For smaller ones, alignment and a system call cost more
/// than huge pages gain.
pub const LARGE: usize = 4 << 20;

/// Buffers of one process at most. llama.cpp has about ten for each model and context.
const SLOTS: usize = 512;

/// Marks a slot that a thread is filling or emptying. No buffer has this address.
const CLAIMED: usize = 1;

struct Slot {
    /// The address; 0 for an empty slot.
    start: AtomicUsize,
    len: AtomicUsize,
    /// Whether it lies on small pages now, and moves to huge pages later.
    later: AtomicBool,
}

static TABLE: [Slot; SLOTS] =
    [const { Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0), later: AtomicBool::new(false) } }; SLOTS];

/// Set while a buffer waits to be moved to huge pages.
static LATER: AtomicBool = AtomicBool::new(false);

/// How long after a graph the first buffer is moved. A program that has computed its first graph, to warm up, may still
/// be loading.
const AFTER: Duration = Duration::from_millis(300);

/// Slots from this index on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Allocates a buffer of at least `size` bytes, for a call from `caller` that returns to `from`. `None` when the
/// original must allocate; the reason is counted.
pub fn allocate(caller: &BoundLibrary, from: usize, size: usize) -> Option<*mut c_void> {
    if size < LARGE {
        return None;
    }
    if !comes_back(caller, from) {
        stats::event(Reason::BufferFreedElsewhere);
        return None;
    }
    // The first graph, which decides this otherwise, comes later.
    placement::init_once();
    let slot = claim()?;
    let Some(buffer) = map_buffer(size) else {
        slot.start.store(0, Release);
        return None;
    };
    fill(slot, buffer);
    let counters = &stats::counters().buffers;
    let [count, bytes] = if buffer.hugetlb { &counters.hugetlb } else { &counters.thp };
    count.fetch_add(1, Relaxed);
    bytes.fetch_add(buffer.len as u64, Relaxed);
    let (mib, pages) = (buffer.len >> 20, if buffer.hugetlb { "reserved" } else { "huge" });
    log!(debug, "a buffer of {mib} MiB on {pages} pages at {:#x}", buffer.start);
    Some(buffer.start as *mut c_void)
}

/// Frees a buffer of this library. Returns false for any other memory, which the original must free.
pub fn free(p: *mut c_void) -> bool {
    let address = p as usize;
    WATCHED.compare_exchange(address.max(1), 0, Relaxed, Relaxed).ok();
    if address <= CLAIMED {
        return false;
    }
    for slot in &TABLE[..USED.load(Acquire)] {
        if slot.start.load(Acquire) == address
            && slot.start.compare_exchange(address, CLAIMED, Acquire, Relaxed).is_ok()
        {
            let range = address..address + slot.len.load(Relaxed);
            if sources::may_concern(&range) {
                sources::gone(&range);
            }
            // SAFETY: this slot's mapping was made by `map_buffer`. The program frees it, so nobody uses it.
            unsafe { map::unmap(range) };
            slot.start.store(0, Release);
            stats::counters().buffers.freed.fetch_add(1, Relaxed);
            return true;
        }
    }
    false
}

/// The buffer of this library that contains an address.
pub fn at(address: usize) -> Option<Range<usize>> {
    let slots = TABLE[..USED.load(Acquire)].iter();
    let ranges = slots.map(|slot| {
        let start = slot.start.load(Acquire);
        start..start + slot.len.load(Relaxed)
    });
    ranges.filter(|range| range.start > CLAIMED).find(|range| range.contains(&address))
}

/// Claims an empty slot for the caller.
fn claim() -> Option<&'static Slot> {
    for (i, slot) in TABLE.iter().enumerate() {
        if slot.start.load(Relaxed) == 0 && slot.start.compare_exchange(0, CLAIMED, Acquire, Relaxed).is_ok() {
            USED.fetch_max(i + 1, Release);
            return Some(slot);
        }
    }
    stats::event(Reason::BufferTableFull);
    None
}

fn fill(slot: &Slot, buffer: Buffer) {
    slot.len.store(buffer.len, Relaxed);
    slot.later.store(buffer.later, Relaxed);
    if buffer.later {
        LATER.store(true, Relaxed);
    }
    slot.start.store(buffer.start, Release);
}

/// A graph has ended, so the program has loaded its model. Buffers that wait are moved to huge pages now, by a thread
/// that ends afterwards.
#[inline]
pub fn graph_ended() {
    if LATER.load(Relaxed) && LATER.swap(false, Relaxed) {
        thread::spawn_in_background("zen5turbo", || guarded((), collapse));
    }
}

/// Moves all waiting buffers to huge pages, one huge page at a time. The kernel copies the bytes, and the addresses
/// stay. A buffer may be freed meanwhile. Then nothing lies at its address, or other memory, for which huge pages do no
/// harm.
fn collapse() {
    thread::sleep(AFTER);
    let pace = Pace::new();
    let budget = Budget::of_this_process();
    let mut count = 0;
    for slot in TABLE[..USED.load(Acquire)].iter().filter(|slot| slot.later.swap(false, Relaxed)) {
        let (start, len) = (slot.start.load(Acquire), slot.len.load(Relaxed));
        // Parts that were not touched yet take memory when they are moved. A model in the page cache may need it more.
        if budget.spare().is_none_or(|spare| spare < len as u64) {
            stats::event_once(Reason::MemoryBudget);
            continue;
        }
        let pages = (start..start + len / HUGE_PAGE * HUGE_PAGE).step_by(HUGE_PAGE);
        for page in pages.take_while(|_| slot.start.load(Relaxed) == start) {
            match pace.step(|| map::collapse(page), thread::sleep) {
                Ok(()) => count += 1,
                // The page was never touched, or it is busy.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EAGAIN | libc::EBUSY)) => {}
                Err(_) => return stats::event_once(Reason::ThpRefused),
            }
        }
        // Parts that are touched later get huge pages at the first touch.
        // SAFETY: the advice changes no bytes, whatever memory lies at these addresses by now.
        let _ = unsafe { map::advise(start..start + len, libc::MADV_HUGEPAGE) };
    }
    log!(info, "{count} huge pages of 2 MiB under large buffers");
}

/// Whether ggml will free the buffer of this call through the hook.
fn comes_back(caller: &BoundLibrary, from: usize) -> bool {
    let defines_it = caller.aligned_malloc.is_some_and(|f| caller.contains(f as usize));
    if !defines_it || symbol_at(from) == Some(ggml_init.symbol()) {
        return false;
    }
    *caller.returns_buffers.get_or_init(|| {
        let amx = caller.find(c"_Z29ggml_backend_amx_buffer_typev").is_some_and(|p| caller.contains(p as usize));
        let back = !amx && small_buffer_comes_back(caller).unwrap_or(false);
        log!(debug, "{}: large buffers {}", caller.path, if back { "are taken over" } else { "stay as they are" });
        back
    })
}

/// The address of a test buffer; [`free`] sets this to 0 when it gets that address.
static WATCHED: AtomicUsize = AtomicUsize::new(0);

/// Allocates a small buffer as llama.cpp does, and finds out whether freeing it passes through the hook. `None` when
/// this ggml does not have these functions.
fn small_buffer_comes_back(caller: &BoundLibrary) -> Option<bool> {
    const SIZE: usize = 4096;
    let own = |name: &CStr| caller.find(name).filter(|&p| caller.contains(p as usize));
    // SAFETY: a bound library finds ggml's functions by their names. They have had their signatures since they exist.
    let (buffer_type, allocate, base, free) = unsafe {
        (
            ggml_backend_cpu_buffer_type.find(own)?,
            ggml_backend_buft_alloc_buffer.find(own)?,
            ggml_backend_buffer_get_base.find(own)?,
            ggml_backend_buffer_free.find(own)?,
        )
    };
    let odd = || {
        stats::event(Reason::GgmlAnswerOdd);
        Some(false)
    };
    // SAFETY: ggml's own functions make, read and free the buffer, and every address that they return is checked.
    unsafe {
        let ty = buffer_type();
        if !is_address(ty.cast_const().cast::<usize>()) {
            return odd();
        }
        let buffer = allocate(ty, SIZE);
        if !is_address(buffer.cast_const().cast::<usize>()) {
            return odd();
        }
        let address = base(buffer) as usize;
        if address <= CLAIMED {
            free(buffer);
            return odd();
        }
        WATCHED.store(address, Relaxed);
        free(buffer);
        Some(WATCHED.swap(0, Relaxed) != address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_recognised_once_and_only_by_its_address() {
        let region = map::Region::new(LARGE, map::Pages::Transparent).expect("memory");
        let buffer = Buffer { start: region.into_range().start, len: LARGE, hugetlb: false, later: false };
        fill(claim().expect("a slot"), buffer);
        let p = buffer.start as *mut c_void;
        assert!(!free(p.wrapping_byte_add(64)));
        assert!(!free(std::ptr::null_mut()) && !free(CLAIMED as *mut c_void));
        assert!(free(p));
        assert!(!free(p));
    }
}
