//! [`Method::Panels`](super::Method::Panels): sixteen rows are packed to a panel, which all tiles use.

use super::{Blocking, Kernel, MAX_TILE, Product};
use crate::isa::LANES;
use crate::prefetch::PanelPrefetch;

/// Panel bytes for a single tile: about 256 elements of sixteen rows, which are read back at once. With one column q4_K
/// reaches 23.4 GMAC/s with it and 20.2 with 20 kB (`kernel-choices`).
const SINGLE_TILE_PANEL: usize = 5 << 10;

/// `k` elements of up to sixteen rows, from `at` on.
#[derive(Clone, Copy)]
struct Part {
    at: *const u8,
    stride: usize,
    rows: usize,
    k: usize,
}

impl Kernel {
    #[inline(always)]
    pub(super) unsafe fn multiply_panels(
        &self,
        p: &Product,
        panels: core::ops::Range<usize>,
        tiles: core::ops::Range<usize>,
        blocking: &Blocking,
        scratch: *mut u8,
        column: impl Fn(usize) -> *mut f32,
    ) {
        let (block_k, block_bytes, records) = (self.block(), self.block_bytes(), self.records());
        let blocks = p.k.div_ceil(block_k);
        let panel_bytes = match p.tiles.count {
            1 => blocking.panel_bytes_of_one_tile(self.single_tile_panel()),
            _ => blocking.panel_bytes,
        };
        let chunk = self.chunk_blocks(p.k, panel_bytes);
        let chunks = blocks.div_ceil(chunk);
        let chunk_bytes = chunk * block_bytes;
        let mut prefetch =
            PanelPrefetch::new(p.stride, chunks, (chunk, chunk_bytes), tiles.len(), blocking.prefetch_bytes);
        let apart = chunk * self.panel_record;
        let copy = scratch.add(self.side_by_side() * apart);
        let (column_bytes, record) = (self.act.bytes(p.k, 1), records * self.act.record());
        let mut dst = [core::ptr::null_mut(); MAX_TILE];
        let mut panel = panels.start;
        while panel < panels.end {
            let row = panel * LANES;
            let two = self.side_by_side() == 2 && panel + 2 <= panels.end && row + 2 * LANES <= p.rows;
            let many = if two { 2 } else { 1 };
            let rows = LANES.min(p.rows - row);
            let src = p.weights.add(row * p.stride);
            for i in 0..chunks {
                let from = i * chunk;
                let n = chunk.min(blocks - from);
                // rows of float types may end within a record
                let k = (n * block_k).min(p.k - from * block_k);
                prefetch.chunk(i, many, src, src.wrapping_add(many * LANES * p.stride));
                for second in 0..many {
                    let (at, panel) = (src.add(second * LANES * p.stride + from * block_bytes), second * apart);
                    let part = Part { at, stride: p.stride, rows, k };
                    self.pack_rows(part, n, scratch.add(panel), copy, &mut prefetch);
                }
                for t in tiles.clone() {
                    prefetch.pull();
                    let (c0, c1) = (p.tiles.start(t), p.tiles.start(t + 1));
                    let width = c1 - c0;
                    if i == 0 || tiles.len() > 1 {
                        for (d, c) in dst[..width].iter_mut().zip(c0..c1) {
                            *d = column(c).add(row);
                        }
                    }
                    let act = p.act.add(c0 * column_bytes + from * record * width);
                    if two {
                        (self.pair[width - 1])(scratch, apart, act, n * records, dst.as_ptr(), i == 0);
                    } else {
                        (self.micro[width - 1])(scratch, act, n * records, dst.as_ptr(), rows, i == 0);
                    }
                }
            }
            panel += many;
        }
    }

    /// Packs `n` blocks of a part of the matrix to `panel`.
    #[inline(always)]
    unsafe fn pack_rows(&self, part: Part, n: usize, panel: *mut u8, copy: *mut u8, prefetch: &mut PanelPrefetch) {
        let Part { at, stride, rows, k } = part;
        // Rows below the matrix, and elements past the end of a row, must not be read: a copy of what is there is
        // packed. The copy's missing rows may hold anything, because their results are not stored.
        let in_place = if rows == LANES { k / self.block() } else { 0 };
        let mut packed = 0;
        while packed < in_place {
            prefetch.pull();
            let n = prefetch.piece.min(in_place - packed);
            (self.pack)(at.add(packed * self.block_bytes()), stride, n, panel.add(packed * self.panel_record));
            packed += n;
        }
        if in_place < n {
            let (done, apart) = (in_place * self.block_bytes(), (n - in_place) * self.block_bytes());
            let bytes = self.weight.row_bytes(k) - done;
            for r in 0..rows {
                let to = copy.add(r * apart);
                core::ptr::copy_nonoverlapping(at.add(r * stride + done), to, bytes);
                to.add(bytes).write_bytes(0, apart - bytes);
            }
            (self.pack)(copy, apart, n - in_place, panel.add(in_place * self.panel_record));
        }
    }

    /// Most bytes of a panel for a single tile. Q2_K has small blocks with many steps that are not products, and gains
    /// from two records at a time: with eight columns 114 GMAC/s, with one record 107 (`kernel-choices`).
    const fn single_tile_panel(&self) -> usize {
        if self.shape.sums == 16 && self.shape.min { 2 * self.panel_record } else { SINGLE_TILE_PANEL }
    }
}
