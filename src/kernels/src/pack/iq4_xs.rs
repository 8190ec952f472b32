//! IQ4_XS: 8 sub-blocks of 32, 6-bit scales with offset 32, codes into the IQ4 table.
//!
//! ```text
//! d f16 | scales_h u16 | scales_l 4 B | qs 128 B       value = d * (scale[j] - 32) * table[code]
//! scale j: low nibble = nibble j of scales_l, upper bits = bits 2j..2j+1 of scales_h
//! qs byte 16*j + l: element 32*j + l (low nibble), 32*j + 16 + l (high nibble)
//! ```

use super::{Rows, Weight, iq4_table, put_signed, unrolled};
use crate::formats::{LINE, WeightType};
use crate::isa::Lanes;

/// 4-bit non-linear K-quant.
pub struct Iq4Xs;
impl Weight for Iq4Xs {
    const TYPE: WeightType = WeightType::Iq4Xs;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        let table = iq4_table::<S>();
        let m = S::splat(0x0f0f_0f0f);
        unrolled!(j in [0, 1, 2, 3, 4, 5, 6, 7] {
            let qs = rows.words4::<S>(8 + 16 * j);
            for (w, q) in qs.into_iter().enumerate() {
                put_signed::<Self, S>(rec, 8 * j + w, S::lut16(table, S::and(q, m)));
                put_signed::<Self, S>(rec, 8 * j + 4 + w, S::lut16(table, S::and(S::shr(q, 4), m)));
            }
        });
        let dh = rows.words1::<S>(0);
        let sl = rows.words1::<S>(4);
        let (four, two, bias) = (S::splat(15), S::splat(0x30), S::splat(32));
        unrolled!(j in [0, 1, 2, 3, 4, 5, 6, 7] {
            let lo = S::and(S::shr(sl, 4 * j as u32), four);
            // bits 16 + 2j of the word to bit 4
            let hi = S::and(S::shr(dh, 12 + 2 * j as u32), two);
            let s = S::sub(S::or(lo, hi), bias);
            // 8-bit codes: every ISA scales in f32
            S::storef(rec.add(Self::SHAPE.scales_at() + j * LINE), S::cvt(s));
        });
        S::storef(rec.add(Self::SHAPE.d_at()), S::half_lo(dh));
    }
}
