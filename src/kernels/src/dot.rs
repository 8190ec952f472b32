//! Dot products of one row with one column of ggml's own blocks: what its `ggml_vec_dot_*` compute.

use crate::formats::WeightType;
use crate::isa::Isa;
use crate::pack::{Iq4Nl, Mxfp4};
use crate::rows::{Block32, dot32};

/// The product of the `n` elements at `x` with blocks of Q8_0 at `y`; what is beyond the last whole block does not
/// count. Integer sums are exact; the products with scales are rounded and added up in an order of their own.
///
/// # Safety
/// Both are readable for `n` elements; the CPU has the features of the ISA that [`dot`] was asked for.
pub type DotFn = unsafe fn(n: usize, x: *const u8, y: *const u8) -> f32;

/// Fewest elements for which these win: a part of four blocks is copied first, which costs more than the product.
pub const LEAST: usize = 128;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn block32<W: Block32>(n: usize, x: *const u8, y: *const u8) -> f32 {
    dot32::<W>(n, x, y)
}

/// The function for a weight type, where it was measured to be faster than ggml's own. Both tiers with AVX-512 VNNI
/// have the same ones; ggml's AVX2 code has no other of ours to beat.
///
/// Time of ggml's own over ours with n = 128, 256, 1024, 8192: iq4_nl 1.07, 1.20, 1.26, 1.37; mxfp4 1.04, 1.13, 1.16,
/// 1.27. Left out: q4_0 0.76, 0.93, 0.94, 1.17; q4_1 0.68, 0.76, 0.94, 1.19; q5_0 0.81, 0.87, 0.92, 1.07; q5_1 0.59, 0.69,
/// 0.77, 0.97; q8_0 0.74, 0.71, 0.78, 0.94. (AMD EPYC, Zen 4, 2026-11-21, llama.cpp b11434 built for it, in the nearest cache.)
pub fn dot(isa: Isa, weight: WeightType) -> Option<DotFn> {
    if !matches!(isa, Isa::Avx512 | Isa::Vnni256) || !isa.available() {
        return None;
    }
    match weight {
        WeightType::Iq4Nl => Some(block32::<Iq4Nl>),
        WeightType::Mxfp4 => Some(block32::<Mxfp4>),
        _ => None,
    }
}
