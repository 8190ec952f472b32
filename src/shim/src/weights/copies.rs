//! Copies of weights, beside the program's own: which weights get one, and where it lies.
//!
//! A copy is memory of ours that only our kernels read. It costs memory and the time to make it, so there is one only where it
//! pays: with several NUMA nodes, on pages that the user asks for, or where `zen5turbo tune` measured that it does. Nothing
//! that the program does to its own memory concerns a copy, but for taking it away ([`sources::gone`]).

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use zen5turbo_host::memory::map::HUGE_PAGE;

use super::sources::{self, Origin, Page, Pin};
use super::{copier, counters};
use crate::config::config;
use crate::pages::HugePages;
use crate::{placement, tuning};

/// Pages are wanted that the copier does not know of yet.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Numbers pages in the order in which graphs use them first.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether weights get copies: on pages that the user asks for, placed on several NUMA nodes, or where `zen5turbo tune` measured that
/// huge pages are worth it.
pub fn are_made() -> bool {
    match config().huge_pages {
        HugePages::Off => false,
        HugePages::Thp | HugePages::Two | HugePages::One => true,
        HugePages::Auto => placement::is_active() || tuning::copies_pay(),
    }
}

/// Notes the weights that products of ours read, in their order. To be called by whoever plans a graph, with that graph's pin. Cheap when
/// they are known already. `buffer_at` tells the large buffer of ours that an address lies in.
pub fn want(pin: &Pin, weights: impl Iterator<Item = Range<usize>>, buffer_at: impl Fn(usize) -> Option<Range<usize>>) {
    if copier::is_paused() {
        return;
    }
    let mut new = 0;
    for range in weights {
        let Some(source) = pin.find(&range) else {
            want_buffer(&range, &buffer_at);
            continue;
        };
        if source.is_too_large() {
            continue; // a copy would leave even less room
        }
        let fixed = source.fixed(pin);
        for i in fixed.indices(&range) {
            if fixed.page(i) == Page::Unused {
                // Beyond that many pages, 1 EiB, their order is of no matter.
                let number = NEXT.fetch_add(1, Relaxed) & (u32::MAX >> 3);
                new += if fixed.change(i, Page::Unused, Page::Wanted(number)) { HUGE_PAGE } else { 0 };
            }
        }
    }
    if new > 0 {
        counters::wanted(new);
        WANTED.store(true, Relaxed);
    }
}

/// Weights that lie in a large buffer of ours are moved to their nodes where they are: makes the buffer a source, of which the next graph
/// will want pages.
fn want_buffer(weights: &Range<usize>, buffer_at: impl Fn(usize) -> Option<Range<usize>>) {
    if !placement::moves_buffers() || weights.is_empty() {
        return;
    }
    if let Some(range) = buffer_at(weights.start).filter(|buffer| weights.end <= buffer.end) {
        sources::register(range, Origin::Buffer);
    }
}

/// A graph has ended: what was wanted can be copied now. Not earlier, so that the first token does not wait for it.
#[inline]
pub fn graph_ended() {
    if !sources::any() {
        return;
    }
    sources::sweep();
    if WANTED.load(Relaxed) && WANTED.swap(false, Relaxed) {
        copier::start();
    }
}
