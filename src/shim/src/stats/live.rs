//! Publishing the counters, and the names that belong to them, in shared memory.

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

/// What this process, and not its parent, has published.
static PUBLISHED: AtomicPtr<Published> = AtomicPtr::new(std::ptr::null_mut());

/// Makes the text of names. It tells of parts that lie above this one, so it was given to [`publish`].
static MAKE_NAMES: OnceLock<fn() -> String> = OnceLock::new();

/// To be published at the next graph: a forked child that computes.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Somebody writes the text.
static WRITING: AtomicBool = AtomicBool::new(false);

/// Publishes the counters, unless the configuration says not to, with the text that `make_names` makes now and whenever a name
/// has changed; a refusal is counted and changes nothing.
///
/// What another thread counts while they move may be lost. They move before the first graph.
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
    // Kept for as long as the process lives, also in a child, which may not free.
    PUBLISHED.store(Box::into_raw(Box::new(published)), Release);
    write_text();
}

/// To be called when a graph was planned: tells readers of new names, and publishes in a forked child.
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
    // SAFETY: null, or a box that is never freed.
    let Some(published) = (unsafe { PUBLISHED.load(Acquire).as_ref() }) else { return };
    let Some(make_names) = MAKE_NAMES.get() else { return };
    if WRITING.swap(true, Acquire) {
        return; // the other thread, or the next graph, writes
    }
    names::are_told();
    if !published.segment().write_text(&make_names()) {
        event_once(Reason::LiveTextTooLong);
    }
    WRITING.store(false, Release);
}

/// In a forked child: counts from zero, in memory of its own. Only loads, stores and system calls, as the child of
/// a program with threads may do nothing else.
pub(super) fn forget() {
    place::forget();
    let parents = PUBLISHED.swap(std::ptr::null_mut(), Relaxed);
    WRITING.store(false, Relaxed);
    // SAFETY: null, or a box that is never freed.
    if let Some(parents) = unsafe { parents.as_ref() } {
        keep_errno(|| parents.leave_to_parent());
        WANTED.store(true, Relaxed);
    }
}
