//! [`Method::Gemv`](super::Method::Gemv): products without panels.

use super::{Blocking, Kernel, MAX_TILE, Product, Tiles};
use crate::isa::LANES;

impl Kernel {
    /// Sixteen rows at a time: they are still in the level-1 or level-2 cache for the next group of columns.
    pub(super) unsafe fn multiply_gemv(
        &self,
        p: &Product,
        panels: core::ops::Range<usize>,
        tiles: core::ops::Range<usize>,
        blocking: &Blocking,
        column: impl Fn(usize) -> *mut f32,
    ) {
        let prefetch = if self.weight.block().0 == 1 { blocking.floats } else { blocking.rows };
        let prefetches = prefetch.into.is_some() && !self.gemv_prefetch.is_empty();
        let table = if prefetches { self.gemv_prefetch } else { self.gemv };
        let bytes = self.act.bytes(p.k, 1);
        let groups = Tiles::new(tiles.len(), self.gemv.len());
        for panel in panels {
            let row = panel * LANES;
            let rows = LANES.min(p.rows - row);
            let weights = p.weights.add(row * p.stride);
            for g in 0..groups.count {
                let (from, to) = (tiles.start + groups.start(g), tiles.start + groups.start(g + 1));
                let mut dst = [core::ptr::null_mut(); MAX_TILE];
                for (d, c) in dst.iter_mut().zip(from..to) {
                    *d = column(c).add(row);
                }
                let gemv = table[to - from - 1];
                gemv(weights, p.stride, rows, p.k, p.act.add(from * bytes), bytes, dst.as_ptr(), prefetch);
            }
        }
    }
}
