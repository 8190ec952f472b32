//! Types whose codes are indices into a grid of vectors, with signs beside: IQ2_*, IQ3_*.
//!
//! A look-up for sixteen rows at once would be a gather, which takes a load for every lane. A row alone needs one load
//! for eight elements, or for four. So each row is unpacked by itself to a small buffer, in 64-bit registers on every
//! ISA, and the buffer is transposed.

use super::{Rows, Sink, Weight, iq_grids::NEGATIVE_OF_SEVEN};
use crate::isa::{LANES, Lanes, Quads};
use core::mem::MaybeUninit;

/// A weight type with a grid.
pub trait Grid: Weight {
    /// Sub-block `s` of 32 elements of a block without its scales: eight signed bytes in each word, the first one
    /// lowest.
    ///
    /// # Safety
    /// `block` is readable for [`Weight::BYTES`] bytes; `s` is below eight.
    unsafe fn sub_block(block: *const u8, s: usize) -> [u64; 4];
}

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

/// Sub-blocks of 32 that are unpacked at a time: the buffer has two kilobytes.
const SUB_BLOCKS: usize = 4;
/// Steps of a record.
pub(super) const STEPS: usize = 8 / SUB_BLOCKS;
/// Bytes of a row in the buffer.
const ROW: usize = 32 * SUB_BLOCKS;

/// Hands the codes of a step to `sink`.
#[inline(always)]
pub(super) unsafe fn codes<W: Grid, S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
    let mut buffer = MaybeUninit::<[u64; LANES * ROW / 8]>::uninit();
    let buffer = buffer.as_mut_ptr().cast::<u64>();
    for row in 0..LANES {
        let (block, to) = (rows.at.row(row / 4, row % 4, 0), buffer.add(row * ROW / 8));
        for s in 0..SUB_BLOCKS {
            for (l, v) in W::sub_block(block, SUB_BLOCKS * step + s).into_iter().enumerate() {
                to.add(4 * s + l).write(v);
            }
        }
    }
    let unpacked = Rows { at: Quads::new(buffer.cast(), ROW) };
    // where codes are unsigned their offset is 128, which flips the top bit
    let flip = S::splat(if S::ACC16 { 0 } else { 0x8080_8080_u32 as i32 });
    // lines of a sub-block, and sub-blocks in 32 elements
    let (lines, per) = const { (W::SHAPE.sub / 4, 32 / W::SHAPE.sub) };
    for s in 0..SUB_BLOCKS {
        sink.part();
        for half in 0..2 {
            let words = unpacked.words4::<S>(32 * s + 16 * half);
            let sub = per * (SUB_BLOCKS * step + s) + half * (per - 1);
            if half == 0 || per == 2 {
                sink.open(sub);
            }
            for (w, v) in words.into_iter().enumerate() {
                sink.codes(sub, (4 * half + w) % lines, S::xor(v, flip));
            }
            if half == 1 || per == 2 {
                sink.close(sub);
            }
        }
    }
}
