//! Activations for F16, BF16 and F32 weights with AVX-512: four columns at a time, as in [`super::floats`], sixteen 32-bit
//! words of each.

use crate::formats::{ActFormat, FLOAT_RECORD, Rounding};
use core::arch::x86_64::*;

/// [`to_bf16`](super::to_bf16) of sixteen floats; the lower halves hold the bits that were rounded away.
#[inline(always)]
unsafe fn to_bf16_16(x: __m512) -> __m512i {
    let u = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(u), _mm512_set1_epi32(1));
    let r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x0040_0000))
}

/// Sixteen floats of a column from `i` on; zeros behind `k`.
#[inline(always)]
unsafe fn load(x: *const f32, i: usize, k: usize) -> __m512 {
    if i + 16 <= k {
        return _mm512_loadu_ps(x.add(i));
    }
    let left = k.saturating_sub(i);
    _mm512_maskz_loadu_ps(((1_u32 << left) - 1) as __mmask16, x.wrapping_add(i))
}

/// A word for each float.
struct Floats;
/// A word for each two, as `bf16`.
struct Pairs;

trait Words {
    /// Elements of a word.
    const K: usize;
    /// Sixteen words of a column, from element `i` on.
    unsafe fn words(x: *const f32, i: usize, k: usize, rounding: Rounding) -> __m512i;
    /// Sixteen words from `x` on; all of them exist.
    unsafe fn whole(x: *const f32, rounding: Rounding) -> __m512i;
}

impl Words for Floats {
    const K: usize = 1;
    #[inline(always)]
    unsafe fn words(x: *const f32, i: usize, k: usize, rounding: Rounding) -> __m512i {
        float(load(x, i, k), rounding)
    }
    #[inline(always)]
    unsafe fn whole(x: *const f32, rounding: Rounding) -> __m512i {
        float(_mm512_loadu_ps(x), rounding)
    }
}

/// Sixteen floats, rounded.
#[inline(always)]
unsafe fn float(v: __m512, rounding: Rounding) -> __m512i {
    match rounding {
        Rounding::None => _mm512_castps_si512(v),
        Rounding::F16 => _mm512_castps_si512(_mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))),
        Rounding::Bf16 => _mm512_and_si512(to_bf16_16(v), _mm512_set1_epi32(0xffff_0000_u32 as i32)),
    }
}

impl Words for Pairs {
    const K: usize = 2;
    #[inline(always)]
    unsafe fn words(x: *const f32, i: usize, k: usize, _: Rounding) -> __m512i {
        pairs(load(x, i, k), load(x, i + 16, k))
    }
    #[inline(always)]
    unsafe fn whole(x: *const f32, _: Rounding) -> __m512i {
        pairs(_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16)))
    }
}

/// Thirty-two floats as `bf16`.
#[inline(always)]
unsafe fn pairs(a: __m512, b: __m512) -> __m512i {
    let (a, b) = (to_bf16_16(a), to_bf16_16(b));
    const UPPER_HALVES: [i16; 32] = {
        let mut idx = [0; 32];
        let mut i = 0;
        while i < 32 {
            idx[i] = 2 * i as i16 + 1;
            i += 1;
        }
        idx
    };
    _mm512_permutex2var_epi16(a, _mm512_loadu_si512(UPPER_HALVES.as_ptr().cast()), b)
}

/// AVX-512 version for the formats that are not quantised.
#[inline(always)]
pub(super) unsafe fn floats_avx512(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    match format.rounding() {
        (_, true) => tile::<Pairs>(Rounding::Bf16, cols, k, nc, out),
        // one loop for each format: the choice is outside of the loops
        (Rounding::None, _) => tile::<Floats>(Rounding::None, cols, k, nc, out),
        (Rounding::F16, _) => tile::<Floats>(Rounding::F16, cols, k, nc, out),
        (Rounding::Bf16, _) => tile::<Floats>(Rounding::Bf16, cols, k, nc, out),
    }
}

#[inline(always)]
unsafe fn tile<W: Words>(rounding: Rounding, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    let words = k.div_ceil(FLOAT_RECORD) * FLOAT_RECORD / W::K;
    if nc == 1 {
        return column::<W>(rounding, *cols, k, words, out);
    }
    for c in (0..nc).step_by(4) {
        let n = (nc - c).min(4);
        // missing columns are copies that are not stored
        let col = |i: usize| *cols.add(c + i.min(n - 1));
        let x = [col(0), col(1), col(2), col(3)];
        for w in (0..words).step_by(16) {
            let i = w * W::K;
            let v = transposed([
                W::words(x[0], i, k, rounding),
                W::words(x[1], i, k, rounding),
                W::words(x[2], i, k, rounding),
                W::words(x[3], i, k, rounding),
            ]);
            let out = out.add((w * nc + c) * 4);
            if n == 4 && words - w >= 16 {
                store::<true>(v, out, 4 * nc, 4, 16);
            } else {
                store::<false>(v, out, 4 * nc, n, words - w);
            }
        }
    }
}

/// A tile of one column, `words` words of it.
#[inline(always)]
unsafe fn column<W: Words>(rounding: Rounding, x: *const f32, k: usize, words: usize, out: *mut u8) {
    // whole vectors first, four at a time: neither mask nor comparison in the loop
    let whole = k / W::K / 64 * 64;
    for w in (0..whole).step_by(64) {
        for i in [0, 16, 32, 48] {
            let v = W::whole(x.add((w + i) * W::K), rounding);
            _mm512_storeu_si512(out.add(4 * (w + i)).cast(), v);
        }
    }
    for w in (whole..words).step_by(16) {
        let v = W::words(x, w * W::K, k, rounding);
        _mm512_mask_storeu_epi32(out.add(4 * w).cast(), first(words - w), v);
    }
}

/// The first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n < 16 { ((1_u32 << n) - 1) as __mmask16 } else { 0xffff }
}

/// 128-bit lane `l` of vector `j` has word `4 * l + j` of each column.
#[inline(always)]
unsafe fn transposed(v: [__m512i; 4]) -> [__m512i; 4] {
    let (ab0, ab1) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    let (cd0, cd1) = (_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    [
        _mm512_unpacklo_epi64(ab0, cd0),
        _mm512_unpackhi_epi64(ab0, cd0),
        _mm512_unpacklo_epi64(ab1, cd1),
        _mm512_unpackhi_epi64(ab1, cd1),
    ]
}

/// Stores the first `rows` words of the first `n` columns, `step` bytes from word to word; all of them if
/// `ALL`.
#[inline(always)]
unsafe fn store<const ALL: bool>(v: [__m512i; 4], out: *mut u8, step: usize, n: usize, rows: usize) {
    for (j, v) in v.into_iter().enumerate() {
        put::<ALL>(j, _mm512_castsi512_si128(v), out, step, n, rows);
        put::<ALL>(4 + j, _mm512_extracti32x4_epi32::<1>(v), out, step, n, rows);
        put::<ALL>(8 + j, _mm512_extracti32x4_epi32::<2>(v), out, step, n, rows);
        put::<ALL>(12 + j, _mm512_extracti32x4_epi32::<3>(v), out, step, n, rows);
    }
}

#[inline(always)]
unsafe fn put<const ALL: bool>(row: usize, v: __m128i, out: *mut u8, step: usize, n: usize, rows: usize) {
    if ALL {
        _mm_storeu_si128(out.add(row * step).cast(), v);
    } else if row < rows {
        _mm_mask_storeu_epi32(out.add(row * step).cast(), first(n) as __mmask8, v);
    }
}
