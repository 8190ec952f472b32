//! Gives the pieces of a product to the threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The pieces, out of `count`, that worker `rank` of `workers` computes. The first is piece `rank`, so that it is known
/// in advance what each worker reads first. After that, a worker takes the next piece that no worker has taken.
#[inline]
pub fn claim_pieces(rank: usize, workers: usize, count: usize, next: &AtomicUsize) -> impl Iterator<Item = usize> {
    let more = std::iter::repeat_with(move || workers + next.fetch_add(1, Ordering::Relaxed));
    std::iter::once(rank).chain(more).take_while(move |&i| i < count)
}
