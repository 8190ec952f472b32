//! A kernel: everything needed to multiply by a weight matrix of one type on one ISA, and the loops
//! around packing and micro-kernel, which are the same for all.

use crate::act::QuantizeFn;
use crate::formats::{ActFormat, Codes, Shape, Values, WeightType};
use crate::isa::{Isa, LANES};
use crate::micro::fused::{FetchNext, FusedFn};
use crate::micro::pair::PairFn;
use crate::micro::{DirectFn, MicroFn};
use crate::prefetch::NextRows;

mod product;

pub use product::{Blocking, Product, Tiles};

/// Packs `blocks` records of sixteen rows: row `r` starts at `src + r * stride`.
///
/// # Safety
/// Every row is readable for `blocks` records, `panel` writable for as many; the CPU has the ISA's
/// features.
pub type PackFn = unsafe fn(src: *const u8, stride: usize, blocks: usize, panel: *mut u8);

/// The product of one weight type on one ISA.
#[derive(Debug)]
pub struct Kernel {
    /// The instruction set.
    pub isa: Isa,
    /// The weight type.
    pub weight: WeightType,
    /// Its structure.
    pub shape: Shape,
    /// The format it wants activations in; kernels with equal formats can share them.
    pub act: ActFormat,
    pub(crate) quantize: QuantizeFn,
    pub(crate) pack: PackFn,
    /// Micro-kernels for 1, 2, ... columns.
    pub(crate) micro: &'static [MicroFn],
    /// The same for two panels side by side. As many widths as are used; none: one panel at a time.
    pub(crate) pair: &'static [PairFn],
    /// Kernels for so few columns that packing does not pay, for 1, 2, ... columns at a time.
    pub(crate) direct: &'static [DirectFn],
    /// Kernels without a panel for whole groups of sixteen rows, for 1, 2, ... columns of a tile; none: by panels.
    pub(crate) fused: &'static [FusedFn],
    /// Those of [`Self::direct`] that fetch weights ahead, where that is not done by the same ones.
    pub(crate) ahead: &'static [DirectFn],
    /// Bytes of a record of the panel.
    pub(crate) panel_record: usize,
    /// Products of fewer columns are another kernel's.
    pub fewest_columns: usize,
    /// Products of more columns are another kernel's.
    pub most_columns: usize,
    /// The same on a CPU that splits 512-bit operations.
    pub most_columns_split: usize,
    /// Products with longer rows are another kernel's.
    pub most_k: usize,
}

/// `k` elements of up to sixteen rows, from `at` on.
#[derive(Clone, Copy)]
struct Part {
    at: *const u8,
    stride: usize,
    rows: usize,
    k: usize,
}

impl Kernel {
    /// The name for logs and tests, e.g. `avx512vnni/q4_K`.
    pub fn name(&self) -> String {
        let more = match self.act.values {
            Values::Bf16Pairs => "+bf16",
            Values::Rows(_) => "+rows",
            _ if !self.fused.is_empty() => "+fused",
            _ => "",
        };
        let pair = if self.pair.is_empty() { "" } else { "+32rows" };
        format!("{}{more}{pair}/{}", self.isa.name(), self.weight.ggml_name())
    }

    /// Widest tile, in columns; 0: products only by rows.
    pub fn widest_tile(&self) -> usize {
        if self.pair.is_empty() { self.micro.len() } else { self.pair.len() }
    }

    /// Panels that are multiplied side by side.
    fn side_by_side(&self) -> usize {
        if self.pair.is_empty() { 1 } else { 2 }
    }

    /// The tiles for `columns` columns.
    pub fn tiles(&self, columns: usize) -> Tiles {
        let wide = self.shape.codes == Codes::Bf16Pairs || self.isa == Isa::Avx512;
        let most = if wide { DIRECT_COLUMNS_512 } else { DIRECT_COLUMNS };
        let direct = !self.direct.is_empty() && columns <= most;
        Tiles::new(columns, if direct { 1 } else { self.widest_tile().max(1) })
    }

    /// Bytes of scratch that [`Self::multiply`] needs for each thread.
    pub fn scratch_bytes(&self, k: usize, blocking: &Blocking) -> usize {
        let blocks = self.chunk_blocks(k, blocking.panel_bytes);
        blocks * (self.side_by_side() * self.panel_record + LANES * self.record_bytes())
    }

    /// Bytes of a row that one record holds.
    const fn record_bytes(&self) -> usize {
        self.weight.row_bytes(self.shape.block)
    }

    /// Records packed at a time.
    fn chunk_blocks(&self, k: usize, panel_bytes: usize) -> usize {
        let blocks = k.div_ceil(self.shape.block);
        let panel_bytes =
            if self.weight.block().0 == 1 { panel_bytes.saturating_mul(FLOAT_PANEL) } else { panel_bytes };
        let panel_bytes = if self.pair.is_empty() { panel_bytes } else { pair_bytes(panel_bytes) };
        let most = (panel_bytes / (self.side_by_side() * self.panel_record)).max(1);
        // pieces of equal size
        blocks.div_ceil(blocks.div_ceil(most).max(1)).max(1)
    }

    /// Most bytes of a panel for a single tile. Q2_K, whose small blocks need many steps that are not products,
    /// gains from two at a time. (Zen 4, 2026-11-21, in GMAC/s with one and two: K=2048 N=4 94 and 96, N=8 107
    /// and 114; K=8192 N=4 82 and 82. Instructions per 64 with N=4: 5.73 and 5.32. Q4_K loses 4 % of its speed.)
    const fn single_tile_panel(&self) -> usize {
        if self.shape.sub == 16 && self.shape.min { 2 * self.panel_record } else { SINGLE_TILE_PANEL }
    }

    /// Quantises the columns of tile `t` to its place in `act`. `column(c)` is the first of `k`
    /// floats of column `c`.
    ///
    /// # Safety
    /// The columns must be readable for `k` floats and `act` writable for
    /// `self.act.bytes(k, tiles.columns)` bytes.
    pub unsafe fn quantize_tile(
        &self,
        k: usize,
        tiles: Tiles,
        t: usize,
        act: *mut u8,
        column: impl Fn(usize) -> *const f32,
    ) {
        self.quantize_tile_as(self.act, k, tiles, t, act, column);
    }

    /// The same in a format that differs from [`Self::act`] in the rounding of floats only.
    pub(crate) unsafe fn quantize_tile_as(
        &self,
        format: ActFormat,
        k: usize,
        tiles: Tiles,
        t: usize,
        act: *mut u8,
        column: impl Fn(usize) -> *const f32,
    ) {
        let (from, to) = (tiles.start(t), tiles.start(t + 1));
        let mut cols = [core::ptr::null(); MAX_TILE];
        for (i, c) in cols.iter_mut().zip(from..to) {
            *i = column(c);
        }
        let out = act.add(format.bytes(k, from));
        (self.quantize)(format, cols.as_ptr(), k, to - from, out);
    }

    /// Multiplies the rows of `panels` (units of sixteen) by the columns of the tiles `tiles`.
    /// `column(c)` is where the `p.rows` floats of result column `c` go.
    ///
    /// # Safety
    /// `p` must describe readable memory, the result columns be writable and disjoint from it, and
    /// `scratch`, aligned to 64 bytes, be writable for [`Self::scratch_bytes`] and this thread's own.
    pub unsafe fn multiply(
        &self,
        p: &Product,
        panels: core::ops::Range<usize>,
        tiles: core::ops::Range<usize>,
        blocking: &Blocking,
        scratch: *mut u8,
        column: impl Fn(usize) -> *mut f32,
    ) {
        if p.tiles.count == p.tiles.columns && !self.direct.is_empty() && p.k >= DIRECT_LEAST_K {
            return self.multiply_direct(p, panels, tiles, blocking, column);
        }
        if !self.fused.is_empty() {
            return self.multiply_fused(p, panels, tiles, blocking, scratch, column);
        }
        let (block_k, block_bytes) = (self.shape.block, self.record_bytes());
        let blocks = p.k.div_ceil(block_k);
        let most = if p.tiles.count == 1 { self.single_tile_panel() } else { usize::MAX };
        let chunk = self.chunk_blocks(p.k, blocking.panel_bytes.min(most));
        let chunks = blocks.div_ceil(chunk);
        let chunk_bytes = chunk * block_bytes;
        let mut ahead = NextRows::new(p.stride, chunks, (chunk, chunk_bytes), tiles.len(), blocking.prefetch_bytes);
        let apart = chunk * self.panel_record;
        let copy = scratch.add(self.side_by_side() * apart);
        let (column_bytes, record) = (self.act.bytes(p.k, 1), self.act.record());
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
                ahead.chunk(i, many, src, src.wrapping_add(many * LANES * p.stride));
                for second in 0..many {
                    let (at, panel) = (src.add(second * LANES * p.stride + from * block_bytes), second * apart);
                    self.pack_rows(Part { at, stride: p.stride, rows, k }, n, scratch.add(panel), copy, &mut ahead);
                }
                for t in tiles.clone() {
                    ahead.pull();
                    let (c0, c1) = (p.tiles.start(t), p.tiles.start(t + 1));
                    let width = c1 - c0;
                    if i == 0 || tiles.len() > 1 {
                        for (d, c) in dst[..width].iter_mut().zip(c0..c1) {
                            *d = column(c).add(row);
                        }
                    }
                    let act = p.act.add(c0 * column_bytes + from * record * width);
                    if two {
                        (self.pair[width - 1])(scratch, apart, act, n, dst.as_ptr(), i == 0);
                    } else {
                        (self.micro[width - 1])(scratch, act, n, dst.as_ptr(), rows, i == 0);
                    }
                }
            }
            panel += many;
        }
    }

    /// Packs `n` records of a part of the matrix to `panel`.
    #[inline(always)]
    unsafe fn pack_rows(&self, part: Part, n: usize, panel: *mut u8, copy: *mut u8, ahead: &mut NextRows) {
        let Part { at, stride, rows, k } = part;
        // rows below the matrix, or elements past the end of a row, are not ours to read: pack a
        // copy of what there is (what the missing rows hold does not matter, their results are
        // not stored)
        let direct = if rows == LANES { k / self.shape.block } else { 0 };
        let mut packed = 0;
        while packed < direct {
            ahead.pull();
            let n = ahead.piece.min(direct - packed);
            (self.pack)(at.add(packed * self.record_bytes()), stride, n, panel.add(packed * self.panel_record));
            packed += n;
        }
        if direct < n {
            let (done, apart) = (direct * self.record_bytes(), (n - direct) * self.record_bytes());
            let bytes = self.weight.row_bytes(k) - done;
            for r in 0..rows {
                let to = copy.add(r * apart);
                core::ptr::copy_nonoverlapping(at.add(r * stride + done), to, bytes);
                to.add(bytes).write_bytes(0, apart - bytes);
            }
            (self.pack)(copy, apart, n - direct, panel.add(direct * self.panel_record));
        }
    }

    /// [`Self::multiply`] without storing a panel.
    unsafe fn multiply_fused(
        &self,
        p: &Product,
        panels: core::ops::Range<usize>,
        tiles: core::ops::Range<usize>,
        blocking: &Blocking,
        scratch: *mut u8,
        column: impl Fn(usize) -> *mut f32,
    ) {
        let (blocks, column_bytes) = (p.k / self.shape.block, self.act.bytes(p.k, 1));
        let in_order = blocking.prefetch_bytes > 0 && p.stride == self.weight.row_bytes(p.k);
        let mut dst = [core::ptr::null_mut(); MAX_TILE];
        if in_order && LANES * p.stride <= FUSED_START {
            // nobody has fetched the first rows of a piece
            blocking
                .fused
                .fetch(p.weights.wrapping_add(panels.start * LANES * p.stride), LANES * p.stride + FUSED_AHEAD);
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
                // with the first tile
                let moves = in_order && rows == LANES && t == tiles.start;
                let at = if moves { weights.wrapping_add(LANES * p.stride + FUSED_AHEAD) } else { weights };
                let ahead = FetchNext { at, moves, into: blocking.fused };
                if rows == LANES {
                    fused(weights, p.stride, blocks, act, dst, rows, true, ahead);
                    continue;
                }
                // rows below the matrix are not ours to read: a copy of what there is
                let chunk = self.chunk_blocks(p.k, blocking.panel_bytes);
                let stride = chunk * self.record_bytes();
                for from in (0..blocks).step_by(chunk) {
                    let n = chunk.min(blocks - from);
                    for r in 0..rows {
                        let at = weights.add(r * p.stride + from * self.record_bytes());
                        core::ptr::copy_nonoverlapping(at, scratch.add(r * stride), n * self.record_bytes());
                    }
                    let act = act.add(from * self.act.record() * (c1 - c0));
                    fused(scratch, stride, n, act, dst, rows, from == 0, ahead);
                }
            }
        }
    }

    /// [`Self::multiply`] without packing. Sixteen rows at a time, so that they are still in the
    /// level-1 or level-2 cache for the next group of columns.
    unsafe fn multiply_direct(
        &self,
        p: &Product,
        panels: core::ops::Range<usize>,
        tiles: core::ops::Range<usize>,
        blocking: &Blocking,
        column: impl Fn(usize) -> *mut f32,
    ) {
        let fetch = if self.weight.block().0 == 1 { blocking.floats } else { blocking.rows };
        let is_ahead = fetch.into.is_some() && !self.ahead.is_empty();
        let table = if is_ahead { self.ahead } else { self.direct };
        let bytes = self.act.bytes(p.k, 1);
        let groups = Tiles::new(tiles.len(), self.direct.len());
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
                let direct = table[to - from - 1];
                direct(weights, p.stride, rows, p.k, p.act.add(from * bytes), bytes, dst.as_ptr(), fetch);
            }
        }
    }
}

/// Panel bytes for a single tile: about 256 elements of sixteen rows, read back at once.
/// (Emerald Rapids, 2026-11-21, weights in memory, one column: q4_K 23.4 GMAC/s with 5 kB against
/// 20.2 with 20 kB, q8_0 12.7 against 10.8.)
const SINGLE_TILE_PANEL: usize = 5 << 10;

/// How much larger panels of float types may be: they are four times as large as panels of codes, do
/// not leave the level-2 cache, and long tiles stream better. (Emerald Rapids, 2026-11-21, f16, 512
/// columns, K=2048, GMAC/s with panels of 20, 64 and 128 kB: AVX-512 77, 90, 94; AVX2 47, 52, 53.)
pub(crate) const FLOAT_PANEL: usize = 6;

/// Bytes that fused products fetch ahead, beyond the next sixteen rows.
const FUSED_AHEAD: usize = 8 << 10;

/// The most bytes of sixteen rows that they fetch at once before the first ones.
const FUSED_START: usize = 64 << 10;

/// Bytes of two panels side by side: half as large again. CPUs that compute 512-bit operations at once have a level-1 cache
/// of 48 kB, others 32 kB. (AMD EPYC, Zen 4, 2026-11-30, q4_K, 512 columns, K=2048, GMAC/s with 20 and 40 kB: 150, 167.)
pub(crate) const fn pair_bytes(panel_bytes: usize) -> usize {
    panel_bytes.saturating_add(panel_bytes / 2)
}

/// Direct products end with the last 32 elements of a row once more, those already counted masked.
const DIRECT_LEAST_K: usize = 32;

/// Most columns of a direct product. (Emerald Rapids, 2026-11-21, f16, GMAC/s direct and by panels:
/// AVX2 N=5 36 and 24, N=8 34 and 28, N=12 35 and 36.)
const DIRECT_COLUMNS: usize = 8;

/// The same in 512-bit registers and for pairs of `bf16`. (Zen 4, 2026-11-21, M=1024, K=2048, one thread, GMAC/s
/// direct and by panels: f16 N=4 55 and 18, N=16 55 and 36, N=32 56 and 45, N=64 55 and 50, with more instructions;
/// bf16 N=4 106 and 37, N=16 106 and 69, N=32 104 and 84, N=64 101 and 97, N=512 108 and 114.)
const DIRECT_COLUMNS_512: usize = 32;

/// No kernel's tiles are wider.
pub const MAX_TILE: usize = 16;
