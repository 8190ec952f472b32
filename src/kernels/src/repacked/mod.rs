//! Products of weights and activations that ggml has repacked for its own x86 kernels: what its `ggml_gemm_*_8x8_*`
//! compute.
//!
//! Both matrices are brought into the forms of this crate's kernels. The activations are copied. Sixteen rows of weights at a
//! time are unpacked to scratch, where all columns use them. Both steps are small beside a product with many columns and
//! rows.

mod rows;

use crate::act::repacked::{self, COLUMNS};
use crate::formats::{LINE, WeightType};
use crate::isa::{DataPath, Isa, LANES};
use crate::kernel::{self, Blocking, Kernel, Tiles};
use crate::registry;

pub use rows::{ROWS, unpacker};

/// Bytes of activations that are multiplied by all rows before the next ones: q4_K with rows of 8192 elements 150 GMAC/s,
/// with half as many bytes 148 (`kernel-choices`).
const GROUP_BYTES: usize = 1 << 20;

/// Fewest columns in such a group, where a row is long.
const GROUP_COLUMNS: usize = 64;

/// Fewest rows and columns for which a product is faster here than by ggml's own function: 1.24 times as fast for q4_K with
/// 16 and 16; with 64 rows and four columns 0.95 (`kernel-choices`).
const FEWEST_ROWS: usize = 16;
const FEWEST_COLUMNS: usize = 8;

/// The longest row that is taken, which bounds the scratch.
pub const MOST_K: usize = 1 << 16;

/// No prefetch: the weights stay in the L1 and L2 caches from unpacking to packing.
const BLOCKING: Blocking = Blocking { prefetch_bytes: 0, ..Blocking::MEASURED };

/// A product of repacked matrices.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Elements of a row.
    pub k: usize,
    /// Rows of the weights, a multiple of eight.
    pub rows: usize,
    /// Columns, a multiple of four.
    pub columns: usize,
    /// Blocks of eight rows.
    pub weights: *const u8,
    /// Blocks of four columns.
    pub activations: *const u8,
    /// The first float of the result.
    pub out: *mut f32,
    /// Floats from result column to result column.
    pub out_stride: usize,
}

/// The kernel for products of a repacked type; `None` where there is none, or ggml's own is as good.
///
/// It is the kernel of [`DataPath::Split`] on all CPUs: ggml repacks four columns together, and tiles of six columns would
/// begin within them.
pub fn kernel(isa: Isa, weight: WeightType) -> Option<&'static Kernel> {
    unpacker(weight)?;
    if isa == Isa::Scalar {
        return None;
    }
    registry::kernel_on(DataPath::Split, isa, weight, (0, GROUP_COLUMNS))
}

impl Product {
    /// Whether `kernel` can compute a product of this size.
    pub fn fits(&self, kernel: &Kernel) -> bool {
        let whole = |n: usize, of: usize| n > 0 && n.is_multiple_of(of);
        whole(self.k, kernel.shape.block) && whole(self.rows, ROWS) && whole(self.columns, COLUMNS) && self.k <= MOST_K
    }

    /// Whether it is large enough to be faster here than in ggml.
    pub fn pays(&self) -> bool {
        self.rows >= FEWEST_ROWS && self.columns >= FEWEST_COLUMNS
    }

    /// Columns that are multiplied together.
    fn group(&self, kernel: &Kernel) -> usize {
        let most = (GROUP_BYTES / kernel.act.bytes(self.k, 1)).max(GROUP_COLUMNS);
        // of equal size
        let groups = self.columns.div_ceil(most);
        self.columns.div_ceil(groups).next_multiple_of(kernel.widest_tile())
    }

    /// Bytes of scratch that [`Self::multiply`] needs.
    pub fn scratch_bytes(&self, kernel: &Kernel) -> usize {
        self.act_bytes(kernel) + self.row_bytes(kernel) * LANES + kernel.scratch_bytes(self.k, &BLOCKING)
    }

    fn act_bytes(&self, kernel: &Kernel) -> usize {
        kernel.act.bytes(self.k, self.group(kernel)).next_multiple_of(LINE)
    }

    /// Bytes from row to row of the unpacked weights.
    fn row_bytes(&self, kernel: &Kernel) -> usize {
        kernel.weight.row_bytes(self.k).next_multiple_of(LINE)
    }

    /// Computes the product.
    ///
    /// # Safety
    /// The product [fits](Self::fits) `kernel`, which [`kernel()`] gave; its matrices are readable and its result is
    /// writable. `scratch`, aligned to 64 bytes, is writable for [`Self::scratch_bytes`] and this thread's own.
    pub unsafe fn multiply(&self, kernel: &Kernel, scratch: *mut u8) {
        let Some(unpack) = unpacker(kernel.weight) else { return };
        let (rows, stride) = (scratch.add(self.act_bytes(kernel)), self.row_bytes(kernel));
        let (panel, group) = (rows.add(LANES * stride), self.group(kernel));
        let blocks = self.k / kernel.shape.block;
        let eight_rows = ROWS * kernel.weight.row_bytes(self.k);
        for first in (0..self.columns).step_by(group) {
            let columns = group.min(self.columns - first);
            self.quantized(kernel, first, columns, scratch);
            for row in (0..self.rows).step_by(LANES) {
                let n = LANES.min(self.rows - row);
                for eight in 0..n / ROWS {
                    let from = self.weights.add((row / ROWS + eight) * eight_rows);
                    unpack(from, blocks, rows.add(eight * ROWS * stride), stride);
                }
                let at = self.out.add(row);
                for (from, tiles) in parts(kernel, columns) {
                    let act = scratch.add(kernel.act.bytes(self.k, from));
                    let product = kernel::Product { weights: rows, stride, rows: n, k: self.k, act, tiles };
                    let column = |c: usize| at.add((first + from + c) * self.out_stride);
                    kernel.multiply(&product, 0..1, 0..tiles.count, &BLOCKING, panel, column);
                }
            }
        }
    }

    /// Makes tiles of `columns` columns from `first` on.
    unsafe fn quantized(&self, kernel: &Kernel, first: usize, columns: usize, act: *mut u8) {
        let four_columns = repacked::bytes(kernel.act, self.k);
        for (from, tiles) in parts(kernel, columns) {
            for t in 0..tiles.count {
                let (c, end) = (from + tiles.start(t), from + tiles.start(t + 1));
                let src = self.activations.add((first + c) / COLUMNS * four_columns);
                repacked::tile(kernel.act, src, self.k, end - c, act.add(kernel.act.bytes(self.k, c)));
            }
        }
    }
}

/// Columns in tiles of the kernel's width, and four more in one of their own: the tiles of a product else differ in
/// width by one.
fn parts(kernel: &Kernel, columns: usize) -> impl Iterator<Item = (usize, Tiles)> {
    let widest = kernel.widest_tile();
    let whole = columns / widest * widest;
    [(0, whole), (whole, columns - whole)]
        .into_iter()
        .filter(|&(_, n)| n > 0)
        .map(move |(from, n)| (from, Tiles::new(n, widest)))
}
