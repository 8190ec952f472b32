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

use super::{Quantised, Rows, Sink, Weight, byte, give_d_min, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// Header: scales, mins, `d`, `dmin` of a super-block.
#[inline(always)]
unsafe fn give_header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
    let [dm, a, b, c] = rows.words4::<S>(0);
    give_d_min::<S, K>(sink, dm);
    let six = S::splat(0x3f3f_3f3f);
    let four = S::splat(0x0f0f_0f0f);
    let top = S::splat(0x3030_3030);
    let scales = [S::and(a, six), S::or(S::and(c, four), S::and(S::shr(a, 2), top))];
    let mins = [S::and(b, six), S::or(S::and(S::shr(c, 4), four), S::and(S::shr(b, 2), top))];
    for h in 0..2 {
        for j in 0..4 {
            sink.scale(4 * h + j, byte::<S>(scales[h], j as u32));
        }
        for p in 0..2 {
            sink.mins(2 * h + p as usize, byte::<S>(mins[h], 2 * p), byte::<S>(mins[h], 2 * p + 1));
        }
    }
}

/// 4-bit K-quant.
pub struct Q4K;
impl Weight for Q4K {
    const TYPE: WeightType = WeightType::Q4K;
}
impl Quantised for Q4K {
    /// Pairs of sub-blocks.
    const STEPS: usize = 4;

    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_header::<S, K>(rows, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
        let m = S::splat(0x0f0f_0f0f);
        let (even, odd) = (2 * step, 2 * step + 1);
        sink.part();
        if K::BY_SUB_BLOCK {
            let qs = [rows.words4::<S>(16 + 32 * step), rows.words4::<S>(32 + 32 * step)];
            sink.open(even);
            for i in 0..8 {
                sink.codes(even, i, S::and(qs[i / 4][i % 4], m));
            }
            sink.close(even);
            sink.open(odd);
            for i in 0..8 {
                sink.codes(odd, i, S::and(S::shr(qs[i / 4][i % 4], 4), m));
            }
            sink.close(odd);
        } else {
            unrolled!(h in [0, 1] {
                for (w, q) in rows.words4::<S>(16 + 32 * step + 16 * h).into_iter().enumerate() {
                    sink.codes(even, 4 * h + w, S::and(q, m));
                    sink.codes(odd, 4 * h + w, S::and(S::shr(q, 4), m));
                }
            });
        }
    }
}

/// Bit `n` of each byte to bit 4.
#[inline(always)]
unsafe fn fifth<S: Lanes>(v: S::I, n: u32) -> S::I {
    S::and(if n < 4 { S::shl(v, 4 - n) } else { S::shr(v, n - 4) }, S::splat(0x1010_1010))
}

/// Low nibbles with the fifth bits of sub-block `2 * j`.
#[inline(always)]
unsafe fn low<S: Lanes>(q: S::I, h: S::I, j: u32) -> S::I {
    S::or(S::and(q, S::splat(0x0f0f_0f0f)), fifth::<S>(h, 2 * j))
}

/// High nibbles with those of sub-block `2 * j + 1`.
#[inline(always)]
unsafe fn high<S: Lanes>(q: S::I, h: S::I, j: u32) -> S::I {
    S::or(S::and(S::shr(q, 4), S::splat(0x0f0f_0f0f)), fifth::<S>(h, 2 * j + 1))
}

/// 5-bit K-quant.
pub struct Q5K;
impl Weight for Q5K {
    const TYPE: WeightType = WeightType::Q5K;
}
impl Quantised for Q5K {
    const PARTS: usize = 4;

    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_header::<S, K>(rows, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _step: usize, sink: &mut K) {
        if K::BY_SUB_BLOCK {
            let qh = [rows.words4::<S>(16), rows.words4::<S>(32)];
            unrolled!(j in [0, 1, 2, 3] {
                sink.part();
                let qs = [rows.words4::<S>(48 + 32 * j), rows.words4::<S>(64 + 32 * j)];
                sink.open(2 * j);
                for i in 0..8 {
                    sink.codes(2 * j, i, low::<S>(qs[i / 4][i % 4], qh[i / 4][i % 4], j as u32));
                }
                sink.close(2 * j);
                sink.open(2 * j + 1);
                for i in 0..8 {
                    sink.codes(2 * j + 1, i, high::<S>(qs[i / 4][i % 4], qh[i / 4][i % 4], j as u32));
                }
                sink.close(2 * j + 1);
            });
        } else {
            unrolled!(half in [0, 1] {
                let qh = rows.words4::<S>(16 + 16 * half);
                unrolled!(j in [0, 1, 2, 3] {
                    let qs = rows.words4::<S>(48 + 32 * j + 16 * half);
                    for w in 0..4 {
                        sink.codes(2 * j, 4 * half + w, low::<S>(qs[w], qh[w], j as u32));
                        sink.codes(2 * j + 1, 4 * half + w, high::<S>(qs[w], qh[w], j as u32));
                    }
                });
            });
        }
    }
}
