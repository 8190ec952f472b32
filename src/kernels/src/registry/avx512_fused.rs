//! Fused kernels, in 512-bit registers: for few columns. They multiply codes as soon as they are unpacked.

use super::*;
use crate::isa::avx512::Avx512;
use crate::micro::fused::{FusedFn, product};
use crate::pack::*;
use crate::prefetch::FusedPrefetch;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn fused<W: Quantised, const NC: usize>(
    weights: *const u8,
    stride: usize,
    blocks: usize,
    act: *const u8,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
    prefetch: FusedPrefetch,
) {
    product::<W, Avx512, NC>(weights, stride, blocks, act, dst, rows, first, prefetch)
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
    let domain = Domain { most_columns, ..Domain::ALL };
    // scales are not folded into codes: q3_K with four columns takes 178 us so and 205 folded, with eight 291 and 264
    // (`docs/experiments.md`)
    let (shape, act) = (W::SHAPE, W::SHAPE.act(false));
    Kernel { shape, act, fused: table::<W>(), domain, ..avx512::with::<W>(avx512::micro(W::TYPE.shape_on(false)), &[]) }
}

/// Up to two tiles of eight columns; one tile for Q2_K and Q3_K, whose panels have folded codes. With sixteen columns q4_K takes 516 us fused, 614 by panels
/// (`kernel-choices`). Three tiles and more, and CPUs with [`DataPath::Full`], are not measured.
pub(super) static KERNELS: [Kernel; 20] = [
    kernel::<Q4_0>(16),
    kernel::<Q4_1>(16),
    kernel::<Q5_0>(16),
    kernel::<Q5_1>(16),
    kernel::<Q8_0>(16),
    kernel::<Iq4Nl>(16),
    kernel::<Mxfp4>(16),
    kernel::<Q2K>(8),
    kernel::<Q3K>(8),
    kernel::<Q4K>(16),
    kernel::<Q5K>(16),
    kernel::<Q6K>(16),
    kernel::<Iq4Xs>(16),
    kernel::<Iq1S>(16),
    kernel::<Iq1M>(16),
    kernel::<Tq1_0>(16),
    kernel::<Tq2_0>(16),
    kernel::<Nvfp4>(16),
    kernel::<Q1_0>(16),
    kernel::<Q2_0>(16),
];
