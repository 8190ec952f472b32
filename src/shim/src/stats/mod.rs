//! What was taken over and what was left to the original, and why.
//!
//! Counters are atomics, updated with relaxed order by any thread: no lock, no allocation. They lie where
//! [`live`] says.
//! A report read while other threads count is consistent per counter, not across counters.

mod file;
mod json;
pub mod live;
mod memory;
mod report;

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use zen5turbo_host::live::{Cell, GRAPH_CLASSES};

use crate::direct;
use crate::reason::Reason;
use crate::threads;
use crate::tuning::Regime;

#[cfg(feature = "fuzzing")]
pub use file::expand;
pub use file::write_at_exit;
pub use json::Json;
pub use live::counters;
pub use report::json;

/// The operations that are counted.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// `GGML_OP_MUL_MAT`.
    MulMat = 0,
    /// `GGML_OP_MUL_MAT_ID`.
    MulMatId = 1,
    /// `GGML_OP_FLASH_ATTN_EXT`, counted by the type of its keys.
    FlashAttnExt = 2,
}

impl OpKind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 3] = [Self::MulMat, Self::MulMatId, Self::FlashAttnExt];

    /// The name that `ggml_op_name` gives it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MulMat => "MUL_MAT",
            Self::MulMatId => "MUL_MAT_ID",
            Self::FlashAttnExt => "FLASH_ATTN_EXT",
        }
    }
}

/// Weight types are numbered as ggml numbers them (41 in ggml 0.26); numbers from here on share one
/// more set of counters, named `other`.
pub const TYPES: usize = zen5turbo_host::live::TYPES - 1;

const _: () = assert!(OpKind::ALL.len() == zen5turbo_host::live::OPS);

/// How many names of kernels are kept for one operation and type, one per regime.
const REGIMES: usize = Regime::ALL.len();

/// How many copies of ggml are listed.
const LIBRARIES: usize = 32;

/// The kernel in use for a regime.
struct Kernel {
    regime: &'static str,
    name: &'static str,
}

/// A copy of ggml and what became of it.
struct Library {
    path: String,
    status: &'static str,
}

/// By operation and weight type.
static KERNELS: [[[AtomicPtr<Kernel>; REGIMES]; TYPES + 1]; OpKind::ALL.len()] =
    [const { [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; REGIMES] }; TYPES + 1] }; OpKind::ALL.len()];

static TYPE_NAMES: [AtomicPtr<String>; TYPES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; TYPES];

static LIBRARY_LIST: [AtomicPtr<Library>; LIBRARIES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; LIBRARIES];

/// Whether a graph was computed, by whomever.
static COMPUTED: AtomicBool = AtomicBool::new(false);

fn cell(op: OpKind, ty: u8) -> &'static Cell<AtomicU64> {
    &counters().cells[op as usize][usize::from(ty).min(TYPES)]
}

fn kernels(op: OpKind, ty: u8) -> &'static [AtomicPtr<Kernel>; REGIMES] {
    &KERNELS[op as usize][usize::from(ty).min(TYPES)]
}

/// The classes of graphs by their columns, in the order of their counters.
pub fn graph_classes() -> [&'static str; GRAPH_CLASSES] {
    ["0", "1", "2-16", "many"]
}

/// Counts one graph that was computed: the columns of activations that met weights in it, and its time.
pub fn graph(columns: usize, ns: u64) {
    let class = match columns {
        0 | 1 => columns,
        2..=16 => 2,
        _ => 3,
    };
    let graphs = &counters().graphs[class];
    graphs.count.fetch_add(1, Relaxed);
    graphs.columns.fetch_add(columns as u64, Relaxed);
    graphs.ns.fetch_add(ns, Relaxed);
}

/// To be called by the thread that had a graph computed, after its end: it writes the file of `ZEN5TURBO_STATS` when
/// that is due. `errno` stays.
#[inline]
pub fn graph_ended() {
    if !COMPUTED.load(Relaxed) {
        COMPUTED.store(true, Relaxed);
    }
    file::write_when_due();
}

/// Whether a graph was computed in this process, or an operation reached a hook.
#[must_use]
pub fn computed() -> bool {
    COMPUTED.load(Relaxed) || any()
}

/// Counts one operation that was computed here: the time it took, the bytes of weights (of keys and values) it read and
/// the multiply-accumulates it did. To be called by one of the threads that shared the work.
pub fn taken(op: OpKind, ty: u8, ns: u64, bytes: u64, macs: u64) {
    let cell = cell(op, ty);
    cell.calls.fetch_add(1, Relaxed);
    cell.ns.fetch_add(ns, Relaxed);
    cell.bytes.fetch_add(bytes, Relaxed);
    cell.macs.fetch_add(macs, Relaxed);
}

/// Adds multiply-accumulates to an operation that another thread counts with [`taken`].
pub fn computed_part(op: OpKind, ty: u8, macs: u64) {
    cell(op, ty).macs.fetch_add(macs, Relaxed);
}

/// Counts one operation that was left to the original. To be called by one thread per operation.
pub fn declined(op: OpKind, ty: u8, reason: Reason) {
    cell(op, ty).declined[reason as usize].fetch_add(1, Relaxed);
}

/// Counts something that concerns the process rather than one operation.
pub fn event(reason: Reason) {
    counters().events[reason as usize].fetch_add(1, Relaxed);
}

/// Counts something that concerns the process and would otherwise be counted at every graph or page:
/// only the first time.
pub fn event_once(reason: Reason) {
    let _ = counters().events[reason as usize].compare_exchange(0, 1, Relaxed, Relaxed);
}

/// Gives the weight type `ty` the name that `ggml_type_name` has for it; the name is copied, and
/// the first one stays. Types from [`TYPES`] on keep the name `other`.
pub fn set_type_name(ty: u8, name: &str) {
    let Some(slot) = TYPE_NAMES.get(usize::from(ty)) else {
        return;
    };
    if read(slot).is_none() {
        publish(slot, std::ptr::null_mut(), name.to_owned());
    }
}

/// Says which kernel computes `op` on weights of type `ty` in a regime such as `gemm` or `gemv`.
/// Cheap when nothing changes. More regimes of one type than there are are not kept.
pub fn set_kernel(op: OpKind, ty: u8, regime: &'static str, name: &'static str) {
    for slot in kernels(op, ty) {
        let old = slot.load(SeqCst);
        match read(slot) {
            Some(kernel) if kernel.regime != regime => {}
            Some(kernel) if kernel.name == name => return,
            // What is replaced may be in use by a reader and stays allocated; it is rare.
            _ => {
                if publish(slot, old, Kernel { regime, name }) {
                    return;
                }
                // Another thread was faster, perhaps with another regime.
                if read(slot).is_some_and(|kernel| kernel.regime == regime) {
                    return;
                }
            }
        }
    }
}

/// Lists a loaded copy of ggml with what became of it, e.g. `engaged` or `abi_mismatch`; a path
/// that is listed already gets the new status. Copies beyond the 32nd are not listed.
pub fn add_library(path: &str, status: &'static str) {
    for slot in &LIBRARY_LIST {
        let old = slot.load(SeqCst);
        match read(slot) {
            Some(library) if library.path != path => {}
            Some(library) if library.status == status => return,
            _ => {
                if publish(slot, old, Library { path: path.to_owned(), status }) {
                    return;
                }
                if read(slot).is_some_and(|library| library.path == path) {
                    return;
                }
            }
        }
    }
}

fn read<T>(slot: &AtomicPtr<T>) -> Option<&'static T> {
    // SAFETY: `publish` alone stores here, pointers from Box::into_raw that are never freed.
    unsafe { slot.load(SeqCst).as_ref() }
}

/// Stores `value` in place of `old`, or drops it when another thread has stored something.
fn publish<T>(slot: &AtomicPtr<T>, old: *mut T, value: T) -> bool {
    let new = Box::into_raw(Box::new(value));
    let stored = slot.compare_exchange(old, new, SeqCst, SeqCst).is_ok();
    live::changed();
    if !stored {
        // SAFETY: `new` comes from Box::into_raw above and nobody else has seen it.
        drop(unsafe { Box::from_raw(new) });
    }
    stored
}

fn type_name(ty: usize) -> String {
    match TYPE_NAMES.get(ty) {
        Some(slot) => read(slot).cloned().unwrap_or_else(|| format!("type_{ty}")),
        None => "other".to_owned(),
    }
}

/// Calls taken over: of one operation or of all, on one weight type or on all. Names are compared
/// without regard to case; an unknown one has the count 0.
#[must_use]
pub fn count_taken(op: Option<&str>, ty: Option<&str>) -> u64 {
    sum(op, ty, |cell| cell.calls.load(Relaxed))
}

/// Calls left to the original for any reason; selected as in [`count_taken`].
#[must_use]
pub fn count_declined(op: Option<&str>, ty: Option<&str>) -> u64 {
    sum(op, ty, |cell| cell.declined.iter().map(|n| n.load(Relaxed)).sum())
}

fn sum(op: Option<&str>, ty: Option<&str>, count: impl Fn(&Cell<AtomicU64>) -> u64) -> u64 {
    let selected = |wanted: Option<&str>, name: &str| wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(name));
    let mut total = 0;
    for kind in OpKind::ALL.into_iter().filter(|kind| selected(op, kind.as_str())) {
        for (i, cell) in counters().cells[kind as usize].iter().enumerate() {
            if ty.is_none() || selected(ty, &type_name(i)) {
                total += count(cell);
            }
        }
    }
    total
}

/// Whether any operation was counted.
#[must_use]
pub fn any() -> bool {
    count_taken(None, None) + count_declined(None, None) > 0
}

/// Sets every counter to 0: what a forked child starts with. Only loads, stores and system calls.
pub fn forget() {
    live::forget();
    direct::forget();
    threads::forget();
    file::forget();
    COMPUTED.store(false, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    // The counters are global and tests run in parallel: each test has types of its own.

    #[test]
    fn counts_are_kept_per_operation_and_type() {
        set_type_name(50, "q_test");
        taken(OpKind::MulMat, 50, 10, 100, 1000);
        taken(OpKind::MulMat, 50, 1, 2, 3);
        taken(OpKind::MulMatId, 50, 1, 1, 1);
        declined(OpKind::MulMat, 50, Reason::UseRef);
        assert_eq!(count_taken(Some("MUL_MAT"), Some("q_test")), 2);
        assert_eq!(count_taken(Some("mul_mat_id"), Some("Q_TEST")), 1);
        assert_eq!(count_taken(None, Some("q_test")), 3);
        assert_eq!(count_declined(Some("MUL_MAT"), Some("q_test")), 1);
        assert_eq!(count_taken(Some("ADD"), Some("q_test")), 0);
        assert_eq!(count_taken(None, Some("no such type")), 0);
        assert_eq!(cell(OpKind::MulMat, 50).macs.load(Relaxed), 1003);
        assert!(any());
    }

    #[test]
    fn a_type_without_a_name_has_its_number_and_large_numbers_are_other() {
        assert_eq!(type_name(51), "type_51");
        set_type_name(200, "beyond");
        declined(OpKind::MulMat, 200, Reason::TypeNotSupported);
        assert_eq!(count_declined(None, Some("other")), 1);
    }

    #[test]
    fn the_first_name_stays() {
        set_type_name(52, "first");
        set_type_name(52, "second");
        assert_eq!(type_name(52), "first");
    }

    #[test]
    fn a_kernel_is_replaced_within_its_regime() {
        set_kernel(OpKind::MulMat, 53, "gemm", "a");
        set_kernel(OpKind::MulMat, 53, "gemv", "b");
        set_kernel(OpKind::MulMat, 53, "gemm", "c");
        let names: Vec<_> = kernels(OpKind::MulMat, 53).iter().filter_map(read).map(|k| (k.regime, k.name)).collect();
        assert_eq!(names, [("gemm", "c"), ("gemv", "b")]);
    }

    #[test]
    fn more_libraries_than_slots_are_ignored() {
        for i in 0..LIBRARIES + 5 {
            add_library(&format!("/lib{i}.so"), "engaged");
        }
        add_library("/lib0.so", "closed");
        let first = LIBRARY_LIST.iter().filter_map(read).find(|l| l.path == "/lib0.so").unwrap();
        assert_eq!(first.status, "closed");
    }
}
