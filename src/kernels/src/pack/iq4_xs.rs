//! IQ4_XS: 8 sub-blocks of 32, 6-bit scales with offset 32, codes into the IQ4 table.
//!
//! ```text
//! d f16 | scales_h u16 | scales_l 4 B | qs 128 B       value = d * (scale[j] - 32) * table[code]
//! scale j: low nibble = nibble j of scales_l, upper bits = bits 2j..2j+1 of scales_h
//! qs byte 16*j + l: element 32*j + l (low nibble), 32*j + 16 + l (high nibble)
//! ```

use super::{Quantised, Rows, Sink, Weight, iq4_table, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// 4-bit non-linear K-quant.
pub struct Iq4Xs;
impl Weight for Iq4Xs {
    const TYPE: WeightType = WeightType::Iq4Xs;
}
impl Quantised for Iq4Xs {
    const STEPS: usize = 8;
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        let dh = rows.words1::<S>(0);
        let sl = rows.words1::<S>(4);
        let (four, two, bias) = (S::splat(15), S::splat(0x30), S::splat(32));
        unrolled!(j in [0, 1, 2, 3, 4, 5, 6, 7] {
            let lo = S::and(S::shr(sl, 4 * j as u32), four);
            // bits 16 + 2j of the word to bit 4
            let hi = S::and(S::shr(dh, 12 + 2 * j as u32), two);
            sink.scale(j, S::sub(S::or(lo, hi), bias));
        });
        sink.d(S::half_lo(dh));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
        let table = iq4_table::<S>();
        let m = S::splat(0x0f0f_0f0f);
        sink.part();
        sink.open(step);
        for (w, q) in rows.words4::<S>(8 + 16 * step).into_iter().enumerate() {
            sink.codes(step, w, S::lut16(table, S::and(q, m)));
            sink.codes(step, 4 + w, S::lut16(table, S::and(S::shr(q, 4), m)));
        }
        sink.close(step);
    }
}
