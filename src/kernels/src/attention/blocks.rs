//! Values in blocks of 32, as floats, for AVX-512: the types that llama.cpp offers for its cache. The floats are bit for bit
//! those of [`crate::dequantize`]: codes have up to eight bits and scales eleven, so their product is exact, and adding a
//! minimum rounds once in both.

use super::values::Values;
use crate::formats::WeightType;
use crate::isa::avx512::Avx512;
use crate::pack::IQ4_VALUES;
use core::arch::x86_64::*;

/// Values of a type with blocks of 32.
pub struct Blocks<B>(B);

impl<B: Block> Values<Avx512> for Blocks<B> {
    const BYTES: usize = B::TYPE.block().1 / 2;

    #[inline(always)]
    unsafe fn read<const NV: usize>(p: *const u8) -> [__m512; NV] {
        const { assert!(NV.is_multiple_of(2)) };
        let mut vectors = [_mm512_setzero_ps(); NV];
        for b in 0..NV / 2 {
            let block = B::block(p.add(b * B::TYPE.block().1));
            (vectors[2 * b], vectors[2 * b + 1]) = (block[0], block[1]);
        }
        vectors
    }
}

/// A type with blocks of 32.
pub trait Block {
    /// Its name.
    const TYPE: WeightType;
    /// The elements of a block.
    ///
    /// # Safety
    /// The block at `p` is readable; the CPU has the features of [`Avx512`].
    unsafe fn block(p: *const u8) -> [__m512; 2];
}

/// The half at `p` in every lane.
#[inline(always)]
unsafe fn half(p: *const u8) -> __m512 {
    _mm512_cvtph_ps(_mm256_set1_epi16(p.cast::<i16>().read_unaligned()))
}

/// Sixteen bytes, each in a lane of its own.
#[inline(always)]
unsafe fn bytes(p: *const u8) -> __m512i {
    _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))
}

/// The entries of the table for the low nibbles of sixteen bytes, and for the high ones.
#[inline(always)]
unsafe fn lookup(table: &[f32; 16], p: *const u8) -> [__m512; 2] {
    let (table, codes) = (_mm512_loadu_ps(table.as_ptr()), bytes(p));
    // a permutation uses the low four bits of an index
    [_mm512_permutexvar_ps(codes, table), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(codes), table)]
}

/// Codes from `first` on.
const fn from(first: i32) -> [f32; 16] {
    let mut table = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (first + i as i32) as f32;
        i += 1;
    }
    table
}

/// The values of IQ4_NL.
const IQ4: [f32; 16] = {
    let mut table = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = IQ4_VALUES[i] as f32;
        i += 1;
    }
    table
};

/// Adds sixteen where the bit in the word at `p` is set.
#[inline(always)]
unsafe fn fifth_bits([low, high]: [__m512; 2], p: *const u8) -> [__m512; 2] {
    let (bits, sixteen) = (p.cast::<u32>().read_unaligned(), _mm512_set1_ps(16.0));
    [
        _mm512_mask_add_ps(low, bits as __mmask16, low, sixteen),
        _mm512_mask_add_ps(high, (bits >> 16) as __mmask16, high, sixteen),
    ]
}

#[inline(always)]
unsafe fn scaled(codes: [__m512; 2], d: *const u8) -> [__m512; 2] {
    let d = half(d);
    [_mm512_mul_ps(codes[0], d), _mm512_mul_ps(codes[1], d)]
}

/// The same with a minimum behind the scale.
#[inline(always)]
unsafe fn scaled_from(codes: [__m512; 2], d: *const u8) -> [__m512; 2] {
    let (d, m) = (half(d), half(d.add(2)));
    [_mm512_fmadd_ps(codes[0], d, m), _mm512_fmadd_ps(codes[1], d, m)]
}

macro_rules! block {
    ($name:ident, |$p:ident| $elements:expr) => {
        #[doc = concat!("`WeightType::", stringify!($name), "`.")]
        pub struct $name;
        impl Block for $name {
            const TYPE: WeightType = WeightType::$name;
            #[inline(always)]
            unsafe fn block($p: *const u8) -> [__m512; 2] {
                $elements
            }
        }
    };
}

block!(Q8_0, |p| {
    let codes = |p: *const u8| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())));
    scaled([codes(p.add(2)), codes(p.add(18))], p)
});
block!(Q4_0, |p| scaled(lookup(const { &from(-8) }, p.add(2)), p));
block!(Iq4Nl, |p| scaled(lookup(&IQ4, p.add(2)), p));
block!(Q4_1, |p| scaled_from(lookup(const { &from(0) }, p.add(4)), p));
block!(Q5_0, |p| scaled(fifth_bits(lookup(const { &from(-16) }, p.add(6)), p.add(2)), p));
block!(Q5_1, |p| scaled_from(fifth_bits(lookup(const { &from(0) }, p.add(8)), p.add(4)), p));
