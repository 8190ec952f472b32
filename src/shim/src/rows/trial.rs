//! Compares ggml's functions with those of this library, on some rows. A function is replaced only if both give the
//! same results. So a build of ggml keeps its own function if it has another block layout, rounds differently, or
//! computes in another order (for example because it was compiled with multiply-add contraction).

use zen5turbo_kernels::act::blocks::{Blocks, BlocksFn, quantizer};
use zen5turbo_kernels::dequantize::DequantizeFn;
use zen5turbo_kernels::dot::DotFn;
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::kernel::Kernel;
use zen5turbo_kernels::repacked::Product;

use super::gemm::compute;
use crate::gate::state;
use crate::ggml::abi::TYPE_F32;
use crate::ggml::rows::{Dequantize, Dot, Gemm, Quantize, Sgemm};
use crate::ggml::types::blocks_number;

/// Elements of a row: two super-blocks, sixteen blocks of 32.
const K: usize = 512;

/// The most bytes that a format needs for a row.
const BYTES: usize = K * 37 / 32;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Random bytes, in which the bits of `clear` are zero.
    fn bytes(&mut self, clear: u8) -> [u8; BYTES] {
        std::array::from_fn(|_| (self.next() >> 32) as u8 & !clear)
    }

    /// A number in -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

/// Bits that are cleared in all bytes of a row. Each clears one bit of the exponent of every half float, wherever it
/// lies, so that it is finite. There are two, so that every bit is set in one of the trials.
const FINITE: [u8; 2] = [0x40, 0x04];

/// Whether both functions give the same floats, bit for bit.
///
/// # Safety
/// Both are functions for rows of this type.
pub unsafe fn dequantize(original: Dequantize, ours: DequantizeFn, weight: WeightType) -> bool {
    debug_assert!(weight.row_bytes(K) <= BYTES);
    let mut random = Random(1);
    FINITE.into_iter().all(|clear| {
        let row = random.bytes(clear);
        let (mut a, mut b) = ([0f32; K], [1f32; K]);
        // SAFETY: `row` holds K elements, and the results have room for K floats.
        unsafe {
            original(row.as_ptr(), a.as_mut_ptr(), K as i64);
            ours(row.as_ptr(), b.as_mut_ptr(), K);
        }
        a.map(f32::to_bits) == b.map(f32::to_bits)
    })
}

/// Whether both functions write the same bytes.
///
/// # Safety
/// See [`dequantize`].
pub unsafe fn quantize(original: Quantize, ours: BlocksFn, blocks: Blocks) -> bool {
    debug_assert!(K / blocks.block().0 * blocks.block().1 <= BYTES);
    let mut random = Random(2);
    let spread: [f32; K] = std::array::from_fn(|i| random.unit() * (1 << (i / 64)) as f32);
    // codes half-way between two integers, in blocks whose scale is 1
    let ties: [f32; K] = std::array::from_fn(|i| if i % 32 == 5 { 127.0 } else { i as f32 % 250.0 / 2.0 - 62.0 });
    [spread, ties].into_iter().all(|x| {
        let (mut a, mut b) = ([0u8; BYTES], [0u8; BYTES]);
        // SAFETY: both rows have room for K elements, and both functions take rows of this type.
        unsafe {
            original(x.as_ptr(), a.as_mut_ptr(), K as i64);
            ours(x.as_ptr(), b.as_mut_ptr(), K);
        }
        a == b
    })
}

/// So many times more rows are compared where every bit counts: sums of two orders are often equal by chance.
const EXACT_TRIALS: usize = 32;

/// Whether both functions give the same product, with `exact` bit for bit. Otherwise a difference by the order of the
/// additions is allowed.
///
/// # Safety
/// See [`dequantize`].
pub unsafe fn dot(original: Dot, ours: DotFn, weight: WeightType, exact: bool) -> bool {
    let Some(quantize) = quantizer(state::isa(), Blocks::Q8_0) else { return false };
    let mut random = Random(3);
    let trials = if exact { EXACT_TRIALS } else { 1 };
    FINITE.into_iter().cycle().take(trials * FINITE.len()).all(|clear| {
        let mut row = random.bytes(clear);
        if weight == WeightType::Mxfp4 {
            // exponents near that of 1
            row.chunks_mut(weight.block().1).for_each(|block| block[0] = 124 | block[0] & 3);
        }
        let x: [f32; K] = std::array::from_fn(|_| random.unit());
        let (mut y, mut s) = ([0u8; BYTES], 0f32);
        // SAFETY: the rows have room for K elements, and both functions take rows of this type.
        let (t, magnitude) = unsafe {
            quantize(x.as_ptr(), y.as_mut_ptr(), K);
            original(K as i32, &raw mut s, 0, row.as_ptr(), 0, y.as_ptr(), 0, 1);
            (ours(K, row.as_ptr(), y.as_ptr()), largest(weight, &row))
        };
        if exact {
            return s.to_bits() == t.to_bits();
        }
        // K products, each of at most `magnitude`, in fewer than 64 steps that round
        (s - t).abs() <= K as f32 * magnitude * 64.0 * f32::EPSILON
    })
}

/// Whether the function computes products of Q8_0 rightly, which shows that its arguments are those of [`Sgemm`].
///
/// # Safety
/// `original` is a `llamafile_sgemm` that has at most one more argument, an `int`.
pub unsafe fn sgemm(original: Sgemm) -> bool {
    const ROWS: usize = 4;
    const BLOCKS: usize = 2;
    let q8_0 = blocks_number(Blocks::Q8_0);
    // row r: the scale 1 and codes of its own
    let row = |first: i8| {
        let mut bytes = [0u8; ROWS * BLOCKS * 34];
        for (i, block) in bytes.chunks_mut(34).enumerate() {
            block[..2].copy_from_slice(&0x3c00_u16.to_le_bytes());
            block[2..].iter_mut().enumerate().for_each(|(e, q)| *q = (first + i as i8 * 3 - e as i8) as u8);
        }
        bytes
    };
    let (a, b, mut c) = (row(20), row(-7), [0f32; ROWS * ROWS]);
    let (n, k) = (ROWS as i64, BLOCKS as i64);
    // SAFETY: the matrices have these sizes, and one thread computes all of the product.
    let computed =
        unsafe { original(n, n, k, a.as_ptr(), k, b.as_ptr(), k, c.as_mut_ptr(), n, 0, 1, q8_0, q8_0, TYPE_F32) };
    let codes = |bytes: &[u8], row: usize| -> Vec<f32> {
        let blocks = bytes.chunks(34).skip(row * BLOCKS).take(BLOCKS);
        blocks.flat_map(|block| block[2..].iter().map(|&q| f32::from(q as i8))).collect()
    };
    let expected = |i, j| codes(&a, i).iter().zip(codes(&b, j)).map(|(x, y)| x * y).sum::<f32>();
    computed && (0..ROWS * ROWS).all(|at| c[at] == expected(at % ROWS, at / ROWS))
}

/// Whether both functions give the same products of repacked rows and columns, with `exact` bit for bit. Otherwise a
/// difference by the order of the additions is allowed.
///
/// # Safety
/// `original` is a function for repacked rows of the type of `kernel`, and `kernel` is a kernel for such rows.
pub unsafe fn gemm(original: Gemm, kernel: &Kernel, exact: bool) -> bool {
    // For every kernel of this library and of ggml, these are neither whole panels nor whole tiles.
    const ROWS: usize = 24;
    const COLUMNS: usize = 20;
    let (weights, columns) = (repacked_rows(kernel.weight, ROWS), repacked_columns(kernel.shape.block, COLUMNS));
    let (mut a, mut b) = ([0f32; ROWS * COLUMNS], [f32::NAN; ROWS * COLUMNS]);
    let product = Product {
        k: K,
        rows: ROWS,
        columns: COLUMNS,
        weights: weights.as_ptr(),
        activations: columns.as_ptr(),
        out: b.as_mut_ptr(),
        out_stride: ROWS,
    };
    let [n, nr, nc] = [K, COLUMNS, ROWS].map(|n| n as i32);
    // SAFETY: the matrices have these sizes.
    let computed = unsafe {
        original(n, a.as_mut_ptr(), ROWS, weights.as_ptr(), columns.as_ptr(), nr, nc);
        compute(kernel, &product)
    };
    if exact {
        return computed && a.map(f32::to_bits) == b.map(f32::to_bits);
    }
    // Half of the 512 products are negative, so the rounding errors of the largest sum are far below this bound.
    let bound = 1e-4 * a.into_iter().fold(0.0, |m, v| f32::max(m, v.abs()));
    computed && a.into_iter().zip(b).all(|(a, b)| (a - b).abs() <= bound)
}

/// Repacked rows, eight to a block. A block begins with scales of 0.5 to 2, and its other bits are random.
fn repacked_rows(weight: WeightType, rows: usize) -> Vec<u8> {
    let mut random = Random(4);
    let mut all: Vec<_> = (0..rows * weight.row_bytes(K)).map(|_| (random.next() >> 32) as u8).collect();
    let (block, bytes) = weight.block();
    for eight in all.chunks_mut(8 * bytes) {
        match weight {
            WeightType::Mxfp4 => eight[..8].iter_mut().for_each(|e| *e = 124 | *e & 3),
            _ => eight[..if block == 256 { 32 } else { 16 }].chunks_mut(2).for_each(|d| d[1] = 0x38 | d[1] & 0x87),
        }
    }
    all
}

/// Repacked columns, four to a block of `block` elements. Each column has another power of two as its scale. No code is
/// -128, and the sums are random.
fn repacked_columns(block: usize, columns: usize) -> Vec<u8> {
    let mut random = Random(5);
    let mut all = Vec::new();
    for _ in 0..columns / 4 * K / block {
        for c in 0..4u8 {
            match block {
                32 => all.extend((0x3c00 - (u16::from(c) << 10)).to_le_bytes()),
                _ => all.extend((1.0 / f32::from(1_u8 << c)).to_le_bytes()),
            }
        }
        all.extend((0..4 * block).map(|_| ((random.next() >> 32) as u8).max(1) ^ 0x80));
        if block == 256 {
            all.extend((0..64).flat_map(|_| ((random.next() >> 53) as i16 - 1024).to_le_bytes()));
        }
    }
    all
}

/// The largest magnitude in a row of weights.
///
/// # Safety
/// The row has K elements of this type.
unsafe fn largest(weight: WeightType, row: &[u8]) -> f32 {
    let Some(values) = zen5turbo_kernels::dequantize::dequantizer(state::isa(), weight) else { return 0.0 };
    let mut x = [0f32; K];
    // SAFETY: the row has K elements, by the contract of this function, and so has `x`.
    unsafe { values(row.as_ptr(), x.as_mut_ptr(), K) };
    x.into_iter().fold(0.0, |m, v| f32::max(m, v.abs()))
}
