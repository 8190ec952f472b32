//! Q3_K: 16 sub-blocks of 16, 6-bit scales with offset 32.
//!
//! ```text
//! hmask 32 B | qs 64 B | scales 12 B | d f16          value = d * (scale[s] - 32) * (code - 4)
//! element 128n + 32j + l: low bits qs[32n + l] bits 2j..2j+1, third bit hmask[l] bit 4n + j
//! scales: bytes 0-7 hold scales 0-7 (low nibble) and 8-15 (high nibble); bytes 8-11 hold their
//!         upper bits, two for each of scales i, 4 + i, 8 + i, 12 + i
//! ```

use super::{Quantised, Rows, Sink, Weight, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// 3-bit K-quant.
pub struct Q3K;
impl Weight for Q3K {
    const TYPE: WeightType = WeightType::Q3K;
}
impl Quantised for Q3K {
    /// Sixteen bytes of `hmask`, with the low bits of the same elements.
    const STEPS: usize = 2;

    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        // scales 12 B and d are the last 14 bytes: read the 12 and the 2 apart
        let a = rows.words1::<S>(96);
        let b = rows.words1::<S>(100);
        let c = rows.words1::<S>(104);
        let four = S::splat(0x0f0f_0f0f);
        let top = S::splat(0x3030_3030);
        let scales = [
            S::or(S::and(a, four), S::and(S::shl(c, 4), top)),
            S::or(S::and(b, four), S::and(S::shl(c, 2), top)),
            S::or(S::and(S::shr(a, 4), four), S::and(c, top)),
            S::or(S::and(S::shr(b, 4), four), S::and(S::shr(c, 2), top)),
        ];
        for (i, s) in scales.into_iter().enumerate() {
            sink.scales(4 * i, s, 32);
        }
        sink.d(S::half_lo(rows.halves::<S>(108)));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
        let two = S::splat(0x0303_0303);
        let third = S::splat(0x0404_0404);
        sink.part();
        let hm = rows.words4::<S>(16 * step);
        unrolled!(n in [0, 1] {
            let qs = rows.words4::<S>(32 + 32 * n + 16 * step);
            unrolled!(j in [0, 1, 2, 3] {
                let bit = (4 * n + j) as u32;
                let s = 8 * n + 2 * j + step;
                sink.open(s);
                for w in 0..4 {
                    let hi = if bit < 2 { S::shl(hm[w], 2 - bit) } else { S::shr(hm[w], bit - 2) };
                    let lo = S::and(S::shr(qs[w], 2 * j as u32), two);
                    sink.codes(s, w, S::or(lo, S::and(hi, third)));
                }
                sink.close(s);
            });
        });
    }
}
