//! Where the counters lie: in memory of this process or, once published, in the shared memory that
//! `zen5turbo top` and `zen5turbo doctor PID` read (see [`zen5turbo_host::live`]).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};

use zen5turbo_host::live::{Counters, Published};
use zen5turbo_host::memory::map::keep_errno;

use super::report;
use crate::config::config;
use crate::log::log;
use crate::reason::Reason;

const _: () = assert!(Reason::COUNT <= zen5turbo_host::live::REASONS);

/// Counts until the shared memory is there, and where there is none.
static OWN: Counters<AtomicU64> = Counters::new();

/// Where is counted now.
static COUNTERS: AtomicPtr<Counters<AtomicU64>> = AtomicPtr::new((&raw const OWN).cast_mut());

/// What this process, and not its parent, has published.
static PUBLISHED: AtomicPtr<Published> = AtomicPtr::new(std::ptr::null_mut());

/// To be published at the next graph: a forked child that computes.
static WANTED: AtomicBool = AtomicBool::new(false);

/// A name was added that the text does not have yet.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// Somebody writes the text.
static WRITING: AtomicBool = AtomicBool::new(false);

/// The counters of this process.
#[inline]
pub fn counters() -> &'static Counters<AtomicU64> {
    // SAFETY: the static above, or shared memory that is never unmapped.
    unsafe { &*COUNTERS.load(Acquire) }
}

/// A name was added, or replaced: it is told to readers at the next graph.
pub fn changed() {
    CHANGED.store(true, Release);
}

/// Publishes the counters, unless the configuration says not to; a refusal is counted and changes nothing.
///
/// What another thread counts while they move may be lost. They move before the first graph.
pub fn publish() {
    if !config().live || !PUBLISHED.load(Acquire).is_null() {
        return;
    }
    let published = match keep_errno(Published::new) {
        Ok(published) => published,
        Err(error) => {
            super::event(Reason::LiveRefused);
            log!(info, "no live statistics: {error}");
            return;
        }
    };
    let segment = published.segment();
    COUNTERS.store((&raw const segment.counters).cast_mut(), Release);
    for (new, old) in segment.counters.all().zip(OWN.all()) {
        if old.load(Relaxed) != 0 {
            new.fetch_add(old.swap(0, Relaxed), Relaxed);
        }
    }
    // Kept for as long as the process lives, also in a child, which may not free.
    PUBLISHED.store(Box::into_raw(Box::new(published)), Release);
    write_text();
}

/// At the head of a graph: tells readers of new names, and publishes in a forked child.
#[inline]
pub fn settle() {
    if WANTED.load(Relaxed) && WANTED.swap(false, Relaxed) {
        publish();
    }
    if CHANGED.load(Relaxed) {
        write_text();
    }
}

fn write_text() {
    // SAFETY: null, or a box that is never freed.
    let Some(published) = (unsafe { PUBLISHED.load(Acquire).as_ref() }) else { return };
    if WRITING.swap(true, Acquire) {
        return; // the other thread, or the next graph, writes
    }
    CHANGED.store(false, Relaxed);
    if !published.segment().write_text(&report::names()) {
        super::event_once(Reason::LiveTextTooLong);
    }
    WRITING.store(false, Release);
}

/// In a forked child: counts from zero, in memory of its own. Only loads, stores and system calls, as the child of
/// a program with threads may do nothing else; memory that holds zeros is not written, so that it
/// stays shared with the parent.
pub fn forget() {
    COUNTERS.store((&raw const OWN).cast_mut(), Release);
    OWN.all().filter(|n| n.load(Relaxed) != 0).for_each(|n| n.store(0, Relaxed));
    let parents = PUBLISHED.swap(std::ptr::null_mut(), Relaxed);
    WRITING.store(false, Relaxed);
    // SAFETY: null, or a box that is never freed.
    if let Some(parents) = unsafe { parents.as_ref() } {
        keep_errno(|| parents.leave_to_parent());
        WANTED.store(true, Relaxed);
    }
}
