//! The types without blocks: F16, BF16, F32. A record is sixteen elements of each row.

use super::{Pack, Rows, Weight, put, unrolled};
use crate::formats::{Codes, LINE, Shape, WeightType, float};
use crate::isa::{DotBf16, Lanes};

/// A type whose elements are values.
pub trait FloatWeight: Pack {
    /// Sixteen consecutive elements at `p`.
    ///
    /// # Safety
    /// They must be readable; see also [`Lanes`].
    unsafe fn widen<S: Lanes>(p: *const u8) -> S::F;
}

impl FloatWeight for F16 {
    #[inline(always)]
    unsafe fn widen<S: Lanes>(p: *const u8) -> S::F {
        S::widen_halves(p)
    }
}

impl FloatWeight for Bf16 {
    #[inline(always)]
    unsafe fn widen<S: Lanes>(p: *const u8) -> S::F {
        S::widen_bf16(p)
    }
}

impl FloatWeight for F32 {
    #[inline(always)]
    unsafe fn widen<S: Lanes>(p: *const u8) -> S::F {
        S::loadf(p)
    }
}

/// Half precision.
pub struct F16;
impl Weight for F16 {
    const TYPE: WeightType = WeightType::F16;
}
impl Pack for F16 {
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        unrolled!(i in [0, 1] {
            for (j, w) in rows.words4::<S>(16 * i).into_iter().enumerate() {
                let line = rec.add((8 * i + 2 * j) * LINE);
                S::storef(line, S::half_lo(w));
                S::storef(line.add(LINE), S::half_lo(S::shr(w, 16)));
            }
        });
    }
}

/// The upper halves of `f32`, widened.
pub struct Bf16;
impl Weight for Bf16 {
    const TYPE: WeightType = WeightType::Bf16;
}
impl Pack for Bf16 {
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        let high = S::splat(0xffff_0000_u32 as i32);
        unrolled!(i in [0, 1] {
            for (j, w) in rows.words4::<S>(16 * i).into_iter().enumerate() {
                put::<S>(rec, 8 * i + 2 * j, S::shl(w, 16));
                put::<S>(rec, 8 * i + 2 * j + 1, S::and(w, high));
            }
        });
    }
}

/// The same as pairs, for [`DotBf16`](crate::isa::DotBf16).
pub struct Bf16Pairs;
impl Weight for Bf16Pairs {
    const TYPE: WeightType = WeightType::Bf16;
    const SHAPE: Shape = float(Codes::Bf16Pairs);
}
impl Pack for Bf16Pairs {
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        unrolled!(i in [0, 1] {
            for (j, w) in rows.words4::<S>(16 * i).into_iter().enumerate() {
                put::<S>(rec, 4 * i + j, w);
            }
        });
    }
}

/// A record of sixteen rows of F16, rounded to the pairs of [`Bf16Pairs`].
///
/// # Safety
/// The conditions of [`Pack::pack`]; the CPU has AVX512_BF16.
#[inline(always)]
pub unsafe fn pack_f16_as_bf16<S: DotBf16>(rows: &Rows, rec: *mut u8) {
    unrolled!(i in [0, 1] {
        for (j, w) in rows.words4::<S>(16 * i).into_iter().enumerate() {
            put::<S>(rec, 4 * i + j, S::to_bf16_pairs(S::half_lo(w), S::half_lo(S::shr(w, 16))));
        }
    });
}

/// Single precision.
pub struct F32;
impl Weight for F32 {
    const TYPE: WeightType = WeightType::F32;
}
impl Pack for F32 {
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        unrolled!(i in [0, 1, 2, 3] {
            for (j, w) in rows.words4::<S>(16 * i).into_iter().enumerate() {
                put::<S>(rec, 4 * i + j, w);
            }
        });
    }
}
