//! ggml's `vec_dot`: one row times one column that ggml has quantised. Blocks of ggml's column are put into the records of
//! this folder's kernels one by one, and computed by the same steps.
//!
//! Only for types with blocks of 32. The records of super-blocks are too large for registers, and a load right behind the
//! stores of its parts waits: 0.05 to 0.25 of ggml's speed (`kernel-choices`).

use super::block32::{self, Block32, halves, signed_codes};
use super::{copy, sum};
use crate::formats::ROWS32;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// Bytes of `block_q8_0`: `d` as a half, 32 codes.
const BLOCK_Q8_0: usize = 34;

/// Four blocks of activations as a record.
#[inline(always)]
unsafe fn record<W: Block32>(y: *const u8, rec: *mut u8) {
    let q = signed_codes(y);
    let (zero, offset) = (_mm512_setzero_si512(), _mm512_set1_epi8(W::SHAPE.offset as u8 as i8));
    let seeds = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, offset, q[0]), offset, q[1]);
    _mm512_storeu_si512(rec.cast(), q[0]);
    _mm512_storeu_si512(rec.add(64).cast(), q[1]);
    _mm512_storeu_si512(rec.add(ROWS32.aux).cast(), _mm512_sub_epi32(zero, seeds));
    _mm512_storeu_ps(rec.add(ROWS32.d).cast(), halves::<BLOCK_Q8_0, 0>(y));
}

/// The product of a row with blocks of 32 without a minimum, see [`crate::dot::DotFn`].
///
/// # Safety
/// The conditions of [`crate::dot::DotFn`].
#[inline(always)]
pub unsafe fn dot32<W: Block32>(n: usize, mut x: *const u8, mut y: *const u8) -> f32 {
    const { assert!(!W::SHAPE.min, "activations would be in blocks of another kind") };
    let mut rec = MaybeUninit::<[u8; ROWS32.bytes]>::uninit();
    let rec = rec.as_mut_ptr().cast::<u8>();
    let mut acc = _mm512_setzero_ps();
    let mut blocks = n / 32;
    while blocks >= 4 {
        record::<W>(y, rec);
        acc = block32::step::<W>(acc, x, rec);
        x = x.add(4 * W::TYPE.block().1);
        y = y.add(4 * BLOCK_Q8_0);
        blocks -= 4;
    }
    if blocks > 0 {
        // missing blocks have the scale zero
        let (mut weights, mut act) = ([0u8; 4 * 34], [0u8; 4 * BLOCK_Q8_0]);
        block32::copy_blocks::<W>(x, weights.as_mut_ptr(), blocks);
        copy::<BLOCK_Q8_0>(y, act.as_mut_ptr(), blocks);
        record::<W>(act.as_ptr(), rec);
        acc = block32::step::<W>(acc, weights.as_ptr(), rec);
    }
    sum(acc)
}
