//! The member `memory` of the statistics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::json::Json;
use crate::memory::counters;
use crate::placement;
use crate::{buffers, heap, streaming};

/// ```text
/// memory: { weights: { mapped, wanted, promoted: { thp, 2m, 1g }, demoted, now, us, rested_us },
///           prefetch: { bytes, calls, us, released },
///           numa: { mode, nodes: [...], placed: { node: bytes }, interleaved, failed, seats, moved },
///           buffers: { thp: { count, bytes }, hugetlb_2m: { count, bytes }, freed },
///           heap: { count, bytes },                       advised
///           copies: { status, from, measured, streamed: { count, bytes } } }
/// ```
/// Since the start; why something was not done is among the events.
pub fn report(j: &mut Json) {
    j.open(Some("memory"));
    counters::report(j);
    counters::report_prefetch(j);
    numa(j);
    j.open(Some("buffers"));
    let c = &buffers::COUNTERS;
    pair(j, "thp", &c.thp);
    pair(j, "hugetlb_2m", &c.hugetlb);
    j.number("freed", c.freed.load(Relaxed));
    j.close();
    pair(j, "heap", &heap::ADVISED);
    j.open(Some("copies"));
    j.string("status", streaming::status());
    j.number("from", streaming::DOOR.large.load(Relaxed) as u64);
    j.number("measured", streaming::MEASURED.load(Relaxed));
    pair(j, "streamed", &streaming::STREAMED);
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

/// Every counter, for [`super::forget`].
pub fn counters() -> impl Iterator<Item = &'static AtomicU64> {
    let c = &buffers::COUNTERS;
    let other = heap::ADVISED.iter().chain(&streaming::STREAMED).chain([&c.freed, &streaming::MEASURED]);
    c.thp.iter().chain(&c.hugetlb).chain(other)
}
