//! Q6_K: 16 sub-blocks of 16, 8-bit scales.
//!
//! ```text
//! ql 128 B | qh 64 B | scales 16 x i8 | d f16        value = d * scale[s] * (code - 32)
//! per half n of 128 elements, l in 0..32:
//!   element 128n + l:       ql[64n + l] low nibble,       qh[32n + l] bits 0-1
//!   element 128n + 32 + l:  ql[64n + 32 + l] low nibble,  qh bits 2-3
//!   element 128n + 64 + l:  ql[64n + l] high nibble,      qh bits 4-5
//!   element 128n + 96 + l:  ql[64n + 32 + l] high nibble, qh bits 6-7
//! ```

use super::{Rows, Weight, put, put_scale, sbyte, unrolled};
use crate::formats::{LINE, WeightType};
use crate::isa::Lanes;

/// 6-bit K-quant.
pub struct Q6K;
impl Weight for Q6K {
    const TYPE: WeightType = WeightType::Q6K;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        let m = S::splat(0x0f0f_0f0f);
        let two = S::splat(0x3030_3030);
        unrolled!(n in [0, 1] {
            unrolled!(h in [0, 1] {
                let a = rows.words4::<S>(64 * n + 16 * h);
                let b = rows.words4::<S>(64 * n + 32 + 16 * h);
                let q = rows.words4::<S>(128 + 32 * n + 16 * h);
                for w in 0..4 {
                    let line = 32 * n + 4 * h + w;
                    let (lo_a, hi_a) = (S::and(a[w], m), S::and(S::shr(a[w], 4), m));
                    let (lo_b, hi_b) = (S::and(b[w], m), S::and(S::shr(b[w], 4), m));
                    put::<S>(rec, line, S::or(lo_a, S::and(S::shl(q[w], 4), two)));
                    put::<S>(rec, line + 8, S::or(lo_b, S::and(S::shl(q[w], 2), two)));
                    put::<S>(rec, line + 16, S::or(hi_a, S::and(q[w], two)));
                    put::<S>(rec, line + 24, S::or(hi_b, S::and(S::shr(q[w], 2), two)));
                }
            });
        });
        for (i, s) in rows.words4::<S>(192).into_iter().enumerate() {
            for j in 0..4 {
                let at = Self::SHAPE.scales_at() + (4 * i + j) * LINE;
                put_scale::<S>(rec.add(at), sbyte::<S>(s, j as u32));
            }
        }
        S::storef(rec.add(Self::SHAPE.d_at()), S::half_lo(rows.halves::<S>(208)));
    }
}
