//! The types with blocks of 32 and one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.
//!
//! ```text
//! q4_0, iq4_nl   d f16 | qs 16 B: byte i = element i (low nibble), element 16 + i (high)
//! q4_1           d f16 | m f16 | qs 16 B
//! q5_0           d f16 | qh 4 B: bit i = fifth bit of element i | qs 16 B
//! q5_1           d f16 | m f16 | qh 4 B | qs 16 B
//! q8_0           d f16 | qs 32 x i8
//! mxfp4          e u8: scale 2^(e - 128) | qs 16 B: code of E2M1, values doubled
//! ```

use super::{Rows, Weight, iq4_table, put, put_signed, unrolled};
use crate::formats::{Codes, WeightType};
use crate::isa::Lanes;

/// Low nibbles to lines 0-3, high ones to lines 4-7.
#[inline(always)]
unsafe fn put_nibbles<S: Lanes>(qs: [S::I; 4], rec: *mut u8) {
    let m = S::splat(0x0f0f_0f0f);
    for (i, q) in qs.into_iter().enumerate() {
        put::<S>(rec, i, S::and(q, m));
        put::<S>(rec, 4 + i, S::and(S::shr(q, 4), m));
    }
}

/// The same through a table.
#[inline(always)]
unsafe fn put_table<W: Weight, S: Lanes>(qs: [S::I; 4], table: &[i8; 16], rec: *mut u8) {
    let m = S::splat(0x0f0f_0f0f);
    for (i, q) in qs.into_iter().enumerate() {
        let (low, high) = (S::lut16(table, S::and(q, m)), S::lut16(table, S::and(S::shr(q, 4), m)));
        if matches!(W::SHAPE.codes, Codes::Signed) {
            put_signed::<W, S>(rec, i, low);
            put_signed::<W, S>(rec, 4 + i, high);
        } else {
            put::<S>(rec, i, low);
            put::<S>(rec, 4 + i, high);
        }
    }
}

/// The same with the fifth bits of `qh`.
#[inline(always)]
unsafe fn put_5bit<S: Lanes>(qs: [S::I; 4], qh: S::I, rec: *mut u8) {
    let m = S::splat(0x0f0f_0f0f);
    let lo = [S::and(qs[0], m), S::and(qs[1], m), S::and(qs[2], m), S::and(qs[3], m)];
    let hi = [S::shr(qs[0], 4), S::shr(qs[1], 4), S::shr(qs[2], 4), S::shr(qs[3], 4)];
    let hi = [S::and(hi[0], m), S::and(hi[1], m), S::and(hi[2], m), S::and(hi[3], m)];
    put::<S>(rec, 0, S::or(lo[0], S::spread_bits::<0>(qh)));
    put::<S>(rec, 1, S::or(lo[1], S::spread_bits::<1>(qh)));
    put::<S>(rec, 2, S::or(lo[2], S::spread_bits::<2>(qh)));
    put::<S>(rec, 3, S::or(lo[3], S::spread_bits::<3>(qh)));
    put::<S>(rec, 4, S::or(hi[0], S::spread_bits::<4>(qh)));
    put::<S>(rec, 5, S::or(hi[1], S::spread_bits::<5>(qh)));
    put::<S>(rec, 6, S::or(hi[2], S::spread_bits::<6>(qh)));
    put::<S>(rec, 7, S::or(hi[3], S::spread_bits::<7>(qh)));
}

/// `d` from the half at the start.
#[inline(always)]
unsafe fn put_d<S: Lanes>(rows: &Rows, p: *mut u8) {
    S::storef(p, S::half_lo(rows.halves::<S>(0)));
}

/// `d` and `m` from two halves at the start.
#[inline(always)]
unsafe fn put_d_m<S: Lanes>(rows: &Rows, d: *mut u8, m: *mut u8) {
    let dm = rows.words1::<S>(0);
    S::storef(d, S::half_lo(dm));
    S::storef(m, S::half_lo(S::shr(dm, 16)));
}

/// 4-bit codes, value `d * (code - 8)`.
pub struct Q4_0;
impl Weight for Q4_0 {
    const TYPE: WeightType = WeightType::Q4_0;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        put_nibbles::<S>(rows.words4::<S>(2), rec);
        put_d::<S>(rows, rec.add(Self::SHAPE.scales_at()));
    }
}

/// 4-bit codes, value `d * code + m`.
pub struct Q4_1;
impl Weight for Q4_1 {
    const TYPE: WeightType = WeightType::Q4_1;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        put_nibbles::<S>(rows.words4::<S>(4), rec);
        put_d_m::<S>(rows, rec.add(Self::SHAPE.scales_at()), rec.add(Self::SHAPE.mins_at()));
    }
}

/// 5-bit codes, value `d * (code - 16)`.
pub struct Q5_0;
impl Weight for Q5_0 {
    const TYPE: WeightType = WeightType::Q5_0;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        put_5bit::<S>(rows.words4::<S>(6), rows.words1::<S>(2), rec);
        put_d::<S>(rows, rec.add(Self::SHAPE.scales_at()));
    }
}

/// 5-bit codes, value `d * code + m`.
pub struct Q5_1;
impl Weight for Q5_1 {
    const TYPE: WeightType = WeightType::Q5_1;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        put_5bit::<S>(rows.words4::<S>(8), rows.words1::<S>(4), rec);
        put_d_m::<S>(rows, rec.add(Self::SHAPE.scales_at()), rec.add(Self::SHAPE.mins_at()));
    }
}

/// Signed bytes, value `d * code`.
pub struct Q8_0;
impl Weight for Q8_0 {
    const TYPE: WeightType = WeightType::Q8_0;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        // adding 128 to a signed byte is flipping its top bit
        let bias = S::splat(if S::MADD { 0 } else { 0x8080_8080_u32 as i32 });
        unrolled!(h in [0, 1] {
            for (i, q) in rows.words4::<S>(2 + 16 * h).into_iter().enumerate() {
                put_signed::<Self, S>(rec, 4 * h + i, S::xor(q, bias));
            }
        });
        put_d::<S>(rows, rec.add(Self::SHAPE.scales_at()));
    }
}

/// 4-bit codes into a table of values.
pub struct Iq4Nl;
impl Weight for Iq4Nl {
    const TYPE: WeightType = WeightType::Iq4Nl;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        put_table::<Self, S>(rows.words4::<S>(2), iq4_table::<S>(), rec);
        put_d::<S>(rows, rec.add(Self::SHAPE.scales_at()));
    }
}

/// Twice the E2M1 values (ggml-common.h, `kvalues_mxfp4`), plus the offset 12.
pub(crate) const MXFP4_VALUES_U: [i8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// 4-bit floats with a power-of-two scale.
pub struct Mxfp4;
impl Weight for Mxfp4 {
    const TYPE: WeightType = WeightType::Mxfp4;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        put_table::<Self, S>(rows.words4::<S>(1), &MXFP4_VALUES_U, rec);
        let mut d = [0f32; crate::isa::LANES];
        for (r, d) in d.iter_mut().enumerate() {
            *d = e8m0_half(*rows.at.row(r / 4, r % 4, 0));
        }
        S::storef(rec.add(Self::SHAPE.scales_at()), S::loadf(d.as_ptr().cast()));
    }
}

/// Half of the scale that an E8M0 byte stands for: `2^(e - 128)` (the codes are doubled).
#[inline(always)]
pub fn e8m0_half(e: u8) -> f32 {
    // the two smallest are denormal
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}
