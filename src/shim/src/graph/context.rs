//! The graphs that run now, found by their work buffer.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::Plan;
use crate::placement;
use crate::weights::pace::Computing;
use crate::weights::sources::Pin;

/// Graphs that can run at the same time. ggml alone computes any further graph.
const MAX_GRAPHS: usize = 64;

const FREE: usize = 0;
const CLAIMED: usize = 1;

/// A slot for one running graph. A plan keeps its memory from graph to graph. The first free slot is taken, so a
/// program with one context always uses the same one.
struct Slot {
    /// [`FREE`], [`CLAIMED`] while the plan is made, else the address of the work buffer.
    key: AtomicUsize,
    plan: UnsafeCell<Plan>,
}

// SAFETY: only the thread that claimed the slot writes `plan`, before its release store of the key. From then on, until
// the key is set to FREE, the threads that compute the graph only read `plan`.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_GRAPHS] =
    [const { Slot { key: AtomicUsize::new(FREE), plan: UnsafeCell::new(Plan::new()) } }; MAX_GRAPHS];

/// Slots from this index on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// A claimed slot; given back when dropped.
pub struct ActiveGraph {
    slot: usize,
    _computing: Computing,
    /// Keeps the copies of weights that the graph reads.
    _pin: Option<Pin>,
}

impl ActiveGraph {
    /// Claims a slot for a graph of this many threads, and makes the plan with `fill`. `None` when too many graphs run.
    pub fn start(work_data: *mut c_void, threads: usize, fill: impl FnOnce(&mut Plan, Option<&Pin>)) -> Option<Self> {
        let i = SLOTS
            .iter()
            .position(|s| s.key.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok())?;
        let pin = Pin::for_graph();
        let active = ActiveGraph { slot: i, _computing: Computing::start(threads), _pin: pin };
        if i > 0 {
            placement::concurrent();
        }
        // SAFETY: this thread has claimed the slot. Its key is not the address of a work buffer, so no thread reads the
        // plan.
        fill(unsafe { &mut *SLOTS[i].plan.get() }, active._pin.as_ref());
        USED.fetch_max(i + 1, Ordering::Relaxed);
        SLOTS[i].key.store(work_data as usize, Ordering::Release);
        Some(active)
    }
}

impl Drop for ActiveGraph {
    fn drop(&mut self) {
        // The threads of the graph have passed its last barrier, so none of them is inside a node.
        SLOTS[self.slot].key.store(FREE, Ordering::Release);
    }
}

/// The plan of the graph with this work buffer.
///
/// While the graph runs, the answer is the same for all its threads.
#[inline]
pub fn find(work_data: *mut c_void) -> Option<&'static Plan> {
    let key = work_data as usize;
    if key <= CLAIMED {
        return None;
    }
    let slot = SLOTS[..USED.load(Ordering::Relaxed)].iter().find(|s| s.key.load(Ordering::Acquire) == key)?;
    // SAFETY: the key was published after the plan was made, and stays until the graph has ended. The caller computes
    // that graph.
    Some(unsafe { &*slot.plan.get() })
}
