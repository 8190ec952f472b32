//! Super-blocks of 256, four at a time.
//!
//! The codes of a super-block are four vectors of 64. `vpdpbusd` multiplies them by the activations and adds products by
//! fours. Such a sum fits an `i16` (`63 * 127 * 4 < 32768`; with 4- and 5-bit codes eight products fit as well,
//! `31 * 127 * 8`). So two vectors of sums become one, which `vpdpwssd` multiplies by the scales.
//!
//! Scales, minima and `d` are unpacked for all four super-blocks together: each has its quarter of a vector. The minima, or
//! the offset of the codes, are multiplied by the (negated) sums of the sub-blocks' activations.

use super::{Operands, Row, dot2, load, nibbles, or_masked, product};
use crate::formats::{Order, SPACED, rows256};
use crate::pack::{Q2K, Q3K, Q4K, Q5K, Q6K, Weight};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// The scales and minima of four super-blocks. Quarter `i` of a vector belongs to super-block `i`.
pub struct Header {
    /// `d` and `dmin` (or `d` again) of each, as halves.
    d: __m128i,
    /// The scales of its vectors 0 and 1, then those of 2 and 3, as 16-bit words in the order of their pieces;
    /// with sub-blocks of 32 only one vector, sub-blocks 0, 2, 4, 6, 1, 3, 5, 7.
    scales: [__m512i; 2],
    /// The integers that are multiplied by the sums of the activations, to be subtracted: the minima, or the scales, which
    /// the offset of the codes multiplies later.
    mins_or_offset: [__m512i; 2],
}

/// A weight type with super-blocks.
#[allow(clippy::missing_safety_doc)] // one set of conditions for all methods
pub trait Super256: Weight {
    /// The order of [`Self::codes`].
    const ORDER: Order;

    /// The codes, unsigned, in that order.
    ///
    /// # Safety
    /// For all methods: a pointer is readable for a super-block; the CPU has AVX-512 F, BW, DQ and VL.
    unsafe fn codes(p: *const u8) -> [__m512i; 4];
    /// Scales, minima and `d` of four super-blocks.
    unsafe fn header(p: [*const u8; 4]) -> Header;
}

/// The sixteen bytes at each of four places.
///
/// Read from the last place to the first, behind the codes. The place of these loads in the stream decides how well the
/// hardware's prefetcher follows, though their cache lines were all asked for before: q4_K 30 GB/s in this order, 26 in
/// three others (`kernel-choices`).
#[inline(always)]
unsafe fn quarters(p: [*const u8; 4]) -> __m512i {
    let [a, b, c, d] = p;
    let (d, c, b, a) = (in_turn(d), in_turn(c), in_turn(b), in_turn(a));
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_set_m128i(b, a)), _mm256_set_m128i(d, c))
}

/// The sixteen bytes at `p`, read before anything that follows.
#[inline(always)]
unsafe fn in_turn(p: *const u8) -> __m128i {
    let v = _mm_loadu_si128(p.cast());
    // SAFETY: no instruction, so nothing is read or written. Keeps the compiler from another order.
    core::arch::asm!("", options(nostack, preserves_flags));
    v
}

/// The words at each of four places, each twice.
#[inline(always)]
pub(super) unsafe fn words_twice(p: [*const u8; 4]) -> __m128i {
    let [a, b, c, d] = p.map(|p| i32::from(p.cast::<u16>().read_unaligned()));
    let v = _mm_cvtsi32_si128(a);
    let v = _mm_insert_epi16::<3>(_mm_insert_epi16::<2>(_mm_insert_epi16::<1>(v, b), c), d);
    _mm_unpacklo_epi16(v, v)
}

/// Shuffle indices that make words of bytes, in every quarter.
#[inline(always)]
unsafe fn bytes_to_words(of: [u8; 8]) -> __m512i {
    let mut idx = [0x80; 16];
    for (i, of) in of.into_iter().enumerate() {
        idx[2 * i] = of;
    }
    _mm512_broadcast_i32x4(core::mem::transmute::<[u8; 16], __m128i>(idx))
}

/// Words, the signed bytes that `of` names in every quarter.
#[inline(always)]
unsafe fn signed_words(v: __m512i, of: [u8; 8]) -> __m512i {
    let mut idx = [0x80; 16];
    for (i, of) in of.into_iter().enumerate() {
        idx[2 * i + 1] = of;
    }
    let idx = _mm512_broadcast_i32x4(core::mem::transmute::<[u8; 16], __m128i>(idx));
    _mm512_srai_epi16::<8>(_mm512_shuffle_epi8(v, idx))
}

/// Half of [`Order::pieces`], the first one or the second.
const fn pieces(order: Order, half: usize) -> [u8; 8] {
    let mut of = [0; 8];
    let mut i = 0;
    while i < 8 {
        of[i] = order.pieces()[8 * half + i];
        i += 1;
    }
    of
}

/// The header of Q4_K and Q5_K: `d`, `dmin`, then twelve bytes with scales and minima.
#[inline(always)]
unsafe fn k4_header(p: [*const u8; 4]) -> Header {
    let each = |a, b, c, d| _mm512_broadcast_i32x4(_mm_setr_epi32(a, b, c, d));
    let all = quarters(p);
    // [low six bits of scales 0-3, of minima 0-3; low nibbles of scales 4-7, of minima 4-7]
    let low = _mm512_srlv_epi32(_mm512_shuffle_epi32::<0b11_11_10_01>(all), each(0, 0, 0, 4));
    let low = _mm512_and_si512(low, each(0x3f3f_3f3f, 0x3f3f_3f3f, 0x0f0f_0f0f, 0x0f0f_0f0f));
    // the upper two bits of the latter
    let top = _mm512_srli_epi32::<2>(_mm512_shuffle_epi32::<0b10_01_00_00>(all));
    let v = or_masked(low, top, each(0, 0, 0x3030_3030, 0x3030_3030));
    // the bytes of scales 0 to 7 are 0-3, 8-11, those of the minima 4-7, 12-15
    let scales = _mm512_shuffle_epi8(v, bytes_to_words([0, 2, 8, 10, 1, 3, 9, 11]));
    let mins = _mm512_shuffle_epi8(v, bytes_to_words([4, 5, 6, 7, 12, 13, 14, 15]));
    let first = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
    let d = _mm512_castsi512_si128(_mm512_permutexvar_epi32(first, all));
    Header { d, scales: [scales; 2], mins_or_offset: [mins; 2] }
}

/// Both nibbles of 128 bytes, 32 for two sub-blocks: the first halves of sub-blocks 0, 2, 4, 6, the second ones;
/// then those of 1, 3, 5, 7.
#[inline(always)]
unsafe fn k4_codes(p: *const u8) -> [__m512i; 4] {
    let (a, b) = (load(p), load(p.add(64)));
    let [first, first_odd] = nibbles(_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b));
    let [second, second_odd] = nibbles(_mm512_shuffle_i32x4::<0b11_01_11_01>(a, b));
    [first, second, first_odd, second_odd]
}

impl Super256 for Q4K {
    const ORDER: Order = Order::Nibbles;
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        k4_codes(p.add(16))
    }
    #[inline(always)]
    unsafe fn header(p: [*const u8; 4]) -> Header {
        k4_header(p)
    }
}

impl Super256 for Q5K {
    const ORDER: Order = Order::Nibbles;
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        let [a, b, c, d] = k4_codes(p.add(48));
        // sub-block i has bit i
        let high = |p: *const u8| _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast()));
        let (first, second) = (high(p.add(16)), high(p.add(32)));
        let even = _mm512_set_epi64(62, 62, 0, 0, 2, 2, 4, 4);
        let odd = _mm512_set_epi64(61, 61, 63, 63, 1, 1, 3, 3);
        let bit = _mm512_set1_epi8(16);
        [
            or_masked(a, _mm512_rolv_epi64(first, even), bit),
            or_masked(b, _mm512_rolv_epi64(second, even), bit),
            or_masked(c, _mm512_rolv_epi64(first, odd), bit),
            or_masked(d, _mm512_rolv_epi64(second, odd), bit),
        ]
    }
    #[inline(always)]
    unsafe fn header(p: [*const u8; 4]) -> Header {
        k4_header(p)
    }
}

/// The vector at `p` twice, its upper half shifted right by `N` more bits than the lower one.
#[inline(always)]
unsafe fn halves_shifted<const N: i64>(p: *const u8) -> __m512i {
    let v = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast()));
    _mm512_srlv_epi64(v, _mm512_set_epi64(N, N, N, N, 0, 0, 0, 0))
}

/// Two bits of every byte: vector `j` has bits `2 * j` and `2 * j + 1`.
#[inline(always)]
pub(super) unsafe fn pairs(q: __m512i) -> [__m512i; 4] {
    let m = _mm512_set1_epi8(3);
    [
        _mm512_and_si512(q, m),
        _mm512_and_si512(_mm512_srli_epi16::<2>(q), m),
        _mm512_and_si512(_mm512_srli_epi16::<4>(q), m),
        _mm512_and_si512(_mm512_srli_epi16::<6>(q), m),
    ]
}

impl Super256 for Q2K {
    const ORDER: Order = Order::Pairs;
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        pairs(load(p.add(16)))
    }
    #[inline(always)]
    unsafe fn header(p: [*const u8; 4]) -> Header {
        let v = quarters(p);
        let [low, high] = nibbles(v);
        let (first, second) = (bytes_to_words(pieces(Self::ORDER, 0)), bytes_to_words(pieces(Self::ORDER, 1)));
        let [a, b, c, d] = p.map(|p| p.add(80).cast::<i32>().read_unaligned());
        Header {
            d: _mm_setr_epi32(a, b, c, d),
            scales: [_mm512_shuffle_epi8(low, first), _mm512_shuffle_epi8(low, second)],
            mins_or_offset: [_mm512_shuffle_epi8(high, first), _mm512_shuffle_epi8(high, second)],
        }
    }
}

impl Super256 for Q3K {
    const ORDER: Order = Order::Pairs;
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        let [a, b, c, d] = pairs(load(p.add(32)));
        // vector j has bit j in its lower half, bit 4 + j in its upper one
        let h = halves_shifted::<4>(p);
        let bit = _mm512_set1_epi8(4);
        [
            or_masked(a, _mm512_slli_epi16::<2>(h), bit),
            or_masked(b, _mm512_slli_epi16::<1>(h), bit),
            or_masked(c, h, bit),
            or_masked(d, _mm512_srli_epi16::<1>(h), bit),
        ]
    }
    #[inline(always)]
    unsafe fn header(p: [*const u8; 4]) -> Header {
        let each = |a, b| _mm512_broadcast_i32x4(_mm_set_epi64x(b, a));
        // two bytes before the scales, their twelve, `d`
        let v = quarters(p.map(|p| p.add(94)));
        let low = _mm512_shuffle_epi8(v, each(0x0908_0706_0504_0302, 0x0908_0706_0504_0302));
        let low = _mm512_and_si512(_mm512_srlv_epi64(low, each(0, 4)), _mm512_set1_epi8(15));
        // scale s has bits 2 * (s / 4) of byte s % 4 on top: rotated to bits 4 and 5
        let top = _mm512_shuffle_epi8(v, _mm512_set1_epi32(0x0d0c_0b0a));
        let top = _mm512_rorv_epi32(top, _mm512_broadcast_i32x4(_mm_setr_epi32(28, 30, 0, 2)));
        let bytes = _mm512_sub_epi8(or_masked(low, top, _mm512_set1_epi8(0x30)), _mm512_set1_epi8(32));
        let of = |half| signed_words(bytes, pieces(Self::ORDER, half));
        let scales = [of(0), of(1)];
        let last = _mm512_castsi128_si512(_mm_setr_epi16(7, 7, 15, 15, 23, 23, 31, 31));
        let d = _mm512_castsi512_si128(_mm512_permutexvar_epi16(last, v));
        Header { d, scales, mins_or_offset: scales }
    }
}

/// The codes of half a super-block of Q6_K. (No closure: one of those is not inlined.)
#[inline(always)]
unsafe fn q6_half(p: *const u8, n: usize) -> [__m512i; 2] {
    let m = _mm512_set1_epi8(0x30);
    let [a, b] = nibbles(load(p.add(64 * n)));
    // bits 2 * j of byte l: element 32 * j + l
    let h = halves_shifted::<2>(p.add(128 + 32 * n));
    [or_masked(a, _mm512_slli_epi16::<4>(h), m), or_masked(b, h, m)]
}

impl Super256 for Q6K {
    const ORDER: Order = Order::Plain;
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        let ([a, b], [c, d]) = (q6_half(p, 0), q6_half(p, 1));
        [a, b, c, d]
    }
    #[inline(always)]
    unsafe fn header(p: [*const u8; 4]) -> Header {
        let v = quarters(p.map(|p| p.add(192)));
        let of = |half| signed_words(v, pieces(Self::ORDER, half));
        let scales = [of(0), of(1)];
        Header { d: words_twice(p.map(|p| p.add(208))), scales, mins_or_offset: scales }
    }
}

/// The words of super-block `i` in the lanes of two vectors of sums that were packed: eight of its quarter, the
/// first four for the one vector, the others for the other one.
#[inline(always)]
unsafe fn spread(words: __m512i, i: i32) -> __m512i {
    let of = |quarter: i32| {
        let word = 8 * i + quarter;
        let (a, b) = (word * 0x1_0001, (word + 4) * 0x1_0001);
        _mm_setr_epi32(a, a, b, b)
    };
    let low = _mm256_set_m128i(of(1), of(0));
    let high = _mm256_set_m128i(of(3), of(2));
    _mm512_permutexvar_epi16(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high), words)
}

/// Adds the products of vector `i` of the codes.
#[inline(always)]
unsafe fn add(sum: __m512i, q: [__m512i; 4], a: *const u8, i: usize) -> __m512i {
    _mm512_dpbusd_epi32(sum, q[i], load(a.add(64 * i)))
}

/// The sums of two vectors of the codes, packed.
#[inline(always)]
unsafe fn two(q: [__m512i; 4], a: *const u8, i: usize) -> __m512i {
    let zero = _mm512_setzero_si512();
    _mm512_packs_epi32(add(zero, q, a, i), add(zero, q, a, i + 1))
}

/// The sums of the sub-blocks of the super-block at `p`, packed: one vector with sub-blocks of 32, else two.
#[inline(always)]
unsafe fn sums<W: Super256>(p: *const u8, a: *const u8) -> [__m512i; 2] {
    let (zero, q) = (_mm512_setzero_si512(), W::codes(p));
    if W::SHAPE.sub == 32 {
        let (even, odd) = (add(add(zero, q, a, 0), q, a, 1), add(add(zero, q, a, 2), q, a, 3));
        [_mm512_packs_epi32(even, odd), zero]
    } else {
        [two(q, a, 0), two(q, a, 2)]
    }
}

/// The sums of super-block `i`, times their scales, added up. `subtracted` is added for types with an offset.
#[inline(always)]
unsafe fn scaled<W: Super256>(sums: [__m512i; 2], scales: [__m512i; 2], subtracted: __m512i, i: usize) -> __m512i {
    let sum = if W::SHAPE.min {
        _mm512_madd_epi16(sums[0], scales[0])
    } else {
        dot2(_mm512_maskz_mov_epi32(0xf << (4 * i), subtracted), sums[0], scales[0])
    };
    if W::SHAPE.sub == 32 { sum } else { dot2(sum, sums[1], scales[1]) }
}

/// Adds the products of `n` super-blocks, one to four.
#[inline(always)]
unsafe fn step<W: Super256, const CLOSE: bool>(mut acc: __m512, p: *const u8, n: usize, act: *const u8) -> __m512 {
    let places = const { rows256(CLOSE) };
    // the last super-block stands in for missing ones, whose activations are zero
    let at = |i: usize| p.add(i.min(n - 1) * W::BYTES);
    let mut q = [const { MaybeUninit::<[__m512i; 2]>::uninit() }; 4];
    for (i, q) in q.iter_mut().enumerate().take(n) {
        q.write(sums::<W>(at(i), act.add(places.codes[i])));
    }
    // SAFETY: no instruction. Keeps the compiler from reading the headers before the codes: the hardware's prefetcher
    // follows weights that are read in the order of memory. q4_K 54 GMAC/s with the headers last, 35 with them first
    // (`kernel-choices`).
    core::arch::asm!("", options(nostack, preserves_flags));
    let header = W::header([at(0), at(1), at(2), at(3)]);
    let d = _mm256_mul_ps(_mm256_cvtph_ps(header.d), _mm256_loadu_ps(act.add(places.d).cast()));
    let d = _mm512_castps256_ps512(d);
    let mut subtracted = _mm512_madd_epi16(header.mins_or_offset[0], load(act.add(places.aux)));
    if W::SHAPE.sub == 16 {
        subtracted = dot2(subtracted, header.mins_or_offset[1], load(act.add(places.aux + 64)));
    }
    if W::SHAPE.min {
        let dmin = _mm512_permutexvar_ps(_mm512_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7), d);
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(subtracted), dmin, acc);
    } else {
        // the offset is a power of two; a constant shift becomes the immediate form
        let shift = _mm_cvtsi32_si128(const { W::SHAPE.offset.trailing_zeros() as i32 });
        subtracted = _mm512_sll_epi32(subtracted, shift);
    }
    for (i, q) in q.iter().enumerate().take(n) {
        let scales = header.scales.map(|v| spread(v, i as i32));
        let sum = _mm512_cvtepi32_ps(scaled::<W>(q.assume_init_read(), scales, subtracted, i));
        acc = _mm512_fmadd_ps(sum, _mm512_permutexvar_ps(_mm512_set1_epi32(2 * i as i32), d), acc);
    }
    acc
}

/// The product of one column; with `PREFETCH`, weights are prefetched.
///
/// # Safety
/// See [`super::GemvFn`].
#[inline(always)]
pub unsafe fn product256<W: Super256, const PREFETCH: bool>(o: Operands) {
    if o.k > SPACED { product::<Blocks<W, true, PREFETCH>>(o) } else { product::<Blocks<W, false, PREFETCH>>(o) }
}

struct Blocks<W, const CLOSE: bool, const PREFETCH: bool>(W);

impl<W: Super256, const CLOSE: bool, const PREFETCH: bool> Row for Blocks<W, CLOSE, PREFETCH> {
    #[inline(always)]
    unsafe fn row(o: Operands, mut p: *const u8) -> __m512 {
        // what the loop does without a block would be a call of `memset`
        core::hint::assert_unchecked(o.k >= 256);
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
        acc
    }
}
