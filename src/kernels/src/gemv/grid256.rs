//! Super-blocks of types with a grid: IQ2_*, IQ3_*.
//!
//! A grid in words ([`crate::pack::iq_grids`]) fits registers: `vpermi2w` looks 32 indices up in 64 words, and one to
//! four more bits of the indices choose among its results. The word of a vector holds the codes of its elements, from
//! which `vpshufb` makes magnitudes.
//!
//! The bytes of the words dictate the order of the elements, [`Order::Octets`]: lane `l` of each of the four vectors of
//! magnitudes has four elements of sub-block `l` of 16. So four `vpdpbusd` give the sums of all sixteen sub-blocks,
//! which one vector of scales multiplies. The signs negate the activations.

use super::{load, nibbles, or_masked, sum, sums16, touch_next_page};
use crate::formats::{Order, SPACED, rows256};
use crate::isa::LANES;
use crate::pack::iq_grids::{
    IQ2_S_WORDS, IQ2_VALUES, IQ2_XS_WORDS, IQ2_XXS_WORDS, IQ3_S_VALUES, IQ3_S_WORDS, IQ3_XXS_VALUES, IQ3_XXS_WORDS,
    SIGNS_OF_SEVEN_WORDS,
};
use crate::pack::{Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Weight};
use crate::prefetch::GemvPrefetch;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// A weight type with a grid.
#[allow(clippy::missing_safety_doc)] // one set of conditions for all methods
pub trait Grid256: Weight {
    /// Unpacks the super-block at `p`.
    ///
    /// # Safety
    /// `p` is readable for a super-block; the CPU has AVX-512 F, BW, DQ and VL.
    unsafe fn unpack(p: *const u8) -> Unpacked;
}

/// A super-block, unpacked.
pub struct Unpacked {
    /// Magnitudes of the codes in [`Order::Octets`].
    magnitudes: [__m512i; 4],
    /// A word for eight elements, of which both bytes have all eight signs.
    signs: __m512i,
    /// The scales of sub-blocks of 16, without `d`.
    scales: __m512,
}

/// The order of the activations of all these types.
pub const ORDER: Order = Order::Octets;

/// `2 * i + 1`, times `FACTOR / 1000`, a power of two.
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
    let [a, b] = nibbles(words);
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

/// The words of signs from indices of seven bits.
#[inline(always)]
unsafe fn signs_of_seven(idx: __m512i) -> __m512i {
    look_up_128(SIGNS_OF_SEVEN_WORDS.0.as_ptr(), idx)
}

/// The same from words of 32 bits with four times seven signs. `AT` is the byte of the first one of two in every
/// quarter, the second one follows eight bytes later.
#[inline(always)]
unsafe fn signs_of_words<const AT: u8>(v: __m512i) -> __m512i {
    // signs 7l..7l+6 are in the two bytes that begin at bit 0, 0, 8, 16
    let two = |at: u8| [at, at + 1, at, at + 1, at + 1, at + 2, at + 2, at + 3];
    let (a, b) = (two(AT), two(AT + 8));
    let pairs = each([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    let shift = _mm512_broadcast_i32x4(_mm_setr_epi16(0, 7, 6, 5, 0, 7, 6, 5));
    signs_of_seven(_mm512_srlv_epi16(_mm512_shuffle_epi8(v, pairs), shift))
}

/// The words of signs from 32 bytes with all eight.
#[inline(always)]
unsafe fn signs_of_bytes(p: *const u8) -> __m512i {
    let words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast()));
    _mm512_shuffle_epi8(words, each([0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14]))
}

/// The upper bits of indices: byte `s` of the eight at `p`, shifted left by eight less `shifts`, for words `4s..4s+3`.
#[inline(always)]
unsafe fn upper_bits(p: *const u8, shifts: [i16; 4]) -> __m512i {
    let all = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
    let of = |q: i64| {
        // words 0 to 3 and 4 to 7 of a quarter: zero below, byte 2q or 2q + 1 on top
        let two = |b: i64| 0x0080_0080_0080_0080 | b * 0x0100_0100_0100_0100;
        (two(2 * q), two(2 * q + 1))
    };
    let [(a, b), (c, d), (e, f), (g, h)] = [of(0), of(1), of(2), of(3)];
    let bytes = _mm512_shuffle_epi8(all, _mm512_setr_epi64(a, b, c, d, e, f, g, h));
    let [i, j, k, l] = shifts;
    _mm512_srlv_epi16(bytes, _mm512_broadcast_i32x4(_mm_setr_epi16(i, j, k, l, i, j, k, l)))
}

/// Sixteen nibbles of the eight bytes at `p`, in the lowest bits of the lanes.
#[inline(always)]
unsafe fn sixteen_nibbles(p: *const u8) -> __m512i {
    let bytes = _mm_loadl_epi64(p.cast());
    _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, _mm_srli_epi16::<4>(bytes)))
}

impl Grid256 for Iq2Xxs {
    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let q = load(p.add(2));
        const Z: u8 = 0x80;
        let idx = _mm512_shuffle_epi8(q, each([0, Z, 1, Z, 2, Z, 3, Z, 8, Z, 9, Z, 10, Z, 11, Z]));
        // the upper word of each pair has signs and scale
        let codes = _mm512_shuffle_epi32::<0b11_11_01_01>(_mm512_srli_epi32::<28>(q));
        Unpacked {
            magnitudes: magnitudes2(look_up_256(IQ2_XXS_WORDS.0.as_ptr(), idx)),
            signs: signs_of_words::<4>(q),
            scales: scales(&EIGHTHS, codes),
        }
    }
}

impl Grid256 for Iq2Xs {
    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let q = load(p.add(2));
        Unpacked {
            magnitudes: magnitudes2(look_up_512(IQ2_XS_WORDS.0.as_ptr(), q)),
            signs: signs_of_seven(_mm512_srli_epi16::<9>(q)),
            scales: scales(&EIGHTHS, sixteen_nibbles(p.add(66))),
        }
    }
}

impl Grid256 for Iq2S {
    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let low = _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.add(2).cast()));
        let idx = or_masked(low, upper_bits(p.add(66), [0, 2, 4, 6]), _mm512_set1_epi16(0x300));
        Unpacked {
            magnitudes: magnitudes2(look_up_1024(IQ2_S_WORDS.0.as_ptr(), idx)),
            signs: signs_of_bytes(p.add(34)),
            scales: scales(&EIGHTHS, sixteen_nibbles(p.add(74))),
        }
    }
}

impl Grid256 for Iq3Xxs {
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
            signs: signs_of_words::<0>(words),
            scales: scales(&QUARTERS, codes),
        }
    }
}

impl Grid256 for Iq3S {
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
            signs: signs_of_bytes(p.add(74)),
            scales: scales(&WHOLE, _mm512_srlv_epi32(word, twice)),
        }
    }
}

/// The half at `p`.
#[inline(always)]
unsafe fn half(p: *const u8) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(p.cast::<u16>().read_unaligned())))
}

/// Adds the products of `n` super-blocks, one to four, with `NC` columns.
#[inline(always)]
unsafe fn step<W: Grid256, const CLOSE: bool, const NC: usize>(
    acc: &mut [__m512; NC],
    p: *const u8,
    n: usize,
    act: [*const u8; NC],
) {
    let places = const { rows256(CLOSE) };
    for i in 0..n {
        let p = p.add(i * W::BYTES);
        let w = W::unpack(p);
        // bits 2j and 2j + 1 of the eight signs belong to the two bytes of a word
        let negative = [0x0201, 0x0804, 0x2010, 0x8040_u16 as i16]
            .map(|bits| _mm512_test_epi8_mask(w.signs, _mm512_set1_epi16(bits)));
        for c in 0..NC {
            let codes = act[c].add(places.codes[i]);
            let mut sum = _mm512_setzero_si512();
            for j in 0..4 {
                let a = load(codes.add(64 * j));
                let a = _mm512_mask_sub_epi8(a, negative[j], _mm512_setzero_si512(), a);
                sum = _mm512_dpbusd_epi32(sum, w.magnitudes[j], a);
            }
            let d = _mm_mul_ss(half(p), _mm_load_ss(act[c].add(places.d + 8 * i).cast()));
            let d = _mm512_mul_ps(w.scales, _mm512_broadcastss_ps(d));
            acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, acc[c]);
        }
    }
}

/// The operands of a product, see [`super::GemvFn`].
#[derive(Clone, Copy)]
pub struct ColumnsOperands {
    pub weights: *const u8,
    pub stride: usize,
    pub rows: usize,
    pub k: usize,
    pub act: *const u8,
    pub act_stride: usize,
    pub dst: *const *mut f32,
    pub prefetch: GemvPrefetch,
}

/// The product of `NC` columns; with `PREFETCH`, weights are prefetched.
///
/// # Safety
/// See [`super::GemvFn`].
#[inline(always)]
pub unsafe fn product_grid<W: Grid256, const NC: usize, const PREFETCH: bool>(o: ColumnsOperands) {
    if o.k > SPACED { product::<W, true, NC, PREFETCH>(o) } else { product::<W, false, NC, PREFETCH>(o) }
}

/// The products of the row at `p` with all columns, in lanes still to be added up.
#[inline(always)]
unsafe fn row<W: Grid256, const CLOSE: bool, const NC: usize, const PREFETCH: bool>(
    o: ColumnsOperands,
    mut p: *const u8,
) -> [__m512; NC] {
    let record = const { rows256(CLOSE) };
    let mut act = [o.act; NC];
    for (c, act) in act.iter_mut().enumerate() {
        *act = act.add(c * o.act_stride);
    }
    let mut acc = [_mm512_setzero_ps(); NC];
    let mut blocks = o.k / 256;
    while blocks > 0 {
        let n = blocks.min(4);
        if PREFETCH {
            o.prefetch.lines_to_l1(p, n * W::BYTES);
        }
        step::<W, CLOSE, NC>(&mut acc, p, n, act);
        p = p.add(n * W::BYTES);
        for act in &mut act {
            *act = act.add(record.bytes);
        }
        blocks -= n;
    }
    acc
}

/// Computes all rows, one after the other, as for other types ([`super::product`]).
#[inline(always)]
unsafe fn product<W: Grid256, const CLOSE: bool, const NC: usize, const PREFETCH: bool>(o: ColumnsOperands) {
    let mut sums = [[MaybeUninit::<__m512>::uninit(); LANES]; NC];
    let mut first = 0;
    while first + LANES <= o.rows {
        for r in 0..LANES {
            let p = o.weights.add((first + r) * o.stride);
            touch_next_page(p, o.stride);
            for (sums, acc) in sums.iter_mut().zip(row::<W, CLOSE, NC, PREFETCH>(o, p)) {
                sums[r].write(acc);
            }
        }
        for (c, sums) in sums.iter().enumerate() {
            _mm512_storeu_ps((*o.dst.add(c)).add(first), sums16(sums));
        }
        first += LANES;
    }
    for r in first..o.rows {
        for (c, acc) in row::<W, CLOSE, NC, PREFETCH>(o, o.weights.add(r * o.stride)).into_iter().enumerate() {
            (*o.dst.add(c)).add(r).write_unaligned(sum(acc));
        }
    }
}
