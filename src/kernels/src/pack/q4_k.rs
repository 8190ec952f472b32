//! Q4_K and Q5_K: 8 sub-blocks of 32, 6-bit scales and mins.
//!
//! ```text
//! d f16 | dmin f16 | scales 12 B | qh 32 B (Q5_K) | qs 128 B
//! value = d * scale[j] * code - dmin * min[j]
//! qs byte 32*j + l: element 64*j + l (low nibble), 64*j + 32 + l (high nibble)
//! qh byte l, bit i: fifth bit of element 32*i + l
//! scales: bytes 0-3 scale 0-3 (low 6 bits), 4-7 min 0-3 (low 6 bits), 8-11 low nibbles of
//!         scale 4-7, high nibbles of min 4-7; their upper 2 bits are the top bits of bytes 0-7
//! ```

use super::{Rows, Weight, byte, put, put_d_dmin, put_mins, put_scale, unrolled};
use crate::formats::{LINE, Shape, WeightType};
use crate::isa::Lanes;

/// Header: scales, mins, `d`, `dmin` of a super-block.
#[inline(always)]
unsafe fn put_header<S: Lanes>(rows: &Rows, rec: *mut u8, shape: Shape) {
    let [dm, a, b, c] = rows.words4::<S>(0);
    put_d_dmin::<S>(rec, shape, dm);
    let six = S::splat(0x3f3f_3f3f);
    let four = S::splat(0x0f0f_0f0f);
    let top = S::splat(0x3030_3030);
    let scales = [S::and(a, six), S::or(S::and(c, four), S::and(S::shr(a, 2), top))];
    let mins = [S::and(b, six), S::or(S::and(S::shr(c, 4), four), S::and(S::shr(b, 2), top))];
    for h in 0..2 {
        for j in 0..4 {
            put_scale::<S>(rec.add(shape.scales_at() + (4 * h + j) * LINE), byte::<S>(scales[h], j as u32));
        }
        for p in 0..2 {
            let (lo, hi) = (byte::<S>(mins[h], 2 * p), byte::<S>(mins[h], 2 * p + 1));
            put_mins::<S>(rec.add(shape.mins_at() + (2 * h + p as usize) * LINE), lo, hi);
        }
    }
}

/// 4-bit K-quant.
pub struct Q4K;
impl Weight for Q4K {
    const TYPE: WeightType = WeightType::Q4K;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        put_header::<S>(rows, rec, Self::SHAPE);
        let m = S::splat(0x0f0f_0f0f);
        unrolled!(i in [0, 1, 2, 3, 4, 5, 6, 7] {
            // 16 bytes: half of a pair of sub-blocks
            let line = 16 * (i / 2) + 4 * (i % 2);
            for (w, q) in rows.words4::<S>(16 + 16 * i).into_iter().enumerate() {
                put::<S>(rec, line + w, S::and(q, m));
                put::<S>(rec, line + 8 + w, S::and(S::shr(q, 4), m));
            }
        });
    }
}

/// Bit `n` of each byte to bit 4.
#[inline(always)]
unsafe fn fifth<S: Lanes>(v: S::I, n: u32) -> S::I {
    S::and(if n < 4 { S::shl(v, 4 - n) } else { S::shr(v, n - 4) }, S::splat(0x1010_1010))
}

/// 5-bit K-quant.
pub struct Q5K;
impl Weight for Q5K {
    const TYPE: WeightType = WeightType::Q5K;
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        put_header::<S>(rows, rec, Self::SHAPE);
        let m = S::splat(0x0f0f_0f0f);
        unrolled!(half in [0, 1] {
            let qh = rows.words4::<S>(16 + 16 * half);
            unrolled!(j in [0, 1, 2, 3] {
                let qs = rows.words4::<S>(48 + 32 * j + 16 * half);
                for w in 0..4 {
                    let line = 16 * j + 4 * half + w;
                    let n = 2 * j as u32;
                    put::<S>(rec, line, S::or(S::and(qs[w], m), fifth::<S>(qh[w], n)));
                    put::<S>(rec, line + 8, S::or(S::and(S::shr(qs[w], 4), m), fifth::<S>(qh[w], n + 1)));
                }
            });
        });
    }
}
