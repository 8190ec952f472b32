//! The memory of the counters. It is memory of this process at first. Once published, it is shared memory, which
//! `zen5turbo top` and `zen5turbo doctor PID` read (see [`zen5turbo_telemetry::live`]).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU64};

use zen5turbo_telemetry::live::Counters;

/// The counters before, or without, shared memory.
static OWN: Counters<AtomicU64> = Counters::new();

/// The counters that are used now.
static COUNTERS: AtomicPtr<Counters<AtomicU64>> = AtomicPtr::new((&raw const OWN).cast_mut());

/// The counters of this process.
#[inline]
pub fn counters() -> &'static Counters<AtomicU64> {
    // SAFETY: the pointer is that of `OWN`, or of shared memory that `move_to` got for ever.
    unsafe { &*COUNTERS.load(Acquire) }
}

/// Counts in `shared` from now on. Counts of another thread meanwhile may be lost.
pub(super) fn move_to(shared: &'static Counters<AtomicU64>) {
    COUNTERS.store((&raw const *shared).cast_mut(), Release);
    for (new, old) in shared.all().zip(OWN.all()) {
        if old.load(Relaxed) != 0 {
            new.fetch_add(old.swap(0, Relaxed), Relaxed);
        }
    }
}

/// In a forked child: counts from zero, in memory of the child. Only loads and stores. A counter that is 0 is not
/// written, so that its page stays shared with the parent.
pub(super) fn forget() {
    COUNTERS.store((&raw const OWN).cast_mut(), Release);
    OWN.all().filter(|n| n.load(Relaxed) != 0).for_each(|n| n.store(0, Relaxed));
}
