//! Gives the pieces of a product to the threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::graph::expert_pieces::Cursor;

/// The pieces, out of `count`, that worker `rank` of `workers` computes. The first is piece `rank`, so that it is known
/// in advance what each worker reads first. After that, a worker takes the next piece that no worker has taken. If there
/// are no more pieces than workers, nobody touches `next`.
#[inline]
pub fn claim_pieces(rank: usize, workers: usize, count: usize, next: &AtomicUsize) -> impl Iterator<Item = usize> {
    let most = if count > workers { usize::MAX } else { 0 };
    let more = std::iter::repeat_with(move || workers + next.fetch_add(1, Ordering::Relaxed)).take(most);
    std::iter::once(rank).chain(more).take_while(move |&i| i < count)
}

/// The same for the pieces of a cut whose number is not known in advance.
#[inline]
pub fn claim_cut(
    mut cursor: Cursor<'_>,
    rank: usize,
    workers: usize,
    next: &AtomicUsize,
) -> impl Iterator<Item = (usize, Range<usize>)> {
    let first = cursor.piece(rank);
    let more = first.is_some() && cursor.piece(workers).is_some();
    let rest = std::iter::from_fn(move || cursor.piece(workers + next.fetch_add(1, Ordering::Relaxed)));
    first.into_iter().chain(rest.take(if more { usize::MAX } else { 0 }))
}
