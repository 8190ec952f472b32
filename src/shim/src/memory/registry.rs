//! The mappings of model files in this process, and the lock that everything which changes them holds.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::mapping::Mapping;
use super::reader::Ahead;

/// The mappings and the pages to be replaced.
#[derive(Debug, Default)]
pub struct Registry {
    pub mappings: Vec<Mapping>,
    /// Pages that are [`super::mapping::Page::Wanted`], by mapping number and index, in the order in
    /// which the graphs used them. May name pages that are no longer wanted.
    pub queue: VecDeque<(u64, usize)>,
    /// No page is replaced any more: the process is a forked child, or something failed.
    pub stopped: bool,
    /// Whether the promoter's thread runs.
    pub running: bool,
    /// What is to be read ahead.
    pub ahead: Ahead,
    /// All that is mapped from now on is locked in memory (`mlockall(MCL_FUTURE)`).
    pub locks_future: bool,
    numbers: u64,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    mappings: Vec::new(),
    queue: VecDeque::new(),
    stopped: false,
    running: false,
    ahead: Ahead::new(),
    locks_future: false,
    numbers: 0,
});

/// Signalled when there is something for the promoter to do.
static WORK: Condvar = Condvar::new();

/// All mappings lie in here; empty when there are none. Read without the lock: a range that the
/// calling program is changing was not registered by another thread at the same time.
static LOW: AtomicUsize = AtomicUsize::new(usize::MAX);
static HIGH: AtomicUsize = AtomicUsize::new(0);

pub type Locked = MutexGuard<'static, Registry>;

/// The registry, locked. Held only for a few system calls.
pub fn lock() -> Locked {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The registry, unless somebody has it locked.
pub fn try_lock() -> Option<Locked> {
    match REGISTRY.try_lock() {
        Ok(locked) => Some(locked),
        Err(std::sync::TryLockError::Poisoned(p)) => Some(p.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// Whether a mapping may have bytes of `range`: two loads and two compares.
#[inline]
pub fn may_concern(range: &Range<usize>) -> bool {
    range.start < HIGH.load(Relaxed) && range.end > LOW.load(Relaxed)
}

/// Whether there is any mapping.
#[inline]
pub fn any() -> bool {
    HIGH.load(Relaxed) != 0
}

impl Registry {
    /// A number for a new mapping.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The mapping with this number.
    pub fn by_number(&mut self, number: u64) -> Option<&mut Mapping> {
        self.mappings.iter_mut().find(|m| m.number == number)
    }

    /// Replaces no page any more.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.queue = VecDeque::new();
    }

    /// To be called when the list of mappings has changed.
    pub fn update_bounds(&self) {
        LOW.store(self.mappings.iter().map(|m| m.range.start).min().unwrap_or(usize::MAX), Relaxed);
        HIGH.store(self.mappings.iter().map(|m| m.range.end).max().unwrap_or(0), Relaxed);
    }
}

/// Waits for [`signal`], at most for `limit`.
pub fn wait(locked: Locked, limit: Option<std::time::Duration>) -> Locked {
    match limit {
        None => WORK.wait(locked).unwrap_or_else(PoisonError::into_inner),
        Some(limit) => WORK.wait_timeout(locked, limit).unwrap_or_else(PoisonError::into_inner).0,
    }
}

/// Wakes the promoter.
pub fn signal() {
    WORK.notify_one();
}

/// The lock, held from before a fork until after it.
struct AcrossFork(UnsafeCell<Option<Locked>>);

// SAFETY: only the thread that forks touches it, between the handlers; the C library runs the
// handlers of one fork at a time.
unsafe impl Sync for AcrossFork {}

static ACROSS_FORK: AcrossFork = AcrossFork(UnsafeCell::new(None));

/// Before a fork: nobody is in the middle of changing a mapping when the child's copy is made.
pub fn before_fork() {
    let locked = lock();
    // SAFETY: see `AcrossFork`.
    unsafe { *ACROSS_FORK.0.get() = Some(locked) };
}

/// After a fork, in the parent and in the child; the child has no promoter, and nothing locked.
pub fn after_fork(in_child: bool) {
    // SAFETY: see `AcrossFork`.
    let locked = unsafe { (*ACROSS_FORK.0.get()).take() };
    if let Some(mut locked) = locked
        && in_child
    {
        locked.stopped = true;
        locked.running = false;
        locked.ahead.forget();
        locked.locks_future = false;
        locked.mappings.iter_mut().for_each(|m| m.locked = false);
    }
}
