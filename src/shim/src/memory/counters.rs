//! What was promoted, for the statistics.

use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_host::memory::Pages;

use super::registry;
use crate::stats::{Json, counters};

/// A model file of `bytes` was mapped where huge pages can lie.
pub fn mapped(bytes: usize) {
    counters().weights.mapped.fetch_add(bytes as u64, Relaxed);
}

/// Products read `bytes` more of mapped pages.
pub fn wanted(bytes: usize) {
    counters().weights.wanted.fetch_add(bytes as u64, Relaxed);
}

/// So many bytes that products read lie in huge pages of the page cache, and stay there.
pub fn cached(bytes: usize) {
    counters().weights.cached.fetch_add(bytes as u64, Relaxed);
}

/// Pages were replaced, in so many microseconds of work and of rest.
pub fn promoted(pages: Pages, bytes: usize, worked: u64, rested: u64) {
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

/// Pages are the file's again.
pub fn demoted(bytes: usize) {
    counters().weights.demoted.fetch_add(bytes as u64, Relaxed);
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

/// Bytes promoted and given back since the start.
#[cfg(test)]
pub fn totals() -> [u64; 2] {
    let w = &counters().weights;
    [[&w.thp, &w.huge, &w.giant].iter().map(|n| n.load(Relaxed)).sum(), counters().weights.demoted.load(Relaxed)]
}

/// The member `weights`: bytes of model files mapped, bytes in pages that products read, those of them that were found
/// in huge pages of the page cache, bytes moved to each kind of page since the start and moved back, bytes that lie on promoted pages now, and
/// the microseconds that it took, and those of rest for the graphs' sake.
///
/// What lies there now is left out when the registry stays locked for `patience` milliseconds.
pub fn report(j: &mut Json, patience: u32) {
    // The promoter holds the lock for moments; the program itself, when a signal handler of it calls exit.
    let locked = registry::try_lock().or_else(|| {
        (0..patience).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            registry::try_lock()
        })
    });
    let now = locked.map(|r| r.mappings.iter().map(|m| m.promoted() as u64).sum::<u64>());
    j.open(Some("weights"));
    j.number("mapped", counters().weights.mapped.load(Relaxed));
    j.number("wanted", counters().weights.wanted.load(Relaxed));
    j.number("cached", counters().weights.cached.load(Relaxed));
    j.open(Some("promoted"));
    j.number("thp", counters().weights.thp.load(Relaxed));
    j.number("2m", counters().weights.huge.load(Relaxed));
    j.number("1g", counters().weights.giant.load(Relaxed));
    j.close();
    j.number("demoted", counters().weights.demoted.load(Relaxed));
    if let Some(now) = now {
        j.number("now", now);
    }
    j.number("us", counters().weights.us.load(Relaxed));
    j.number("rested_us", counters().weights.rested_us.load(Relaxed));
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
