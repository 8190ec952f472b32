//! A product through the public interface, exactly as a user of the crate computes it, with
//! sentinels around everything that is written.

use super::data::Rng;
use super::reference::{Dot, dot, flushed, kept, weights};
use crate::formats::{Values, WeightType};
use crate::isa::LANES;
use crate::kernel::{Blocking, Kernel, Product};
use half::bf16;

/// A product to compute.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    pub weights: &'a [u8],
    /// Bytes from row to row.
    pub stride: usize,
    pub rows: usize,
    pub k: usize,
    pub columns: &'a [Vec<f32>],
    pub blocking: Blocking,
    /// Floats from result column to result column.
    pub out_stride: usize,
    /// With a seed, the work is cut into pieces that run in random order.
    pub pieces: Option<u64>,
}

/// A NaN that no arithmetic makes.
const UNTOUCHED: u32 = 0x7fa5_a5a5;
const PAD: usize = 64;
const PAD_BYTE: u8 = 0xa5;

/// Bytes with a pad at both ends, the payload at a multiple of `align`.
struct Padded {
    bytes: Vec<u8>,
    at: usize,
    len: usize,
}

impl Padded {
    fn new(len: usize, align: usize) -> Self {
        let bytes = vec![PAD_BYTE; len + 2 * PAD + align];
        let at = PAD + bytes.as_ptr().wrapping_add(PAD).align_offset(align);
        Padded { bytes, at, len }
    }
    fn ptr(&mut self) -> *mut u8 {
        self.bytes[self.at..].as_mut_ptr()
    }
    #[track_caller]
    fn check(&self, what: &str) {
        let (before, rest) = self.bytes.split_at(self.at);
        let ok = before.iter().chain(&rest[self.len..]).all(|&b| b == PAD_BYTE);
        assert!(ok, "written outside {what}");
    }
}

/// The cuts of `0..n` into random ranges.
fn cut(n: usize, rng: &mut Rng) -> Vec<std::ops::Range<usize>> {
    let (mut v, mut from) = (vec![], 0);
    while from < n {
        let to = from + 1 + rng.below(n - from);
        v.push(from..to);
        from = to;
    }
    v
}

impl Case<'_> {
    /// The result, column after column.
    pub fn run(&self, kernel: &Kernel) -> Vec<f32> {
        let n = self.columns.len();
        let tiles = kernel.tiles(self.k, n);
        let panels = self.rows.div_ceil(LANES);
        let mut order: Vec<usize> = (0..tiles.count).collect();
        let mut pieces = vec![(0..panels, 0..tiles.count)];
        if let Some(seed) = self.pieces {
            let rng = &mut Rng(seed);
            rng.shuffle(&mut order);
            pieces.clear();
            for p in cut(panels, rng) {
                pieces.extend(cut(tiles.count, rng).into_iter().map(|t| (p.clone(), t)));
            }
            rng.shuffle(&mut pieces);
        }

        let mut act = Padded::new(kernel.act.bytes(self.k, n), 4);
        for t in order {
            // SAFETY: the columns have `k` floats, `act` its bytes; the registry gave the kernel.
            unsafe { kernel.quantize_tile(self.k, tiles, t, act.ptr(), |c| self.columns[c].as_ptr()) };
        }
        act.check("the tiles");

        let mut out = vec![f32::from_bits(UNTOUCHED); PAD + n * self.out_stride + PAD];
        let product = Product {
            weights: self.weights.as_ptr(),
            stride: self.stride,
            rows: self.rows,
            k: self.k,
            act: act.ptr(),
            tiles,
        };
        let mut scratch = Padded::new(kernel.scratch_bytes(self.k, &self.blocking), 64);
        let first = out[PAD..].as_mut_ptr();
        for (p, t) in pieces {
            // SAFETY: the weights have `rows` rows of `k` elements, `act` is quantised, `scratch` has its bytes; the result
            // columns lie `out_stride` apart in `out`; the registry gave the kernel.
            unsafe {
                kernel.multiply(&product, p, t, &self.blocking, scratch.ptr(), |c| first.add(c * self.out_stride));
            }
        }
        act.check("the tiles");
        scratch.check("the scratch");

        let mut result = Vec::with_capacity(n * self.rows);
        for (i, v) in out.iter().enumerate() {
            let (c, r) = (i.wrapping_sub(PAD) / self.out_stride, i.wrapping_sub(PAD) % self.out_stride);
            if c < n && r < self.rows {
                result.push(*v);
            } else {
                assert_eq!(v.to_bits(), UNTOUCHED, "written outside the result, at float {i}");
            }
        }
        result
    }
}

/// Whether a kernel rounds its weights, from F16 to BF16: its products have another reference than all others of F16.
pub fn rounds_weights(kernel: &Kernel) -> bool {
    kernel.weight == WeightType::F16 && kernel.act.values == Values::Bf16Pairs
}

/// The reference of a product, for the largest number of rows and columns that a test needs.
pub struct Expected {
    rows: usize,
    dots: Vec<Dot>,
}

impl Expected {
    pub fn new(kernel: &Kernel, matrix: &[u8], stride: usize, rows: usize, columns: &[Vec<f32>]) -> Self {
        Self::with_offsets(false, kernel, matrix, stride, rows, columns)
    }

    /// The same for weights and columns of any size, where those products by rows that subtract the offset of the codes
    /// from other sums than those of the codes may be off by what both round to, however much of it cancels.
    pub fn of_any_size(kernel: &Kernel, matrix: &[u8], stride: usize, rows: usize, columns: &[Vec<f32>]) -> Self {
        let by_rows = matches!(kernel.act.values, Values::Rows(_));
        Self::with_offsets(by_rows, kernel, matrix, stride, rows, columns)
    }

    fn with_offsets(
        offsets: bool,
        kernel: &Kernel,
        matrix: &[u8],
        stride: usize,
        rows: usize,
        columns: &[Vec<f32>],
    ) -> Self {
        let k = columns[0].len();
        let bytes = row_bytes(kernel.weight, k);
        let mut rows_w: Vec<_> = (0..rows).map(|r| weights(kernel.weight, &matrix[r * stride..][..bytes])).collect();
        if !offsets {
            rows_w.iter_mut().flatten().for_each(|w| w.offset = 0.0);
        }
        let flush = kernel.act.values == Values::Bf16Pairs;
        if rounds_weights(kernel) {
            rows_w.iter_mut().flatten().for_each(|w| w.scaled = bf16::from_f64(w.scaled).to_f64());
        }
        if flush {
            rows_w.iter_mut().flatten().for_each(|w| w.scaled = flushed(w.scaled));
        }
        let mut dots = vec![];
        for x in columns {
            let mut a = kept(kernel.act, x);
            if flush {
                a.iter_mut().for_each(|a| *a = flushed(*a));
            }
            dots.extend(rows_w.iter().map(|w| dot(w, &a)));
        }
        Expected { rows, dots }
    }

    pub fn at(&self, row: usize, column: usize) -> Dot {
        self.dots[column * self.rows + row]
    }

    /// Checks a result of `rows` rows with `check`, [`Dot::check`] or [`Dot::check_integer`].
    #[track_caller]
    pub fn check(&self, kernel: &Kernel, got: &[f32], rows: usize, blocks: usize, integer: bool) {
        for (i, &got) in got.iter().enumerate() {
            let (c, r) = (i / rows, i % rows);
            let what = || format!("{}, {rows} rows, {blocks} blocks: row {r}, column {c}", kernel.name());
            let dot = self.at(r, c);
            if integer { dot.check_integer(got, blocks, what) } else { dot.check(got, blocks, what) }
        }
    }
}

pub fn row_bytes(t: WeightType, k: usize) -> usize {
    k / t.block().0 * t.block().1
}

/// A result as bits, for comparisons that tell NaNs apart.
pub fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}
