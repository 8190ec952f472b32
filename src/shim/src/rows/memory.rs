//! Memory for the threads that compute products here. It is not known in advance from which threads ggml calls.

use std::cell::UnsafeCell;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::buffers::scratch::Scratch;

/// How many threads at most have memory at the same time.
const SLOTS: usize = 1024;

/// Memory that one thread uses at a time, and that is kept for the next thread.
struct Slot {
    busy: AtomicBool,
    scratch: UnsafeCell<Scratch>,
}

// SAFETY: only the thread that has set `busy` uses the scratch.
unsafe impl Sync for Slot {}

static MEMORY: [Slot; SLOTS] =
    [const { Slot { busy: AtomicBool::new(false), scratch: UnsafeCell::new(Scratch::new()) } }; SLOTS];

/// A slot that belongs to this thread until this is dropped.
pub struct Memory(&'static Slot);

impl Memory {
    /// A slot with room for `bytes`; `None` when all slots are busy or no memory is left.
    pub fn take(bytes: usize) -> Option<Self> {
        let free = |slot: &&Slot| slot.busy.compare_exchange(false, true, Acquire, Relaxed).is_ok();
        let memory = Memory(MEMORY.iter().find(free)?);
        // SAFETY: this thread has set `busy`, so no other thread uses the slot.
        unsafe { &mut *memory.0.scratch.get() }.reserve(bytes).then_some(memory)
    }

    /// The address of the memory, which is aligned to pages.
    pub fn start(&self) -> *mut u8 {
        // SAFETY: the thread that holds this has set `busy`, so no other thread uses the slot.
        unsafe { (*self.0.scratch.get()).start }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.busy.store(false, Release);
    }
}
