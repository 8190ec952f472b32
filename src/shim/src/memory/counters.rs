//! What was copied and read ahead, for the statistics.

use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_host::memory::Pages;

use super::sources;
use crate::stats::{Json, counters};

/// A model file of `bytes` was mapped where huge pages can lie.
pub fn mapped(bytes: usize) {
    counters().weights.mapped.fetch_add(bytes as u64, Relaxed);
}

/// Products read `bytes` more of mapped pages.
pub fn wanted(bytes: usize) {
    counters().weights.wanted.fetch_add(bytes as u64, Relaxed);
}

/// So many bytes that products read lie in huge pages of the page cache, and get no copy.
pub fn cached(bytes: usize) {
    counters().weights.cached.fetch_add(bytes as u64, Relaxed);
}

/// Pages were copied, in so many microseconds of work and of rest.
pub fn copied(pages: Pages, bytes: usize, worked: u64, rested: u64) {
    let w = &counters().weights;
    let counter = match pages {
        Pages::Transparent => &w.thp,
        Pages::Huge => &w.huge,
        Pages::Giant => &w.giant,
    };
    counter.fetch_add(bytes as u64, Relaxed);
    w.us.fetch_add(worked, Relaxed);
    w.rested_us.fetch_add(rested, Relaxed);
}

/// Copies were freed: memory was short, or the program has done with the weights.
pub fn freed(bytes: usize) {
    counters().weights.freed.fetch_add(bytes as u64, Relaxed);
}

/// So many bytes of model files were read ahead with one call, which took so long.
pub fn read_ahead(bytes: usize, microseconds: u64) {
    counters().prefetch.bytes.fetch_add(bytes as u64, Relaxed);
    counters().prefetch.calls.fetch_add(1, Relaxed);
    counters().prefetch.us.fetch_add(microseconds, Relaxed);
}

/// So many bytes behind the products were taken out of memory.
pub fn released(bytes: usize) {
    counters().prefetch.released.fetch_add(bytes as u64, Relaxed);
}

/// Bytes copied and freed since the start.
#[cfg(test)]
pub fn totals() -> [u64; 2] {
    let w = &counters().weights;
    [[&w.thp, &w.huge, &w.giant].iter().map(|n| n.load(Relaxed)).sum(), w.freed.load(Relaxed)]
}

/// The member `weights`: bytes of model files mapped, bytes in pages that products read, those of them that were found
/// in huge pages of the page cache, bytes copied to each kind of page since the start, bytes of copies freed, bytes of copies now, and
/// the microseconds that copying took, and those of rest for the graphs' sake.
pub fn report(j: &mut Json) {
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
pub fn report_prefetch(j: &mut Json) {
    j.open(Some("prefetch"));
    j.number("bytes", counters().prefetch.bytes.load(Relaxed));
    j.number("calls", counters().prefetch.calls.load(Relaxed));
    j.number("us", counters().prefetch.us.load(Relaxed));
    j.number("released", counters().prefetch.released.load(Relaxed));
    j.close();
}
