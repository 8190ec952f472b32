//! Super-blocks of types with a grid, unpacked in 512-bit registers.
//!
//! A grid in words ([`super::iq_grids`]) fits registers: `vpermi2w` looks 32 indices up in 64 words, and one to four more
//! bits of the indices choose among its results. The word of a vector holds the codes of its elements, from which
//! `vpshufb` makes magnitudes. The bytes of the words dictate their order, [`Order::Octets`](crate::formats::Order).

use super::iq_grids::{
    IQ2_S_WORDS, IQ2_VALUES, IQ2_XS_WORDS, IQ2_XXS_WORDS, IQ3_S_VALUES, IQ3_S_WORDS, IQ3_XXS_VALUES, IQ3_XXS_WORDS,
    SIGNS_OF_SEVEN_WORDS,
};
use super::{Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Weight};
use core::arch::x86_64::*;

/// A weight type with a grid.
#[allow(clippy::missing_safety_doc)] // one set of conditions for all methods
pub trait Grid512: Weight {
    /// Unpacks the super-block at `p`.
    ///
    /// # Safety
    /// `p` is readable for a super-block; the CPU has AVX-512 F, BW, DQ and VL.
    unsafe fn unpack(p: *const u8) -> Unpacked;
}

/// A super-block, unpacked.
pub struct Unpacked {
    /// Magnitudes of the codes, in [`Order::Octets`](crate::formats::Order).
    pub magnitudes: [__m512i; 4],
    /// Which of them are negative.
    pub negative: [__mmask64; 4],
    /// The scales of sub-blocks of 16, without `d`.
    pub scales: __m512,
}

/// `2 * i + 1`, times `thousandths / 1000`, a power of two.
const fn odd_scales(thousandths: u16) -> [f32; 16] {
    let (mut v, mut i) = ([0.0; 16], 0);
    while i < 16 {
        v[i] = (2 * i + 1) as f32 * (thousandths as f32 / 1000.0);
        i += 1;
    }
    v
}

/// The scales of IQ2_*, IQ3_XXS and IQ3_S.
static EIGHTHS: [f32; 16] = odd_scales(125);
static QUARTERS: [f32; 16] = odd_scales(250);
static WHOLE: [f32; 16] = odd_scales(1000);

/// The scales of sixteen codes. Only the lowest four bits of each lane count.
#[inline(always)]
unsafe fn scales(table: &[f32; 16], codes: __m512i) -> __m512 {
    _mm512_permutexvar_ps(codes, _mm512_loadu_ps(table.as_ptr()))
}

/// 64 bytes at `p`.
#[inline(always)]
unsafe fn load(p: *const u8) -> __m512i {
    _mm512_loadu_si512(p.cast())
}

/// `a | (b & mask)`.
#[inline(always)]
unsafe fn or_masked(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, mask)
}

/// The same 128 bits four times.
#[inline(always)]
unsafe fn each(bytes: [u8; 16]) -> __m512i {
    _mm512_broadcast_i32x4(core::mem::transmute::<[u8; 16], __m128i>(bytes))
}

/// The words at `table` of 64 indices, of which the lowest six bits count.
#[inline(always)]
unsafe fn look_up_64(table: *const u16, idx: __m512i) -> __m512i {
    _mm512_permutex2var_epi16(load(table.cast()), idx, load(table.add(32).cast()))
}

/// Which indices have this bit.
#[inline(always)]
unsafe fn with_bit(idx: __m512i, bit: i16) -> __mmask32 {
    _mm512_test_epi16_mask(idx, _mm512_set1_epi16(bit))
}

/// The words of 32 indices of seven bits. Higher bits are ignored, here and below.
#[inline(always)]
unsafe fn look_up_128(table: *const u16, idx: __m512i) -> __m512i {
    let (low, high) = (look_up_64(table, idx), look_up_64(table.add(64), idx));
    _mm512_mask_blend_epi16(with_bit(idx, 64), low, high)
}

/// The words of indices of eight bits.
#[inline(always)]
unsafe fn look_up_256(table: *const u16, idx: __m512i) -> __m512i {
    let (low, high) = (look_up_128(table, idx), look_up_128(table.add(128), idx));
    _mm512_mask_blend_epi16(with_bit(idx, 128), low, high)
}

/// The words of indices of nine bits.
#[inline(always)]
unsafe fn look_up_512(table: *const u16, idx: __m512i) -> __m512i {
    let (low, high) = (look_up_256(table, idx), look_up_256(table.add(256), idx));
    _mm512_mask_blend_epi16(with_bit(idx, 256), low, high)
}

/// The words of indices of ten bits.
#[inline(always)]
unsafe fn look_up_1024(table: *const u16, idx: __m512i) -> __m512i {
    let (low, high) = (look_up_512(table, idx), look_up_512(table.add(512), idx));
    _mm512_mask_blend_epi16(with_bit(idx, 512), low, high)
}

/// The magnitudes of IQ2 from its words. Four bits at a time choose: of a table by their lower two bits, of another by
/// their upper ones.
#[inline(always)]
unsafe fn magnitudes2(words: __m512i) -> [__m512i; 4] {
    const LOW: [u8; 16] = {
        let (mut t, mut i) = ([0; 16], 0);
        while i < 16 {
            t[i] = IQ2_VALUES[i % 4];
            i += 1;
        }
        t
    };
    const HIGH: [u8; 16] = {
        let (mut t, mut i) = ([0; 16], 0);
        while i < 16 {
            t[i] = IQ2_VALUES[i / 4];
            i += 1;
        }
        t
    };
    let nibble = _mm512_set1_epi8(15);
    let (a, b) = (_mm512_and_si512(words, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(words), nibble));
    let (low, high) = (each(LOW), each(HIGH));
    [
        _mm512_shuffle_epi8(low, a),
        _mm512_shuffle_epi8(high, a),
        _mm512_shuffle_epi8(low, b),
        _mm512_shuffle_epi8(high, b),
    ]
}

/// The magnitudes of IQ3 from its words, those of even vectors and of odd ones. The top bits of nibbles are not set, so
/// that a nibble need not be cut out: `vpshufb` looks at it and at the top bit of the byte.
#[inline(always)]
unsafe fn magnitudes3(values: &[u8; 8], even: __m512i, odd: __m512i) -> [__m512i; 4] {
    let table = _mm512_broadcast_i32x4(_mm_loadl_epi64(values.as_ptr().cast()));
    [
        _mm512_shuffle_epi8(table, even),
        _mm512_shuffle_epi8(table, _mm512_srli_epi16::<4>(even)),
        _mm512_shuffle_epi8(table, odd),
        _mm512_shuffle_epi8(table, _mm512_srli_epi16::<4>(odd)),
    ]
}

/// The signs of words that stand for eight elements, and have their signs in both bytes.
#[inline(always)]
unsafe fn signs_of_both(words: __m512i) -> [__mmask64; 4] {
    // bits 2j and 2j + 1 belong to the two bytes of a word of quarter j
    [with_bits(words, 0x0201), with_bits(words, 0x0804), with_bits(words, 0x2010), with_bits(words, 0x8040_u16 as i16)]
}

/// The signs from indices of seven bits.
#[inline(always)]
unsafe fn signs_of_seven(idx: __m512i) -> [__mmask64; 4] {
    signs_of_both(look_up_128(SIGNS_OF_SEVEN_WORDS.0.as_ptr(), idx))
}

/// The same from words of 32 bits with four times seven signs. `AT` is the byte of the first one of two in every
/// quarter, the second one follows eight bytes later.
#[inline(always)]
unsafe fn signs_of_words<const AT: u8>(v: __m512i) -> [__mmask64; 4] {
    // signs 7l..7l+6 are in the two bytes that begin at bit 0, 0, 8, 16
    let two = |at: u8| [at, at + 1, at, at + 1, at + 1, at + 2, at + 2, at + 3];
    let (a, b) = (two(AT), two(AT + 8));
    let pairs = each([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    let shift = _mm512_broadcast_i32x4(_mm_setr_epi16(0, 7, 6, 5, 0, 7, 6, 5));
    signs_of_seven(_mm512_srlv_epi16(_mm512_shuffle_epi8(v, pairs), shift))
}

/// The signs from 32 bytes, each of eight elements.
#[inline(always)]
unsafe fn signs_of_bytes(p: *const u8) -> [__mmask64; 4] {
    let words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast()));
    signs_of_both(_mm512_shuffle_epi8(words, each([0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14])))
}

/// The upper bits of indices: byte `s` of the eight at `p`, shifted left by eight less `shifts`, for words `4s..4s+3`.
#[inline(always)]
unsafe fn upper_bits(p: *const u8, shifts: [i16; 4]) -> __m512i {
    let all = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
    // four words of a quarter, with zero below and a byte on top
    const fn four(byte: i64) -> i64 {
        0x0080_0080_0080_0080 | (byte * 0x0100_0100_0100_0100)
    }
    const BYTES: [i64; 8] = [four(0), four(1), four(2), four(3), four(4), four(5), four(6), four(7)];
    let bytes = _mm512_shuffle_epi8(all, load(BYTES.as_ptr().cast()));
    let [i, j, k, l] = shifts;
    _mm512_srlv_epi16(bytes, _mm512_broadcast_i32x4(_mm_setr_epi16(i, j, k, l, i, j, k, l)))
}

/// Sixteen nibbles of the eight bytes at `p`, in the lowest bits of the lanes.
#[inline(always)]
unsafe fn sixteen_nibbles(p: *const u8) -> __m512i {
    let bytes = _mm_loadl_epi64(p.cast());
    _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, _mm_srli_epi16::<4>(bytes)))
}

impl Grid512 for Iq2Xxs {
    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let q = load(p.add(2));
        const Z: u8 = 0x80;
        let idx = _mm512_shuffle_epi8(q, each([0, Z, 1, Z, 2, Z, 3, Z, 8, Z, 9, Z, 10, Z, 11, Z]));
        // the upper word of each pair has signs and scale
        let codes = _mm512_shuffle_epi32::<0b11_11_01_01>(_mm512_srli_epi32::<28>(q));
        Unpacked {
            magnitudes: magnitudes2(look_up_256(IQ2_XXS_WORDS.0.as_ptr(), idx)),
            negative: signs_of_words::<4>(q),
            scales: scales(&EIGHTHS, codes),
        }
    }
}

impl Grid512 for Iq2Xs {
    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let q = load(p.add(2));
        Unpacked {
            magnitudes: magnitudes2(look_up_512(IQ2_XS_WORDS.0.as_ptr(), q)),
            negative: signs_of_seven(_mm512_srli_epi16::<9>(q)),
            scales: scales(&EIGHTHS, sixteen_nibbles(p.add(66))),
        }
    }
}

impl Grid512 for Iq2S {
    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let low = _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.add(2).cast()));
        let idx = or_masked(low, upper_bits(p.add(66), [0, 2, 4, 6]), _mm512_set1_epi16(0x300));
        Unpacked {
            magnitudes: magnitudes2(look_up_1024(IQ2_S_WORDS.0.as_ptr(), idx)),
            negative: signs_of_bytes(p.add(34)),
            scales: scales(&EIGHTHS, sixteen_nibbles(p.add(74))),
        }
    }
}

impl Grid512 for Iq3Xxs {
    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let q = load(p.add(2));
        // even vectors in the low bytes, odd ones in the high bytes
        let (even, odd) = (_mm512_and_si512(q, _mm512_set1_epi16(255)), _mm512_srli_epi16::<8>(q));
        let table = IQ3_XXS_WORDS.0.as_ptr();
        let words = _mm512_cvtepu32_epi64(_mm256_loadu_si256(p.add(66).cast()));
        let codes = _mm512_shuffle_epi32::<0b10_10_00_00>(_mm512_srli_epi32::<28>(words));
        Unpacked {
            magnitudes: magnitudes3(&IQ3_XXS_VALUES, look_up_256(table, even), look_up_256(table, odd)),
            negative: signs_of_words::<0>(words),
            scales: scales(&QUARTERS, codes),
        }
    }
}

impl Grid512 for Iq3S {
    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let q = load(p.add(2));
        let high = p.add(66);
        let top = _mm512_set1_epi16(0x100);
        let low = _mm512_and_si512(q, _mm512_set1_epi16(255));
        let even = or_masked(low, upper_bits(high, [0, 2, 4, 6]), top);
        let odd = or_masked(_mm512_srli_epi16::<8>(q), upper_bits(high, [1, 3, 5, 7]), top);
        let table = IQ3_S_WORDS.0.as_ptr();
        // nibble s of the word twice: sub-blocks of 32
        let word = _mm512_set1_epi32(p.add(106).cast::<i32>().read_unaligned());
        let twice = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
        Unpacked {
            magnitudes: magnitudes3(&IQ3_S_VALUES, look_up_512(table, even), look_up_512(table, odd)),
            negative: signs_of_bytes(p.add(74)),
            scales: scales(&WHOLE, _mm512_srlv_epi32(word, twice)),
        }
    }
}

/// Which bytes have a bit of those in `bits`, of the two bytes of every word.
#[inline(always)]
unsafe fn with_bits(words: __m512i, bits: i16) -> __mmask64 {
    _mm512_test_epi8_mask(words, _mm512_set1_epi16(bits))
}

impl Unpacked {
    /// Stores the signed codes to `to`, in pieces of 16: that of sub-block `s` at [`piece`].
    ///
    /// # Safety
    /// `to` is writable for 256 bytes; the CPU has AVX-512 F and BW.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut u8) {
        let zero = _mm512_setzero_si512();
        let [mut a, mut b, mut c, mut d] = self.magnitudes;
        a = _mm512_mask_sub_epi8(a, self.negative[0], zero, a);
        b = _mm512_mask_sub_epi8(b, self.negative[1], zero, b);
        c = _mm512_mask_sub_epi8(c, self.negative[2], zero, c);
        d = _mm512_mask_sub_epi8(d, self.negative[3], zero, d);
        // a word of each of the four makes eight elements
        let (low, high) = (_mm512_unpacklo_epi16(a, b), _mm512_unpacklo_epi16(c, d));
        _mm512_storeu_si512(to.cast(), _mm512_unpacklo_epi32(low, high));
        _mm512_storeu_si512(to.add(64).cast(), _mm512_unpackhi_epi32(low, high));
        let (low, high) = (_mm512_unpackhi_epi16(a, b), _mm512_unpackhi_epi16(c, d));
        _mm512_storeu_si512(to.add(128).cast(), _mm512_unpacklo_epi32(low, high));
        _mm512_storeu_si512(to.add(192).cast(), _mm512_unpackhi_epi32(low, high));
    }
}

/// Where [`Unpacked::store`] puts sub-block `s` of 16.
pub const fn piece(s: usize) -> usize {
    s % 4 * 64 + s / 4 * 16
}
