//! Activations that ggml has quantised for repacked weights: four rows in one block, by eight elements in turn.
//!
//! ```text
//! q8_0x4   d 4 x f16 | codes [4][4 rows][8] x i8
//! q8_Kx4   d 4 x f32 | codes [32][4 rows][8] x i8 | sums of sixteen codes [4][4 rows][4] x i16
//! ```
//!
//! Two groups of four elements of four columns are one register. Its even words and its odd words are the lines of a tile.
//! So one version, for AVX2, serves all ISAs: it is a copy.

use super::Slot;
use crate::formats::{ActFormat, Aux};
use core::arch::x86_64::*;

/// Columns of a block.
pub const COLUMNS: usize = 4;

/// Bytes of four columns of `k` elements.
pub const fn bytes(format: ActFormat, k: usize) -> usize {
    k / format.block * if format.block == 32 { 136 } else { 1168 }
}

/// Makes a tile of the `nc` columns at `src`, of which there are a multiple of four: the codes, scales and sums
/// as they are.
///
/// # Safety
/// `format` is one of codes without minimum in blocks of 32, or with sums in super-blocks; `k` a multiple of its
/// block. `src` is readable for [`bytes`] per four columns, `out` writable for `format.bytes(k, nc)` bytes, of any
/// alignment. The CPU has AVX2 and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn tile(format: ActFormat, src: *const u8, k: usize, nc: usize, out: *mut u8) {
    let (column_bytes, block_bytes) = (bytes(format, k), bytes(format, format.block));
    for b in 0..k / format.block {
        let record = out.add(b * format.record() * nc);
        for c in (0..nc).step_by(COLUMNS) {
            let block = src.add(c / COLUMNS * column_bytes + b * block_bytes);
            let slot = Slot::new(format, record, c, nc);
            if format.block == 32 { block32(format.aux, block, slot) } else { super256(format.sub, block, slot) }
        }
    }
}

/// The even words, then the odd ones.
#[inline(always)]
unsafe fn deal(p: *const u8) -> __m256i {
    let order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    _mm256_permutevar8x32_epi32(_mm256_loadu_si256(p.cast()), order)
}

/// The lower half to `p`, the upper one `step` bytes on.
#[inline(always)]
unsafe fn put(p: *mut u8, step: usize, v: __m256i) {
    _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(v));
    _mm_storeu_si128(p.add(step).cast(), _mm256_extracti128_si256::<1>(v));
}

#[inline(always)]
unsafe fn block32(aux: Aux, block: *const u8, slot: Slot) {
    let mut pairs = _mm256_setzero_si256();
    for i in 0..4 {
        let v = deal(block.add(8 + 32 * i));
        put(slot.codes.add(2 * i * slot.step), slot.step, v);
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(_mm256_set1_epi8(1), v));
    }
    // of each column the sums for `k % 4` in {0, 1} and in {2, 3}
    let pairs = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
    match aux {
        Aux::Seed(off) => _mm_storeu_si128(slot.aux.cast(), _mm_madd_epi16(pairs, _mm_set1_epi16(-off as i16))),
        Aux::SeedPair(off) => _mm_storeu_si128(slot.aux.cast(), _mm_mullo_epi16(pairs, _mm_set1_epi16(-off as i16))),
        Aux::None | Aux::Sums => {}
    }
    _mm_storeu_ps(slot.d.cast(), _mm_cvtph_ps(_mm_loadl_epi64(block.cast())));
}

#[inline(always)]
unsafe fn super256(sub: usize, block: *const u8, slot: Slot) {
    for i in 0..32 {
        put(slot.codes.add(2 * i * slot.step), slot.step, deal(block.add(16 + 32 * i)));
    }
    for i in 0..4 {
        // of each column two sums in the lower half, the next two in the upper one
        let v = deal(block.add(1040 + 32 * i));
        if sub == 16 {
            put(slot.aux.add(2 * i * slot.step), slot.step, v);
        } else {
            let sums = _mm256_madd_epi16(v, _mm256_set1_epi16(1));
            let (low, high) = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let pairs = _mm_blend_epi16::<0b1010_1010>(low, _mm_slli_epi32::<16>(high));
            _mm_storeu_si128(slot.aux.add(i * slot.step).cast(), pairs);
        }
    }
    _mm_storeu_ps(slot.d.cast(), _mm_loadu_ps(block.cast()));
}
