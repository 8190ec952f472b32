//! Super-blocks of 256: four vectors of 64 codes, multiplied with the activations to pairs of products
//! (`vpmaddubsw`: unsigned codes up to 63, so `63 * 127 * 2` fits an `i16`), which `vpdpwssd` multiplies
//! with the scales and adds up. The order of the codes is the type's own, see [`Order`]; what is subtracted
//! from every code of a sub-block is a product of the sub-blocks' (negated) sums.

use super::{Operands, Row, dot2, load, nibbles, or_masked, product};
use crate::formats::{Order, ROWS256};
use crate::pack::{Q2K, Q3K, Q4K, Q5K, Q6K, Weight};
use core::arch::x86_64::*;

/// A weight type with super-blocks.
#[allow(clippy::missing_safety_doc)] // one set of conditions for all methods
pub trait Super256: Weight {
    /// The order of [`Self::codes`].
    const ORDER: Order;
    /// Where `d` is; with [`Shape::min`](crate::formats::Shape::min), `dmin` follows it.
    const D: usize;

    /// The codes, unsigned, in that order.
    ///
    /// # Safety
    /// For all methods: `p` is readable for a super-block; the CPU has AVX-512 F, BW, DQ and VL.
    unsafe fn codes(p: *const u8) -> [__m512i; 4];
    /// The scales, as 16-bit words in the lanes of the codes that they belong to; and for every 16
    /// elements the integer that is subtracted, times their sum: the minimum, or the scale, which the
    /// offset then multiplies.
    unsafe fn scales(p: *const u8) -> ([__m512i; 4], __m256i);
}

/// The vector at `p` twice, its upper half shifted right by `N` more bits than the lower one.
#[inline(always)]
unsafe fn halves_shifted<const N: i64>(p: *const u8) -> __m512i {
    let v = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast()));
    _mm512_srlv_epi64(v, _mm512_set_epi64(N, N, N, N, 0, 0, 0, 0))
}

/// Shuffle indices of two words whose high bytes become zero.
const ZERO_HIGH: i32 = 0x8000_8000_u32 as i32;

/// Byte `i` of the sixteen in `v` as words: for each quarter of a vector of codes the byte that `of` names.
#[inline(always)]
unsafe fn spread(v: __m512i, of: [u8; 4]) -> __m512i {
    let word = |i: u8| i32::from(i) * 0x1_0001 + ZERO_HIGH;
    let (a, b, c, d) = (word(of[0]), word(of[1]), word(of[2]), word(of[3]));
    let idx = _mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a);
    _mm512_shuffle_epi8(v, idx)
}

/// Scales and minima of Q4_K and Q5_K from the twelve bytes behind `d` and `dmin`.
#[inline(always)]
unsafe fn k4_scales(p: *const u8) -> ([__m512i; 4], __m256i) {
    let all = _mm_loadu_si128(p.cast());
    // [low six bits of scales 0-3, of minima 0-3; low nibbles of scales 4-7, of minima 4-7]
    let low = _mm_srlv_epi32(_mm_shuffle_epi32::<0b11_11_10_01>(all), _mm_setr_epi32(0, 0, 0, 4));
    let low = _mm_and_si128(low, _mm_setr_epi32(0x3f3f_3f3f, 0x3f3f_3f3f, 0x0f0f_0f0f, 0x0f0f_0f0f));
    // the upper two bits of the latter
    let top = _mm_srli_epi32::<2>(_mm_shuffle_epi32::<0b10_01_00_00>(all));
    let v = _mm_ternarylogic_epi32::<0xf8>(low, top, _mm_setr_epi32(0, 0, 0x3030_3030, 0x3030_3030));
    let wide = _mm512_broadcast_i32x4(v);
    // the bytes of scales 0 to 7 are 0-3, 8-11, those of the minima 4-7, 12-15
    let scales = [
        spread(wide, [0, 0, 2, 2]),
        spread(wide, [1, 1, 3, 3]),
        spread(wide, [8, 8, 10, 10]),
        spread(wide, [9, 9, 11, 11]),
    ];
    let min = |i: i32| i * 0x1_0001 + ZERO_HIGH;
    let idx = _mm256_setr_epi32(min(4), min(5), min(6), min(7), min(12), min(13), min(14), min(15));
    (scales, _mm256_shuffle_epi8(_mm512_castsi512_si256(wide), idx))
}

impl Super256 for Q4K {
    const ORDER: Order = Order::Nibbles;
    const D: usize = 0;
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        let ([a, b], [c, d]) = (nibbles(load(p.add(16))), nibbles(load(p.add(80))));
        [a, b, c, d]
    }
    #[inline(always)]
    unsafe fn scales(p: *const u8) -> ([__m512i; 4], __m256i) {
        k4_scales(p)
    }
}

impl Super256 for Q5K {
    const ORDER: Order = Order::Nibbles;
    const D: usize = 0;
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        let ([a, b], [c, d]) = (nibbles(load(p.add(48))), nibbles(load(p.add(112))));
        // sub-block i has bit i: the vectors' lower halves 0, 1, 4, 5, their upper ones 2 more
        let h = halves_shifted::<2>(p.add(16));
        let bit = _mm512_set1_epi8(16);
        [
            or_masked(a, _mm512_slli_epi16::<4>(h), bit),
            or_masked(b, _mm512_slli_epi16::<3>(h), bit),
            or_masked(c, h, bit),
            or_masked(d, _mm512_srli_epi16::<1>(h), bit),
        ]
    }
    #[inline(always)]
    unsafe fn scales(p: *const u8) -> ([__m512i; 4], __m256i) {
        k4_scales(p)
    }
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

impl Super256 for Q2K {
    const ORDER: Order = Order::Pairs;
    const D: usize = 80;
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        pairs(load(p.add(16)))
    }
    #[inline(always)]
    unsafe fn scales(p: *const u8) -> ([__m512i; 4], __m256i) {
        let v = _mm_loadu_si128(p.cast());
        let low = _mm512_and_si512(_mm512_broadcast_i32x4(v), _mm512_set1_epi8(15));
        let of = |i: u8| spread(low, [i, i + 1, i + 8, i + 9]);
        ([of(0), of(2), of(4), of(6)], _mm256_srli_epi16::<4>(_mm256_cvtepu8_epi16(v)))
    }
}

impl Super256 for Q3K {
    const ORDER: Order = Order::Pairs;
    const D: usize = 108;
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
    unsafe fn scales(p: *const u8) -> ([__m512i; 4], __m256i) {
        let low = _mm_set1_epi64x(p.add(96).cast::<i64>().read_unaligned());
        let low = _mm_and_si128(_mm_srlv_epi64(low, _mm_set_epi64x(4, 0)), _mm_set1_epi8(15));
        // scale s has bits 2 * (s / 4) of byte s % 4 on top: rotated to bits 4 and 5
        let top = _mm_set1_epi32(p.add(104).cast::<i32>().read_unaligned());
        let top = _mm_rorv_epi32(top, _mm_setr_epi32(28, 30, 0, 2));
        let v = _mm_ternarylogic_epi32::<0xf8>(low, top, _mm_set1_epi8(0x30));
        let words = _mm256_cvtepi8_epi16(_mm_sub_epi8(v, _mm_set1_epi8(32)));
        (Self::ORDER.words(words), words)
    }
}

impl Super256 for Q6K {
    const ORDER: Order = Order::Plain;
    const D: usize = 208;
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 4] {
        let m = _mm512_set1_epi8(0x30);
        let half = |n: usize| {
            let [a, b] = nibbles(load(p.add(64 * n)));
            // bits 2 * j of byte l: element 32 * j + l
            let h = halves_shifted::<2>(p.add(128 + 32 * n));
            [or_masked(a, _mm512_slli_epi16::<4>(h), m), or_masked(b, h, m)]
        };
        let ([a, b], [c, d]) = (half(0), half(1));
        [a, b, c, d]
    }
    #[inline(always)]
    unsafe fn scales(p: *const u8) -> ([__m512i; 4], __m256i) {
        let words = _mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(192).cast()));
        (Self::ORDER.words(words), words)
    }
}

impl Order {
    /// The sixteen words of `v`, one for each 16 elements, in the lanes of the codes.
    #[inline(always)]
    unsafe fn words(self, v: __m256i) -> [__m512i; 4] {
        let (v, piece) = (_mm512_castsi256_si512(v), self.pieces());
        let quarter = |i: usize| i32::from(piece[i]) * 0x1_0001;
        let words = |i: usize| {
            let (a, b, c, d) = (quarter(i), quarter(i + 1), quarter(i + 2), quarter(i + 3));
            _mm512_permutexvar_epi16(_mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a), v)
        };
        [words(0), words(4), words(8), words(12)]
    }
}

/// `d` and, with a minimum, `dmin`, of the super-block at `p`: in the first two lanes, or without a minimum
/// in all.
#[inline(always)]
unsafe fn halves<W: Super256>(p: *const u8) -> __m512 {
    let at = p.add(W::D);
    if !W::SHAPE.min {
        return _mm512_cvtph_ps(_mm256_set1_epi16(at.cast::<i16>().read_unaligned()));
    }
    let d = if W::D + 8 <= W::BYTES {
        _mm_loadl_epi64(at.cast()) // what follows is not used
    } else {
        _mm_cvtsi32_si128(at.cast::<i32>().read_unaligned())
    };
    _mm512_castps128_ps512(_mm_cvtph_ps(d))
}

/// `d` and `dmin` in every lane, times `da`.
#[inline(always)]
unsafe fn scale<W: Super256>(d: __m512, da: *const u8) -> (__m512, __m512) {
    let da = da.cast::<f32>().read_unaligned();
    if !W::SHAPE.min {
        let d = _mm512_mul_ps(d, _mm512_set1_ps(da));
        return (d, d);
    }
    let d = _mm_mul_ps(_mm512_castps512_ps128(d), _mm_set1_ps(da));
    let second = _mm512_permutexvar_ps(_mm512_set1_epi32(1), _mm512_castps128_ps512(d));
    (_mm512_broadcastss_ps(d), second)
}

/// Adds the products of a super-block.
#[inline(always)]
unsafe fn step<W: Super256, const NC: usize>(acc: &mut [__m512; NC], p: *const u8, act: *const u8, act_stride: usize) {
    let (scales, less) = W::scales(p);
    let q = W::codes(p);
    let d = halves::<W>(p);
    for (c, acc) in acc.iter_mut().enumerate() {
        let a = act.add(c * act_stride);
        let (d, dmin) = scale::<W>(d, a.add(ROWS256.d));
        let less = _mm256_madd_epi16(less, _mm256_loadu_si256(a.add(ROWS256.aux).cast()));
        let mut sum = _mm512_setzero_si512();
        if W::SHAPE.min {
            let less = _mm512_cvtepi32_ps(_mm512_zextsi256_si512(less));
            *acc = _mm512_fmadd_ps(less, dmin, *acc);
        } else {
            // the offset is a power of two; a constant shift becomes the immediate form
            let shift = _mm_cvtsi32_si128(const { W::SHAPE.offset.trailing_zeros() as i32 });
            sum = _mm512_zextsi256_si512(_mm256_sll_epi32(less, shift));
        }
        for (i, q) in q.into_iter().enumerate() {
            let products = _mm512_maddubs_epi16(q, load(a.add(64 * i)));
            sum = if W::SHAPE.min && i == 0 {
                _mm512_madd_epi16(products, scales[0])
            } else {
                dot2(sum, products, scales[i])
            };
        }
        *acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, *acc);
    }
}

/// The product of `NC` columns.
///
/// # Safety
/// See [`crate::micro::DirectFn`].
#[inline(always)]
pub unsafe fn product256<W: Super256, const NC: usize>(o: Operands) {
    product::<Blocks<W>, NC>(o);
}

struct Blocks<W>(W);

impl<W: Super256> Row for Blocks<W> {
    #[inline(always)]
    unsafe fn row<const NC: usize>(o: Operands, p: *const u8) -> [__m512; NC] {
        let (block, blocks) = (W::TYPE.block().1, o.k / 256);
        // what the loop does without a block would be a call of `memset`
        core::hint::assert_unchecked(blocks > 0);
        let mut acc = [_mm512_setzero_ps(); NC];
        for b in 0..blocks {
            step::<W, NC>(&mut acc, p.add(b * block), o.act.add(b * ROWS256.bytes), o.act_stride);
        }
        acc
    }
}
