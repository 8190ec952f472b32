//! IQ1_S and IQ1_M: the codes of eight elements are a word of a table. The indices are made in registers and stored, and
//! the words loaded one by one: a gather is no faster.

use super::super256::{Header, Super256, each_twice, quarters, words_twice};
use crate::formats::Order;
use crate::pack::{IQ1_CODES, Iq1M, Iq1S};
use core::arch::x86_64::*;

/// Codes of 32 groups of eight elements: of the indices in the words, less two where the words' top bit is set.
#[inline(always)]
unsafe fn look_up(words: __m512i) -> [__m512i; 4] {
    let minus = _mm512_movepi16_mask(words);
    let mut index = [0u16; 32];
    _mm512_storeu_si512(index.as_mut_ptr().cast(), _mm512_and_si512(words, _mm512_set1_epi16(0x7ff)));
    let two = _mm512_set1_epi8(2);
    let mut codes = [_mm512_setzero_si512(); 4];
    for (v, codes) in codes.iter_mut().enumerate() {
        let mut all = [0i64; 8];
        for (l, word) in all.iter_mut().enumerate() {
            // SAFETY: eleven bits, and the table has 2048 entries.
            *word = IQ1_CODES.as_ptr().add(usize::from(index[8 * v + l])).read() as i64;
        }
        let [a, b, c, d, e, f, g, h] = all;
        let plus = _mm512_setr_epi64(a, b, c, d, e, f, g, h);
        *codes = _mm512_mask_sub_epi64(plus, (minus >> (8 * v)) as __mmask8, plus, two);
    }
    codes
}

/// Shuffle or permutation indices.
#[inline(always)]
unsafe fn words(idx: &[u16; 32]) -> __m512i {
    _mm512_loadu_si512(idx.as_ptr().cast())
}

/// The groups in [`Order::Nibbles`]: two for each piece of sixteen elements.
const GROUPS: [u16; 32] = {
    let (pieces, mut groups, mut i) = (Order::Nibbles.pieces(), [0; 32], 0);
    while i < 32 {
        groups[i] = 2 * pieces[i / 2] as u16 + i as u16 % 2;
        i += 1;
    }
    groups
};

/// A part of the number of each group in [`GROUPS`], times `times`.
const fn of_groups(divided_by: u16, modulo: u16, times: u16) -> [u16; 32] {
    let (mut v, mut i) = ([0; 32], 0);
    while i < 32 {
        v[i] = GROUPS[i] / divided_by % modulo * times;
        i += 1;
    }
    v
}

impl Super256 for Iq1S {
    const ORDER: Order = Order::Nibbles;
    const FACTOR: f32 = 0.125;

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        let low = _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.add(2).cast()));
        let low = _mm512_permutexvar_epi16(words(&GROUPS), low);
        let high = _mm512_castsi128_si512(_mm_loadu_si128(p.add(34).cast()));
        let high = _mm512_permutexvar_epi16(words(const { &of_groups(4, 8, 1) }), high);
        // three bits from bit 3 * (group % 4) on to bit 8
        let three = _mm512_srlv_epi16(high, words(const { &of_groups(1, 4, 3) }));
        let index = _mm512_slli_epi16::<8>(_mm512_and_si512(three, _mm512_set1_epi16(7)));
        let sign = _mm512_and_si512(high, _mm512_set1_epi16(i16::MIN));
        look_up(_mm512_or_si512(_mm512_or_si512(low, index), sign))
    }
    #[inline(always)]
    unsafe fn header(p: [*const u8; 4]) -> Header {
        let qh = quarters(p.map(|p| p.add(34)));
        let odd = _mm512_and_si512(_mm512_srli_epi16::<11>(qh), _mm512_set1_epi16(14));
        let odd = _mm512_or_si512(odd, _mm512_set1_epi16(1));
        // sub-blocks 0, 2, 4, 6, then 1, 3, 5, 7
        let order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        let scales = _mm512_shuffle_epi8(odd, _mm512_broadcast_i32x4(order));
        Header { d: words_twice(p), scales: [scales; 2], mins_or_offset: [odd; 2] }
    }
}

impl Super256 for Iq1M {
    const ORDER: Order = Order::Plain;
    const FACTOR: f32 = 0.125;

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        let low = _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast()));
        // both nibbles of a byte to words of their own, their lower three bits to bit 8, the fourth to bit 15
        let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.add(32).cast()));
        let nibbles = _mm512_or_si512(bytes, _mm512_slli_epi32::<12>(bytes));
        let index = _mm512_and_si512(_mm512_slli_epi16::<8>(nibbles), _mm512_set1_epi16(0x700));
        let sign = _mm512_and_si512(_mm512_slli_epi16::<12>(nibbles), _mm512_set1_epi16(i16::MIN));
        look_up(_mm512_or_si512(_mm512_or_si512(low, index), sign))
    }
    #[inline(always)]
    unsafe fn header(p: [*const u8; 4]) -> Header {
        let v = quarters(p.map(|p| p.add(40)));
        let scales = [odd_scales(v, 4), odd_scales(v, 6)];
        let d = p.map(|p| {
            let s = p.add(48).cast::<u64>().read_unaligned();
            (s >> 12 & 0xf | s >> 24 & 0xf0 | s >> 36 & 0xf00 | s >> 48 & 0xf000) as i32
        });
        Header { d: each_twice(d), scales, mins_or_offset: scales }
    }
}

/// `2 * v + 1` of four times three bits of word `first` of every quarter, then of the next word.
#[inline(always)]
unsafe fn odd_scales(v: __m512i, first: i16) -> __m512i {
    // the bytes of a word, and of the next one
    let (a, b) = (first * 0x202 + 0x100, first * 0x202 + 0x302);
    let idx = _mm512_broadcast_i32x4(_mm_setr_epi16(a, a, a, a, b, b, b, b));
    let v = _mm512_srlv_epi16(_mm512_shuffle_epi8(v, idx), _mm512_set1_epi64(0x0009_0006_0003_0000));
    let v = _mm512_and_si512(_mm512_add_epi16(v, v), _mm512_set1_epi16(14));
    _mm512_or_si512(v, _mm512_set1_epi16(1))
}
