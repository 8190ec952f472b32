//! IQ3_XXS, IQ3_S: vectors of four magnitudes out of a grid, 4-bit scales for 32 elements.
//!
//! ```text
//! value = d * factor * (2 * scale + 1) * magnitude, negative where the element's sign is set
//!
//! IQ3_XXS  d f16 | qs 64 B | 8 x word u32, one for each sub-block of 32                 factor 1/4
//!          qs[g]: the vector of elements 4g..4g+3
//!          word: bits 7l..7l+6 signs of elements 8l..8l+6 of the sub-block, bits 28..31 the scale
//! IQ3_S    d f16 | qs 64 B | qh 8 B | signs 32 B | scales 4 B                           factor 1
//!          vector of elements 4g..4g+3: qs[g], upper bit qh[g/8] bit g%8; signs[i/8] bit i%8: element i
//!          nibble s of the scales: sub-block s
//! ```

use super::grid::{self, Grid, four, give_d, odd, seven_signs, signed, word32};
use super::iq_grids::{IQ3_S, IQ3_XXS, NEGATIVE};
use super::{Quantised, Rows, Sink, Weight, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// Two vectors of four as one of eight.
#[inline(always)]
fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// 3-bit grid of 256 vectors.
pub struct Iq3Xxs;
impl Weight for Iq3Xxs {
    const TYPE: WeightType = WeightType::Iq3Xxs;
}
impl Grid for Iq3Xxs {
    #[inline(always)]
    unsafe fn sub_block(block: *const u8, s: usize) -> [u64; 4] {
        let (p, word) = (block.add(2 + 8 * s), word32(block.add(66 + 4 * s)));
        let vector = |g: usize| IQ3_XXS[usize::from(p.add(g).read())];
        four!(l => signed(join(vector(2 * l), vector(2 * l + 1)), seven_signs(word, l)))
    }
}
impl Quantised for Iq3Xxs {
    const PARTS: usize = 8;
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        unrolled!(half in [0, 1] {
            for (i, word) in rows.words4::<S>(66 + 16 * half).into_iter().enumerate() {
                sink.scale(4 * half + i, odd::<S>(S::shr(word, 28)));
            }
        });
        give_d(rows, 0.25, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _: usize, sink: &mut K) {
        grid::codes::<Self, S, K>(rows, sink);
    }
}

/// 3-bit grid of 512 vectors.
pub struct Iq3S;
impl Weight for Iq3S {
    const TYPE: WeightType = WeightType::Iq3S;
}
impl Grid for Iq3S {
    #[inline(always)]
    unsafe fn sub_block(block: *const u8, s: usize) -> [u64; 4] {
        let (p, high) = (block.add(2 + 8 * s), usize::from(block.add(66 + s).read()));
        let vector = |g: usize| IQ3_S[usize::from(p.add(g).read()) | (high >> g & 1) << 8];
        let signs = block.add(74 + 4 * s);
        four!(l => {
            let negative = NEGATIVE[usize::from(signs.add(l).read())];
            signed(join(vector(2 * l), vector(2 * l + 1)), negative)
        })
    }
}
impl Quantised for Iq3S {
    const PARTS: usize = 8;
    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        let (word, nibble) = (rows.words1::<S>(106), S::splat(15));
        unrolled!(s in [0, 1, 2, 3, 4, 5, 6, 7] {
            sink.scale(s, odd::<S>(S::and(S::shr(word, 4 * s as u32), nibble)));
        });
        give_d(rows, 1.0, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, _: usize, sink: &mut K) {
        grid::codes::<Self, S, K>(rows, sink);
    }
}
