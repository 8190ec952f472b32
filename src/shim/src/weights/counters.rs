//! Counts the bytes that were mapped, copied, freed and read ahead.

use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_host::memory::Pages;

use crate::stats::counters;

/// A model file of `bytes` was mapped at an address aligned for huge pages.
pub fn mapped(bytes: usize) {
    counters().weights.mapped.fetch_add(bytes as u64, Relaxed);
}

/// Another `bytes` of mapped weights were found to be read by products, and are to be copied.
pub fn wanted(bytes: usize) {
    counters().weights.wanted.fetch_add(bytes as u64, Relaxed);
}

/// `bytes` of weights lie in huge pages of the page cache already, and get no copy.
pub fn cached(bytes: usize) {
    counters().weights.cached.fetch_add(bytes as u64, Relaxed);
}

/// Pages were copied, in this many microseconds of work and of rest.
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

/// Copies were freed, because memory was short or the program has unmapped the weights.
pub fn freed(bytes: usize) {
    counters().weights.freed.fetch_add(bytes as u64, Relaxed);
}

/// One call read `bytes` of model files ahead, and took `microseconds`.
pub fn read_ahead(bytes: usize, microseconds: u64) {
    counters().prefetch.bytes.fetch_add(bytes as u64, Relaxed);
    counters().prefetch.calls.fetch_add(1, Relaxed);
    counters().prefetch.us.fetch_add(microseconds, Relaxed);
}

/// `bytes` of pages that the products have used were taken out of memory.
pub fn released(bytes: usize) {
    counters().prefetch.released.fetch_add(bytes as u64, Relaxed);
}

/// Bytes copied and freed since the start.
#[cfg(test)]
pub fn totals() -> [u64; 2] {
    let w = &counters().weights;
    [[&w.thp, &w.huge, &w.giant].iter().map(|n| n.load(Relaxed)).sum(), w.freed.load(Relaxed)]
}
