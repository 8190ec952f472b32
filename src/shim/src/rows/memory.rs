//! Memory of the threads that compute products here: ggml calls from threads that are not known beforehand.

use std::cell::UnsafeCell;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::buffers::scratch::Scratch;

/// Threads that compute at the same time, at most; further ones do without.
const SLOTS: usize = 1024;

/// Memory that is used by one thread at a time and kept for the next.
struct Slot {
    busy: AtomicBool,
    scratch: UnsafeCell<Scratch>,
}

// SAFETY: the scratch belongs to the thread that set `busy`.
unsafe impl Sync for Slot {}

static MEMORY: [Slot; SLOTS] =
    [const { Slot { busy: AtomicBool::new(false), scratch: UnsafeCell::new(Scratch::new()) } }; SLOTS];

/// A slot of this thread's own, given back when dropped.
pub struct Memory(&'static Slot);

impl Memory {
    /// A slot with room for `bytes`; `None` where there is none.
    pub fn take(bytes: usize) -> Option<Self> {
        let free = |slot: &&Slot| slot.busy.compare_exchange(false, true, Acquire, Relaxed).is_ok();
        let memory = Memory(MEMORY.iter().find(free)?);
        // SAFETY: the slot is this thread's.
        unsafe { &mut *memory.0.scratch.get() }.reserve(bytes).then_some(memory)
    }

    /// Aligned to pages.
    pub fn start(&self) -> *mut u8 {
        // SAFETY: the slot is this thread's.
        unsafe { (*self.0.scratch.get()).start }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.busy.store(false, Release);
    }
}
