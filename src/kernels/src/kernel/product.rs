//! A product as it is handed to a kernel, and how it is cut.

use crate::fetch::{Cache, Fetch};
use crate::width::DataPath;

/// Columns cut into tiles of nearly equal width, none wider than the kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Number of columns.
    pub columns: usize,
    /// Number of tiles.
    pub count: usize,
    /// Columns of a tile; the first `wider` tiles have one more.
    width: usize,
    wider: usize,
}

impl Tiles {
    /// Tiles for `columns` columns (at least one), at most `widest` wide.
    pub fn new(columns: usize, widest: usize) -> Self {
        let count = columns.div_ceil(widest).max(1);
        Tiles { columns, count, width: columns / count, wider: columns % count }
    }

    /// First column of tile `t`; `t == count` gives the number of columns.
    #[inline]
    pub fn start(self, t: usize) -> usize {
        t * self.width + t.min(self.wider)
    }
}

/// One weight matrix times quantised columns.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// First byte of the first row.
    pub weights: *const u8,
    /// Bytes from row to row.
    pub stride: usize,
    /// Rows of the matrix: floats of a result column.
    pub rows: usize,
    /// Elements of a row, a multiple of the block size.
    pub k: usize,
    /// The columns, quantised by [`super::Kernel::quantize_tile`], tile after tile.
    pub act: *const u8,
    /// How the columns are cut.
    pub tiles: Tiles,
}

/// How a product is cut to fit the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Bytes that a packed panel may take when several tiles use it: it should stay in the level-1
    /// cache beside a tile. For a single tile the panel is as small as can be.
    pub panel_bytes: usize,
    /// Bytes of weights to prefetch ahead of packing, over the sixteen rows together, at most; 0: none.
    pub prefetch_bytes: usize,
    /// What kernels without panels fetch ahead of quantised rows.
    pub rows: Fetch,
    /// The same of rows of floats.
    pub floats: Fetch,
    /// Where fused kernels fetch to.
    pub fused: Cache,
}

impl Blocking {
    /// What was measured to be good; rows are left to the hardware's prefetcher.
    pub const MEASURED: Self = Blocking {
        panel_bytes: 20 << 10,
        prefetch_bytes: 128 << 10,
        rows: Fetch::NONE,
        floats: Fetch::NONE,
        fused: Cache::Level2,
    };

    /// What was measured to be good on CPUs that compute 512-bit operations so.
    pub const fn of(path: DataPath) -> Self {
        let (rows, floats) = (Fetch::rows(path), Fetch::floats(path));
        Blocking { rows, floats, fused: Cache::of(path), ..Self::MEASURED }
    }

    /// The most of either that is of any use: what level-2 caches hold.
    pub const MOST: usize = 1 << 20;
}

impl Default for Blocking {
    fn default() -> Self {
        Self::MEASURED
    }
}
