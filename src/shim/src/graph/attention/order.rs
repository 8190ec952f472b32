//! Cuts an attention into pieces for the threads.

use std::ops::Range;

/// Parts of the keys for each thread. They are small, so that no thread waits long for another one.
const PARTS_PER_THREAD: usize = 4;

/// The fewest keys of a part, so that adding up the parts costs little.
const FEWEST_KEYS: usize = 64;

/// The most bytes of sums with [`Order::Keys`]. A thread goes through them again and again, so they must fit in a part
/// of its L2.
const MOST_SUMS: usize = 256 << 10;

/// The keys and values of a part must be this many times as large as its sums, which are written and read once more.
const BYTES_OVER_SUMS: usize = 8;

/// Pieces for each thread with [`Order::Heads`], if there are enough queries.
const PIECES_PER_THREAD: usize = 2;
/// The fewest queries of such a piece.
const FEWEST_ROWS: usize = 16;

/// How an attention is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A piece is some queries of a head of keys, with all keys. There are `cuts` pieces for each head.
    Heads { cuts: usize },
    /// A piece is all queries of a batch, with a [`part`] of the keys that they see.
    Keys { parts: usize },
}

/// The size of an attention.
pub struct Work {
    /// Queries that share a head of keys: a group.
    pub rows: usize,
    /// Groups in all batches.
    pub groups: usize,
    pub batches: usize,
    pub keys: usize,
    /// Bytes of all keys and values.
    pub bytes: usize,
    /// Bytes of the sums of all queries.
    pub sums: usize,
    /// The most queries that can be computed together.
    pub most_rows: usize,
}

impl Work {
    /// Cuts of the queries of a head.
    fn cuts(&self, threads: usize) -> usize {
        let for_threads = (PIECES_PER_THREAD * threads).div_ceil(self.groups).min(self.rows / FEWEST_ROWS);
        self.rows.div_ceil(self.most_rows).max(for_threads)
    }
}

impl Order {
    /// The best cut for `threads` threads.
    pub fn choose(work: &Work, threads: usize) -> Self {
        let Work { rows, groups, batches, keys, .. } = *work;
        let few = rows <= work.most_rows && work.sums / batches <= MOST_SUMS;
        let wanted = if threads == 1 { 1 } else { (PARTS_PER_THREAD * threads).div_ceil(batches) };
        let parts = wanted.min(keys / FEWEST_KEYS).min(work.bytes / BYTES_OVER_SUMS / work.sums).max(1);
        // Few keys make few parts; there may be more heads than parts.
        if few && parts * batches >= threads.min(groups) {
            return Order::Keys { parts: keys.div_ceil(keys_of_part(keys, parts)) };
        }
        Order::Heads { cuts: work.cuts(threads) }
    }

    /// The best cut in which every query goes through its keys from the first to the last one. A head of few queries is cut
    /// into single ones where there are more threads than heads.
    pub fn all_keys(work: &Work, threads: usize) -> Self {
        Order::Heads { cuts: work.cuts(threads).max(threads.div_ceil(work.groups).min(work.rows)) }
    }
}

fn keys_of_part(keys: usize, parts: usize) -> usize {
    keys.div_ceil(parts).next_multiple_of(FEWEST_KEYS)
}

/// Part `i` of `parts` of these keys. The last parts may be empty.
pub fn part(keys: Range<usize>, i: usize, parts: usize) -> Range<usize> {
    let each = keys_of_part(keys.len(), parts);
    let bound = |i: usize| (keys.start + i * each).min(keys.end);
    bound(i)..bound(i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads of 64, halves; as many for queries as for keys.
    fn work(heads: usize, tokens: usize, keys: usize) -> Work {
        let sums = 4 * 80 * heads * tokens;
        Work { rows: tokens, groups: heads, batches: 1, keys, bytes: heads * keys * 256, sums, most_rows: 64 }
    }

    #[test]
    fn few_tokens_are_cut_by_keys_where_those_are_many() {
        assert_eq!(Order::choose(&work(32, 1, 4096), 1), Order::Keys { parts: 1 });
        assert_eq!(Order::choose(&work(32, 1, 4096), 2), Order::Keys { parts: 8 });
        assert_eq!(Order::choose(&work(32, 1, 256), 2), Order::Keys { parts: 4 });
        assert_eq!(Order::choose(&work(32, 1, 256), 16), Order::Heads { cuts: 1 }, "four parts for 16 threads");
        assert_eq!(Order::choose(&work(2, 1, 256), 16), Order::Keys { parts: 4 }, "two heads would be fewer");
    }

    #[test]
    fn sums_of_parts_are_little_beside_keys_and_values() {
        let work = work(8, 8, 8192);
        let Order::Keys { parts, .. } = Order::choose(&work, 128) else { panic!("few tokens") };
        assert!((2..128).contains(&parts) && parts * work.sums * BYTES_OVER_SUMS <= work.bytes, "{parts}");
    }

    #[test]
    fn many_tokens_are_cut_for_the_threads() {
        assert_eq!(Order::choose(&work(32, 512, 4096), 16), Order::Heads { cuts: 8 });
        assert_eq!(Order::choose(&work(1, 512, 4096), 16), Order::Heads { cuts: 32 });
        assert_eq!(Order::choose(&work(1, 128, 4096), 64), Order::Heads { cuts: 8 }, "16 queries at least");
    }

    #[test]
    fn few_tokens_are_cut_by_heads_and_queries_where_all_keys_are_one_part() {
        assert_eq!(Order::all_keys(&work(32, 1, 4096), 16), Order::Heads { cuts: 1 });
        assert_eq!(Order::all_keys(&Work { groups: 2, rows: 4, ..work(2, 1, 4096) }, 16), Order::Heads { cuts: 4 });
        assert_eq!(Order::all_keys(&work(32, 512, 4096), 16), Order::Heads { cuts: 8 });
    }

    #[test]
    fn parts_of_all_keys_are_never_empty() {
        for keys in 1..1500 {
            for threads in [1, 2, 3, 16, 96] {
                if let Order::Keys { parts } = Order::choose(&work(4, 1, keys), threads) {
                    assert!((0..parts).all(|i| !part(0..keys, i, parts).is_empty()), "{keys} {threads}: {parts}");
                }
            }
        }
    }

    #[test]
    fn parts_are_the_keys_that_are_seen_one_after_the_other() {
        for (keys, parts) in [(0..0, 4), (0..1, 4), (16..33, 1), (16..300, 4), (512..4096, 8), (0..4095, 7)] {
            let parts: Vec<_> = (0..parts).map(|i| part(keys.clone(), i, parts)).collect();
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (keys.start, keys.end));
            assert!(parts.windows(2).all(|w| w[0].end == w[1].start), "{parts:?}");
        }
    }
}
