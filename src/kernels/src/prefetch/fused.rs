//! Prefetch of the rows that a fused product reads next.

use super::Cache;

/// A fused product reads sixteen rows in parallel, which no hardware prefetcher follows. So meanwhile it prefetches the
/// bytes of sixteen rows in the order of memory.
#[derive(Clone, Copy, Debug)]
pub struct FusedPrefetch {
    /// The first byte.
    pub at: *const u8,
    /// Whether the address moves on. If not, the lines at `at` are prefetched again and again.
    pub moves: bool,
    /// The cache.
    pub into: Cache,
}
