//! Blocks of 32, four at a time: lane `l` belongs to block `l / 4`. The first vector of codes holds the
//! first halves of the four blocks, the second one the second halves.

use super::{Operands, Row, Rows, TOGETHER, copy, load, long_product, nibbles, product};
use crate::formats::ROWS32;
use crate::pack::{Iq4Nl, MXFP4_VALUES_U, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Weight, iq4_table};
use core::arch::x86_64::*;

/// A weight type with blocks of 32.
#[allow(clippy::missing_safety_doc)] // one set of conditions for all methods
pub trait Block32: Weight {
    /// The codes, unsigned.
    ///
    /// # Safety
    /// For all methods: `p` is readable for four blocks; the CPU has AVX-512 F, BW, DQ and VL.
    unsafe fn codes(p: *const u8) -> [__m512i; 2];
    /// The blocks' `d` in their lanes.
    unsafe fn scales(p: *const u8) -> __m512;
    /// The blocks' `m` in their lanes.
    unsafe fn mins(_: *const u8) -> __m512 {
        _mm512_setzero_ps()
    }
}

/// Where the second of two loads begins that together hold four pieces of `words` words, one every
/// `step` bytes.
const fn second(step: usize, words: usize) -> usize {
    (3 * step + 2 * words).saturating_sub(64)
}

/// For each of `lanes * 4` 16-bit lanes the word to take: `lanes` of each piece, repeating its words.
const fn picks(step: usize, words: usize, lanes: usize) -> [i16; 32] {
    let mut idx = [0; 32];
    let mut i = 0;
    while i < 4 * lanes {
        let from = i / lanes * step + i % lanes % words * 2;
        idx[i] = if from < 64 { from / 2 } else { 32 + (from - second(step, words)) / 2 } as i16;
        i += 1;
    }
    idx
}

/// Four pieces of `WORDS` 16-bit words, from `p` on one every `STEP` bytes, each in `LANES` 16-bit lanes.
#[inline(always)]
pub(super) unsafe fn gather<const STEP: usize, const WORDS: usize, const LANES: usize>(p: *const u8) -> __m512i {
    let idx = const { &picks(STEP, WORDS, LANES) };
    let idx = load(idx.as_ptr().cast());
    let at = const { second(STEP, WORDS) };
    if at == 0 {
        _mm512_permutexvar_epi16(idx, load(p))
    } else {
        _mm512_permutex2var_epi16(load(p), idx, load(p.add(at)))
    }
}

/// Four halves, one every `STEP` bytes, as floats.
#[inline(always)]
pub(super) unsafe fn halves<const STEP: usize>(p: *const u8) -> __m512 {
    _mm512_cvtph_ps(_mm512_castsi512_si256(gather::<STEP, 1, 4>(p)))
}

/// The values of 4-bit codes.
#[inline(always)]
unsafe fn lookup(table: &[i8; 16], q: [__m512i; 2]) -> [__m512i; 2] {
    let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
    [_mm512_shuffle_epi8(table, q[0]), _mm512_shuffle_epi8(table, q[1])]
}

/// Adds the fifth bits: bit `i` of the 32-bit word at `qh` of each block is that of element `i`.
#[inline(always)]
unsafe fn fifth_bits<const STEP: usize>(q: [__m512i; 2], qh: *const u8) -> [__m512i; 2] {
    let qh = gather::<STEP, 2, 8>(qh);
    // eight times each byte of the block's word, of which each byte then tests its bit
    let half = |b: i64| {
        let (lo, hi) = (b * 0x0101_0101_0101_0101, (b + 1) * 0x0101_0101_0101_0101);
        _mm512_broadcast_i32x4(_mm_set_epi64x(hi, lo))
    };
    let bits = _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64);
    let bit = _mm512_set1_epi8(16);
    let add = |q, b| {
        let k = _mm512_test_epi8_mask(_mm512_shuffle_epi8(qh, half(b)), bits);
        _mm512_mask_add_epi8(q, k, q, bit)
    };
    [add(q[0], 0), add(q[1], 2)]
}

macro_rules! block32 {
    ($type:ident, |$p:ident| $codes:expr, $scales:expr $(, $mins:expr)?) => {
        impl Block32 for $type {
            #[inline(always)]
            unsafe fn codes($p: *const u8) -> [__m512i; 2] {
                $codes
            }
            #[inline(always)]
            unsafe fn scales($p: *const u8) -> __m512 {
                $scales
            }
            $(
                #[inline(always)]
                unsafe fn mins($p: *const u8) -> __m512 {
                    $mins
                }
            )?
        }
    };
}

block32!(Q4_0, |p| nibbles(gather::<18, 8, 8>(p.add(2))), halves::<18>(p));
block32!(Q4_1, |p| nibbles(gather::<20, 8, 8>(p.add(4))), halves::<20>(p), halves::<20>(p.add(2)));
block32!(Q5_0, |p| fifth_bits::<22>(nibbles(gather::<22, 8, 8>(p.add(6))), p.add(2)), halves::<22>(p));
block32!(
    Q5_1,
    |p| fifth_bits::<24>(nibbles(gather::<24, 8, 8>(p.add(8))), p.add(4)),
    halves::<24>(p),
    halves::<24>(p.add(2))
);
block32!(
    Iq4Nl,
    |p| lookup(iq4_table::<crate::isa::avx512::Avx512>(), nibbles(gather::<18, 8, 8>(p.add(2)))),
    halves::<18>(p)
);
block32!(
    Q8_0,
    // adding 128 to a signed byte is flipping its top bit
    |p| {
        let top = _mm512_set1_epi8(-128);
        [_mm512_xor_si512(gather::<34, 8, 8>(p.add(2)), top), _mm512_xor_si512(gather::<34, 8, 8>(p.add(18)), top)]
    },
    halves::<34>(p)
);
block32!(
    Mxfp4,
    |p| {
        // An odd block size: blocks 0 and 2 by the words from byte 1 on, 1 and 3 by those from byte 4.
        const PICKS: [i16; 32] = {
            let mut idx = [0; 32];
            let mut i = 0;
            while i < 32 {
                let at = 1 + 17 * (i / 8) + i % 8 * 2;
                idx[i] = if i / 8 % 2 == 0 { (at - 1) / 2 } else { 32 + (at - 4) / 2 } as i16;
                i += 1;
            }
            idx
        };
        let q = _mm512_permutex2var_epi16(load(p.add(1)), load(PICKS.as_ptr().cast()), load(p.add(4)));
        lookup(&MXFP4_VALUES_U, nibbles(q))
    },
    {
        // the word that holds byte 17 * b, in the low halves of the block's lanes
        const WORD: [i16; 32] = {
            let mut idx = [0; 32];
            let mut i = 0;
            while i < 32 {
                idx[i] = (i / 8 * 17 / 2) as i16;
                i += 1;
            }
            idx
        };
        let odd = _mm512_set_epi32(8, 8, 8, 8, 0, 0, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0);
        let e = _mm512_permutexvar_epi16(load(WORD.as_ptr().cast()), load(p));
        let e = _mm512_and_si512(_mm512_srlv_epi32(e, odd), _mm512_set1_epi32(255));
        // half of 2^(e - 127), see `e8m0_half`: the two smallest are denormal
        let one = _mm512_set1_epi32(1);
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, one));
        let small = _mm512_cmple_epu32_mask(e, one);
        _mm512_castsi512_ps(_mm512_mask_sllv_epi32(normal, small, _mm512_set1_epi32(0x0020_0000), e))
    }
);

/// Adds the products of four blocks.
#[inline(always)]
pub(super) unsafe fn step<W: Block32, const NC: usize>(
    acc: &mut [__m512; NC],
    p: *const u8,
    act: *const u8,
    act_stride: usize,
) {
    let (d, q) = (W::scales(p), W::codes(p));
    for (c, acc) in acc.iter_mut().enumerate() {
        let a = act.add(c * act_stride);
        let mut sum = if W::SHAPE.min { _mm512_setzero_si512() } else { load(a.add(ROWS32.aux)) };
        for (i, q) in q.into_iter().enumerate() {
            sum = _mm512_dpbusd_epi32(sum, q, load(a.add(64 * i)));
        }
        let da = _mm512_loadu_ps(a.add(ROWS32.d).cast());
        *acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(d, da), *acc);
    }
    if W::SHAPE.min {
        let m = W::mins(p);
        for (c, acc) in acc.iter_mut().enumerate() {
            let sums = _mm512_loadu_ps(act.add(c * act_stride + ROWS32.aux).cast());
            *acc = _mm512_fmadd_ps(m, sums, *acc);
        }
    }
}

/// The product of `NC` columns.
///
/// # Safety
/// See [`crate::micro::DirectFn`].
#[inline(always)]
pub unsafe fn product32<W: Block32, const NC: usize>(o: Operands) {
    if NC == 1 && o.k > LONG {
        return long_product::<Blocks<W>>(o);
    }
    product::<Blocks<W>, NC>(o);
}

/// Most elements of a column, 2 bytes each, that are read again for every row.
const LONG: usize = 8192;

struct Blocks<W>(W);

impl<W: Block32> Row for Blocks<W> {
    #[inline(always)]
    unsafe fn row<const NC: usize>(o: Operands, mut p: *const u8) -> [__m512; NC] {
        let block = W::TYPE.block().1;
        let (steps, left) = (o.k / 128, o.k % 128 / 32);
        let mut act = o.act;
        let mut acc = [_mm512_setzero_ps(); NC];
        for _ in 0..steps / 2 {
            for i in 0..2 {
                step::<W, NC>(&mut acc, p.add(i * 4 * block), act.add(i * ROWS32.bytes), o.act_stride);
            }
            p = p.add(8 * block);
            act = act.add(2 * ROWS32.bytes);
        }
        if steps % 2 > 0 {
            step::<W, NC>(&mut acc, p, act, o.act_stride);
            p = p.add(4 * block);
            act = act.add(ROWS32.bytes);
        }
        if left > 0 { last::<W, NC>(acc, p, left, act, o.act_stride) } else { acc }
    }
}

/// Adds the products of the `left` blocks at the end of a row.
#[inline(always)]
unsafe fn last<W: Block32, const NC: usize>(
    mut acc: [__m512; NC],
    p: *const u8,
    left: usize,
    act: *const u8,
    act_stride: usize,
) -> [__m512; NC] {
    // the blocks that are missing have the scale zero, like their activations
    let mut last = [0u8; 4 * 34];
    copy_blocks::<W>(p, last.as_mut_ptr(), left);
    step::<W, NC>(&mut acc, last.as_ptr(), act, act_stride);
    acc
}

impl<W: Block32> Rows for Blocks<W> {
    #[inline(always)]
    unsafe fn rows(o: Operands, mut p: [*const u8; TOGETHER]) -> [__m512; TOGETHER] {
        let bytes = 4 * W::TYPE.block().1;
        let (steps, left) = (o.k / 128, o.k % 128 / 32);
        let mut act = o.act;
        let mut acc = [[_mm512_setzero_ps()]; TOGETHER];
        for _ in 0..steps {
            for (acc, p) in acc.iter_mut().zip(&mut p) {
                step::<W, 1>(acc, *p, act, 0);
                *p = p.add(bytes);
            }
            act = act.add(ROWS32.bytes);
        }
        if left > 0 {
            for (acc, p) in acc.iter_mut().zip(p) {
                *acc = last::<W, 1>(*acc, p, left, act, 0);
            }
        }
        acc.map(|[sum]| sum)
    }
}

#[inline(always)]
pub(super) unsafe fn copy_blocks<W: Block32>(from: *const u8, to: *mut u8, n: usize) {
    match W::TYPE.block().1 {
        17 => copy::<17>(from, to, n),
        18 => copy::<18>(from, to, n),
        20 => copy::<20>(from, to, n),
        22 => copy::<22>(from, to, n),
        24 => copy::<24>(from, to, n),
        _ => copy::<34>(from, to, n),
    }
}
