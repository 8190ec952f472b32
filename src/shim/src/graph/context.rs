//! The graphs that are being computed now, found by their work buffer.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::Plan;
use crate::placement;
use crate::weights::pace::Computing;
use crate::weights::sources::Pin;

/// Graphs that can be in execution at the same time; further ones are left to the original.
const MAX_GRAPHS: usize = 64;

const FREE: usize = 0;
const CLAIMED: usize = 1;

/// One graph in execution. Plans keep their memory from graph to graph, and the first free slot is
/// taken, so that a program with one context always re-uses the same one.
struct Slot {
    /// [`FREE`], [`CLAIMED`] while the plan is made, else the address of the work buffer.
    key: AtomicUsize,
    plan: UnsafeCell<Plan>,
}

// SAFETY: `plan` is written only between CLAIMED and the release store of the key by the thread that
// claimed it, and only read by the threads that compute that graph until the key is withdrawn.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_GRAPHS] =
    [const { Slot { key: AtomicUsize::new(FREE), plan: UnsafeCell::new(Plan::new()) } }; MAX_GRAPHS];

/// Slots below this have been used: what a search has to look at.
static USED: AtomicUsize = AtomicUsize::new(0);

/// A claimed slot; given back when dropped.
pub struct ActiveGraph {
    slot: usize,
    _computing: Computing,
    /// Keeps the copies of weights that the graph reads where they are.
    _pin: Option<Pin>,
}

impl ActiveGraph {
    /// Claims a slot for a graph of so many threads, and makes the plan with `fill`. `None` when there are too many graphs.
    pub fn start(work_data: *mut c_void, threads: usize, fill: impl FnOnce(&mut Plan, Option<&Pin>)) -> Option<Self> {
        let i = SLOTS
            .iter()
            .position(|s| s.key.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok())?;
        let pin = Pin::for_graph();
        let active = ActiveGraph { slot: i, _computing: Computing::start(threads), _pin: pin };
        if i > 0 {
            placement::concurrent();
        }
        // SAFETY: the slot is claimed by this thread and its key matches no work buffer yet.
        fill(unsafe { &mut *SLOTS[i].plan.get() }, active._pin.as_ref());
        USED.fetch_max(i + 1, Ordering::Relaxed);
        SLOTS[i].key.store(work_data as usize, Ordering::Release);
        Some(active)
    }
}

impl Drop for ActiveGraph {
    fn drop(&mut self) {
        // The threads of the graph have passed its last barrier: none is inside a node.
        SLOTS[self.slot].key.store(FREE, Ordering::Release);
    }
}

/// The plan of the graph whose work buffer this is.
///
/// The answer is the same for every thread of that graph, for as long as it runs.
#[inline]
pub fn find(work_data: *mut c_void) -> Option<&'static Plan> {
    let key = work_data as usize;
    if key <= CLAIMED {
        return None;
    }
    let slot = SLOTS[..USED.load(Ordering::Relaxed)].iter().find(|s| s.key.load(Ordering::Acquire) == key)?;
    // SAFETY: the key was published after the plan was made; it stays until the graph has ended,
    // and the caller is inside that graph.
    Some(unsafe { &*slot.plan.get() })
}
