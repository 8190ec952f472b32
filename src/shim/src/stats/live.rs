//! Publishes the counters, and the names that belong to them, in shared memory.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr};

use zen5turbo_host::memory::map::keep_errno;
use zen5turbo_telemetry::live::Published;

use super::counts::{event, event_once};
use super::{names, place};
use crate::config::config;
use crate::log::log;
use crate::reason::Reason;

/// The shared memory that this process (not its parent) has published.
static PUBLISHED: AtomicPtr<Published> = AtomicPtr::new(std::ptr::null_mut());

/// The function that makes the text of names. It uses folders above this one, so the caller of [`publish`] passes it.
static MAKE_NAMES: OnceLock<fn() -> String> = OnceLock::new();

/// Set in a forked child, which publishes when it computes a graph.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Set while a thread writes the text.
static WRITING: AtomicBool = AtomicBool::new(false);

/// Publishes the counters, if the configuration allows it. `make_names` makes the text of names, now and after every
/// change of a name. If the kernel refuses the shared memory, that is counted and nothing else changes.
///
/// The counters move to the shared memory before the first graph. Counts of another thread meanwhile may be lost.
pub fn publish(make_names: fn() -> String) {
    let _ = MAKE_NAMES.set(make_names);
    if !config().live || !PUBLISHED.load(Acquire).is_null() {
        return;
    }
    let published = match keep_errno(Published::new) {
        Ok(published) => published,
        Err(error) => {
            event(Reason::LiveRefused);
            log!(info, "no live statistics: {error}");
            return;
        }
    };
    place::move_to(&published.segment().counters);
    // It is never freed, because a forked child may not free memory.
    PUBLISHED.store(Box::into_raw(Box::new(published)), Release);
    write_text();
}

/// Called when a graph was planned: publishes changed names, and publishes the counters in a forked child.
#[inline]
pub fn flush_names() {
    if WANTED.load(Relaxed) && WANTED.swap(false, Relaxed) {
        MAKE_NAMES.get().into_iter().for_each(|make| publish(*make));
    }
    if names::have_changed() {
        write_text();
    }
}

fn write_text() {
    // SAFETY: the pointer is null, or comes from a box that is never freed.
    let Some(published) = (unsafe { PUBLISHED.load(Acquire).as_ref() }) else { return };
    let Some(make_names) = MAKE_NAMES.get() else { return };
    if WRITING.swap(true, Acquire) {
        return; // another thread writes now, or this is called again at the next graph
    }
    names::are_told();
    if !published.segment().write_text(&make_names()) {
        event_once(Reason::LiveTextTooLong);
    }
    WRITING.store(false, Release);
}

/// In a forked child: counts from zero, in memory of the child. Only loads, stores and system calls, because the child
/// of a program with threads may do nothing else.
pub(super) fn forget() {
    place::forget();
    let parents = PUBLISHED.swap(std::ptr::null_mut(), Relaxed);
    WRITING.store(false, Relaxed);
    // SAFETY: the pointer is null, or comes from a box that is never freed.
    if let Some(parents) = unsafe { parents.as_ref() } {
        keep_errno(|| parents.leave_to_parent());
        WANTED.store(true, Relaxed);
    }
}
