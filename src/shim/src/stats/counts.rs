//! Counts operations, their time, and the reasons why they are left to ggml.
//!
//! Counters are atomics that any thread updates with relaxed order, without a lock and without allocating. [`counters`]
//! returns them. If other threads count while a report is made, each counter is right, but counters may not fit each
//! other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use zen5turbo_kernels::ops::Operation;
use zen5turbo_telemetry::OpKind;
use zen5turbo_telemetry::live::{Barriers, Cell};

use super::names::{TYPES, type_name};
use super::place::counters;
use crate::reason::Reason;

/// Whether a graph was computed, here or by ggml.
static COMPUTED: AtomicBool = AtomicBool::new(false);

fn cell(op: OpKind, ty: u8) -> &'static Cell<AtomicU64> {
    &counters().cells[op as usize][usize::from(ty).min(TYPES)]
}

/// Counts one computed graph, with its columns of activations, its time, and its barriers.
pub fn graph(columns: usize, ns: u64, barriers: Barriers<u64>) {
    let class = match columns {
        0 | 1 => columns,
        2..=16 => 2,
        _ => 3,
    };
    let graphs = &counters().graphs[class];
    graphs.count.fetch_add(1, Relaxed);
    graphs.columns.fetch_add(columns as u64, Relaxed);
    graphs.ns.fetch_add(ns, Relaxed);
    graphs.barriers.between.fetch_add(barriers.between, Relaxed);
    graphs.barriers.inside.fetch_add(barriers.inside, Relaxed);
}

/// Called when a graph has ended, whether this library or ggml computed it.
#[inline]
pub fn graph_ended() {
    if !COMPUTED.load(Relaxed) {
        COMPUTED.store(true, Relaxed);
    }
}

/// Whether a graph was computed in this process, or an operation reached a hook.
#[must_use]
pub fn computed() -> bool {
    COMPUTED.load(Relaxed) || any()
}

/// Counts one operation that was computed here: its time, the bytes of weights (or of keys and values) that it read,
/// and its multiply-accumulates. Called by one of the threads that shared the work.
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

/// Counts one operation that was left to the original. One thread calls this for each operation.
pub fn declined(op: OpKind, ty: u8, reason: Reason) {
    cell(op, ty).declined[reason as usize].fetch_add(1, Relaxed);
}

/// Counts one operation that is no product and was computed here, and the bytes that it read and wrote. Its time is not
/// measured: to ask the clock takes longer than a small one. Called by one of the threads that shared the work.
pub fn other_taken(op: Operation, bytes: u64) {
    let cell = &counters().others[op as usize];
    cell.calls.fetch_add(1, Relaxed);
    cell.bytes.fetch_add(bytes, Relaxed);
}

/// Counts one operation that is no product and was left to ggml. One thread calls this for each operation.
pub fn other_declined(op: Operation, reason: Reason) {
    counters().others[op as usize].declined[reason as usize].fetch_add(1, Relaxed);
}

/// Counts an event that concerns the process and not one operation.
pub fn event(reason: Reason) {
    counters().events[reason as usize].fetch_add(1, Relaxed);
}

/// Counts an event that concerns the process, but only the first time. For events that would otherwise be counted at
/// every graph or page.
pub fn event_once(reason: Reason) {
    let _ = counters().events[reason as usize].compare_exchange(0, 1, Relaxed, Relaxed);
}

/// The number of calls that were computed here, for one operation or all, and for one weight type or all. Case does not
/// matter in names. An unknown name has the count 0.
#[must_use]
pub fn count_taken(op: Option<&str>, ty: Option<&str>) -> u64 {
    sum(op, ty, |cell| cell.calls.load(Relaxed))
}

/// The number of calls that were left to the original, for any reason. The arguments are those of [`count_taken`].
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

/// In a forked child: nothing was computed there yet.
pub(super) fn forget() {
    COMPUTED.store(false, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::super::names::set_type_name;
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
}
