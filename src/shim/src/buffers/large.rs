//! ggml's large buffers (KV cache, compute buffers, weights that are not mapped), in memory of our own.
//!
//! A buffer is taken over only where it is certain to come back through `ggml_aligned_free`: memory
//! of ours that reached the C library's `free` would end the program. ggml's AMX code does just
//! that, and a compiler may put the body of `ggml_aligned_free`, which is one call of `free`, in
//! place of a call. So: only for calls from the library that defines the function, not from
//! `ggml_init` (whose counterpart stands in the same source file), and after a small buffer was
//! allocated and freed through ggml's own interface and was seen to come back.

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

/// Buffers from this size on are taken over: two huge pages, below which alignment and a system
/// call for each buffer cost more than they can bring.
pub const LARGE: usize = 4 << 20;

/// Buffers of one process: llama.cpp has some ten for each model and context.
const SLOTS: usize = 512;

/// A slot that somebody is filling or emptying; no buffer has this address.
const CLAIMED: usize = 1;

struct Slot {
    /// The address; 0 for an empty slot.
    start: AtomicUsize,
    len: AtomicUsize,
    /// It lies on small pages, to be put onto huge ones.
    later: AtomicBool,
}

static TABLE: [Slot; SLOTS] =
    [const { Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0), later: AtomicBool::new(false) } }; SLOTS];

/// Some buffer is to be put onto huge pages.
static LATER: AtomicBool = AtomicBool::new(false);

/// How long after a graph the first buffer is: a program that has computed its first one (to warm up) may still be loading.
const AFTER: Duration = Duration::from_millis(300);

/// Slots beyond this one were never used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// A buffer of ours of at least `size` bytes for a call from `caller` that returns to `from`, or
/// `None` when the original is to allocate; the reason is counted.
pub fn allocate(caller: &BoundLibrary, from: usize, size: usize) -> Option<*mut c_void> {
    if size < LARGE {
        return None;
    }
    if !comes_back(caller, from) {
        stats::event(Reason::BufferFreedElsewhere);
        return None;
    }
    // The first graph comes later.
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

/// Gives a buffer of ours back; false when it is not one, and the original is to free it.
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
            // SAFETY: the mapping is ours, and the program says that it has done with it.
            unsafe { map::unmap(range) };
            slot.start.store(0, Release);
            stats::counters().buffers.freed.fetch_add(1, Relaxed);
            return true;
        }
    }
    false
}

/// The buffer of ours that an address lies in.
pub fn at(address: usize) -> Option<Range<usize>> {
    let slots = TABLE[..USED.load(Acquire)].iter();
    let ranges = slots.map(|slot| {
        let start = slot.start.load(Acquire);
        start..start + slot.len.load(Relaxed)
    });
    ranges.filter(|range| range.start > CLAIMED).find(|range| range.contains(&address))
}

/// An empty slot, which is then the caller's.
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

/// A graph has ended: what is loaded is loaded, and buffers can be put onto huge pages, by a thread that ends with them.
#[inline]
pub fn graph_ended() {
    if LATER.load(Relaxed) && LATER.swap(false, Relaxed) {
        thread::spawn_in_background("zen5turbo", || guarded((), collapse));
    }
}

/// Puts all buffers that wait for it onto huge pages, one huge page at a time: their bytes are copied, while nobody notices.
/// A buffer can be freed meanwhile. At its address there is then nothing, or memory that may lie on huge pages as well.
fn collapse() {
    thread::sleep(AFTER);
    let pace = Pace::new();
    let budget = Budget::of_this_process();
    let mut count = 0;
    for slot in TABLE[..USED.load(Acquire)].iter().filter(|slot| slot.later.swap(false, Relaxed)) {
        let (start, len) = (slot.start.load(Acquire), slot.len.load(Relaxed));
        // What was not touched yet takes memory then, which a model in the page cache may need more.
        if budget.spare().is_none_or(|spare| spare < len as u64) {
            stats::event_once(Reason::MemoryBudget);
            continue;
        }
        let pages = (start..start + len / HUGE_PAGE * HUGE_PAGE).step_by(HUGE_PAGE);
        for page in pages.take_while(|_| slot.start.load(Relaxed) == start) {
            match pace.step(|| map::collapse(page), thread::sleep) {
                Ok(()) => count += 1,
                // Never touched, or busy.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EAGAIN | libc::EBUSY)) => {}
                Err(_) => return stats::event_once(Reason::ThpRefused),
            }
        }
        // What is touched later is huge from its first touch on.
        // SAFETY: no bytes change, whatever lies there by now.
        let _ = unsafe { map::advise(start..start + len, libc::MADV_HUGEPAGE) };
    }
    log!(info, "{count} huge pages of 2 MiB under large buffers");
}

/// Whether a buffer that is allocated for this call will be freed through the hook.
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

/// The address that [`free`] shall clear when it sees it.
static WATCHED: AtomicUsize = AtomicUsize::new(0);

/// Allocates a small buffer as llama.cpp does and looks whether freeing it passes through the hook;
/// `None` when this ggml has no such functions.
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
    // SAFETY: a buffer of ggml's, made, asked and freed by its own functions.
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
