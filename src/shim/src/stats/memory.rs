//! The member `memory` of the statistics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::json::Json;
use crate::buffers;

/// ```text
/// memory: { buffers: { thp: { count, bytes }, hugetlb_2m: { count, bytes }, freed } }
/// ```
/// Since the start; why something was not done is among the events.
pub fn report(j: &mut Json) {
    j.open(Some("memory"));
    j.open(Some("buffers"));
    let c = &buffers::COUNTERS;
    pair(j, "thp", &c.thp);
    pair(j, "hugetlb_2m", &c.hugetlb);
    j.number("freed", c.freed.load(Relaxed));
    j.close();
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
    c.thp.iter().chain(&c.hugetlb).chain([&c.freed])
}
