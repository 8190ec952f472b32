//! [`Method::Fused`](super::Method::Fused): codes are multiplied as soon as they are unpacked.

use super::{Blocking, Kernel, MAX_TILE, Product};
use crate::isa::LANES;
use crate::prefetch::FusedPrefetch;

/// Bytes that are prefetched beyond the next sixteen rows.
const AHEAD: usize = 8 << 10;

/// The most bytes of sixteen rows for which the first rows of a piece are prefetched in one burst.
const BURST: usize = 64 << 10;

impl Kernel {
    /// Stores no panel, but for the last rows of a matrix that are no sixteen.
    pub(super) unsafe fn multiply_fused(
        &self,
        p: &Product,
        panels: core::ops::Range<usize>,
        tiles: core::ops::Range<usize>,
        blocking: &Blocking,
        scratch: *mut u8,
        column: impl Fn(usize) -> *mut f32,
    ) {
        let (blocks, column_bytes) = (p.k / self.block(), self.act.bytes(p.k, 1));
        let in_order = blocking.prefetch_bytes > 0 && p.stride == self.weight.row_bytes(p.k);
        let mut dst = [core::ptr::null_mut(); MAX_TILE];
        if in_order && LANES * p.stride <= BURST {
            // no earlier rows were there to prefetch the first ones of a piece
            let first = p.weights.wrapping_add(panels.start * LANES * p.stride);
            blocking.fused.fetch(first, LANES * p.stride + AHEAD);
        }
        for panel in panels {
            let row = panel * LANES;
            let rows = LANES.min(p.rows - row);
            let weights = p.weights.add(row * p.stride);
            for t in tiles.clone() {
                let (c0, c1) = (p.tiles.start(t), p.tiles.start(t + 1));
                for (d, c) in dst.iter_mut().zip(c0..c1) {
                    *d = column(c).add(row);
                }
                let (fused, dst) = (self.fused[c1 - c0 - 1], dst.as_ptr());
                let act = p.act.add(c0 * column_bytes);
                // the first tile prefetches for all
                let moves = in_order && rows == LANES && t == tiles.start;
                let at = if moves { weights.wrapping_add(LANES * p.stride + AHEAD) } else { weights };
                let prefetch = FusedPrefetch { at, moves, into: blocking.fused };
                if rows == LANES {
                    fused(weights, p.stride, blocks, act, dst, rows, true, prefetch);
                    continue;
                }
                // rows below the matrix must not be read: a copy of the rows that are there
                let chunk = self.chunk_blocks(p.k, blocking.panel_bytes);
                let stride = chunk * self.block_bytes();
                for from in (0..blocks).step_by(chunk) {
                    let n = chunk.min(blocks - from);
                    for r in 0..rows {
                        let at = weights.add(r * p.stride + from * self.block_bytes());
                        core::ptr::copy_nonoverlapping(at, scratch.add(r * stride), n * self.block_bytes());
                    }
                    let act = act.add(from * self.records() * self.act.record() * (c1 - c0));
                    fused(scratch, stride, n, act, dst, rows, from == 0, prefetch);
                }
            }
        }
    }
}
