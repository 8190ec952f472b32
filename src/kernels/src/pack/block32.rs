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

use super::{Quantised, Rows, Sink, Weight, give_d_min, iq4_table, unrolled};
use crate::formats::{LINE, WeightType};
use crate::isa::Lanes;

/// Low nibbles to lines 0-3, high ones to lines 4-7.
#[inline(always)]
unsafe fn give_nibbles<S: Lanes, K: Sink<S>>(qs: [S::I; 4], sink: &mut K) {
    let m = S::splat(0x0f0f_0f0f);
    sink.part();
    sink.open(0);
    for (i, q) in qs.into_iter().enumerate() {
        sink.codes(0, i, S::and(q, m));
        sink.codes(0, 4 + i, S::and(S::shr(q, 4), m));
    }
    sink.close(0);
}

/// The same through a table.
#[inline(always)]
unsafe fn give_table<S: Lanes, K: Sink<S>>(qs: [S::I; 4], table: &[i8; 16], sink: &mut K) {
    let m = S::splat(0x0f0f_0f0f);
    sink.part();
    sink.open(0);
    for (i, q) in qs.into_iter().enumerate() {
        let (low, high) = (S::lut16(table, S::and(q, m)), S::lut16(table, S::and(S::shr(q, 4), m)));
        sink.codes(0, i, low);
        sink.codes(0, 4 + i, high);
    }
    sink.close(0);
}

/// The same with the fifth bits of `qh`.
#[inline(always)]
unsafe fn give_5bit<S: Lanes, K: Sink<S>>(qs: [S::I; 4], qh: S::I, sink: &mut K) {
    let m = S::splat(0x0f0f_0f0f);
    let lo = [S::and(qs[0], m), S::and(qs[1], m), S::and(qs[2], m), S::and(qs[3], m)];
    let hi = [S::shr(qs[0], 4), S::shr(qs[1], 4), S::shr(qs[2], 4), S::shr(qs[3], 4)];
    let hi = [S::and(hi[0], m), S::and(hi[1], m), S::and(hi[2], m), S::and(hi[3], m)];
    sink.part();
    sink.open(0);
    sink.codes(0, 0, S::or(lo[0], S::spread_bits::<0>(qh)));
    sink.codes(0, 1, S::or(lo[1], S::spread_bits::<1>(qh)));
    sink.codes(0, 2, S::or(lo[2], S::spread_bits::<2>(qh)));
    sink.codes(0, 3, S::or(lo[3], S::spread_bits::<3>(qh)));
    sink.codes(0, 4, S::or(hi[0], S::spread_bits::<4>(qh)));
    sink.codes(0, 5, S::or(hi[1], S::spread_bits::<5>(qh)));
    sink.codes(0, 6, S::or(hi[2], S::spread_bits::<6>(qh)));
    sink.codes(0, 7, S::or(hi[3], S::spread_bits::<7>(qh)));
    sink.close(0);
}

/// The same bits.
#[inline(always)]
unsafe fn as_floats<S: Lanes>(v: S::I) -> S::F {
    let mut bits = [0u8; LINE];
    S::store(bits.as_mut_ptr(), v);
    S::loadf(bits.as_ptr())
}

/// `d` from the half at the start.
#[inline(always)]
unsafe fn give_d<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
    sink.d(S::half_lo(rows.halves::<S>(0)));
}

/// 4-bit codes, value `d * (code - 8)`.
pub struct Q4_0;
impl Weight for Q4_0 {
    const TYPE: WeightType = WeightType::Q4_0;
}
impl Quantised for Q4_0 {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_d::<S, K>(rows, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        give_nibbles::<S, K>(rows.words4::<S>(2), sink);
    }
}

/// 4-bit codes, value `d * code + m`.
pub struct Q4_1;
impl Weight for Q4_1 {
    const TYPE: WeightType = WeightType::Q4_1;
}
impl Quantised for Q4_1 {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_d_min::<S, K>(sink, rows.words1::<S>(0));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        give_nibbles::<S, K>(rows.words4::<S>(4), sink);
    }
}

/// 5-bit codes, value `d * (code - 16)`.
pub struct Q5_0;
impl Weight for Q5_0 {
    const TYPE: WeightType = WeightType::Q5_0;
}
impl Quantised for Q5_0 {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_d::<S, K>(rows, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        give_5bit::<S, K>(rows.words4::<S>(6), rows.words1::<S>(2), sink);
    }
}

/// 5-bit codes, value `d * code + m`.
pub struct Q5_1;
impl Weight for Q5_1 {
    const TYPE: WeightType = WeightType::Q5_1;
}
impl Quantised for Q5_1 {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_d_min::<S, K>(sink, rows.words1::<S>(0));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        give_5bit::<S, K>(rows.words4::<S>(8), rows.words1::<S>(4), sink);
    }
}

/// Signed bytes, value `d * code`.
pub struct Q8_0;
impl Weight for Q8_0 {
    const TYPE: WeightType = WeightType::Q8_0;
}
impl Quantised for Q8_0 {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_d::<S, K>(rows, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        // adding 128 to a signed byte is flipping its top bit
        let bias = S::splat(if S::ACC16 { 0 } else { 0x8080_8080_u32 as i32 });
        sink.part();
        sink.open(0);
        unrolled!(h in [0, 1] {
            for (i, q) in rows.words4::<S>(2 + 16 * h).into_iter().enumerate() {
                sink.codes(0, 4 * h + i, S::xor(q, bias));
            }
        });
        sink.close(0);
    }
}

/// 4-bit codes into a table of values.
pub struct Iq4Nl;
impl Weight for Iq4Nl {
    const TYPE: WeightType = WeightType::Iq4Nl;
}
impl Quantised for Iq4Nl {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_d::<S, K>(rows, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        give_table::<S, K>(rows.words4::<S>(2), iq4_table::<S>(), sink);
    }
}

/// Twice the E2M1 values (ggml-common.h, `kvalues_mxfp4`), plus the offset 12.
pub(crate) const MXFP4_VALUES_U: [i8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// 4-bit floats with a power-of-two scale.
pub struct Mxfp4;
impl Weight for Mxfp4 {
    const TYPE: WeightType = WeightType::Mxfp4;
}
impl Quantised for Mxfp4 {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        // 2^(e - 128), of which the smallest are denormal, as the product of two powers that are not
        let e = S::and(rows.words1::<S>(0), S::splat(0xff));
        let bias = S::splat(63);
        let low = S::shl(S::add(S::shr(e, 1), bias), 23);
        let high = S::shl(S::add(S::shr(S::add(e, S::splat(1)), 1), bias), 23);
        sink.d(S::mulf(as_floats::<S>(low), as_floats::<S>(high)));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        give_table::<S, K>(rows.words4::<S>(1), &MXFP4_VALUES_U, sink);
    }
}

/// Half of the scale that an E8M0 byte stands for: `2^(e - 128)` (the codes are doubled).
#[inline(always)]
pub fn e8m0_half(e: u8) -> f32 {
    // the two smallest are denormal
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}
