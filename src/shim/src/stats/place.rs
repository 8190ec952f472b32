//! Where the counters lie: in memory of this process or, once published, in the shared memory that
//! `zen5turbo top` and `zen5turbo doctor PID` read (see [`zen5turbo_telemetry::live`]).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU64};

use zen5turbo_telemetry::live::Counters;

/// Counts until the shared memory is there, and where there is none.
static OWN: Counters<AtomicU64> = Counters::new();

/// Where is counted now.
static COUNTERS: AtomicPtr<Counters<AtomicU64>> = AtomicPtr::new((&raw const OWN).cast_mut());

/// The counters of this process.
#[inline]
pub fn counters() -> &'static Counters<AtomicU64> {
    // SAFETY: `OWN`, or shared memory that `move_to` was given for ever.
    unsafe { &*COUNTERS.load(Acquire) }
}

/// Counts in `shared` from now on. What another thread counts meanwhile may be lost.
pub(super) fn move_to(shared: &'static Counters<AtomicU64>) {
    COUNTERS.store((&raw const *shared).cast_mut(), Release);
    for (new, old) in shared.all().zip(OWN.all()) {
        if old.load(Relaxed) != 0 {
            new.fetch_add(old.swap(0, Relaxed), Relaxed);
        }
    }
}

/// Counts from zero in memory of this process: the way of a forked child. Only loads and stores; memory that holds zeros is
/// not written, so that it stays shared with the parent.
pub(super) fn forget() {
    COUNTERS.store((&raw const OWN).cast_mut(), Release);
    OWN.all().filter(|n| n.load(Relaxed) != 0).for_each(|n| n.store(0, Relaxed));
}
