//! The shape of a MUL_MAT: which columns meet which weights, and how the work is cut.

use zen5turbo_kernels::kernel::{Product, Tiles};

use super::policy::Take;
use crate::ggml::abi::Tensor;

/// Pieces per thread, so that a thread that is held up leaves little for the others to wait for.
pub const PIECES_PER_THREAD: usize = 8;

/// Fewest columns of a piece when the columns are cut as well: packing must pay.
const FEWEST_COLUMNS: usize = 64;

/// Addresses of the weights and of source and result columns. A *slice* is one weight matrix
/// (`i02`, `i03`) with the columns that use it.
pub struct Columns {
    src0: *const u8,
    nb0: [usize; 4],
    ne02: usize,
    pub slices: usize,
    src1: *const u8,
    nb1: [usize; 4],
    dst: *mut u8,
    nbd: [usize; 4],
    ne11: usize,
    r2: usize,
    /// Columns of a slice.
    pub per_slice: usize,
    pub tiles: Tiles,
}

impl Columns {
    /// The columns of a MUL_MAT.
    pub fn new(op: &Tensor, src0: &Tensor, src1: &Tensor, take: &Take) -> Self {
        let n = |x: i64| x as usize;
        let (r2, r3) = (n(src1.ne[2] / src0.ne[2]), n(src1.ne[3] / src0.ne[3]));
        let per_slice = n(src1.ne[1]) * r2 * r3;
        Columns {
            src0: src0.data.cast(),
            nb0: src0.nb,
            ne02: n(src0.ne[2]),
            slices: n(src0.ne[2] * src0.ne[3]),
            src1: src1.data.cast(),
            nb1: src1.nb,
            dst: op.data.cast(),
            nbd: op.nb,
            ne11: n(src1.ne[1]),
            r2,
            per_slice,
            tiles: take.kernel.tiles(per_slice),
        }
    }

    #[inline]
    fn position(&self, slice: usize, c: usize) -> [usize; 3] {
        if self.slices == 1 && self.per_slice == self.ne11 {
            return [c, 0, 0]; // the usual case, without divisions
        }
        let (i02, i03) = (slice % self.ne02, slice / self.ne02);
        let (i11, rest) = (c % self.ne11, c / self.ne11);
        let r3_index = rest / self.r2;
        [i11, i02 * self.r2 + rest % self.r2, i03 * (self.per_slice / self.ne11 / self.r2) + r3_index]
    }

    /// First of the `k` activations of a column.
    #[inline]
    pub fn source(&self, slice: usize, c: usize) -> *const f32 {
        let [i1, i2, i3] = self.position(slice, c);
        self.src1.wrapping_add(i1 * self.nb1[1] + i2 * self.nb1[2] + i3 * self.nb1[3]).cast()
    }

    /// First of the results of a column.
    #[inline]
    pub fn result(&self, slice: usize, c: usize) -> *mut f32 {
        let [i1, i2, i3] = self.position(slice, c);
        self.dst.wrapping_add(i1 * self.nbd[1] + i2 * self.nbd[2] + i3 * self.nbd[3]).cast()
    }

    /// The product of a slice with its quantised columns at `act`.
    pub fn product(&self, slice: usize, take: &Take, act: *const u8) -> Product {
        let (i02, i03) = (slice % self.ne02, slice / self.ne02);
        Product {
            weights: self.src0.wrapping_add(i02 * self.nb0[2] + i03 * self.nb0[3]),
            stride: self.nb0[1],
            rows: take.rows,
            k: take.k,
            act,
            tiles: self.tiles,
        }
    }
}

/// How a product is cut into pieces that threads take one by one: slices x row groups x column groups.
#[derive(Clone, Copy)]
pub struct Pieces {
    panels: usize,
    pub panels_per_piece: usize,
    row_groups: usize,
    tile_groups: usize,
    tiles: usize,
    pub count: usize,
}

impl Pieces {
    /// Cuts `slices` products of `rows` rows for `threads` threads.
    pub fn new(rows: usize, tiles: Tiles, slices: usize, threads: usize) -> Self {
        let panels = rows.div_ceil(zen5turbo_kernels::isa::LANES);
        let wanted = threads * PIECES_PER_THREAD;
        let tile_groups = if threads == 1 || panels * slices >= wanted {
            1
        } else {
            (tiles.columns / FEWEST_COLUMNS).clamp(1, wanted.div_ceil(panels * slices)).min(tiles.count)
        };
        let panels_per_piece = (panels * slices * tile_groups / wanted).clamp(1, panels);
        let row_groups = panels.div_ceil(panels_per_piece);
        let count = row_groups * tile_groups * slices;
        Pieces { panels, panels_per_piece, row_groups, tile_groups, tiles: tiles.count, count }
    }

    /// Slice, panels and tiles of piece `i`.
    pub fn get(&self, i: usize) -> (usize, std::ops::Range<usize>, std::ops::Range<usize>) {
        let (row, rest) = (i % self.row_groups, i / self.row_groups);
        let (col, slice) = (rest % self.tile_groups, rest / self.tile_groups);
        let panels = row * self.panels_per_piece..((row + 1) * self.panels_per_piece).min(self.panels);
        let tiles = col * self.tiles / self.tile_groups..(col + 1) * self.tiles / self.tile_groups;
        (slice, panels, tiles)
    }
}
