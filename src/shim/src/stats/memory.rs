//! The member `memory` of the statistics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::json::Json;
use crate::memory::counters as weights;
use crate::{placement, stats, streaming};

/// ```text
/// memory: { weights: { mapped, wanted, cached, copied: { thp, 2m, 1g }, freed, now, us, rested_us },
///           prefetch: { bytes, calls, us, released },
///           numa: { mode, nodes: [...], placed: { node: bytes }, interleaved, failed, seats, moved },
///           buffers: { thp: { count, bytes }, hugetlb_2m: { count, bytes }, freed },
///           heap: { count, bytes },                       advised
///           copies: { status, from, measured, streamed: { count, bytes } } }
/// ```
/// Since the start; why something was not done is among the events.
pub fn report(j: &mut Json) {
    j.open(Some("memory"));
    weights::report(j);
    weights::report_prefetch(j);
    numa(j);
    j.open(Some("buffers"));
    let counters = stats::counters();
    let c = &counters.buffers;
    pair(j, "thp", &c.thp);
    pair(j, "hugetlb_2m", &c.hugetlb);
    j.number("freed", c.freed.load(Relaxed));
    j.close();
    pair(j, "heap", &counters.heap);
    j.open(Some("copies"));
    j.string("status", streaming::status());
    j.number("from", streaming::DOOR.large.load(Relaxed) as u64);
    j.number("measured", counters.copies.measured.load(Relaxed));
    pair(j, "streamed", &counters.copies.streamed);
    j.close();
    j.close();
}

/// The placement in force, the bytes placed on each node and in turn, and the threads.
fn numa(j: &mut Json) {
    let report = placement::report();
    j.open(Some("numa"));
    j.string("mode", report.mode);
    j.open_array("nodes");
    for node in &report.nodes {
        j.element(&node.to_string());
    }
    j.close_array();
    j.open(Some("placed"));
    for (node, bytes) in report.placed {
        j.number(&node.to_string(), bytes);
    }
    j.close();
    j.number("interleaved", report.interleaved);
    j.number("failed", report.failed);
    j.number("seats", report.seats as u64);
    j.number("moved", report.moved);
    j.close();
}

fn pair(j: &mut Json, key: &str, [count, bytes]: &[AtomicU64; 2]) {
    j.open(Some(key));
    j.number("count", count.load(Relaxed));
    j.number("bytes", bytes.load(Relaxed));
    j.close();
}
