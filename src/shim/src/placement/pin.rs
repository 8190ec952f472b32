//! Pins the threads of a graph to CPUs.
//!
//! A thread is pinned inside its first matrix product of a graph. All threads of the graph exist then, so no thread
//! inherits the affinity of another one.
//!
//! A thread is moved only if it has the affinity of the process. Any other affinity shows that the program pins its
//! threads itself, and pinning then ends for good.
//!
//! The thread that called `ggml_graph_compute` belongs to the program, and gets its affinity back when the graph ends.
//! The other threads belong to ggml. They stay pinned, so that nothing has to be changed for the next graph. When
//! pinning ends for good, they get their affinity back in their next graph.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use zen5turbo_host::cpuset::{self, CpuSet};

use super::setup::Setup;
use crate::reason::Reason;
use crate::stats;

/// Set when pinning has ended for good.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Set when a thread was pinned. Before that, no thread has to check whether it is pinned.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// How often a thread was pinned.
static MOVED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The affinity to which this thread was pinned. It is read once for each graph, not for each operation.
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

/// Ends pinning for good.
pub fn end(reason: Reason) {
    if !ENDED.swap(true, Relaxed) {
        stats::event_once(reason);
    }
}

/// Pins the calling thread to `target`. Without a target, and when pinning has ended, a thread that was pinned before
/// gets the CPUs of the process back.
pub fn enter(setup: &Setup, target: Option<&CpuSet>) {
    let mine = MINE.get();
    let target = target.filter(|_| is_allowed());
    if target.is_none() && mine.is_none() {
        return;
    }
    let Ok(now) = cpuset::affinity() else { return end(Reason::PinRefused) };
    if now != mine.unwrap_or(setup.affinity) {
        // Other code has changed the affinity, and knows better where the thread should run.
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

/// Called at the end of a graph by the thread that started it: gives it its affinity back.
pub fn leave(setup: &Setup) {
    let Some(mine) = MINE.get() else { return };
    // ggml may have changed the affinity meanwhile (`--numa`). Then it stays.
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
