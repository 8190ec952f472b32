//! A product as it is handed to a kernel, and how it is cut.

use crate::isa::DataPath;
use crate::prefetch::{Cache, GemvPrefetch};

/// How a product is computed. [`super::Kernel::tiles`] chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Rows are multiplied where they lie, by a few columns at a time; see [`crate::gemv`].
    Gemv,
    /// Sixteen rows are unpacked in registers, and a tile of columns multiplies each line at once; see
    /// [`crate::micro::fused`].
    Fused,
    /// Sixteen rows are packed to a panel that stays in the level-1 cache, and all tiles of columns use it.
    Panels,
}

/// Columns cut into tiles of nearly equal width, none wider than the kernel takes.
///
/// Equal are tiles of the same columns, whatever the method: products can share the activations.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    /// Number of columns.
    pub columns: usize,
    /// Number of tiles.
    pub count: usize,
    /// How the tiles are multiplied. With [`Method::Gemv`] every column is a tile.
    pub method: Method,
    /// Columns of a tile; the first `wider` tiles have one more.
    width: usize,
    wider: usize,
}

impl PartialEq for Tiles {
    fn eq(&self, other: &Self) -> bool {
        (self.columns, self.count) == (other.columns, other.count)
    }
}

impl Eq for Tiles {}

impl Tiles {
    /// `columns` columns (at least one) in tiles of at most `widest` columns, for [`Method::Panels`].
    pub fn new(columns: usize, widest: usize) -> Self {
        let count = columns.div_ceil(widest).max(1);
        Tiles { columns, count, method: Method::Panels, width: columns / count, wider: columns % count }
    }

    /// The same tiles, multiplied by `method`.
    pub(super) fn by(self, method: Method) -> Self {
        Tiles { method, ..self }
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
    /// How the columns are computed and cut.
    pub tiles: Tiles,
}

/// How a product is cut to fit the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Bytes that a packed panel may take when several tiles use it: it should stay in the level-1
    /// cache beside a tile. For a single tile the panel is as small as can be. See [`Self::in_one_piece`].
    pub panel_bytes: usize,
    /// Bytes of weights that are prefetched before they are packed, of sixteen rows together, at most; 0: none.
    pub prefetch_bytes: usize,
    /// Prefetch of quantised rows by [`Method::Gemv`].
    pub rows: GemvPrefetch,
    /// Prefetch of rows of floats by [`Method::Gemv`].
    pub floats: GemvPrefetch,
    /// The cache that [`Method::Fused`] prefetches into.
    pub fused: Cache,
}

/// Rows are packed whole, for a single tile as well, so that each sum is one chain of additions.
const WHOLE_ROWS: usize = usize::MAX;

impl Blocking {
    /// The same, but rows are not cut: what the kernels of [`crate::registry::in_one_order`] need.
    #[must_use]
    pub const fn in_one_piece(self) -> Self {
        Blocking { panel_bytes: WHOLE_ROWS, ..self }
    }

    /// Bytes that a packed panel may take, if all tiles are one that has a panel of `single` bytes.
    pub(super) const fn panel_bytes_of_one_tile(&self, single: usize) -> usize {
        if self.panel_bytes == WHOLE_ROWS || self.panel_bytes < single { self.panel_bytes } else { single }
    }

    /// The built-in choice. Rows of [`Method::Gemv`] are left to the hardware's prefetcher.
    pub const MEASURED: Self = Blocking {
        panel_bytes: 20 << 10,
        prefetch_bytes: 128 << 10,
        rows: GemvPrefetch::NONE,
        floats: GemvPrefetch::NONE,
        fused: Cache::Level2,
    };

    /// The built-in choice for CPUs with this data path.
    pub const fn of(path: DataPath) -> Self {
        let (rows, floats) = (GemvPrefetch::rows(path), GemvPrefetch::floats(path));
        Blocking { rows, floats, fused: Cache::of(path), ..Self::MEASURED }
    }

    /// The largest useful `panel_bytes` and `prefetch_bytes`: the size of a level-2 cache.
    pub const MOST: usize = 1 << 20;
}

impl Default for Blocking {
    fn default() -> Self {
        Self::MEASURED
    }
}
