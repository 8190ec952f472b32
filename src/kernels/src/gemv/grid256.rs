//! Super-blocks of types with a grid: IQ2_*, IQ3_*, by a few columns.
//!
//! What [`crate::pack::grid512`] unpacks is in the order [`Order::Octets`]: lane `l` of each of the four vectors of
//! magnitudes has four elements of sub-block `l` of 16. So four `vpdpbusd` give the sums of all sixteen sub-blocks,
//! which one vector of scales multiplies. The signs negate the activations. One more column costs only this.

use super::{Operands, Row, product};
use crate::formats::{Order, RowsRecord, SPACED, rows256};
use crate::pack::grid512::Grid512;
use core::arch::x86_64::*;

/// The order of the activations of all these types.
pub const ORDER: Order = Order::Octets;

/// The half at `p`.
#[inline(always)]
unsafe fn half(p: *const u8) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(p.cast::<u16>().read_unaligned())))
}

/// Adds the products of `n` super-blocks, one to four, with `NC` columns.
#[inline(always)]
unsafe fn step<W: Grid512, const NC: usize>(
    acc: &mut [__m512; NC],
    p: *const u8,
    n: usize,
    act: [*const u8; NC],
    places: &RowsRecord,
) {
    for i in 0..n {
        let p = p.add(i * W::BYTES);
        let w = W::unpack(p);
        for c in 0..NC {
            let codes = act[c].add(places.codes[i]);
            let mut sum = _mm512_setzero_si512();
            for j in 0..4 {
                let a = _mm512_loadu_si512(codes.add(64 * j).cast());
                let a = _mm512_mask_sub_epi8(a, w.negative[j], _mm512_setzero_si512(), a);
                sum = _mm512_dpbusd_epi32(sum, w.magnitudes[j], a);
            }
            let d = _mm_mul_ss(half(p), _mm_load_ss(act[c].add(places.d + 8 * i).cast()));
            let d = _mm512_mul_ps(w.scales, _mm512_broadcastss_ps(d));
            acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, acc[c]);
        }
    }
}

/// The product of `NC` columns.
///
/// # Safety
/// See [`super::GemvFn`].
#[inline(always)]
pub unsafe fn product_grid<W: Grid512, const NC: usize>(o: Operands) {
    if o.k > SPACED { product::<Blocks<W, true>, NC>(o) } else { product::<Blocks<W, false>, NC>(o) }
}

struct Blocks<W, const CLOSE: bool>(W);

impl<W: Grid512, const CLOSE: bool, const NC: usize> Row<NC> for Blocks<W, CLOSE> {
    #[inline(always)]
    unsafe fn row(o: Operands, p: *const u8) -> [__m512; NC] {
        row::<W, NC>(o, p, &const { rows256(CLOSE) })
    }
}

/// The products of the row at `p` with all columns, in lanes still to be added up.
#[inline(always)]
unsafe fn row<W: Grid512, const NC: usize>(o: Operands, mut p: *const u8, places: &RowsRecord) -> [__m512; NC] {
    let mut act = [o.act; NC];
    for (c, act) in act.iter_mut().enumerate() {
        *act = act.add(c * o.act_stride);
    }
    let mut acc = [_mm512_setzero_ps(); NC];
    // SAFETY: a row has whole blocks, and a product at least one, see `super::GemvFn`. What the loop does without a block
    // would be a call of `memset`.
    core::hint::assert_unchecked(o.k >= 256);
    let mut blocks = o.k / 256;
    while blocks > 0 {
        let n = blocks.min(4);
        o.prefetch.lines(p, n * W::BYTES);
        step::<W, NC>(&mut acc, p, n, act, places);
        p = p.add(n * W::BYTES);
        for act in &mut act {
            *act = act.add(places.bytes);
        }
        blocks -= n;
    }
    acc
}
