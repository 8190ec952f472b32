//! Kernels for one column, by rows, with AVX-512 in 512-bit registers.

use super::*;
use crate::micro::DirectFn;
use crate::pack::*;
use crate::rows::{Block32, Operands, Super256, product32, product256};

macro_rules! product {
    ($name:ident, $kind:ident, $of:ident) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        unsafe fn $name<W: $kind, const AHEAD: bool>(
            weights: *const u8,
            stride: usize,
            rows: usize,
            k: usize,
            act: *const u8,
            _act_stride: usize,
            dst: *const *mut f32,
            fetch: Fetch,
        ) {
            $of::<W, AHEAD>(Operands { weights, stride, rows, k, act, dst: *dst, fetch })
        }
    };
}
product!(block32, Block32, product32);
product!(super256, Super256, product256);

const fn kernel<W: Pack>(order: Order, [direct, ahead]: [&'static [DirectFn]; 2], most_k: usize) -> Kernel {
    Kernel {
        act: W::SHAPE.act_rows(order),
        quantize: crate::act::quantize_rows,
        most_columns: 1,
        most_columns_split: 1,
        most_k,
        ahead,
        ..avx512::with::<W>(&[], direct)
    }
}
const fn kernel32<W: Block32 + Pack>(most_k: usize) -> Kernel {
    kernel::<W>(Order::Halves, const { [&[block32::<W, false>], &[block32::<W, true>]] }, most_k)
}
const fn kernel256<W: Super256 + Pack>(most_k: usize) -> Kernel {
    kernel::<W>(W::ORDER, const { [&[super256::<W, false>], &[super256::<W, true>]] }, most_k)
}

/// Longest rows of super-blocks whose column stays in the level-1 cache beside the weights; longer ones are read again and
/// again from the second, and [`super::avx512_fused`] reads the column once for sixteen rows. Blocks of 32 have larger
/// records, and fall at once where they lie without gaps: q4_0 27 GB/s up to [`SPACED`] elements, then 10, fused 28.
const LONG: usize = 8192;
const ALL: usize = usize::MAX;

/// All types but IQ4_XS, sums of whose table values do not fit an `i16`: with 32-bit sums it reads no faster by rows than
/// fused (same machine and day, 2048 x 2048, one column, us: 99, 97, in the level-2 cache 90, 92; by panels 150).
///
/// One column: from two on [`super::avx512_fused`] is faster, see [`crate::micro::fused`]. (AMD EPYC, Zen 4, 2026-11-30,
/// weights in memory, us for 4 Mi weights by rows and fused. Two columns, rows of 2048: from 157, 171 (q6_K) and
/// 133, 145 (q5_K) to 147, 111 (q4_1). One column, rows of 14336: q4_0 136, 83; q8_0 214, 156; iq4_nl 148, 97; mxfp4 195,
/// 175; q4_K 91, 81; q3_K 147, 106; q5_K 123, 110; q2_K 94, 86; q6_K 146, 170.)
pub(super) static KERNELS: [Kernel; 12] = [
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
];
