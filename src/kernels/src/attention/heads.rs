//! Few queries, which read keys and values once. A tile of keys of all heads is gone through head by head, and meanwhile the
//! next tile is prefetched: the heads of a key lie beside each other. Queries are quantised once.
//! With four query heads for each head of keys f16 gains from 7.5 to 14 GB/s over single tiles (`kernel-choices`).

use super::{Attention, Query, Scale, Shared};
use crate::formats::LINE;
use crate::isa::LANES;
use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use core::ops::Range;

/// Bytes of a tile: keys and values of all heads. Two tiles stay in the level-2 cache, the one that is computed and the one
/// that is prefetched. 49 tokens/s with it, 41 with 512 KiB (`kernel-choices`).
const TILE_BYTES: usize = 128 << 10;

/// Keys, or values, of several heads.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// The first one of the first head.
    pub start: *const u8,
    /// Bytes from key to key.
    pub stride: usize,
    /// Bytes from head to head.
    pub head: usize,
}

impl Rows {
    /// Of one head, as [`Shared`] has them.
    const fn of(&self, head: usize) -> (*const u8, usize) {
        (self.start.wrapping_add(head * self.head), self.stride)
    }
}

/// Heads of keys and values.
#[derive(Clone, Copy, Debug)]
pub struct KeyHeads {
    /// How many.
    pub count: usize,
    /// Their keys.
    pub keys: Rows,
    /// Their values.
    pub values: Rows,
    /// How products become scores.
    pub scale: Scale,
}

/// Rows of the next tile of keys that are not prefetched yet.
#[derive(Clone, Copy, Debug)]
struct Lines {
    next: *const u8,
    stride: usize,
    bytes: usize,
    rows: usize,
}

impl Lines {
    const NOTHING: Self = Lines { next: core::ptr::null(), stride: 0, bytes: 0, rows: 0 };

    /// The share of `head` in the keys of a tile, rows of `bytes` bytes. Where the heads fill the space between two keys, the
    /// share is a part of the tile in the order of memory.
    fn new(rows: &Rows, bytes: usize, keys: &Range<usize>, head: usize, heads: usize) -> Self {
        let start = rows.start.wrapping_add(keys.start * rows.stride);
        let whole = rows.head == bytes && rows.stride == heads * bytes;
        let (apart, stride) = if whole { (keys.len() * bytes, bytes) } else { (rows.head, rows.stride) };
        Lines { next: start.wrapping_add(head * apart), stride, bytes, rows: keys.len() }
    }

    /// Prefetches `rows` rows into the level-2 cache. Addresses need not be valid.
    #[inline(always)]
    fn fetch(&mut self, rows: usize) {
        let rows = rows.min(self.rows);
        for _ in 0..rows {
            for line in (0..self.bytes).step_by(LINE) {
                fetch_line(self.next.wrapping_add(line));
            }
            self.next = self.next.wrapping_add(self.stride);
        }
        self.rows -= rows;
    }
}

/// Prefetches a line into the level-2 cache. The address need not be valid.
#[inline(always)]
pub(super) fn fetch_line(line: *const u8) {
    // SAFETY: a prefetch reads nothing; its instruction is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
}

/// The prefetch that goes with a tile of one head.
pub(super) struct TilePrefetch {
    keys: Lines,
    values: Lines,
}

impl TilePrefetch {
    pub const fn nothing() -> Self {
        TilePrefetch { keys: Lines::NOTHING, values: Lines::NOTHING }
    }

    pub fn is_done(&self) -> bool {
        self.keys.rows == 0
    }

    /// Prefetches `rows` keys.
    #[inline(always)]
    pub fn keys(&mut self, rows: usize) {
        self.keys.fetch(rows);
    }

    /// The next `rows` values: the first one, the bytes from one to the next, and their number. The caller prefetches them
    /// while it reads the values of this tile.
    pub fn take_values(&mut self, rows: usize) -> (*const u8, usize, usize) {
        let Lines { next, stride, rows: left, .. } = self.values;
        self.values.next = next.wrapping_add(rows.min(left) * stride);
        self.values.rows -= rows.min(left);
        (next, stride, rows.min(left))
    }

    fn rest(&mut self) {
        self.keys.fetch(usize::MAX);
        self.values.fetch(usize::MAX);
    }
}

impl Attention {
    /// Bytes of scratch that [`Self::add_heads`] needs for each thread.
    pub const fn heads_scratch_bytes(&self, heads: usize, n: usize) -> usize {
        self.layout.bytes + heads * (self.act_bytes(n) + n * size_of::<Query>())
    }

    /// Of the queries of a head, quantised.
    const fn act_bytes(&self, n: usize) -> usize {
        self.act.bytes(self.key_len, n).next_multiple_of(64)
    }

    /// [`Self::add`] for all heads: `n` queries of each, `query(head, i)`, whose sums lie one head behind the other.
    ///
    /// # Safety
    /// As for [`Self::add`]; `scratch` is writable for [`Self::heads_scratch_bytes`].
    pub unsafe fn add_heads(
        &self,
        all: &KeyHeads,
        keys: Range<usize>,
        n: usize,
        query: impl Fn(usize, usize) -> Query,
        sums: *mut f32,
        scratch: *mut u8,
    ) {
        let act = scratch.add(self.layout.bytes);
        let queries: *mut Query = act.add(all.count * self.act_bytes(n)).cast();
        let of = |head: usize| core::slice::from_raw_parts(queries.add(head * n), n);
        for head in 0..all.count {
            for q in 0..n {
                queries.add(head * n + q).write(query(head, q));
            }
            self.quantize(of(head), act.add(head * self.act_bytes(n)));
        }
        let bytes = [self.kernel.weight.row_bytes(self.key_len), self.value_type.row_bytes(self.value_len)];
        let step = TILE_BYTES / (all.count * (bytes[0] + bytes[1])) / LANES * LANES;
        let step = step.clamp(LANES, self.keys_of_tile(n));
        let tile = |from: usize| from..(from + step).min(keys.end);
        let prefetch_of = |keys: &Range<usize>, head: usize| TilePrefetch {
            keys: Lines::new(&all.keys, bytes[0], keys, head, all.count),
            values: Lines::new(&all.values, bytes[1], keys, head, all.count),
        };
        for head in 0..all.count {
            prefetch_of(&tile(keys.start), head).rest();
        }
        for from in keys.clone().step_by(step) {
            let now = tile(from);
            let next = tile(now.end);
            for head in 0..all.count {
                let mut prefetch = prefetch_of(&next, head);
                let shared = Shared { keys: all.keys.of(head), values: all.values.of(head), scale: all.scale };
                let (act, sums) = (act.add(head * self.act_bytes(n)), sums.add(head * n * self.sums_len()));
                self.add_tile(&shared, now.clone(), of(head), act, sums, scratch, &mut prefetch);
                prefetch.rest();
            }
        }
    }
}
