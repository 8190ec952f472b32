//! The member `memory` of the statistics.

use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_telemetry::Json;
use zen5turbo_telemetry::document::{self, member::*};

use crate::buffers::nt_copy;
use crate::placement;
use crate::stats::counters;
use crate::weights::sources;

/// ```text
/// memory: { weights: { mapped, wanted, cached, copied: { thp, 2m, 1g }, freed, now, us, rested_us },
///           prefetch: { bytes, calls, us, released },
///           numa: { mode, nodes: [...], placed: { node: bytes }, interleaved, failed, seats, moved },
///           buffers: { thp: { count, bytes }, hugetlb_2m: { count, bytes }, freed },
///           heap: { count, bytes },                       advised
///           copies: { status, from, measured, streamed: { count, bytes } } }
/// ```
/// All numbers count from the start of the process. Why something was not done is found in `events`.
pub fn report(j: &mut Json) {
    let counters = counters();
    j.open(Some(MEMORY));
    document::weights(j, &counters.weights, Some(sources::copied()[0] as u64));
    document::prefetch(j, &counters.prefetch);
    numa(j);
    document::buffers(j, &counters.buffers);
    document::pair(j, "heap", &counters.heap);
    j.open(Some("copies"));
    j.string(STATUS, nt_copy::status());
    j.number("from", nt_copy::FAST_PATH.large.load(Relaxed) as u64);
    document::copies(j, &counters.copies);
    j.close();
    j.close();
}

/// The placement in use: bytes placed on each NUMA node, bytes interleaved over all of them, and threads moved.
fn numa(j: &mut Json) {
    let report = placement::report();
    j.open(Some("numa"));
    j.string(MODE, report.mode);
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
