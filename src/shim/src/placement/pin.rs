//! Threads of a graph on CPUs of their own.
//!
//! The shim meets a thread inside its first matrix product of a graph, when all threads of that graph
//! exist already, so none of them inherits the place of another. A thread is moved only from the affinity that
//! the process was given; any other means that the program places its threads itself, and from
//! then on nothing is moved any more. The thread that called `ggml_graph_compute` is the program's: it
//! gets its affinity back when the graph ends. The other threads are ggml's own and keep theirs,
//! so that nothing has to be changed from graph to graph; when pinning ends for good, they get it back
//! in their next graph.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use zen5turbo_host::cpuset::{self, CpuSet};

use super::setup::Setup;
use crate::reason::Reason;
use crate::stats;

/// Pinning has ended for good.
static ENDED: AtomicBool = AtomicBool::new(false);

/// A thread was pinned; until then nobody has to look whether it is.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// How often a thread was moved to its place.
static MOVED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The affinity that this thread was given here. Read once per graph, not per operation.
    static MINE: Cell<Option<CpuSet>> = const { Cell::new(None) };
}

/// Whether threads may still be pinned.
pub fn is_allowed() -> bool {
    !ENDED.load(Relaxed)
}

/// Whether any thread was ever pinned.
pub fn has_begun() -> bool {
    BEGUN.load(Relaxed)
}

/// How often a thread was moved.
pub fn moved() -> u64 {
    MOVED.load(Relaxed)
}

/// No thread is pinned from now on.
pub fn end(reason: Reason) {
    if !ENDED.swap(true, Relaxed) {
        stats::event_once(reason);
    }
}

/// Puts the calling thread on `target`, or, without one or once pinning has ended, back on the CPUs of
/// the process if it was moved before.
pub fn enter(setup: &Setup, target: Option<&CpuSet>) {
    let mine = MINE.get();
    let target = target.filter(|_| is_allowed());
    if target.is_none() && mine.is_none() {
        return;
    }
    let Ok(now) = cpuset::affinity() else { return end(Reason::PinRefused) };
    if now != mine.unwrap_or(setup.affinity) {
        // Moved by somebody else, who knows better.
        MINE.set(None);
        return end(Reason::PinnedByProgram);
    }
    match target {
        Some(target) if mine.as_ref() == Some(target) => {}
        Some(target) => match cpuset::set_affinity(target) {
            Ok(()) => {
                MINE.set(Some(*target));
                BEGUN.store(true, Relaxed);
                MOVED.fetch_add(1, Relaxed);
            }
            Err(_) => end(Reason::PinRefused),
        },
        None => give_back(setup),
    }
}

/// To be called at the end of a graph by the thread that started it: gives it its affinity back.
pub fn leave(setup: &Setup) {
    let Some(mine) = MINE.get() else { return };
    // ggml itself may have changed it meanwhile (`--numa`), and then that counts.
    if cpuset::affinity().is_ok_and(|now| now == mine) {
        give_back(setup);
    }
    MINE.set(None);
}

fn give_back(setup: &Setup) {
    if cpuset::set_affinity(&setup.affinity).is_err() {
        end(Reason::PinRefused);
    }
    MINE.set(None);
}

/// Whether the program has moved the calling thread away from the CPUs of the process.
pub fn is_moved_by_program(setup: &Setup) -> bool {
    cpuset::affinity().is_ok_and(|now| now != MINE.get().unwrap_or(setup.affinity))
}
