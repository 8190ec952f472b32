//! Kernels for one column of quantised weights, or two, without panels, in 512-bit registers.

use super::*;
use crate::gemv::{Block32, GRID_ORDER, GemvFn, Operands, Step256, product_grid, product32, product256};
use crate::pack::grid512::Grid512;
use crate::pack::*;

macro_rules! product {
    ($name:ident $(, $nc:ident)?; $kind:ident, $of:ident) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        unsafe fn $name<W: $kind, const PREFETCH: bool $(, const $nc: usize)?>(
            weights: *const u8,
            stride: usize,
            rows: usize,
            k: usize,
            act: *const u8,
            act_stride: usize,
            dst: *const *mut f32,
            prefetch: GemvPrefetch,
        ) {
            $of::<W, PREFETCH $(, $nc)?>(Operands { weights, stride, rows, k, act, act_stride, dst, prefetch })
        }
    };
}
product!(block32; Block32, product32);
product!(super256, NC; Step256, product256);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn grid256<W: Grid512, const NC: usize>(
    weights: *const u8,
    stride: usize,
    rows: usize,
    k: usize,
    act: *const u8,
    act_stride: usize,
    dst: *const *mut f32,
    prefetch: GemvPrefetch,
) {
    product_grid::<W, NC>(Operands { weights, stride, rows, k, act, act_stride, dst, prefetch })
}

const fn kernel<W: Pack>(order: Order, [gemv, gemv_prefetch]: [&'static [GemvFn]; 2], most_k: usize) -> Kernel {
    Kernel {
        act: W::SHAPE.act_rows(order),
        quantize: crate::act::quantize_rows,
        gemv_prefetch,
        domain: Domain { most_columns: gemv.len(), most_k, ..Domain::ALL },
        ..avx512::with::<W>(&[], gemv)
    }
}
const fn kernel32<W: Block32 + Pack>(most_k: usize) -> Kernel {
    kernel::<W>(Order::Halves, const { [&[block32::<W, false>], &[block32::<W, true>]] }, most_k)
}
const fn kernel256<W: Step256 + Pack>(most_k: usize) -> Kernel {
    kernel::<W>(W::ORDER, const { [&[super256::<W, false, 1>], &[super256::<W, true, 1>]] }, most_k)
}
/// For exactly two columns. They share the format of one.
const fn two<W: Step256 + Pack>(most_k: usize) -> Kernel {
    let functions: [&[GemvFn]; 2] = const {
        [&[super256::<W, false, 1>, super256::<W, false, 2>], &[super256::<W, true, 1>, super256::<W, true, 2>]]
    };
    let one = kernel::<W>(W::ORDER, functions, most_k);
    Kernel { domain: Domain { fewest_columns: 2, ..one.domain }, ..one }
}
/// Types with a grid, for a few columns: they share what is unpacked. Their activations have one format.
const fn grid<W: Grid512 + Pack>() -> Kernel {
    let table = const { &[grid256::<W, 1>, grid256::<W, 2>, grid256::<W, 3>, grid256::<W, 4>, grid256::<W, 5>] };
    let act = Shape { sub: 16, ..W::SHAPE }.act_rows(GRID_ORDER);
    let domain = Domain { most_columns: GRID_COLUMNS, ..Domain::ALL };
    // they prefetch themselves
    Kernel { act, domain, ..kernel::<W>(GRID_ORDER, [table, &[]], ALL) }
}

/// Most columns of [`grid`]. With eight, iq2_xxs takes 472 us so, and iq3_s 582. By panels, from the times of 17 to 32
/// columns, it is 424 and 516; with five 357 and 449, so 334 and 422 (Zen 4, 2026-11-30, `2026-11-30-amd-epyc-iq.md`).
const GRID_COLUMNS: usize = 5;

/// Longest rows of super-blocks whose quantised column stays in the level-1 cache beside the weights. A longer column is
/// read from the level-2 cache for every row; [`super::avx512_fused`] reads it once for sixteen rows. Blocks of 32 have
/// larger records. Longer than [`SPACED`] they lie without gaps, and q4_0 falls from 27 GB/s to 10 (`kernel-choices`).
const LONG: usize = 8192;
const ALL: usize = usize::MAX;

/// All types but IQ4_XS: sums of its values do not fit an `i16`, and with 32-bit sums it is no faster than fused. IQ1_S,
/// IQ1_M, TQ1_0, NVFP4, Q1_0 and Q2_0 are slower so than fused: nvfp4 27.8 GMAC/s and 35.3, q1_0 46 and 69 (`low-bit`).
///
/// For one column only: with two, [`super::avx512_fused`] is faster for most types, q4_1 147 us and 111
/// (`kernel-choices`). [`TWO`] has those for which it is not.
pub(super) static KERNELS: [Kernel; 18] = [
    kernel32::<Q4_0>(SPACED),
    kernel32::<Q4_1>(SPACED),
    kernel32::<Q5_0>(SPACED),
    kernel32::<Q5_1>(SPACED),
    kernel32::<Q8_0>(SPACED),
    kernel32::<Iq4Nl>(SPACED),
    kernel32::<Mxfp4>(SPACED),
    kernel256::<Q2K>(LONG),
    kernel256::<Q3K>(LONG),
    kernel256::<Q4K>(LONG),
    kernel256::<Q5K>(LONG),
    kernel256::<Q6K>(ALL),
    grid::<Iq2Xxs>(),
    grid::<Iq2Xs>(),
    grid::<Iq2S>(),
    grid::<Iq3Xxs>(),
    grid::<Iq3S>(),
    kernel256::<Tq2_0>(LONG),
];

/// Longest rows of [`TWO`] for types that read many bytes. Zen 4, 2026-11-30, two columns of q6_K by rows and fused: 4096
/// elements 302 us and 327, 6144 elements 714 and 494.
const LONG_OF_TWO: usize = 4096;

/// Types of which two columns by rows are faster than two of the fused kernel, which transposes all bits of a row: q6_K
/// 153 us and 169 with 2048 elements. Columns longer than [`SPACED`] lie without gaps: 1236 us and 646 with 8192.
pub(super) static TWO: [Kernel; 3] = [two::<Q2K>(SPACED), two::<Q5K>(LONG_OF_TWO), two::<Q6K>(LONG_OF_TWO)];
