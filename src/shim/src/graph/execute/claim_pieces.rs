//! Who computes which piece of a product.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The pieces that worker `rank` of `workers` computes, of `count`: begins with the piece of the same number, so
/// that it is known beforehand what it reads first, then takes what nobody has taken yet.
#[inline]
pub fn claim_pieces(rank: usize, workers: usize, count: usize, next: &AtomicUsize) -> impl Iterator<Item = usize> {
    let more = std::iter::repeat_with(move || workers + next.fetch_add(1, Ordering::Relaxed));
    std::iter::once(rank).chain(more).take_while(move |&i| i < count)
}
