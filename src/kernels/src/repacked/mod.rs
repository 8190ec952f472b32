//! Products of weights and activations that ggml has repacked for its own x86 kernels: what its `ggml_gemm_*_8x8_*`
//! compute.
//!
//! Both are brought into the forms that the kernels of this crate know. For the activations that is a copy; sixteen
//! rows of weights at a time are unpacked to scratch, where all columns use them. Both are small beside the product
//! itself when it has many columns and rows.

mod rows;

use crate::act::repacked::{self, COLUMNS};
use crate::formats::{LINE, WeightType};
use crate::isa::{Isa, LANES};
use crate::kernel::{self, Blocking, Kernel, Tiles};
use crate::registry;
use crate::width::DataPath;

pub use rows::{ROWS, unpacker};

/// Bytes of activations that are multiplied by all rows before the next ones. (AMD EPYC, Zen 4, 2026-11-22, q4_K,
/// K=2048 and 8192, GMAC/s with 256 kB, 512 kB, 1 MB, 2 MB: 161, 169, 172, 172; 148, 148, 150, 159.)
const GROUP_BYTES: usize = 1 << 20;

/// Fewest columns in such a group, where a row is long.
const GROUP_COLUMNS: usize = 64;

/// Fewest rows and columns for which a product is faster here than by ggml's own function. Time of that over ours at
/// K=2048 for q4_0, q4_K, q2_K, iq4_nl, mxfp4 (AMD EPYC, Zen 4, 2026-11-22, one thread, llama.cpp b11434 built for
/// it): 256 rows and 512 columns 2.40, 2.29, 3.49, 2.40, 2.47; 64 rows and 8 columns 1.53, 1.50, 2.44, 1.47, 1.48; 16
/// and 16 1.27, 1.24, 1.99, 1.25, 1.26. But 8 rows, half a panel, and 64 columns 0.91, 0.85, 1.19, -, 0.91; 64 rows and
/// 4 columns 1.02, 0.95, 1.75, -, 0.95. By AVX2 against a build for that, 256 and 512: 2.58, 2.36, 2.92, 1.38, 2.59; 64
/// and 8: 1.71, 1.60, 2.22, 1.12, 1.65.
const FEWEST_ROWS: usize = 16;
const FEWEST_COLUMNS: usize = 8;

/// The longest row that is taken, which bounds the scratch.
pub const MOST_K: usize = 1 << 16;

/// The weights stay in the nearest caches from unpacking to packing: nothing is to be fetched.
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
/// It is the one of split data paths on all: tiles of six columns would begin within four columns.
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

    /// Whether it is large enough to be faster here.
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
