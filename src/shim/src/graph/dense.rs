//! The shape of a MUL_MAT: which columns are multiplied by which weights, and how the work is cut into pieces.

use std::ops::Range;

use zen5turbo_kernels::isa::LANES;
use zen5turbo_kernels::kernel::{Product, Tiles};

use super::claims;
use super::policy::Selection;
use crate::ggml::abi::Tensor;

/// Pieces for each thread. They are small, so that the others do not wait long for a thread that is held up.
pub const PIECES_PER_THREAD: usize = 8;

/// A share that is larger by one part in so many is as good as the smallest one.
const ALIKE: usize = 20;

/// The fewest columns of a piece if the columns are cut too. Each piece packs the weights again, which must pay.
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
    /// The addresses of a MUL_MAT.
    pub fn new(op: &Tensor, src0: &Tensor, src1: &Tensor, selection: &Selection) -> Self {
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
            tiles: selection.kernel.tiles(selection.k, per_slice),
        }
    }

    /// The cut of these panels for `threads` threads.
    pub fn pieces(&self, panels: Range<usize>, threads: usize) -> Pieces {
        Pieces::new(panels, LANES * self.nb0[1], self.tiles, self.slices, threads)
    }

    /// Lets the product read the copy of its weights, which lies `distance` bytes from the program's own.
    pub fn read_copy(&mut self, distance: usize) {
        self.src0 = self.src0.wrapping_add(distance);
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

    /// The address of the first of the `k` activations of a column.
    #[inline]
    pub fn source(&self, slice: usize, c: usize) -> *const f32 {
        let [i1, i2, i3] = self.position(slice, c);
        self.src1.wrapping_add(i1 * self.nb1[1] + i2 * self.nb1[2] + i3 * self.nb1[3]).cast()
    }

    /// The address of the first result of a column.
    #[inline]
    pub fn result(&self, slice: usize, c: usize) -> *mut f32 {
        let [i1, i2, i3] = self.position(slice, c);
        self.dst.wrapping_add(i1 * self.nbd[1] + i2 * self.nbd[2] + i3 * self.nbd[3]).cast()
    }

    /// The product of a slice. `act` is the address of its quantised columns.
    pub fn product(&self, slice: usize, selection: &Selection, act: *const u8) -> Product {
        let (i02, i03) = (slice % self.ne02, slice / self.ne02);
        Product {
            weights: self.src0.wrapping_add(i02 * self.nb0[2] + i03 * self.nb0[3]),
            stride: self.nb0[1],
            rows: selection.rows,
            k: selection.k,
            act,
            tiles: self.tiles,
        }
    }
}

/// How a product is cut into pieces, which threads take one by one: slices x row groups x column groups.
#[derive(Clone, Copy)]
pub struct Pieces {
    /// The panels that are cut: all panels of the weights, or the panels of one NUMA node.
    first: usize,
    panels: usize,
    row_groups: usize,
    tile_groups: usize,
    tiles: usize,
    pub count: usize,
}

impl Pieces {
    /// Cuts these panels, each of `panel_bytes`, of `slices` products for `threads` threads.
    pub fn new(panels: Range<usize>, panel_bytes: usize, tiles: Tiles, slices: usize, threads: usize) -> Self {
        let work = claims::work(panels.len() * slices * panel_bytes, tiles.columns);
        let most = claims::pieces_per_thread(work, threads).min(PIECES_PER_THREAD);
        // Columns are cut as well where there are many, so that a piece can be as small as it needs to be.
        let each = if tiles.columns < 2 * FEWEST_COLUMNS { even(panels.len() * slices, threads, most) } else { most };
        Self::cut(panels, tiles, slices, threads, each)
    }

    /// Cuts these panels of `slices` products into `each` pieces for each of `threads` threads, as far as there are so
    /// many panels. If there are fewer than twice as many, every panel is a piece.
    pub fn cut(panels: Range<usize>, tiles: Tiles, slices: usize, threads: usize, each: usize) -> Self {
        let Range { start: first, end } = panels;
        let panels = end - first;
        if panels == 0 {
            return Pieces { first, panels, row_groups: 0, tile_groups: 1, tiles: tiles.count, count: 0 };
        }
        let wanted = threads * each;
        let tile_groups = if threads == 1 || panels * slices >= wanted {
            1
        } else {
            (tiles.columns / FEWEST_COLUMNS).clamp(1, wanted.div_ceil(panels * slices)).min(tiles.count)
        };
        // As many pieces as wanted, so that each thread gets as many as the others. Where that would be pieces of one panel
        // and of two, all are of one.
        let row_groups = match panels * slices * tile_groups / wanted {
            1 if each > 1 => panels,
            _ => (wanted / (slices * tile_groups)).clamp(1, panels),
        };
        let count = row_groups * tile_groups * slices;
        Pieces { first, panels, row_groups, tile_groups, tiles: tiles.count, count }
    }

    /// Slice, panels and tiles of piece `i`.
    pub fn get(&self, i: usize) -> (usize, Range<usize>, Range<usize>) {
        let (row, rest) = (i % self.row_groups, i / self.row_groups);
        let (col, slice) = (rest % self.tile_groups, rest / self.tile_groups);
        let panel = |row: usize| self.first + row * self.panels / self.row_groups;
        let tiles = col * self.tiles / self.tile_groups..(col + 1) * self.tiles / self.tile_groups;
        (slice, panel(row)..panel(row + 1), tiles)
    }
}

/// The largest number of pieces for each thread, `most` at most, with which no thread gets much more than the others: 896
/// panels for 64 threads are 14 for each in two pieces of 7, and up to 16 in four of 3 or 4.
fn even(panels: usize, threads: usize, most: usize) -> usize {
    // Panels of the thread that gets most, see `cut`.
    let longest = |each: usize| match panels / (threads * each) {
        1 if each > 1 => panels.div_ceil(threads),
        _ => each * panels.div_ceil(threads * each),
    };
    let best = (1..=most).map(longest).min().unwrap_or(0);
    let enough = best + best / ALIKE;
    (1..=most).rev().find(|&each| longest(each) <= enough).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Shares;

    /// How often each (slice, panel, tile) is computed.
    fn cover(counts: &mut [u8], pieces: &Pieces, panels: usize, tiles: usize) {
        for i in 0..pieces.count {
            let (slice, mine, columns) = pieces.get(i);
            for panel in mine {
                for tile in columns.clone() {
                    counts[(slice * panels + panel) * tiles + tile] += 1;
                }
            }
        }
    }

    #[test]
    fn pieces_of_all_nodes_cover_a_product_once() {
        let teams: [&[usize]; 7] = [&[0], &[0, 1], &[1, 1], &[0, 2, 2, 0, 2], &[0; 7], &[2, 1, 0, 2], &[1; 96]];
        for (nodes, each) in teams.into_iter().flat_map(|nodes| [1, 3, PIECES_PER_THREAD].map(|each| (nodes, each))) {
            let shares = Shares::new(3, nodes.iter().copied()).expect("threads");
            for (panels, columns, slices) in
                [(1, 1, 1), (3, 1, 2), (12, 512, 1), (40, 65, 3), (97, 512, 1), (352, 1, 1), (2, 4096, 1)]
            {
                let tiles = Tiles::new(columns, 4);
                let mut once = vec![0; panels * tiles.count * slices];
                cover(&mut once, &Pieces::cut(0..panels, tiles, slices, nodes.len(), each), panels, tiles.count);
                assert!(once.iter().all(|&n| n == 1), "{panels} {columns} {slices}");
                once.fill(0);
                for node in 0..3 {
                    let mine = shares.panels(panels, node);
                    if shares.threads(node) == 0 {
                        assert!(mine.is_empty());
                        continue;
                    }
                    let pieces = Pieces::cut(mine, tiles, slices, shares.threads(node), each);
                    cover(&mut once, &pieces, panels, tiles.count);
                }
                assert!(once.iter().all(|&n| n == 1), "{nodes:?} {panels} {columns} {slices}");
            }
        }
    }
}
