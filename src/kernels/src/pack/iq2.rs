//! IQ2_XXS, IQ2_XS, IQ2_S: vectors of eight magnitudes out of a grid, 4-bit scales.
//!
//! ```text
//! value = d / 8 * (2 * scale + 1) * magnitude, negative where the element's sign is set
//!
//! IQ2_XXS  d f16 | 8 times (grid 4 B | word u32), one for each sub-block of 32
//!          byte l of `grid`: the vector of elements 8l..8l+7
//!          word: bits 7l..7l+6 signs of the first seven elements of vector l, bits 28..31 the scale
//! IQ2_XS   d f16 | qs 32 x u16 | scales 8 B
//!          qs[g]: elements 8g..8g+7; bits 0..8 vector, bits 9..15 signs of the first seven elements
//! IQ2_S    d f16 | qs 32 B | signs 32 B | qh 8 B | scales 8 B
//!          vector of elements 8g..8g+7: qs[g], upper bits qh[g/4] bits 2(g%4)..2(g%4)+1; signs[g] bit i: element 8g + i
//! scales of the last two: nibble s of the bytes is that of sub-block s of 16
//! ```

use super::grid::{self, Grid, four, give_d, odd, seven_signs, signed, word16, word32};
use super::iq_grids::{IQ2_S, IQ2_XS, IQ2_XXS, NEGATIVE, NEGATIVE_OF_SEVEN};
use super::{Quantised, Rows, Sink, Weight, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// What `d` is multiplied by.
const FACTOR: f32 = 0.125;

/// Hands the scales of sixteen sub-blocks, nibbles of the eight bytes at `at`, to `sink`.
#[inline(always)]
unsafe fn give_nibbles<S: Lanes, K: Sink<S>>(rows: &Rows, at: usize, sink: &mut K) {
    let words = [rows.words1::<S>(at), rows.words1::<S>(at + 4)];
    let nibble = S::splat(15);
    unrolled!(s in [0, 1, 2, 3, 4, 5, 6, 7] {
        for (half, &word) in words.iter().enumerate() {
            sink.scale(8 * half + s, odd::<S>(S::and(S::shr(word, 4 * s as u32), nibble)));
        }
    });
}

/// 2-bit grid of 256 vectors.
pub struct Iq2Xxs;
impl Weight for Iq2Xxs {
    const TYPE: WeightType = WeightType::Iq2Xxs;
}
impl Grid for Iq2Xxs {
    #[inline(always)]
    unsafe fn sub_block(block: *const u8, s: usize) -> [u64; 4] {
        let p = block.add(2 + 8 * s);
        let word = word32(p.add(4));
        four!(l => signed(IQ2_XXS[usize::from(p.add(l).read())], seven_signs(word, l)))
    }
}
impl Quantised for Iq2Xxs {
    const PARTS: usize = 8;
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        unrolled!(pair in [0, 1, 2, 3] {
            let [_, even, _, odd_one] = rows.words4::<S>(2 + 16 * pair);
            sink.scale(2 * pair, odd::<S>(S::shr(even, 28)));
            sink.scale(2 * pair + 1, odd::<S>(S::shr(odd_one, 28)));
        });
        give_d(rows, FACTOR, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _: usize, sink: &mut K) {
        grid::codes::<Self, S, K>(rows, sink);
    }
}

/// 2-bit grid of 512 vectors.
pub struct Iq2Xs;
impl Weight for Iq2Xs {
    const TYPE: WeightType = WeightType::Iq2Xs;
}
impl Grid for Iq2Xs {
    #[inline(always)]
    unsafe fn sub_block(block: *const u8, s: usize) -> [u64; 4] {
        let p = block.add(2 + 8 * s);
        four!(l => {
            let q = word16(p.add(2 * l));
            signed(IQ2_XS[q & 511], NEGATIVE_OF_SEVEN[q >> 9])
        })
    }
}
impl Quantised for Iq2Xs {
    const PARTS: usize = 8;
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_nibbles(rows, 66, sink);
        give_d(rows, FACTOR, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _: usize, sink: &mut K) {
        grid::codes::<Self, S, K>(rows, sink);
    }
}

/// 2-bit grid of 1024 vectors.
pub struct Iq2S;
impl Weight for Iq2S {
    const TYPE: WeightType = WeightType::Iq2S;
}
impl Grid for Iq2S {
    #[inline(always)]
    unsafe fn sub_block(block: *const u8, s: usize) -> [u64; 4] {
        let (p, high) = (block.add(2 + 4 * s), usize::from(block.add(66 + s).read()));
        four!(l => {
            let vector = usize::from(p.add(l).read()) | (high >> (2 * l) & 3) << 8;
            signed(IQ2_S[vector], NEGATIVE[usize::from(p.add(32 + l).read())])
        })
    }
}
impl Quantised for Iq2S {
    const PARTS: usize = 8;
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_nibbles(rows, 74, sink);
        give_d(rows, FACTOR, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _: usize, sink: &mut K) {
        grid::codes::<Self, S, K>(rows, sink);
    }
}
