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

use super::{Quantised, Rows, Sink, Weight, sbyte, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// Four codes of sub-block `j` of the four that share a word of `qh`.
#[inline(always)]
unsafe fn line<S: Lanes>(a: S::I, b: S::I, q: S::I, j: usize) -> S::I {
    let (m, two) = (S::splat(0x0f0f_0f0f), S::splat(0x3030_3030));
    match j {
        0 => S::or(S::and(a, m), S::and(S::shl(q, 4), two)),
        1 => S::or(S::and(b, m), S::and(S::shl(q, 2), two)),
        2 => S::or(S::and(S::shr(a, 4), m), S::and(q, two)),
        _ => S::or(S::and(S::shr(b, 4), m), S::and(S::shr(q, 2), two)),
    }
}

/// 6-bit K-quant.
pub struct Q6K;
impl Weight for Q6K {
    const TYPE: WeightType = WeightType::Q6K;
}
impl Quantised for Q6K {
    /// Halves of four sub-blocks of 32, each a sub-block of 16.
    const STEPS: usize = 4;

    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        for (i, s) in rows.words4::<S>(192).into_iter().enumerate() {
            for j in 0..4 {
                sink.scale(4 * i + j, sbyte::<S>(s, j as u32));
            }
        }
        sink.d(S::half_lo(rows.halves::<S>(208)));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
        let (n, h) = (step / 2, step % 2);
        sink.part();
        let a = rows.words4::<S>(64 * n + 16 * h);
        let b = rows.words4::<S>(64 * n + 32 + 16 * h);
        let q = rows.words4::<S>(128 + 16 * step);
        let s = 8 * n + h;
        if K::BY_SUB_BLOCK {
            unrolled!(j in [0, 1, 2, 3] {
                sink.open(s + 2 * j);
                for w in 0..4 {
                    sink.codes(s + 2 * j, w, line::<S>(a[w], b[w], q[w], j));
                }
                sink.close(s + 2 * j);
            });
        } else {
            // each word is used once: not all words fit the registers of every ISA
            for w in 0..4 {
                for j in 0..4 {
                    sink.codes(s + 2 * j, w, line::<S>(a[w], b[w], q[w], j));
                }
            }
        }
    }
}
