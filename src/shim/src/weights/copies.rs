//! Chooses the weights that are copied.
//!
//! A copy is memory of this library that only its kernels read; the program's own weights stay. It costs memory and the
//! time to make it. So copies are made in three cases only: with several NUMA nodes, when the user asks for a kind of
//! pages, or when `zen5turbo tune` measured that copies pay. Nothing that the program does to its own weights affects a
//! copy, except unmapping them ([`sources::gone`]).

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use zen5turbo_host::memory::map::HUGE_PAGE;

use super::sources::{self, Origin, Page, Pin};
use super::{copier, counters};
use crate::config::config;
use crate::pages::HugePages;
use crate::{placement, tuning};

/// Set while there are wanted pages of which the copier does not know yet.
static WANTED: AtomicBool = AtomicBool::new(false);

/// The number of the next wanted page: pages are numbered in the order in which graphs first use them.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether weights are copied: the user asks for a kind of pages, several NUMA nodes are used, or `zen5turbo tune`
/// measured that copies on huge pages pay.
pub fn are_made() -> bool {
    match config().huge_pages {
        HugePages::Off => false,
        HugePages::Thp | HugePages::Two | HugePages::One => true,
        HugePages::Auto => placement::is_active() || tuning::copies_pay(),
    }
}

/// Marks weights that the products of a graph read as wanted, in the order of the products. Called when a graph is
/// planned, with that graph's pin; cheap when the weights are marked already. `buffer_at` returns the large buffer of
/// this library that contains an address.
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
                // With more pages than this (1 EiB) the numbers repeat, which only changes the order of copying.
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

/// Makes a large buffer of this library that holds `weights` a source, so that the next graph can mark its pages. They
/// are not copied: their pages move to their NUMA node and keep their addresses.
fn want_buffer(weights: &Range<usize>, buffer_at: impl Fn(usize) -> Option<Range<usize>>) {
    if !placement::moves_buffers() || weights.is_empty() {
        return;
    }
    if let Some(range) = buffer_at(weights.start).filter(|buffer| weights.end <= buffer.end) {
        sources::register(range, Origin::Buffer);
    }
}

/// A graph has ended: the copier may copy the wanted pages now. It does not begin earlier, so that it does not delay
/// the first token.
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
