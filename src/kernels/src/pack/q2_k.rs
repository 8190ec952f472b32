//! Q2_K: 16 sub-blocks of 16, 4-bit scales and mins.
//!
//! ```text
//! scales 16 B: scale (low nibble), min (high) | qs 64 B | d f16 | dmin f16
//! value = d * scale[s] * code - dmin * min[s]
//! element 128n + 32j + l: qs[32n + l] bits 2j..2j+1
//! ```

use super::{Quantised, Rows, Sink, Weight, byte, give_d_min, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// 2-bit K-quant.
pub struct Q2K;
impl Weight for Q2K {
    const TYPE: WeightType = WeightType::Q2K;
}
impl Quantised for Q2K {
    /// Sixteen bytes of `qs`: halves of four sub-blocks of 32, each a sub-block of 16.
    const STEPS: usize = 4;

    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        let four = S::splat(0x0f0f_0f0f);
        for (i, s) in rows.words4::<S>(0).into_iter().enumerate() {
            let (scale, min) = (S::and(s, four), S::and(S::shr(s, 4), four));
            sink.scales(4 * i, scale, 0);
            for p in 0..2 {
                sink.mins(2 * i + p as usize, byte::<S>(min, 2 * p), byte::<S>(min, 2 * p + 1));
            }
        }
        give_d_min::<S, K>(sink, rows.words1::<S>(80));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
        let two = S::splat(0x0303_0303);
        let (n, h) = (step / 2, step % 2);
        sink.part();
        let qs = rows.words4::<S>(16 + 16 * step);
        unrolled!(j in [0, 1, 2, 3] {
            let s = 8 * n + 2 * j + h;
            sink.open(s);
            for (w, &q) in qs.iter().enumerate() {
                sink.codes(s, w, S::and(S::shr(q, 2 * j as u32), two));
            }
            sink.close(s);
        });
    }
}
