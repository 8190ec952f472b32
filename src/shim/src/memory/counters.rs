//! What was promoted, for the statistics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use zen5turbo_host::memory::Pages;

use super::registry;
use crate::stats::Json;

static MAPPED: AtomicU64 = AtomicU64::new(0);
static WANTED: AtomicU64 = AtomicU64::new(0);
static TRANSPARENT: AtomicU64 = AtomicU64::new(0);
static HUGE: AtomicU64 = AtomicU64::new(0);
static GIANT: AtomicU64 = AtomicU64::new(0);
static DEMOTED: AtomicU64 = AtomicU64::new(0);
static MICROSECONDS: AtomicU64 = AtomicU64::new(0);
static RESTED: AtomicU64 = AtomicU64::new(0);
static READ: AtomicU64 = AtomicU64::new(0);
static READS: AtomicU64 = AtomicU64::new(0);
static READING: AtomicU64 = AtomicU64::new(0);
static RELEASED: AtomicU64 = AtomicU64::new(0);

/// A model file of `bytes` was mapped where huge pages can lie.
pub fn mapped(bytes: usize) {
    MAPPED.fetch_add(bytes as u64, Relaxed);
}

/// Products read `bytes` more of mapped pages.
pub fn wanted(bytes: usize) {
    WANTED.fetch_add(bytes as u64, Relaxed);
}

/// Pages were replaced, in so many microseconds of work and of rest.
pub fn promoted(pages: Pages, bytes: usize, worked: u64, rested: u64) {
    let counter = match pages {
        Pages::Transparent => &TRANSPARENT,
        Pages::Huge => &HUGE,
        Pages::Giant => &GIANT,
    };
    counter.fetch_add(bytes as u64, Relaxed);
    MICROSECONDS.fetch_add(worked, Relaxed);
    RESTED.fetch_add(rested, Relaxed);
}

/// Pages are the file's again.
pub fn demoted(bytes: usize) {
    DEMOTED.fetch_add(bytes as u64, Relaxed);
}

/// So many bytes of model files were read ahead with one call, which took so long.
pub fn read_ahead(bytes: usize, microseconds: u64) {
    READ.fetch_add(bytes as u64, Relaxed);
    READS.fetch_add(1, Relaxed);
    READING.fetch_add(microseconds, Relaxed);
}

/// So many bytes behind the products were taken out of memory.
pub fn released(bytes: usize) {
    RELEASED.fetch_add(bytes as u64, Relaxed);
}

/// Bytes promoted and given back since the start.
#[cfg(test)]
pub fn totals() -> [u64; 2] {
    [[&TRANSPARENT, &HUGE, &GIANT].iter().map(|n| n.load(Relaxed)).sum(), DEMOTED.load(Relaxed)]
}

/// A forked child starts from zero, with loads and stores only.
pub fn forget() {
    for n in [&MAPPED, &WANTED, &TRANSPARENT, &HUGE, &GIANT, &DEMOTED, &MICROSECONDS, &RESTED] {
        n.store(0, Relaxed);
    }
    for n in [&READ, &READS, &READING, &RELEASED] {
        n.store(0, Relaxed);
    }
}

/// The member `weights`: bytes of model files mapped, bytes in pages that products read, bytes moved
/// to each kind of page since the start and moved back, bytes that lie on promoted pages now, and
/// the microseconds that it took, and those of rest for the graphs' sake.
pub fn report(j: &mut Json) {
    // The promoter holds the lock for moments; the program itself, when a signal handler of it calls exit.
    let locked = (0..100).find_map(|_| {
        registry::try_lock().or_else(|| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            None
        })
    });
    let now = locked.map(|r| r.mappings.iter().map(|m| m.promoted() as u64).sum::<u64>());
    j.open(Some("weights"));
    j.number("mapped", MAPPED.load(Relaxed));
    j.number("wanted", WANTED.load(Relaxed));
    j.open(Some("promoted"));
    j.number("thp", TRANSPARENT.load(Relaxed));
    j.number("2m", HUGE.load(Relaxed));
    j.number("1g", GIANT.load(Relaxed));
    j.close();
    j.number("demoted", DEMOTED.load(Relaxed));
    if let Some(now) = now {
        j.number("now", now);
    }
    j.number("us", MICROSECONDS.load(Relaxed));
    j.number("rested_us", RESTED.load(Relaxed));
    j.close();
}

/// The member `prefetch`: bytes that were read ahead (resident ones count as well), the calls, the
/// time they took in microseconds, and bytes that were taken out of memory behind the products.
pub fn report_prefetch(j: &mut Json) {
    j.open(Some("prefetch"));
    j.number("bytes", READ.load(Relaxed));
    j.number("calls", READS.load(Relaxed));
    j.number("us", READING.load(Relaxed));
    j.number("released", RELEASED.load(Relaxed));
    j.close();
}
