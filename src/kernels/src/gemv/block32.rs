//! Blocks of 32, four at a time: lane `l` belongs to block `l / 4`. The first vector of codes holds the
//! first halves of the four blocks, the second one the second halves.

use super::{Operands, Row, copy, load, nibbles, product};
use crate::formats::{ROWS32, rows32_strides};
use crate::pack::{Iq4Nl, MXFP4_VALUES_U, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Weight, iq4_table};
use core::arch::x86_64::*;

/// A weight type with blocks of 32.
#[allow(clippy::missing_safety_doc)] // one set of conditions for all methods
pub trait Block32: Weight + Sized {
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
    /// Adds the products of eight blocks, and of two records of activations.
    ///
    /// # Safety
    /// `p` is readable for eight blocks, `act` for two records.
    #[inline(always)]
    unsafe fn two_steps(acc: __m512, p: *const u8, act: *const u8) -> __m512 {
        let acc = step::<Self>(acc, p, act);
        step::<Self>(acc, p.add(4 * Self::TYPE.block().1), act.add(ROWS32.bytes))
    }
}

/// Where the second of two loads of four blocks of `step` bytes begins; 0 if one does.
const fn second(step: usize) -> usize {
    match 4 * step - 64 {
        0..=16 => 0,
        behind @ 17..=64 => behind,
        _ => 64,
    }
}

/// For each of `4 * lanes` 16-bit lanes the word to take: `lanes` of each block, repeating its `words` from byte `at` on.
const fn picks(step: usize, at: usize, words: usize, lanes: usize) -> [i16; 32] {
    let mut idx = [0; 32];
    let mut i = 0;
    while i < 4 * lanes {
        let from = i / lanes * step + at + i % lanes % words * 2;
        idx[i] = if from < 64 { from / 2 } else { 32 + (from - second(step)) / 2 } as i16;
        i += 1;
    }
    idx
}

/// The `WORDS` 16-bit words at byte `AT` of each of four blocks of `STEP` bytes, in `LANES` 16-bit lanes. All parts of the
/// blocks come from the same two loads: a load that crosses a cache line costs as much as two.
#[inline(always)]
unsafe fn gather<const STEP: usize, const AT: usize, const WORDS: usize, const LANES: usize>(p: *const u8) -> __m512i {
    let idx = const { &picks(STEP, AT, WORDS, LANES) };
    let idx = load(idx.as_ptr().cast());
    match const { second(STEP) } {
        0 => _mm512_permutexvar_epi16(idx, load(p)),
        second => _mm512_permutex2var_epi16(load(p), idx, load(p.add(second))),
    }
}

/// The sixteen bytes at byte `AT` of each of four blocks of `STEP` bytes.
#[inline(always)]
unsafe fn sixteen<const STEP: usize, const AT: usize>(p: *const u8) -> __m512i {
    let v = gather::<STEP, AT, 8, 8>(p);
    if const { 3 * STEP + AT + 16 <= second(STEP) + 64 } {
        return v;
    }
    // the last ones end beyond the loads
    _mm512_inserti32x4::<3>(v, _mm_loadu_si128(p.add(3 * STEP + AT).cast()))
}

/// The halves at byte `AT` of each of four blocks of `STEP` bytes, as floats.
#[inline(always)]
pub(super) unsafe fn halves<const STEP: usize, const AT: usize>(p: *const u8) -> __m512 {
    _mm512_cvtph_ps(_mm512_castsi512_si256(gather::<STEP, AT, 1, 4>(p)))
}

/// The codes of four blocks of Q8_0, signed.
#[inline(always)]
pub(super) unsafe fn signed_codes(p: *const u8) -> [__m512i; 2] {
    [sixteen::<34, 2>(p), sixteen::<34, 18>(p)]
}

/// The values of 4-bit codes.
#[inline(always)]
unsafe fn lookup(table: &[i8; 16], q: [__m512i; 2]) -> [__m512i; 2] {
    // SAFETY: no instruction. Keeps the compiler from moving loads of the next blocks up between the loads of these: the
    // hardware's prefetcher follows weights that are read in the order of memory. iq4_nl 25 GB/s so, 19 with the loads
    // of two steps mixed; the other types, whose loads were not mixed, lose up to 5 % by it (`kernel-choices`).
    core::arch::asm!("", options(nostack, preserves_flags));
    let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
    [_mm512_shuffle_epi8(table, q[0]), _mm512_shuffle_epi8(table, q[1])]
}

/// Adds the fifth bits: bit `i` of the 32-bit word at byte `AT` of each block is that of element `i`.
#[inline(always)]
unsafe fn fifth_bits<const STEP: usize, const AT: usize>(q: [__m512i; 2], p: *const u8) -> [__m512i; 2] {
    let qh = gather::<STEP, AT, 2, 8>(p);
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

block32!(Q4_0, |p| nibbles(sixteen::<18, 2>(p)), halves::<18, 0>(p));
block32!(Q4_1, |p| nibbles(sixteen::<20, 4>(p)), halves::<20, 0>(p), halves::<20, 2>(p));
block32!(Q5_0, |p| fifth_bits::<22, 2>(nibbles(sixteen::<22, 6>(p)), p), halves::<22, 0>(p));
block32!(Q5_1, |p| fifth_bits::<24, 4>(nibbles(sixteen::<24, 8>(p)), p), halves::<24, 0>(p), halves::<24, 2>(p));
block32!(
    Iq4Nl,
    |p| lookup(iq4_table::<crate::isa::avx512::Avx512>(), nibbles(sixteen::<18, 2>(p))),
    halves::<18, 0>(p)
);
block32!(
    Q8_0,
    // adding 128 to a signed byte is flipping its top bit
    |p| {
        let top = _mm512_set1_epi8(-128);
        signed_codes(p).map(|q| _mm512_xor_si512(q, top))
    },
    halves::<34, 0>(p)
);
/// The codes of four blocks of MXFP4. Their size is odd, so they cannot be picked as words from one load: four loads of
/// sixteen bytes, which rarely cross a cache line, take half the time of two of 64.
#[inline(always)]
unsafe fn mxfp4_codes(p: *const u8) -> [__m512i; 2] {
    let (a, b) = (_mm_loadu_si128(p.add(1).cast()), _mm_loadu_si128(p.add(18).cast()));
    let (c, d) = (_mm_loadu_si128(p.add(35).cast()), _mm_loadu_si128(p.add(52).cast()));
    let q = _mm512_castsi256_si512(_mm256_set_m128i(b, a));
    lookup(&MXFP4_VALUES_U, nibbles(_mm512_inserti64x4::<1>(q, _mm256_set_m128i(d, c))))
}

/// Half of `2^(e - 127)` for each byte `e`, see `e8m0_half`.
#[inline(always)]
unsafe fn e8m0_halves(e: u64) -> __m512 {
    let e = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(e as i64));
    let one = _mm256_set1_epi32(1);
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, one));
    // the two smallest are denormal
    let small = _mm256_cmple_epu32_mask(e, one);
    let d = _mm256_mask_sllv_epi32(normal, small, _mm256_set1_epi32(0x0020_0000), e);
    _mm512_castps256_ps512(_mm256_castsi256_ps(d))
}

/// Four of eight floats, `first` and the next ones, each four times.
#[inline(always)]
unsafe fn four_times(d: __m512, first: i32) -> __m512 {
    let (a, b, c) = (first + 1, first + 2, first + 3);
    let first = _mm512_setr_epi32(first, first, first, first, a, a, a, a, b, b, b, b, c, c, c, c);
    _mm512_permutexvar_ps(first, d)
}

impl Block32 for Mxfp4 {
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> [__m512i; 2] {
        mxfp4_codes(p)
    }
    #[inline(always)]
    unsafe fn scales(p: *const u8) -> __m512 {
        let e = u32::from_le_bytes([*p, *p.add(17), *p.add(34), *p.add(51)]);
        four_times(e8m0_halves(e.into()), 0)
    }
    /// The exponents of eight blocks become floats together.
    #[inline(always)]
    unsafe fn two_steps(acc: __m512, p: *const u8, act: *const u8) -> __m512 {
        let (e, more) = ([*p, *p.add(17), *p.add(34), *p.add(51)], p.add(4 * 17));
        let more = [*more, *more.add(17), *more.add(34), *more.add(51)];
        let mut e = u64::from(u32::from_le_bytes(e)) | u64::from(u32::from_le_bytes(more)) << 32;
        // SAFETY: no instruction; the value stays as it is. Bytes that are inserted one by one take the units that unpack
        // the codes, integer registers are free.
        core::arch::asm!("/* {0} */", inout(reg) e, options(pure, nomem, nostack, preserves_flags));
        let d = e8m0_halves(e);
        let acc = add::<Self>(acc, four_times(d, 0), p, act);
        add::<Self>(acc, four_times(d, 4), p.add(4 * 17), act.add(ROWS32.bytes))
    }
}

/// Adds the products of four blocks.
#[inline(always)]
pub(super) unsafe fn step<W: Block32>(acc: __m512, p: *const u8, act: *const u8) -> __m512 {
    add::<W>(acc, W::scales(p), p, act)
}

/// The same with the blocks' `d` in their lanes.
#[inline(always)]
unsafe fn add<W: Block32>(acc: __m512, d: __m512, p: *const u8, act: *const u8) -> __m512 {
    let q = W::codes(p);
    let mut sum = if W::SHAPE.min { _mm512_setzero_si512() } else { load(act.add(ROWS32.aux)) };
    for (i, q) in q.into_iter().enumerate() {
        sum = _mm512_dpbusd_epi32(sum, q, load(act.add(64 * i)));
    }
    let da = _mm512_loadu_ps(act.add(ROWS32.d).cast());
    let acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(d, da), acc);
    if !W::SHAPE.min {
        return acc;
    }
    _mm512_fmadd_ps(W::mins(p), _mm512_loadu_ps(act.add(ROWS32.aux).cast()), acc)
}

/// The product of one column; with `PREFETCH`, weights are prefetched.
///
/// # Safety
/// See [`super::GemvFn`].
#[inline(always)]
pub unsafe fn product32<W: Block32, const PREFETCH: bool>(o: Operands) {
    product::<Blocks<W, PREFETCH>, 1>(o);
}

struct Blocks<W, const PREFETCH: bool>(W);

impl<W: Block32, const PREFETCH: bool> Row<1> for Blocks<W, PREFETCH> {
    #[inline(always)]
    unsafe fn row(o: Operands, mut p: *const u8) -> [__m512; 1] {
        let block = W::TYPE.block().1;
        let (steps, left, stride) = (o.k / 128, o.k % 128 / 32, rows32_strides(o.k));
        let mut act = o.act;
        let mut acc = _mm512_setzero_ps();
        for pair in 0..steps / 2 {
            if PREFETCH {
                o.prefetch.lines_to_l1(p, 8 * block);
            }
            acc = W::two_steps(acc, p, act);
            p = p.add(8 * block);
            act = act.add(stride(pair));
        }
        if PREFETCH {
            o.prefetch.lines_to_l1(p, o.k % 256 / 32 * block);
        }
        if steps % 2 > 0 {
            acc = step::<W>(acc, p, act);
            p = p.add(4 * block);
            act = act.add(ROWS32.bytes);
        }
        if left > 0 {
            // missing blocks have the scale zero, like their activations
            let mut last = [0u8; 4 * 34];
            copy_blocks::<W>(p, last.as_mut_ptr(), left);
            acc = step::<W>(acc, last.as_ptr(), act);
        }
        [acc]
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
