//! Activations for F16, BF16 and F32 weights: rounded and interleaved, with AVX2.

use crate::formats::{ActFormat, FLOAT_RECORD, Rounding};
use core::arch::x86_64::*;

/// [`to_bf16`] of four floats.
#[inline(always)]
unsafe fn to_bf16_4(x: __m128) -> __m128 {
    let u = _mm_castps_si128(x);
    let odd = _mm_and_si128(_mm_srli_epi32::<16>(u), _mm_set1_epi32(1));
    let r = _mm_add_epi32(u, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff)));
    let quiet = _mm_or_si128(u, _mm_set1_epi32(0x0040_0000));
    let r = _mm_blendv_ps(_mm_castsi128_ps(r), _mm_castsi128_ps(quiet), _mm_cmpunord_ps(x, x));
    _mm_and_ps(r, _mm_castsi128_ps(_mm_set1_epi32(0xffff_0000_u32 as i32)))
}

/// Four floats of a column from `i` on, rounded; zeros behind `k`.
#[inline(always)]
unsafe fn rounded4(x: *const f32, i: usize, k: usize, rounding: Rounding) -> __m128 {
    let v = if i + 4 <= k {
        _mm_loadu_ps(x.add(i))
    } else {
        let left = _mm_set1_epi32(k as i32 - i as i32);
        _mm_maskload_ps(x.wrapping_add(i), _mm_cmpgt_epi32(left, _mm_setr_epi32(0, 1, 2, 3)))
    };
    match rounding {
        Rounding::None => v,
        Rounding::F16 => _mm_cvtph_ps(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)),
        Rounding::Bf16 => to_bf16_4(v),
    }
}

#[inline(always)]
unsafe fn high_halves(v: __m128) -> __m128i {
    _mm_srli_epi32::<16>(_mm_castps_si128(v))
}

/// The first `n` words.
#[inline(always)]
unsafe fn store_n(p: *mut u8, v: __m128, n: usize) {
    let w = _mm_castps_si128(v);
    match n {
        1 => p.cast::<i32>().write_unaligned(_mm_cvtsi128_si32(w)),
        2 => _mm_storel_epi64(p.cast(), w),
        3 => {
            _mm_storel_epi64(p.cast(), w);
            p.add(8).cast::<i32>().write_unaligned(_mm_extract_epi32::<2>(w));
        }
        _ => _mm_storeu_ps(p.cast(), v),
    }
}

/// Four columns at a time, four elements at a time, transposed in registers.
#[inline(always)]
pub(super) unsafe fn floats_avx2(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    let (rounding, pairs) = format.rounding();
    let padded = k.div_ceil(FLOAT_RECORD) * FLOAT_RECORD;
    if nc == 1 && !pairs {
        for i in (0..padded).step_by(4) {
            _mm_storeu_ps(out.add(4 * i).cast(), rounded4(*cols, i, k, rounding));
        }
        return;
    }
    if nc == 1 {
        for i in (0..padded).step_by(8) {
            let (a, b) = (rounded4(*cols, i, k, rounding), rounded4(*cols, i + 4, k, rounding));
            _mm_storeu_si128(out.add(2 * i).cast(), _mm_packus_epi32(high_halves(a), high_halves(b)));
        }
        return;
    }
    for c in (0..nc).step_by(4) {
        let n = (nc - c).min(4);
        // missing columns are copies that are not stored
        let col = |i: usize| *cols.add(c + i.min(n - 1));
        let x = [col(0), col(1), col(2), col(3)];
        let out = out.add(4 * c);
        for i in (0..padded).step_by(4) {
            let mut v = [
                rounded4(x[0], i, k, rounding),
                rounded4(x[1], i, k, rounding),
                rounded4(x[2], i, k, rounding),
                rounded4(x[3], i, k, rounding),
            ];
            let [a, b, c, d] = &mut v;
            _MM_TRANSPOSE4_PS(a, b, c, d);
            if pairs {
                for j in 0..2 {
                    let low = _mm_castsi128_ps(high_halves(v[2 * j]));
                    store_n(out.add((i / 2 + j) * nc * 4), _mm_or_ps(low, v[2 * j + 1]), n);
                }
            } else {
                for (j, v) in v.into_iter().enumerate() {
                    store_n(out.add((i + j) * nc * 4), v, n);
                }
            }
        }
    }
}
