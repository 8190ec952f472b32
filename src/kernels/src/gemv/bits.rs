//! Q1_0 and Q2_0, as four blocks of 32: one block of Q1_0, two of Q2_0.

use super::Block32;
use crate::pack::{Q1_0, Q2_0};
use core::arch::x86_64::*;

/// Shuffle indices: byte `i % 16` of quarter `b` of the result is byte `first + quarter[b] + i % 16 / each`.
const fn repeated(first: u8, quarter: [u8; 4], each: u8) -> [u8; 64] {
    let (mut idx, mut i) = ([0; 64], 0);
    while i < 64 {
        idx[i] = first + quarter[i / 16] + i as u8 % 16 / each;
        i += 1;
    }
    idx
}

#[inline(always)]
unsafe fn shuffle(v: __m512i, idx: &[u8; 64]) -> __m512i {
    _mm512_shuffle_epi8(v, _mm512_loadu_si512(idx.as_ptr().cast()))
}

/// Sixteen where the bit is set, of the elements whose bytes `idx` names.
#[inline(always)]
unsafe fn sixteens(bytes: __m512i, idx: &[u8; 64]) -> __m512i {
    let bit = _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64);
    _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(shuffle(bytes, idx), bit), _mm512_set1_epi8(16))
}

impl Block32 for Q1_0 {
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 2] {
        let bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(p.add(2).cast()));
        let first = sixteens(bytes, const { &repeated(0, [0, 4, 8, 12], 8) });
        [first, sixteens(bytes, const { &repeated(2, [0, 4, 8, 12], 8) })]
    }
    #[inline(always)]
    unsafe fn scales(p: *const u8) -> __m512 {
        let d = _mm512_cvtph_ps(_mm256_set1_epi16(p.cast::<i16>().read_unaligned()));
        _mm512_mul_ps(d, _mm512_set1_ps(0.125))
    }
}

/// The pairs of bits of the elements whose bytes, each four times, `idx` names.
#[inline(always)]
unsafe fn pairs(bytes: __m512i, idx: &[u8; 64]) -> __m512i {
    let v = shuffle(bytes, idx);
    // the upper nibbles to the third and fourth byte; then the upper pairs of the second and fourth byte down
    let v = _mm512_mask_srli_epi16::<4>(v, 0xaaaa_aaaa, v);
    let v = _mm512_and_si512(v, _mm512_set1_epi16(0x0c03));
    // bits 0, 1, and 10, 11 of a word, the latter shifted by two
    _mm512_and_si512(_mm512_or_si512(v, _mm512_srli_epi16::<2>(v)), _mm512_set1_epi16(0x0303))
}

impl Block32 for Q2_0 {
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 2] {
        let (a, b) = (_mm_loadu_si128(p.add(2).cast()), _mm_loadu_si128(p.add(20).cast()));
        let bytes = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(a), 0xff00, b);
        let first = pairs(bytes, const { &repeated(0, [0, 8, 0, 8], 4) });
        [first, pairs(bytes, const { &repeated(4, [0, 8, 0, 8], 4) })]
    }
    #[inline(always)]
    unsafe fn scales(p: *const u8) -> __m512 {
        let (a, b) = (p.cast::<i16>().read_unaligned(), p.add(18).cast::<i16>().read_unaligned());
        _mm512_cvtph_ps(_mm256_mask_set1_epi16(_mm256_set1_epi16(a), 0xff00, b))
    }
}
