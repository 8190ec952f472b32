//! A kernel: all that is needed to multiply by a weight matrix of one type on one ISA. The loops around the functions of
//! an ISA are here, because they are the same for all.

mod fused;
mod gemv;
mod panels;
mod product;

pub use product::{Blocking, Method, Product, Tiles};

use crate::act::QuantizeFn;
use crate::formats::{ActFormat, Codes, Shape, Values, WeightType};
use crate::gemv::GemvFn;
use crate::isa::{DataPath, Isa, LANES};
use crate::micro::MicroFn;
use crate::micro::fused::FusedFn;
use crate::micro::pair::PairFn;

/// Packs `blocks` blocks of sixteen rows. Row `r` starts at `src + r * stride`.
///
/// # Safety
/// Every row is readable for `blocks` blocks, `panel` writable for their records; the CPU has the ISA's
/// features.
pub type PackFn = unsafe fn(src: *const u8, stride: usize, blocks: usize, panel: *mut u8);

/// The product of one weight type on one ISA.
#[derive(Debug)]
pub struct Kernel {
    /// The instruction set.
    pub isa: Isa,
    /// The weight type.
    pub weight: WeightType,
    /// The structure of the weight type's product.
    pub shape: Shape,
    /// The format of the activations. Kernels with equal formats can share activations.
    pub act: ActFormat,
    pub(crate) quantize: QuantizeFn,
    pub(crate) pack: PackFn,
    /// [`Method::Panels`]: micro-kernels for 1, 2, ... columns.
    pub(crate) micro: &'static [MicroFn],
    /// The same for two panels side by side, or empty: one panel at a time.
    pub(crate) pair: &'static [PairFn],
    /// [`Method::Gemv`]: functions for 1, 2, ... columns, or empty.
    pub(crate) gemv: &'static [GemvFn],
    /// Those that prefetch weights. Empty where the functions of [`Self::gemv`] do that themselves.
    pub(crate) gemv_prefetch: &'static [GemvFn],
    /// [`Method::Fused`]: functions for 1, 2, ... columns of a tile, or empty.
    pub(crate) fused: &'static [FusedFn],
    /// Bytes of the panel for a block of the weights, see [`Self::block`].
    pub(crate) panel_record: usize,
    /// The products that this kernel is made for.
    pub domain: Domain,
}

/// The products for which a kernel is the fastest of its weight type and ISA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Fewest columns.
    pub fewest_columns: usize,
    /// Most columns.
    pub most_columns: usize,
    /// Longest rows, in elements.
    pub most_k: usize,
    /// Whether it wins only on CPUs with [`DataPath::Full`].
    pub full_path_only: bool,
}

impl Domain {
    /// All products on all CPUs.
    pub const ALL: Self =
        Domain { fewest_columns: 0, most_columns: usize::MAX, most_k: usize::MAX, full_path_only: false };

    /// Whether a product of `columns` columns of `k` elements is in the domain.
    #[must_use]
    pub fn contains(&self, path: DataPath, k: usize, columns: usize) -> bool {
        (self.fewest_columns..=self.most_columns).contains(&columns)
            && k <= self.most_k
            && (path == DataPath::Full || !self.full_path_only)
    }
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

    /// Columns of the widest tile of a panel; 0 where the kernel has only [`Method::Gemv`].
    pub fn widest_tile(&self) -> usize {
        if self.pair.is_empty() { self.micro.len() } else { self.pair.len() }
    }

    /// Panels that are multiplied side by side.
    fn side_by_side(&self) -> usize {
        if self.pair.is_empty() { 1 } else { 2 }
    }

    /// The method for `columns` columns of `k` elements.
    fn method(&self, k: usize, columns: usize) -> Method {
        let wide = self.shape.codes == Codes::Bf16Pairs || self.isa == Isa::Avx512;
        let most = if wide { GEMV_COLUMNS_512 } else { GEMV_COLUMNS };
        // some kernels have nothing else
        let few = columns <= most || self.widest_tile() == 0;
        if !self.gemv.is_empty() && few && k >= GEMV_LEAST_K {
            Method::Gemv
        } else if !self.fused.is_empty() {
            Method::Fused
        } else {
            Method::Panels
        }
    }

    /// How `columns` columns of `k` elements are computed: the method, and the columns cut into tiles.
    pub fn tiles(&self, k: usize, columns: usize) -> Tiles {
        let method = self.method(k, columns);
        let widest = if method == Method::Gemv { 1 } else { self.widest_tile().max(1) };
        Tiles::new(columns, widest).by(method)
    }

    /// Bytes of scratch that [`Self::multiply`] needs for each thread.
    pub fn scratch_bytes(&self, k: usize, blocking: &Blocking) -> usize {
        let blocks = self.chunk_blocks(k, blocking.panel_bytes);
        blocks * (self.side_by_side() * self.panel_record + LANES * self.block_bytes())
    }

    /// Records that a block of the weights is packed to.
    const fn records(&self) -> usize {
        self.weight.records(self.shape)
    }

    /// Elements that are packed together: a record, or the records of a block of the weights.
    pub(crate) const fn block(&self) -> usize {
        self.records() * self.shape.block
    }

    /// Bytes of a row that hold these elements.
    const fn block_bytes(&self) -> usize {
        self.weight.row_bytes(self.block())
    }

    /// Blocks that are packed at a time.
    fn chunk_blocks(&self, k: usize, panel_bytes: usize) -> usize {
        let blocks = k.div_ceil(self.block());
        let panel_bytes =
            if self.weight.block().0 == 1 { panel_bytes.saturating_mul(FLOAT_PANEL) } else { panel_bytes };
        let panel_bytes = if self.pair.is_empty() { panel_bytes } else { pair_bytes(panel_bytes) };
        let most = (panel_bytes / (self.side_by_side() * self.panel_record)).max(1);
        // chunks of equal size
        blocks.div_ceil(blocks.div_ceil(most).max(1)).max(1)
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

    /// The same in a format that differs from [`Self::act`] only in the rounding of floats.
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
    /// `p` must describe readable memory, and [`Self::tiles`] of the same `k` gave its tiles. The result columns must be
    /// writable and disjoint from it. `scratch`, aligned to 64 bytes, must be writable for [`Self::scratch_bytes`] and
    /// this thread's own.
    pub unsafe fn multiply(
        &self,
        p: &Product,
        panels: core::ops::Range<usize>,
        tiles: core::ops::Range<usize>,
        blocking: &Blocking,
        scratch: *mut u8,
        column: impl Fn(usize) -> *mut f32,
    ) {
        match p.tiles.method {
            Method::Gemv => self.multiply_gemv(p, panels, tiles, blocking, column),
            Method::Fused => self.multiply_fused(p, panels, tiles, blocking, scratch, column),
            Method::Panels => self.multiply_panels(p, panels, tiles, blocking, scratch, column),
        }
    }
}

/// How many times larger panels of float types may be. They stay in the level-2 cache, and long pieces of a row stream
/// better: f16 with 512 columns reaches 94 GMAC/s with this factor and 77 without (`kernel-choices`).
pub(crate) const FLOAT_PANEL: usize = 6;

/// Bytes of two panels side by side: one and a half times those of one panel. CPUs with [`DataPath::Full`] have a
/// level-1 cache of 48 kB, others have 32 kB.
pub(crate) const fn pair_bytes(panel_bytes: usize) -> usize {
    panel_bytes.saturating_add(panel_bytes / 2)
}

/// Shortest rows of [`Method::Gemv`]. The last step reads the last 32 elements of a row again, and masks those that were
/// counted before.
pub(crate) const GEMV_LEAST_K: usize = 32;

/// Most columns of [`Method::Gemv`]: f16 on AVX2 reaches 34 GMAC/s with eight columns, and 28 by panels
/// (`kernel-choices`).
const GEMV_COLUMNS: usize = 8;

/// The same in 512-bit registers and for pairs of `bf16`: f16 reaches 56 GMAC/s with 32 columns, and 45 by panels
/// (`kernel-choices`).
const GEMV_COLUMNS_512: usize = 32;

/// Columns of the widest tile of all kernels.
pub const MAX_TILE: usize = 16;
