//! IQ1_S and IQ1_M: groups of eight values from a grid, each plus or minus an eighth.
//!
//! ```text
//! iq1_s  d f16 | qs 32 B | qh 8 x u16               8 sub-blocks of 32
//!        value = d * (2 * scale[j] + 1) * (grid[index] + delta)
//!        group 4*j + l: index = byte 4*j + l of qs, above it bits 3*l..3*l+2 of qh[j]
//!        scale j: bits 12-14 of qh[j]; delta of sub-block j: -1/8 if bit 15 of qh[j] is set, else 1/8
//! iq1_m  qs 32 B | qh 16 B | scales 4 x u16         16 sub-blocks of 16
//!        value = d * (2 * scale[s] + 1) * (grid[index] + delta)
//!        group g: index = byte g of qs, above it bits 0-2 of nibble g of qh; delta: -1/8 if bit 3 of it is set
//!        scale s: bits 3*(s%4)..3*(s%4)+2 of scales[s/4]; d: the top nibbles of the scales, the lowest first
//! ```
//!
//! Codes are eight times `grid + delta`, so that products of integers are exact; the scale is `d / 8`.

use super::iq1_grid::NIBBLES;
use super::{Quantised, Rows, Sink, Weight, byte, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// Plus or minus one in every byte of the lanes, for carries from byte to byte to cancel: minus where bit `at` of the lane
/// is set.
#[inline(always)]
unsafe fn deltas<S: Lanes>(q: S::I, at: u32) -> S::I {
    let minus = S::sar(if at == 31 { q } else { S::shl(q, 31 - at) }, 31);
    S::sub(S::xor(S::splat(0x0101_0101), minus), minus)
}

/// Both lines of a group. Its index is byte `l` of `qs`, above it the three bits from bit `at` of `qh` on.
#[inline(always)]
unsafe fn group<S: Lanes>(qs: S::I, l: u32, qh: S::I, at: u32, deltas: S::I) -> [S::I; 2] {
    let high = if at < 8 { S::shl(qh, 8 - at) } else { S::shr(qh, at - 8) };
    let index = S::or(byte::<S>(qs, l), S::and(high, S::splat(0x700)));
    // SAFETY: eleven bits, and the table has 2048 entries.
    let values = S::gather(NIBBLES.as_ptr(), index);
    let eight_times = S::splat(0x1818_1818);
    let low = S::and(S::shl(values, 3), eight_times);
    let high = S::and(S::shr(values, 1), eight_times);
    [S::add(low, deltas), S::add(high, deltas)]
}

/// `2 * scale + 1`, of the three bits from bit `at` on.
#[inline(always)]
unsafe fn odd_scale<S: Lanes>(v: S::I, at: u32) -> S::I {
    let twice = if at == 0 { S::shl(v, 1) } else { S::shr(v, at - 1) };
    S::or(S::and(twice, S::splat(14)), S::splat(1))
}

/// Bits of a word, shifted right by `by`, that are in `mask`.
#[inline(always)]
unsafe fn part<S: Lanes>(v: S::I, by: u32, mask: i32) -> S::I {
    S::and(S::shr(v, by), S::splat(mask))
}

/// 1.56 bits.
pub struct Iq1S;
impl Weight for Iq1S {
    const TYPE: WeightType = WeightType::Iq1S;
}
impl Quantised for Iq1S {
    /// Halves, each four sub-blocks.
    const STEPS: usize = 2;

    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        for (w, qh) in rows.words4::<S>(34).into_iter().enumerate() {
            sink.scale(2 * w, odd_scale::<S>(qh, 12));
            sink.scale(2 * w + 1, odd_scale::<S>(qh, 28));
        }
        sink.d(S::mulf(S::half_lo(rows.halves::<S>(0)), S::splatf(0.125)));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
        sink.part();
        let qs = rows.words4::<S>(2 + 16 * step);
        let [_, _, qh0, qh1] = rows.words4::<S>(26 + 8 * step);
        unrolled!(j in [0, 1, 2, 3] {
            let (s, qh) = (4 * step + j, [qh0, qh1][j / 2]);
            let at = 16 * (j as u32 % 2);
            let deltas = deltas::<S>(qh, at + 15);
            sink.open(s);
            unrolled!(l in [0, 1, 2, 3] {
                let [a, b] = group::<S>(qs[j], l as u32, qh, at + 3 * l as u32, deltas);
                sink.codes(s, 2 * l, a);
                sink.codes(s, 2 * l + 1, b);
            });
            sink.close(s);
        });
    }
}

/// 1.75 bits.
pub struct Iq1M;
impl Weight for Iq1M {
    const TYPE: WeightType = WeightType::Iq1M;
}
impl Quantised for Iq1M {
    /// Halves, each eight sub-blocks.
    const STEPS: usize = 2;

    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        // the end of qh, then the scales
        let [_, _, a, b] = rows.words4::<S>(40);
        unrolled!(i in [0, 1, 2, 3, 4, 5, 6, 7] {
            let at = 16 * (i / 4) + 3 * (i % 4);
            sink.scale(i, odd_scale::<S>(a, at as u32));
            sink.scale(8 + i, odd_scale::<S>(b, at as u32));
        });
        let low = S::or(part::<S>(a, 12, 0xf), part::<S>(a, 24, 0xf0));
        let high = S::or(part::<S>(b, 4, 0xf00), part::<S>(b, 16, 0xf000));
        sink.d(S::mulf(S::half_lo(S::or(low, high)), S::splatf(0.125)));
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
        sink.part();
        let qs = rows.words4::<S>(16 * step);
        let [_, _, qh0, qh1] = rows.words4::<S>(24 + 8 * step);
        unrolled!(i in [0, 1, 2, 3, 4, 5, 6, 7] {
            // words j of 32 elements, their halves
            let (j, half) = (i / 2, i % 2);
            let (s, qh) = (8 * step + i, [qh0, qh1][j / 2]);
            sink.open(s);
            unrolled!(g in [0, 1] {
                let l = 2 * half as u32 + g as u32;
                let at = 16 * (j as u32 % 2) + 4 * l;
                let [a, b] = group::<S>(qs[j], l, qh, at, deltas::<S>(qh, at + 3));
                sink.codes(s, 2 * g, a);
                sink.codes(s, 2 * g + 1, b);
            });
            sink.close(s);
        });
    }
}
