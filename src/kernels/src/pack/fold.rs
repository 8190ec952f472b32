//! Integer scales folded into codes ([`Codes::Folded`](crate::formats::Codes::Folded)). One 16-bit product multiplies two codes
//! by the scale of their sub-block, because none of the products exceeds a byte. So the micro-kernels convert and scale
//! one sum for a super-block, and not one for each sub-block.
//!
//! ```text
//! offset 0:           code * scale
//! offset o, s >= 0:   (code - o) * s + f = code * s             + f - o * s
//! offset o, s < 0:    (code - o) * s + f = (2o - 1 - code) * -s + f + (o - 1) * s
//! ```
//! The codes are below `2 * o`, so that `2 * o - 1 - code` flips their bits.

use super::Weight;
use crate::isa::Lanes;

/// The scale of one sub-block, in all bytes of a lane: what is done to a line of codes.
#[derive(Clone, Copy)]
pub(super) struct Fold<S: Lanes> {
    /// The bits to flip.
    flip: S::I,
    /// The factor, in both halves of a lane.
    times: S::I,
    /// What is added.
    plus: S::I,
}

/// The scales of four sub-blocks, in the bytes of a lane.
#[derive(Clone, Copy)]
pub(super) struct Fold4<S: Lanes>(Fold<S>);

impl<S: Lanes> Fold4<S> {
    /// From unsigned bytes, less `bias`. The bias is zero where the type's codes have no offset; otherwise the offset is 4, and
    /// the scales are -32 to 31.
    ///
    /// # Safety
    /// See [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn new<W: Weight>(four: S::I, bias: i32) -> Self {
        if W::SHAPE.offset == 0 {
            return Fold4(Fold { flip: S::splat(0), times: four, plus: S::splat(0) });
        }
        const { assert!(W::SHAPE.offset == 0 || (W::SHAPE.offset == 4 && W::TYPE.shape_on(false).offset == 124)) };
        let scales = S::add_bytes(four, S::splat(i32::from_le_bytes([-bias as u8; 4])));
        let times = S::abs_bytes(scales);
        // the three upper bits of such a scale are its sign
        let flip = S::and(S::shr(scales, 5), S::splat(0x0707_0707));
        // three times the magnitude, four times where the scale is positive: at most 124, so no byte borrows
        let positive = S::shr(S::add_bytes(scales, times), 1);
        let less = S::add(S::add(times, S::shl(times, 1)), positive);
        Fold4(Fold { flip, times, plus: S::sub(S::splat(0x7c7c_7c7c), less) })
    }

    /// That of sub-block `j` of the four.
    ///
    /// # Safety
    /// See [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn of(self, j: usize) -> Fold<S> {
        match j {
            0 => self.at::<0, 0x8000_8000>(),
            1 => self.at::<0x0101_0101, 0x8001_8001>(),
            2 => self.at::<0x0202_0202, 0x8002_8002>(),
            _ => self.at::<0x0303_0303, 0x8003_8003>(),
        }
    }

    #[inline(always)]
    unsafe fn at<const BYTES: u32, const WORDS: u32>(self) -> Fold<S> {
        let Fold4(Fold { flip, times, plus }) = self;
        Fold {
            flip: S::pick_bytes::<BYTES>(flip),
            times: S::pick_bytes::<WORDS>(times),
            plus: S::pick_bytes::<BYTES>(plus),
        }
    }
}

impl<S: Lanes> Fold<S> {
    /// A line of codes times the scale, plus the offset of folded codes.
    ///
    /// # Safety
    /// See [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn apply<W: Weight>(self, codes: S::I) -> S::I {
        if W::SHAPE.offset == 0 {
            S::mul_words(codes, self.times)
        } else {
            S::add_bytes(S::mul_words(S::xor(codes, self.flip), self.times), self.plus)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::LANES;
    use crate::isa::scalar::Scalar;
    use crate::pack::{Q2K, Q3K};

    /// Every code with every scale in every byte, beside the other codes and scales.
    #[test]
    fn folded_codes_are_the_products_of_all_codes_and_scales() {
        fn all<W: Weight>(scales: core::ops::Range<i32>, most: u32, offset: i32) {
            for first in scales.clone() {
                let scale = |j: usize| (first - scales.start + 5 * j as i32) % scales.len() as i32 + scales.start;
                let bias = -scales.start;
                let four = u32::from_le_bytes([0, 1, 2, 3].map(|j| (scale(j) + bias) as u8));
                for code in 0..=most {
                    let codes = [0, 1, 2, 3].map(|b| ((code + 3 * b) % (most + 1)) as u8);
                    for j in 0..4 {
                        // SAFETY: the portable ISA needs no features, and no pointer is used.
                        let got = unsafe {
                            Fold4::<Scalar>::new::<W>([four; LANES], bias)
                                .of(j)
                                .apply::<W>([u32::from_le_bytes(codes); LANES])
                        };
                        let want = codes.map(|c| (i32::from(c) - W::SHAPE.offset) * scale(j) + offset);
                        assert!(want.iter().all(|w| (0..256).contains(w)));
                        assert_eq!(got, [u32::from_le_bytes(want.map(|w| w as u8)); LANES]);
                    }
                }
            }
        }
        all::<Q2K>(0..16, 3, 0);
        all::<Q3K>(-32..32, 7, 124);
    }
}
