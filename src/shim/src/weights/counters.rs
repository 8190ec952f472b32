//! Counting what was copied and read ahead.

use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_host::memory::Pages;

use crate::stats::counters;

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
