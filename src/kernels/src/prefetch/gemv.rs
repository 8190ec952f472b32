//! Prefetch of the rows that a product without panels reads next.

use super::Cache;
use crate::isa::DataPath;

/// How far ahead a product without panels prefetches its rows, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemvPrefetch {
    /// The cache; `None`: no prefetch, the hardware's prefetcher does it.
    pub into: Option<Cache>,
    /// Bytes from the bytes that are read to those that are prefetched. For floats the limit, see `next_rows`.
    pub ahead: u32,
}

impl GemvPrefetch {
    /// No prefetch.
    pub const NONE: Self = GemvPrefetch { into: None, ahead: 0 };

    /// For quantised rows, one after the other. On Zen 5 (full) q8_0 gains from 33.7 to 40.6 GB/s. On Zen 4 (split) all
    /// types lose (`kernel-choices`).
    pub const fn rows(path: DataPath) -> Self {
        match path {
            DataPath::Full => GemvPrefetch { into: Some(Cache::Level1), ahead: 6 << 10 },
            DataPath::Split => Self::NONE,
        }
    }

    /// For floats, several rows at a time. On Zen 5 f16 gains from 26.5 to 32.9 GB/s, on Zen 4, into level 2, from 17.0 to
    /// 21.7 (`kernel-choices`).
    pub const fn floats(path: DataPath) -> Self {
        match path {
            DataPath::Full => GemvPrefetch { into: Some(Cache::Level1), ahead: 32 << 10 },
            DataPath::Split => GemvPrefetch { into: Some(Cache::Level2), ahead: 256 << 10 },
        }
    }

    /// The same for rows that are read together and take `bytes` bytes in all: prefetches the next such rows if they are
    /// within `ahead`, else a quarter of `ahead` further in each row.
    #[inline(always)]
    pub(crate) fn next_rows(self, bytes: usize) -> Self {
        GemvPrefetch { ahead: if bytes <= self.ahead as usize { bytes as u32 } else { self.ahead / 4 }, ..self }
    }

    /// Prefetches the `bytes` bytes that lie `ahead` of `p`. Tests [`Self::into`] for each row: one test for all rows of a
    /// turn is slower with four columns (`kernel-choices`).
    #[inline(always)]
    pub(crate) fn lines(self, p: *const u8, bytes: usize) {
        if let Some(cache) = self.into {
            cache.fetch(p.wrapping_add(self.ahead as usize), bytes);
        }
    }

    /// The same into the level-1 cache, without a test: kernels of quantised rows that prefetch are functions of their own,
    /// and are called only where [`Self::into`] is set.
    #[inline(always)]
    pub(crate) fn lines_to_l1(self, p: *const u8, bytes: usize) {
        Cache::Level1.fetch(p.wrapping_add(self.ahead as usize), bytes);
    }
}
