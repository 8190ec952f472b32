//! Types whose codes are indices into a grid of vectors, with signs beside: IQ2_*, IQ3_*.
//!
//! A look-up for sixteen rows at once would be a gather, which takes a load for every lane. A row alone needs one load
//! for eight elements, or for four. So each row is unpacked by itself to a small buffer, in 64-bit registers or in
//! 512-bit ones, and the buffer is transposed.

use super::grid512::{self, Grid512};
use super::{Rows, Sink, iq_grids::NEGATIVE_OF_SEVEN};
use crate::isa::{LANES, Lanes, Quads};
use core::mem::MaybeUninit;

/// A weight type with a grid.
pub trait Grid: Grid512 {
    /// Sub-block `s` of 32 elements of a block without its scales: eight signed bytes in each word, the first one
    /// lowest.
    ///
    /// # Safety
    /// `block` is readable for a block; `s` is below eight.
    unsafe fn sub_block(block: *const u8, s: usize) -> [u64; 4];
}

/// The words for `$l` from 0 to 3. Not by `map`, which is not inlined everywhere.
macro_rules! four {
    ($l:ident => $word:expr) => {
        [
            {
                let $l: usize = 0;
                $word
            },
            {
                let $l: usize = 1;
                $word
            },
            {
                let $l: usize = 2;
                $word
            },
            {
                let $l: usize = 3;
                $word
            },
        ]
    };
}
pub(super) use four;

/// Eight magnitudes, negated where `negative` has 0xff.
#[inline(always)]
pub(super) fn signed(magnitudes: u64, negative: u64) -> u64 {
    // No magnitude is zero. So no byte carries into the next one.
    (magnitudes ^ negative).wrapping_add(negative & 0x0101_0101_0101_0101)
}

/// Which of eight elements are negative, from the seven signs at bit `7 * l` of a word.
#[inline(always)]
pub(super) fn seven_signs(word: u32, l: usize) -> u64 {
    NEGATIVE_OF_SEVEN[(word >> (7 * l)) as usize & 127]
}

/// The 16-bit word at `p`.
#[inline(always)]
pub(super) unsafe fn word16(p: *const u8) -> usize {
    p.cast::<u16>().read_unaligned().into()
}

/// The 32-bit word at `p`.
#[inline(always)]
pub(super) unsafe fn word32(p: *const u8) -> u32 {
    p.cast::<u32>().read_unaligned()
}

/// `2 * v + 1`: an integer scale of these types.
#[inline(always)]
pub(super) unsafe fn odd<S: Lanes>(v: S::I) -> S::I {
    S::or(S::shl(v, 1), S::splat(1))
}

/// Hands `d` times `factor`, a power of two, to `sink`.
#[inline(always)]
pub(super) unsafe fn give_d<S: Lanes, K: Sink<S>>(rows: &Rows, factor: f32, sink: &mut K) {
    sink.d(S::mulf(S::half_lo(rows.halves::<S>(0)), S::splatf(factor)));
}

/// Hands the codes of a record to `sink`.
#[inline(always)]
pub(super) unsafe fn codes<W: Grid, S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
    const ROW: usize = 256;
    let mut buffer = MaybeUninit::<[u64; LANES * ROW / 8]>::uninit();
    let buffer = buffer.as_mut_ptr().cast::<u8>();
    for row in 0..LANES {
        let (block, to) = (rows.at.row(row / 4, row % 4, 0), buffer.add(row * ROW));
        if S::WIDE {
            W::unpack(block).store(to);
        } else {
            for s in 0..8 {
                to.add(32 * s).cast::<[u64; 4]>().write_unaligned(W::sub_block(block, s));
            }
        }
    }
    let unpacked = Rows { at: Quads::new(buffer, ROW), record: 0 };
    // where codes are unsigned their offset is 128, which flips the top bit
    let flip = S::splat(if S::ACC16 { 0 } else { 0x8080_8080_u32 as i32 });
    // pieces of 16 in a sub-block
    let per = const { W::SHAPE.sub / 16 };
    for piece in 0..16 {
        if piece % 2 == 0 {
            sink.part();
        }
        if piece % per == 0 {
            sink.open(piece / per);
        }
        let at = if S::WIDE { grid512::piece(piece) } else { 16 * piece };
        for (w, v) in unpacked.words4::<S>(at).into_iter().enumerate() {
            sink.codes(piece / per, piece % per * 4 + w, S::xor(v, flip));
        }
        if piece % per == per - 1 {
            sink.close(piece / per);
        }
    }
}
