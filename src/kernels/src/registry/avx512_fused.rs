//! Kernels for few columns that multiply at once what they unpack, in 512-bit registers.

use super::*;
use crate::isa::avx512::Avx512;
use crate::micro::fused::{FetchNext, FusedFn, product};
use crate::pack::*;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn fused<W: Quantised, const NC: usize>(
    weights: *const u8,
    stride: usize,
    blocks: usize,
    act: *const u8,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
    ahead: FetchNext,
) {
    product::<W, Avx512, NC>(weights, stride, blocks, act, dst, rows, first, ahead)
}

const fn table<W: Quantised>() -> &'static [FusedFn] {
    const {
        &[
            fused::<W, 1>,
            fused::<W, 2>,
            fused::<W, 3>,
            fused::<W, 4>,
            fused::<W, 5>,
            fused::<W, 6>,
            fused::<W, 7>,
            fused::<W, 8>,
        ]
    }
}

const fn kernel<W: Quantised>(most_columns: usize) -> Kernel {
    let most_columns_split = most_columns;
    Kernel { fused: table::<W>(), most_columns, most_columns_split, ..avx512::with::<W>(avx512::micro(W::SHAPE), &[]) }
}

/// Up to two tiles, but for Q2_K. (AMD EPYC, Zen 4, 2026-11-30, weights in memory,
/// 2048 x 2048, sixteen columns, us by panels and fused: q4_0 591, 413; q8_0 704, 463; q4_K 614, 516; q6_K 713, 564;
/// iq4_xs 563, 422; twelve: q3_K 426, 397; q2_K 420, 440. In the level-2 cache: q4_0 440, 397; q4_K 439, 498. More
/// than two tiles, and full data paths: unmeasured.)
pub(super) static KERNELS: [Kernel; 13] = [
    kernel::<Q4_0>(16),
    kernel::<Q4_1>(16),
    kernel::<Q5_0>(16),
    kernel::<Q5_1>(16),
    kernel::<Q8_0>(16),
    kernel::<Iq4Nl>(16),
    kernel::<Mxfp4>(16),
    kernel::<Q2K>(8),
    kernel::<Q3K>(16),
    kernel::<Q4K>(16),
    kernel::<Q5K>(16),
    kernel::<Q6K>(16),
    kernel::<Iq4Xs>(16),
];
