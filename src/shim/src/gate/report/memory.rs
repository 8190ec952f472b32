//! The member `memory` of the statistics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use zen5turbo_telemetry::Json;

use crate::buffers::nt_copy;
use crate::placement;
use crate::stats::{self, counters};
use crate::weights::sources;

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
    weights(j);
    prefetch(j);
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
    j.string("status", nt_copy::status());
    j.number("from", nt_copy::FAST_PATH.large.load(Relaxed) as u64);
    j.number("measured", counters.copies.measured.load(Relaxed));
    pair(j, "streamed", &counters.copies.streamed);
    j.close();
    j.close();
}

/// The member `weights`: bytes of model files mapped, bytes in pages that products read, those of them that were found
/// in huge pages of the page cache, bytes copied to each kind of page since the start, bytes of copies freed, bytes of copies now, and
/// the microseconds that copying took, and those of rest for the graphs' sake.
fn weights(j: &mut Json) {
    let w = &counters().weights;
    j.open(Some("weights"));
    j.number("mapped", w.mapped.load(Relaxed));
    j.number("wanted", w.wanted.load(Relaxed));
    j.number("cached", w.cached.load(Relaxed));
    j.open(Some("copied"));
    j.number("thp", w.thp.load(Relaxed));
    j.number("2m", w.huge.load(Relaxed));
    j.number("1g", w.giant.load(Relaxed));
    j.close();
    j.number("freed", w.freed.load(Relaxed));
    j.number("now", sources::copied()[0] as u64);
    j.number("us", w.us.load(Relaxed));
    j.number("rested_us", w.rested_us.load(Relaxed));
    j.close();
}

/// The member `prefetch`: bytes that were read ahead (resident ones count as well), the calls, the
/// time they took in microseconds, and bytes that were taken out of memory behind the products.
fn prefetch(j: &mut Json) {
    j.open(Some("prefetch"));
    j.number("bytes", counters().prefetch.bytes.load(Relaxed));
    j.number("calls", counters().prefetch.calls.load(Relaxed));
    j.number("us", counters().prefetch.us.load(Relaxed));
    j.number("released", counters().prefetch.released.load(Relaxed));
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
