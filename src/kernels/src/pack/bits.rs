//! Q1_0 and Q2_0: one and two bits in the order of the elements, with one scale for 128 and 64 elements: four and two
//! records.
//!
//! ```text
//! q1_0   d f16 | qs 16 B: bit e % 8 of byte e / 8 is element e        value = d if the bit is set, else -d
//! q2_0   d f16 | qs 16 B: bits 2j..2j+1 of byte e / 4, j = e % 4      value = d * (code - 1)
//! ```

use super::{Quantised, Rows, Sink, Weight, byte, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// One bit. The code is sixteen times the bit, its offset eight, and the scale `d / 8`.
pub struct Q1_0;
impl Weight for Q1_0 {
    const TYPE: WeightType = WeightType::Q1_0;
}
impl Quantised for Q1_0 {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        sink.d(S::mulf(S::half_lo(rows.halves::<S>(0)), S::splatf(0.125)));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        sink.part();
        let bits = rows.words1::<S>(2 + 4 * rows.record());
        sink.open(0);
        sink.codes(0, 0, S::spread_bits::<0>(bits));
        sink.codes(0, 1, S::spread_bits::<1>(bits));
        sink.codes(0, 2, S::spread_bits::<2>(bits));
        sink.codes(0, 3, S::spread_bits::<3>(bits));
        sink.codes(0, 4, S::spread_bits::<4>(bits));
        sink.codes(0, 5, S::spread_bits::<5>(bits));
        sink.codes(0, 6, S::spread_bits::<6>(bits));
        sink.codes(0, 7, S::spread_bits::<7>(bits));
        sink.close(0);
    }
}

/// Two bits.
pub struct Q2_0;
impl Weight for Q2_0 {
    const TYPE: WeightType = WeightType::Q2_0;
}
impl Quantised for Q2_0 {
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        sink.d(S::half_lo(rows.halves::<S>(0)));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        sink.part();
        let all = rows.words4::<S>(2);
        let two = if rows.record() == 0 { [all[0], all[1]] } else { [all[2], all[3]] };
        sink.open(0);
        unrolled!(i in [0, 1, 2, 3, 4, 5, 6, 7] {
            // the four pairs of bits of a byte, one in each byte of the lane
            let q = byte::<S>(two[i / 4], i as u32 % 4);
            let q = S::or(q, S::shl(q, 12));
            sink.codes(0, i, S::and(S::or(q, S::shl(q, 6)), S::splat(0x0303_0303)));
        });
        sink.close(0);
    }
}
