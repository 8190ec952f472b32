//! Products of super-blocks of 256, four at a time.
//!
//! The codes of a super-block are four vectors of 64. `vpdpbusd` multiplies them by the activations and adds products by
//! fours. Such a sum fits an `i16` (`63 * 127 * 4 < 32768`; with 4- and 5-bit codes eight products fit as well,
//! `31 * 127 * 8`). So two vectors of sums become one, which `vpdpwssd` multiplies by the scales: of one super-block with
//! sub-blocks of 32, of two with sub-blocks of 16. The latter are then added up over all their sub-blocks, and multiplied
//! by both `d` at once.
//!
//! Scales, minima and `d` are unpacked for all four super-blocks together: each has its quarter of a vector. The minima, or
//! the offset of the codes, are multiplied by the (negated) sums of the sub-blocks' activations.

use super::super256::Super256;
use super::{Operands, Row, dot2, load, product};
use crate::formats::{Order, SPACED, rows256};
use crate::pack::{Weight, unrolled};
use core::arch::x86_64::*;

/// The words `first`, `first + 1` and so on, each four times in its quarter, and behind them in the same way those from
/// `second` on: the scales of two vectors of sums that were packed.
#[inline(always)]
unsafe fn spread(words: __m512i, first: i32, second: i32) -> __m512i {
    let (a, b) = (first * 0x1_0001, second * 0x1_0001);
    let (c, d, e, f, g, h) = (a + 0x1_0001, b + 0x1_0001, a + 0x2_0002, b + 0x2_0002, a + 0x3_0003, b + 0x3_0003);
    _mm512_permutexvar_epi16(_mm512_setr_epi32(a, a, b, b, c, c, d, d, e, e, f, f, g, g, h, h), words)
}

/// Adds the products of vector `i` of the codes.
#[inline(always)]
unsafe fn add(sum: __m512i, q: [__m512i; 4], a: *const u8, i: usize) -> __m512i {
    _mm512_dpbusd_epi32(sum, q[i], load(a.add(64 * i)))
}

/// The sums of the sub-blocks of 32 of the super-block at `p`, packed, for each column.
#[inline(always)]
unsafe fn sums32<W: Super256, const NC: usize>(p: *const u8, act: *const u8, apart: usize) -> [__m512i; NC] {
    let (zero, q) = (_mm512_setzero_si512(), W::codes(p));
    let mut sums = [zero; NC];
    for (c, sum) in sums.iter_mut().enumerate() {
        let a = act.add(c * apart);
        *sum = _mm512_packs_epi32(add(add(zero, q, a, 0), q, a, 1), add(add(zero, q, a, 2), q, a, 3));
    }
    sums
}

/// The sums of the vectors of the super-block at `p` for each column.
#[inline(always)]
unsafe fn sums16<W: Super256, const NC: usize>(p: *const u8, act: *const u8, apart: usize) -> [[__m512i; 4]; NC] {
    let (zero, q) = (_mm512_setzero_si512(), W::codes(p));
    let mut sums = [[zero; 4]; NC];
    for (c, sums) in sums.iter_mut().enumerate() {
        let a = act.add(c * apart);
        *sums = [add(zero, q, a, 0), add(zero, q, a, 1), add(zero, q, a, 2), add(zero, q, a, 3)];
    }
    sums
}

/// Of the integers that belong to four super-blocks, a quarter for each, those of super-blocks `2 * pair` and
/// `2 * pair + 1`: in the lanes of both as [`sums16`] of them are packed, zeros in all other lanes.
#[inline(always)]
unsafe fn of_pair(v: __m512i, pair: i32) -> __m512i {
    let at = 8 * pair;
    let idx = _mm256_setr_epi32(at, at + 1, at + 4, at + 5, at + 2, at + 3, at + 6, at + 7);
    _mm512_maskz_permutexvar_epi32(0xff, _mm512_castsi256_si512(idx), v)
}

/// `d` of each of four super-blocks, and of the minima, times those of the activations at `act`.
#[inline(always)]
unsafe fn scales_of_sums<W: Super256>(d: __m128i, act: *const u8) -> __m512 {
    let mut d = _mm256_mul_ps(_mm256_cvtph_ps(d), _mm256_loadu_ps(act.cast()));
    if W::FACTOR > 1 {
        let of = 1.0 / W::FACTOR as f32;
        let min = if W::SHAPE.min { 1.0 } else { of };
        d = _mm256_mul_ps(d, _mm256_setr_ps(of, min, of, min, of, min, of, min));
    }
    _mm512_castps256_ps512(d)
}

/// A weight type with super-blocks, for products without panels.
pub trait Step256: Weight {
    /// The order of the activations.
    const ORDER: Order;

    /// Adds the products of `n` super-blocks, one to four, with each column. Columns are `apart` bytes apart. `CLOSE`
    /// activations have no gaps, see [`rows256`].
    ///
    /// # Safety
    /// `p` is readable for `n` super-blocks, each column for a record; the CPU has AVX-512 F, BW, DQ, VL and VNNI.
    unsafe fn step<const CLOSE: bool, const NC: usize>(
        acc: [__m512; NC],
        p: *const u8,
        n: usize,
        act: *const u8,
        apart: usize,
    ) -> [__m512; NC];
}

impl<W: Super256> Step256 for W {
    const ORDER: Order = W::ORDER;
    #[inline(always)]
    unsafe fn step<const CLOSE: bool, const NC: usize>(
        acc: [__m512; NC],
        p: *const u8,
        n: usize,
        act: *const u8,
        apart: usize,
    ) -> [__m512; NC] {
        step::<W, CLOSE, NC>(acc, p, n, act, apart)
    }
}

/// See [`Step256::step`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the indices are columns, of several arrays
unsafe fn step<W: Super256, const CLOSE: bool, const NC: usize>(
    mut acc: [__m512; NC],
    p: *const u8,
    n: usize,
    act: *const u8,
    apart: usize,
) -> [__m512; NC] {
    let places = const { rows256(CLOSE) };
    let zero = _mm512_setzero_si512();
    // the last super-block stands in for missing ones, whose activations are zero
    let at = [p, p.add(1.min(n - 1) * W::BYTES), p.add(2.min(n - 1) * W::BYTES), p.add(3.min(n - 1) * W::BYTES)];
    // of each super-block with sub-blocks of 32, of the four vectors of each pair with sub-blocks of 16
    let mut packed = [[zero; 8]; NC];
    unrolled!(i in [0, 1, 2, 3] {
        if i < n && W::SHAPE.sub == 32 {
            let sums = sums32::<W, NC>(at[i], act.add(places.codes[i]), apart);
            for c in 0..NC {
                packed[c][i] = sums[c];
            }
        }
    });
    unrolled!(pair in [0, 1] {
        let (i, j) = (2 * pair, 2 * pair + 1);
        if i < n && W::SHAPE.sub == 16 {
            let first = sums16::<W, NC>(at[i], act.add(places.codes[i]), apart);
            let mut second = [[zero; 4]; NC];
            if j < n {
                second = sums16::<W, NC>(at[j], act.add(places.codes[j]), apart);
            }
            for c in 0..NC {
                let (a, b) = (first[c], second[c]);
                packed[c][4 * pair] = _mm512_packs_epi32(a[0], b[0]);
                packed[c][4 * pair + 1] = _mm512_packs_epi32(a[1], b[1]);
                packed[c][4 * pair + 2] = _mm512_packs_epi32(a[2], b[2]);
                packed[c][4 * pair + 3] = _mm512_packs_epi32(a[3], b[3]);
            }
        }
    });
    // SAFETY: no instruction. Keeps the compiler from reading the headers before the codes: the hardware's prefetcher
    // follows weights that are read in the order of memory. q4_K 54 GMAC/s with the headers last, 35 with them first
    // (`kernel-choices`).
    core::arch::asm!("", options(nostack, preserves_flags));
    let header = W::header(at);
    let mut d = [_mm512_setzero_ps(); NC];
    let mut subtracted = [zero; NC];
    for c in 0..NC {
        let act = act.add(c * apart);
        d[c] = scales_of_sums::<W>(header.d, act.add(places.d));
        subtracted[c] = _mm512_madd_epi16(header.mins_or_offset[0], load(act.add(places.aux)));
        if W::SHAPE.sub == 16 {
            subtracted[c] = dot2(subtracted[c], header.mins_or_offset[1], load(act.add(places.aux + 64)));
        }
        if W::SHAPE.min {
            let dmin = _mm512_permutexvar_ps(_mm512_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7), d[c]);
            acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(subtracted[c]), dmin, acc[c]);
        } else {
            // powers of two; a constant shift becomes the immediate form
            let shift = const { (W::SHAPE.offset * W::FACTOR).trailing_zeros() as i32 };
            subtracted[c] = _mm512_sll_epi32(subtracted[c], _mm_cvtsi32_si128(shift));
        }
    }
    unrolled!(i in [0, 1, 2, 3] {
        if i < n && W::SHAPE.sub == 32 {
            let scales = spread(header.scales[0], 8 * i as i32, 8 * i as i32 + 4);
            for c in 0..NC {
                let sum = if W::SHAPE.min {
                    _mm512_madd_epi16(packed[c][i], scales)
                } else {
                    dot2(_mm512_maskz_mov_epi32(0xf << (4 * i), subtracted[c]), packed[c][i], scales)
                };
                let d = _mm512_permutexvar_ps(_mm512_set1_epi32(2 * i as i32), d[c]);
                acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, acc[c]);
            }
        }
    });
    unrolled!(pair in [0, 1] {
        if 2 * pair < n && W::SHAPE.sub == 16 {
            let (first, second) = (16 * pair as i32, 16 * pair as i32 + 8);
            let scales = [
                spread(header.scales[0], first, second),
                spread(header.scales[0], first + 4, second + 4),
                spread(header.scales[1], first, second),
                spread(header.scales[1], first + 4, second + 4),
            ];
            let of = 4 * pair as i32;
            let of = _mm512_broadcast_i32x4(_mm_setr_epi32(of, of, of + 2, of + 2));
            for c in 0..NC {
                let packed = &packed[c][4 * pair..];
                let mut sum = if W::SHAPE.min {
                    _mm512_madd_epi16(packed[0], scales[0])
                } else {
                    dot2(of_pair(subtracted[c], pair as i32), packed[0], scales[0])
                };
                // two chains, because one has the latency of four products
                sum = dot2(sum, packed[1], scales[1]);
                let more = dot2(_mm512_madd_epi16(packed[2], scales[2]), packed[3], scales[3]);
                sum = _mm512_add_epi32(sum, more);
                acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(of, d[c]), acc[c]);
            }
        }
    });
    acc
}

/// The product of `NC` columns; with `PREFETCH`, weights are prefetched.
///
/// # Safety
/// See [`super::GemvFn`].
#[inline(always)]
pub unsafe fn product256<W: Step256, const PREFETCH: bool, const NC: usize>(o: Operands) {
    if o.k > SPACED {
        product::<Blocks<W, true, PREFETCH>, NC>(o)
    } else {
        product::<Blocks<W, false, PREFETCH>, NC>(o)
    }
}

struct Blocks<W, const CLOSE: bool, const PREFETCH: bool>(W);

impl<W: Step256, const CLOSE: bool, const PREFETCH: bool, const NC: usize> Row<NC> for Blocks<W, CLOSE, PREFETCH> {
    #[inline(always)]
    unsafe fn row(o: Operands, mut p: *const u8) -> [__m512; NC] {
        // what the loop does without a block would be a call of `memset`
        core::hint::assert_unchecked(o.k >= 256);
        let record = const { rows256(CLOSE) };
        let (steps, left) = (o.k / record.k, o.k % record.k / 256);
        let mut act = o.act;
        let mut acc = [_mm512_setzero_ps(); NC];
        for _ in 0..steps {
            if PREFETCH {
                o.prefetch.lines_to_l1(p, 4 * W::BYTES);
            }
            acc = W::step::<CLOSE, NC>(acc, p, 4, act, o.act_stride);
            p = p.add(4 * W::BYTES);
            act = act.add(record.bytes);
        }
        if left > 0 {
            if PREFETCH {
                o.prefetch.lines_to_l1(p, left * W::BYTES);
            }
            acc = W::step::<CLOSE, NC>(acc, p, left, act, o.act_stride);
        }
        acc
    }
}
