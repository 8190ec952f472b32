//! Dot products of one row with one column of ggml's own blocks: what its `ggml_vec_dot_*` compute.

use crate::formats::WeightType;
use crate::gemv::{Block32, dot32};
use crate::isa::Isa;
use crate::pack::{Iq4Nl, Mxfp4};

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
/// have the same functions; for AVX2 there are none.
///
/// With 128 elements and more: iq4_nl 1.07 to 1.37 times as fast as ggml's own, mxfp4 1.04 to 1.27. The others lose with
/// up to 1024 elements (`kernel-choices`).
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
