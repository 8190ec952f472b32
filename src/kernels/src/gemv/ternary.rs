//! TQ2_0: super-blocks of 256 with nothing but a scale. All products of a super-block are added as integers.

use super::super256::words_twice;
use super::{Operands, Row, load, product};
use crate::formats::{Order, SPACED, rows256};
use crate::pack::{Tq2_0, Weight};
use core::arch::x86_64::*;

/// A type whose values are codes less one, times one scale.
#[allow(clippy::missing_safety_doc)] // one condition, below
pub trait Ternary: Weight {
    /// The order of [`Self::codes`].
    const ORDER: Order;
    /// Where the scale is.
    const D: usize;

    /// The codes in that order.
    ///
    /// # Safety
    /// `p` is readable for a super-block; the CPU has AVX-512 F, BW, DQ and VL.
    unsafe fn codes(p: *const u8) -> [__m512i; 4];
}

/// Two bits of every byte: vector `j` has bits `2 * j` and `2 * j + 1`.
#[inline(always)]
unsafe fn pairs(q: __m512i) -> [__m512i; 4] {
    let m = _mm512_set1_epi8(3);
    [
        _mm512_and_si512(q, m),
        _mm512_and_si512(_mm512_srli_epi16::<2>(q), m),
        _mm512_and_si512(_mm512_srli_epi16::<4>(q), m),
        _mm512_and_si512(_mm512_srli_epi16::<6>(q), m),
    ]
}

impl Ternary for Tq2_0 {
    const ORDER: Order = Order::Pairs;
    const D: usize = 64;

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        pairs(load(p))
    }
}

/// Adds the products of `n` super-blocks, one to four.
#[inline(always)]
unsafe fn step<W: Ternary, const CLOSE: bool>(mut acc: __m512, p: *const u8, n: usize, act: *const u8) -> __m512 {
    let places = const { rows256(CLOSE) };
    // the last super-block stands in for missing ones, whose activations are zero
    let d = [0, 1, 2, 3].map(|i: usize| p.add(i.min(n - 1) * W::BYTES + W::D));
    let d = _mm256_mul_ps(_mm256_cvtph_ps(words_twice(d)), _mm256_loadu_ps(act.add(places.d).cast()));
    let d = _mm512_castps256_ps512(d);
    for (i, codes) in places.codes.into_iter().enumerate().take(n) {
        // the sums of the activations, negated: the offset of the codes is one
        let sums = _mm_loadu_si128(act.add(places.aux + 16 * i).cast());
        let mut sum = _mm512_zextsi256_si512(_mm256_cvtepi16_epi32(sums));
        for (v, q) in W::codes(p.add(i * W::BYTES)).into_iter().enumerate() {
            sum = _mm512_dpbusd_epi32(sum, q, load(act.add(codes + 64 * v)));
        }
        let d = _mm512_permutexvar_ps(_mm512_set1_epi32(2 * i as i32), d);
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, acc);
    }
    acc
}

/// The product of one column; with `PREFETCH`, weights are prefetched.
///
/// # Safety
/// See [`super::GemvFn`].
#[inline(always)]
pub unsafe fn product_ternary<W: Ternary, const PREFETCH: bool>(o: Operands) {
    if o.k > SPACED { product::<Blocks<W, true, PREFETCH>, 1>(o) } else { product::<Blocks<W, false, PREFETCH>, 1>(o) }
}

struct Blocks<W, const CLOSE: bool, const PREFETCH: bool>(W);

impl<W: Ternary, const CLOSE: bool, const PREFETCH: bool> Row<1> for Blocks<W, CLOSE, PREFETCH> {
    #[inline(always)]
    unsafe fn row(o: Operands, mut p: *const u8) -> [__m512; 1] {
        let record = const { rows256(CLOSE) };
        let (steps, left) = (o.k / record.k, o.k % record.k / 256);
        let mut act = o.act;
        let mut acc = _mm512_setzero_ps();
        for _ in 0..steps {
            if PREFETCH {
                o.prefetch.lines_to_l1(p, 4 * W::BYTES);
            }
            acc = step::<W, CLOSE>(acc, p, 4, act);
            p = p.add(4 * W::BYTES);
            act = act.add(record.bytes);
        }
        if left > 0 {
            if PREFETCH {
                o.prefetch.lines_to_l1(p, left * W::BYTES);
            }
            acc = step::<W, CLOSE>(acc, p, left, act);
        }
        [acc]
    }
}
