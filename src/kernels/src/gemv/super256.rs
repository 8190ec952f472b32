//! How super-blocks of 256 are unpacked for `sums256`, four at a time: codes one by one, headers all together.
//!
//! A code of three bits need not be shifted to bit 0: the scales, which are unpacked once for four super-blocks, make
//! up for it ([`Super256::FACTOR`]).

use super::{load, nibbles, or_masked};
use crate::formats::Order;
use crate::pack::{Q3K, Q4K, Q5K, Q6K, Weight};
use core::arch::x86_64::*;

/// The scales and minima of four super-blocks. Quarter `i` of a vector belongs to super-block `i`.
pub struct Header {
    /// `d` and `dmin` (or `d` again) of each, as halves.
    pub(super) d: __m128i,
    /// The scales of its vectors 0 and 1, then those of 2 and 3, as 16-bit words in the order of their pieces;
    /// with sub-blocks of 32 only one vector, sub-blocks 0, 2, 4, 6, 1, 3, 5, 7. Times [`Super256::FACTOR`], over what the
    /// vector's codes are too large by.
    pub(super) scales: [__m512i; 2],
    /// The integers that are multiplied by the sums of the activations, to be subtracted: the minima, or the scales, which
    /// the offset of the codes multiplies later.
    pub(super) mins_or_offset: [__m512i; 2],
}

/// A weight type with super-blocks.
#[allow(clippy::missing_safety_doc)] // one set of conditions for all methods
pub trait Super256: Weight {
    /// The order of [`Self::codes`].
    const ORDER: Order;
    /// What the sums of the products are too large by, a power of two.
    const FACTOR: i32 = 1;

    /// The codes, unsigned, in that order. Those of a vector may be too large by a power of two, up to [`Self::FACTOR`].
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
pub(super) unsafe fn quarters(p: [*const u8; 4]) -> __m512i {
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

/// `at` bytes on from each of four places. (This and others are no closures: those are not inlined where many places call
/// them.)
#[inline(always)]
pub(super) unsafe fn behind(p: [*const u8; 4], at: usize) -> [*const u8; 4] {
    [p[0].add(at), p[1].add(at), p[2].add(at), p[3].add(at)]
}

/// The 16-bit word at `p`.
#[inline(always)]
unsafe fn word(p: *const u8) -> i32 {
    i32::from(p.cast::<u16>().read_unaligned())
}

/// The 32-bit word at `p`.
#[inline(always)]
pub(super) unsafe fn dword(p: *const u8) -> i32 {
    p.cast::<i32>().read_unaligned()
}

/// The words at each of four places, each twice.
#[inline(always)]
pub(super) unsafe fn words_twice(p: [*const u8; 4]) -> __m128i {
    let v = _mm_cvtsi32_si128(word(p[0]));
    let v = _mm_insert_epi16::<2>(_mm_insert_epi16::<1>(v, word(p[1])), word(p[2]));
    let v = _mm_insert_epi16::<3>(v, word(p[3]));
    _mm_unpacklo_epi16(v, v)
}

/// Shuffle indices that make words of bytes, in every quarter.
#[inline(always)]
pub(super) unsafe fn bytes_to_words(of: [u8; 8]) -> __m512i {
    let mut idx = [0x80; 16];
    for (i, of) in of.into_iter().enumerate() {
        idx[2 * i] = of;
    }
    _mm512_broadcast_i32x4(core::mem::transmute::<[u8; 16], __m128i>(idx))
}

/// Words whose upper bytes are those that `of` names in every quarter; the lower ones are zero.
#[inline(always)]
unsafe fn upper_bytes(v: __m512i, of: [u8; 8]) -> __m512i {
    let mut idx = [0x80; 16];
    for (i, of) in of.into_iter().enumerate() {
        idx[2 * i + 1] = of;
    }
    _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(core::mem::transmute::<[u8; 16], __m128i>(idx)))
}

/// Words, the signed bytes that `of` names in every quarter.
#[inline(always)]
unsafe fn signed_words(v: __m512i, of: [u8; 8]) -> __m512i {
    _mm512_srai_epi16::<8>(upper_bytes(v, of))
}

/// Half of [`Order::pieces`], the first one or the second.
pub(super) const fn pieces(order: Order, half: usize) -> [u8; 8] {
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

impl Super256 for Q3K {
    const ORDER: Order = Order::Pairs;
    const FACTOR: i32 = 8;
    /// Vector `j` is too large by `2^j`: its lower bits are shifted by `j` less than to bit 0, and the third ones lie behind
    /// them once the halves of `hmask` are shifted to bit 2.
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        let h = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast()));
        let h = _mm512_rolv_epi64(h, _mm512_set_epi64(62, 62, 62, 62, 2, 2, 2, 2));
        let q = load(p.add(32));
        [
            or_masked(_mm512_and_si512(q, _mm512_set1_epi8(0x03)), h, _mm512_set1_epi8(0x04)),
            or_masked(_mm512_and_si512(_mm512_srli_epi16::<1>(q), _mm512_set1_epi8(0x06)), h, _mm512_set1_epi8(0x08)),
            or_masked(_mm512_and_si512(_mm512_srli_epi16::<2>(q), _mm512_set1_epi8(0x0c)), h, _mm512_set1_epi8(0x10)),
            or_masked(_mm512_and_si512(_mm512_srli_epi16::<3>(q), _mm512_set1_epi8(0x18)), h, _mm512_set1_epi8(0x20)),
        ]
    }
    #[inline(always)]
    unsafe fn header(p: [*const u8; 4]) -> Header {
        let each = |a, b| _mm512_broadcast_i32x4(_mm_set_epi64x(b, a));
        // two bytes before the scales, their twelve, `d`
        let v = quarters(behind(p, 94));
        let low = _mm512_shuffle_epi8(v, each(0x0908_0706_0504_0302, 0x0908_0706_0504_0302));
        let low = _mm512_and_si512(_mm512_srlv_epi64(low, each(0, 4)), _mm512_set1_epi8(15));
        // scale s has bits 2 * (s / 4) of byte s % 4 on top: rotated to bits 4 and 5
        let top = _mm512_shuffle_epi8(v, _mm512_set1_epi32(0x0d0c_0b0a));
        let top = _mm512_rorv_epi32(top, _mm512_broadcast_i32x4(_mm_setr_epi32(28, 30, 0, 2)));
        let bytes = _mm512_sub_epi8(or_masked(low, top, _mm512_set1_epi8(0x30)), _mm512_set1_epi8(32));
        let scales = [upper_bytes(bytes, pieces(Self::ORDER, 0)), upper_bytes(bytes, pieces(Self::ORDER, 1))];
        // those of vector j times 2^(3 - j)
        let (first, second) =
            (each(0x5_0005_0005_0005, 0x6_0006_0006_0006), each(0x7_0007_0007_0007, 0x8_0008_0008_0008));
        let last = _mm512_castsi128_si512(_mm_setr_epi16(7, 7, 15, 15, 23, 23, 31, 31));
        let d = _mm512_castsi512_si128(_mm512_permutexvar_epi16(last, v));
        Header {
            d,
            scales: [_mm512_srav_epi16(scales[0], first), _mm512_srav_epi16(scales[1], second)],
            mins_or_offset: [_mm512_srai_epi16::<8>(scales[0]), _mm512_srai_epi16::<8>(scales[1])],
        }
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
        let v = quarters(behind(p, 192));
        let of = |half| signed_words(v, pieces(Self::ORDER, half));
        let scales = [of(0), of(1)];
        Header { d: words_twice(behind(p, 208)), scales, mins_or_offset: scales }
    }
}
