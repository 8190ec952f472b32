//! Q2_K: 16 sub-blocks of 16, 4-bit scales and mins.
//!
//! ```text
//! scales 16 B: scale (low nibble), min (high) | qs 64 B | d f16 | dmin f16
//! value = d * scale[s] * code - dmin * min[s]
//! element 128n + 32j + l: qs[32n + l] bits 2j..2j+1
//! ```

use super::{Rows, Weight, byte, put, put_d_dmin, put_mins, put_scale, unrolled};
use crate::formats::{LINE, WeightType};
use crate::isa::Lanes;

/// 2-bit K-quant.
pub struct Q2K;
impl Weight for Q2K {
    const TYPE: WeightType = WeightType::Q2K;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        let two = S::splat(0x0303_0303);
        unrolled!(n in [0, 1] {
            unrolled!(h in [0, 1] {
                let qs = rows.words4::<S>(16 + 32 * n + 16 * h);
                for j in 0..4 {
                    for (w, &q) in qs.iter().enumerate() {
                        let v = S::and(S::shr(q, 2 * j as u32), two);
                        put::<S>(rec, 32 * n + 8 * j + 4 * h + w, v);
                    }
                }
            });
        });
        let four = S::splat(0x0f0f_0f0f);
        for (i, s) in rows.words4::<S>(0).into_iter().enumerate() {
            let (scale, min) = (S::and(s, four), S::and(S::shr(s, 4), four));
            for j in 0..4 {
                let at = Self::SHAPE.scales_at() + (4 * i + j) * LINE;
                put_scale::<S>(rec.add(at), byte::<S>(scale, j as u32));
            }
            for p in 0..2 {
                let at = Self::SHAPE.mins_at() + (2 * i + p as usize) * LINE;
                put_mins::<S>(rec.add(at), byte::<S>(min, 2 * p), byte::<S>(min, 2 * p + 1));
            }
        }
        put_d_dmin::<S>(rec, Self::SHAPE, rows.words1::<S>(80));
    }
}
