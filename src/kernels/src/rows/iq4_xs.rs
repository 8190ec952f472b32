//! IQ4_XS, one column: super-blocks of 256, four at a time as in [`super::super256`], with table values as in
//! [`super::block32`]. Their sums do not fit an `i16`, so that each sub-block's scale multiplies 32-bit sums.

use super::block32::lookup;
use super::super256::quarters;
use super::{Operands, Row, load, nibbles, or_masked, product};
use crate::formats::{SPACED, rows256};
use crate::pack::{Iq4Xs, Weight, iq4_table};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

const BYTES: usize = Iq4Xs::BYTES;

/// The sums of the sub-blocks of the super-block at `p`: lane `l` belongs to sub-block `l / 4`, in the second vector to
/// `4 + l / 4`. At most `8 * 255 * 127` each.
#[inline(always)]
unsafe fn sums(p: *const u8, a: *const u8) -> [__m512i; 2] {
    let mut sums = [_mm512_setzero_si512(); 2];
    for (i, sum) in sums.iter_mut().enumerate() {
        let q = lookup(iq4_table::<crate::isa::avx512::Avx512>(), nibbles(load(p.add(8 + 64 * i))));
        *sum = _mm512_dpbusd_epi32(*sum, q[0], load(a.add(128 * i)));
        *sum = _mm512_dpbusd_epi32(*sum, q[1], load(a.add(128 * i + 64)));
    }
    sums
}

/// What four super-blocks have beside codes; quarter `i` belongs to super-block `i`.
struct Header {
    /// `d` of each, twice, as halves.
    d: __m128i,
    /// The scales as 16-bit words.
    scales: __m512i,
}

/// `d`, the upper two bits of the eight scales in 16 bits, the lower four bits in four bytes.
#[inline(always)]
unsafe fn header(p: [*const u8; 4]) -> Header {
    let each = |a, b| _mm512_broadcast_i32x4(_mm_set_epi64x(b, a));
    let v = quarters(p);
    let low = _mm512_shuffle_epi8(v, each(0x8005_8005_8004_8004_u64 as i64, 0x8007_8007_8006_8006_u64 as i64));
    let low = _mm512_srlv_epi16(low, each(0x0004_0000_0004_0000, 0x0004_0000_0004_0000));
    let high = _mm512_shuffle_epi8(v, each(0x0302_0302_0302_0302, 0x0302_0302_0302_0302));
    let high = _mm512_srlv_epi16(high, each(0x0006_0004_0002_0000, 0x000e_000c_000a_0008));
    let low = _mm512_and_si512(low, _mm512_set1_epi16(15));
    let scales = or_masked(low, _mm512_slli_epi16::<4>(high), _mm512_set1_epi16(0x30));
    let scales = _mm512_sub_epi16(scales, _mm512_set1_epi16(32));
    let first = _mm512_castsi128_si512(_mm_setr_epi16(0, 0, 8, 8, 16, 16, 24, 24));
    Header { d: _mm512_castsi512_si128(_mm512_permutexvar_epi16(first, v)), scales }
}

/// Four scales of super-block `i` from word `at` on, each in four lanes.
#[inline(always)]
unsafe fn four_scales(words: __m512i, i: usize, at: i32) -> __m512i {
    // into the upper half of a lane, then down again with its sign
    let word = |quarter: i32| _mm_set1_epi32((8 * i as i32 + at + quarter) << 16);
    let (low, high) = (_mm256_set_m128i(word(1), word(0)), _mm256_set_m128i(word(3), word(2)));
    let words = _mm512_permutexvar_epi16(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high), words);
    _mm512_srai_epi32::<16>(words)
}

/// Adds the products of `n` super-blocks, one to four.
#[inline(always)]
unsafe fn step<const CLOSE: bool>(acc: __m512, p: *const u8, n: usize, act: *const u8) -> __m512 {
    let places = const { rows256(CLOSE) };
    // the last one stands in for those that are not there: their activations are zero
    let at = |i: usize| p.add(i.min(n - 1) * BYTES);
    let mut q = [const { MaybeUninit::<[__m512i; 2]>::uninit() }; 4];
    for (i, q) in q.iter_mut().enumerate().take(n) {
        q.write(sums(at(i), act.add(places.codes[i])));
    }
    // SAFETY: no instruction. The headers are read behind the codes, as in `super256`.
    core::arch::asm!("", options(nostack, preserves_flags));
    let header = header([at(0), at(1), at(2), at(3)]);
    let d = _mm256_mul_ps(_mm256_cvtph_ps(header.d), _mm256_loadu_ps(act.add(places.d).cast()));
    let d = _mm512_castps256_ps512(d);
    // the sums of the activations are negated, and 128 was added to every value
    let less = _mm512_slli_epi32::<7>(_mm512_madd_epi16(header.scales, load(act.add(places.aux))));
    let mut acc = acc;
    for (i, q) in q.iter().enumerate().take(n) {
        let [first, second] = q.assume_init_read();
        let first = _mm512_mullo_epi32(first, four_scales(header.scales, i, 0));
        let second = _mm512_mullo_epi32(second, four_scales(header.scales, i, 4));
        let sum = _mm512_mask_add_epi32(first, 0xf << (4 * i), first, less);
        let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, second));
        acc = _mm512_fmadd_ps(sum, _mm512_permutexvar_ps(_mm512_set1_epi32(2 * i as i32), d), acc);
    }
    acc
}

struct Blocks<const CLOSE: bool, const AHEAD: bool>;

impl<const CLOSE: bool, const AHEAD: bool> Row for Blocks<CLOSE, AHEAD> {
    #[inline(always)]
    unsafe fn row(o: Operands, mut p: *const u8) -> __m512 {
        let record = const { rows256(CLOSE) };
        let (steps, left) = (o.k / record.k, o.k % record.k / 256);
        let (mut act, mut acc) = (o.act, _mm512_setzero_ps());
        for _ in 0..steps {
            if AHEAD {
                o.fetch.lines(p, 4 * BYTES);
            }
            acc = step::<CLOSE>(acc, p, 4, act);
            p = p.add(4 * BYTES);
            act = act.add(record.bytes);
        }
        if left > 0 {
            if AHEAD {
                o.fetch.lines(p, left * BYTES);
            }
            acc = step::<CLOSE>(acc, p, left, act);
        }
        acc
    }
}

/// The product of one column; `AHEAD`: weights are fetched.
///
/// # Safety
/// See [`crate::micro::DirectFn`].
#[inline(always)]
pub unsafe fn product_iq4_xs<const AHEAD: bool>(o: Operands) {
    if o.k > SPACED { product::<Blocks<true, AHEAD>>(o) } else { product::<Blocks<false, AHEAD>>(o) }
}
