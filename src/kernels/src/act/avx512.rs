//! Quantisation with AVX-512: the same steps as in [`super::avx2`], with up to eight columns together.

#![allow(clippy::needless_range_loop)] // the indices are columns, or 32 elements, of several arrays

use super::SMALLEST;
use super::avx2::{add_lanes, anew, aux_words, pairs, quantize_avx2, record32, settle};
use super::floats512::floats_avx512;
use crate::formats::{ActFormat, Aux, ROWS32, Values};
use core::arch::x86_64::*;

/// AVX-512 version.
///
/// # Safety
/// See [`QuantizeFn`](super::QuantizeFn); needs AVX-512 F, BW, DQ and VL, AVX2,
/// FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn quantize_avx512(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    if format.values != Values::Q8 {
        return floats_avx512(format, cols, k, nc, out);
    }
    match (format.block == 32, nc) {
        (true, 1) => blocks32_of_one(format, *cols, k, out),
        (true, 2) => blocks32::<2>(format, cols, k, out),
        (true, 3) => blocks32::<3>(format, cols, k, out),
        (true, 4) => blocks32::<4>(format, cols, k, out),
        (true, 5) => blocks32::<5>(format, cols, k, out),
        (true, 6) => blocks32::<6>(format, cols, k, out),
        (true, 7) => blocks32::<7>(format, cols, k, out),
        (true, 8) => blocks32::<8>(format, cols, k, out),
        (false, 1) => blocks256_of_one(format, *cols, k, out),
        (false, 2) => blocks256::<2>(format, cols, k, out),
        (false, 3) => blocks256::<3>(format, cols, k, out),
        (false, 4) => blocks256::<4>(format, cols, k, out),
        (false, 5) => blocks256::<5>(format, cols, k, out),
        (false, 6) => blocks256::<6>(format, cols, k, out),
        (false, 7) => blocks256::<7>(format, cols, k, out),
        (false, 8) => blocks256::<8>(format, cols, k, out),
        // no kernel takes such a tile
        _ => quantize_avx2(format, cols, k, nc, out),
    }
}

#[inline(always)]
unsafe fn blocks32<const NC: usize>(format: ActFormat, cols: *const *const f32, k: usize, out: *mut u8) {
    let x = cols.cast::<[*const f32; NC]>().read();
    let mut p = out;
    for at in (0..k).step_by(32) {
        let mut m = [_mm512_setzero_ps(); NC];
        for c in 0..NC {
            m[c] = amax32(x[c].add(at));
        }
        let (mul, d) = scales32(reduce::<MAX_ABS, NC>(m));
        let mul = broadcasts::<NC>(mul);
        let q = quads::<NC>(codes::<NC>(x, anew(at), mul));
        put_codes::<NC>(p, q);
        p = p.add(32 * NC);
        if !matches!(format.aux, Aux::None) && format.sub == 16 {
            let [a, b] = split(half_sums::<NC>(q));
            put_words::<NC>(p, aux_words(format.aux, a, d));
            put_words::<NC>(p.add(4 * NC), aux_words(format.aux, b, d));
            p = p.add(8 * NC);
        } else if !matches!(format.aux, Aux::None) {
            put_words::<NC>(p, aux_words(format.aux, whole(half_sums::<NC>(q)), d));
            p = p.add(4 * NC);
        }
        put_words::<NC>(p, _mm256_castps_si256(d));
        p = p.add(4 * NC);
    }
}

#[inline(always)]
unsafe fn blocks256<const NC: usize>(format: ActFormat, cols: *const *const f32, k: usize, out: *mut u8) {
    let x = cols.cast::<[*const f32; NC]>().read();
    let mut rec = out;
    for at in (0..k).step_by(256) {
        let (mut high, mut low) = ([_mm512_setzero_ps(); NC], [_mm512_setzero_ps(); NC]);
        for i in (0..256).step_by(16) {
            for c in 0..NC {
                let v = _mm512_loadu_ps(x[c].add(at + i));
                // the second operand is what a NaN gives
                (high[c], low[c]) = (_mm512_max_ps(v, high[c]), _mm512_min_ps(v, low[c]));
            }
        }
        let (high, low) = (reduce::<MAX, NC>(high), reduce::<MIN, NC>(low));
        let (mul, d) = scales256::<NC>(high, low, cols, at);
        let mul = broadcasts::<NC>(mul);
        let mut sums = [_mm512_setzero_si512(); 8];
        for i in 0..8 {
            let q = quads::<NC>(codes::<NC>(x, at + 32 * i, mul));
            put_codes::<NC>(rec.add(32 * NC * i), q);
            sums[i] = half_sums::<NC>(q);
        }
        rec = put_super_sums::<NC>(format, rec.add(256 * NC), &sums);
        put_words::<NC>(rec, _mm256_castps_si256(d));
        rec = rec.add(4 * NC);
    }
}

/// Writes `aux` of a super-block from the half sums of its eight times 32 elements; returns its end.
#[inline(always)]
unsafe fn put_super_sums<const NC: usize>(format: ActFormat, aux: *mut u8, sums: &[__m512i; 8]) -> *mut u8 {
    let zero = _mm256_setzero_ps();
    let words = match (format.aux, format.sub) {
        (Aux::None, _) => 0,
        (Aux::Sums, 16) => {
            for i in 0..8 {
                let [a, b] = split(sums[i]);
                put_words::<NC>(aux.add(4 * NC * i), pairs(a, b));
            }
            8
        }
        (Aux::Sums, _) => {
            for i in 0..4 {
                put_words::<NC>(aux.add(4 * NC * i), pairs(whole(sums[2 * i]), whole(sums[2 * i + 1])));
            }
            4
        }
        (_, 16) => {
            for i in 0..8 {
                let [a, b] = split(sums[i]);
                put_words::<NC>(aux.add(4 * NC * 2 * i), aux_words(format.aux, a, zero));
                put_words::<NC>(aux.add(4 * NC * (2 * i + 1)), aux_words(format.aux, b, zero));
            }
            16
        }
        (_, 256) => {
            let mut sum = whole(sums[0]);
            for sums in &sums[1..] {
                sum = _mm256_add_epi16(sum, whole(*sums));
            }
            put_words::<NC>(aux, aux_words(format.aux, sum, zero));
            1
        }
        _ => {
            for i in 0..8 {
                put_words::<NC>(aux.add(4 * NC * i), aux_words(format.aux, whole(sums[i]), zero));
            }
            8
        }
    };
    aux.add(4 * NC * words)
}

/// A single column, eight blocks at a time.
#[inline(always)]
unsafe fn blocks32_of_one(format: ActFormat, x: *const f32, k: usize, out: *mut u8) {
    let (blocks, record) = (k / 32, record32(format));
    let (mut x, mut p) = (x, out);
    for _ in 0..blocks / 8 {
        let (mut at, mut rec) = ([x; 8], [p; 8]);
        for i in 1..8 {
            (at[i], rec[i]) = (x.add(32 * i), rec[i - 1].add(record));
        }
        eight_blocks(format, at, rec);
        (x, p) = (x.add(256), p.add(8 * record));
    }
    let rest = blocks % 8;
    if rest > 0 {
        // the last one stands in for missing ones
        let (mut at, mut rec) = ([x; 8], [p; 8]);
        for i in 1..8 {
            let i_or_last = i.min(rest - 1);
            (at[i], rec[i]) = (x.add(32 * i_or_last), p.add(record * i_or_last));
        }
        eight_blocks(format, at, rec);
    }
}

#[inline(always)]
unsafe fn eight_blocks(format: ActFormat, x: [*const f32; 8], rec: [*mut u8; 8]) {
    let mut m = [_mm512_setzero_ps(); 8];
    for i in 0..8 {
        m[i] = amax32(x[i]);
    }
    let (mul, d) = scales32(reduce::<MAX_ABS, 8>(m));
    let q = codes::<8>(x, anew(0), broadcasts::<8>(mul));
    for i in 0..4 {
        let v = in_order(q[i]);
        _mm256_storeu_si256(rec[2 * i].cast(), _mm512_castsi512_si256(v));
        _mm256_storeu_si256(rec[2 * i + 1].cast(), _mm512_extracti64x4_epi64::<1>(v));
    }
    let d_bits = _mm256_castps_si256(d);
    if matches!(format.aux, Aux::None) {
        let d = core::mem::transmute::<__m256i, [u32; 8]>(d_bits);
        for i in 0..8 {
            rec[i].add(32).cast::<u32>().write_unaligned(d[i]);
        }
    } else if format.sub == 16 {
        let [a, b] = split(half_sums::<8>(quads::<8>(q)));
        let a = core::mem::transmute::<__m256i, [u32; 8]>(aux_words(format.aux, a, d));
        let b = core::mem::transmute::<__m256i, [u32; 8]>(aux_words(format.aux, b, d));
        let d = core::mem::transmute::<__m256i, [u32; 8]>(d_bits);
        for i in 0..8 {
            rec[i].add(32).cast::<[u32; 3]>().write_unaligned([a[i], b[i], d[i]]);
        }
    } else {
        let w = aux_words(format.aux, whole(half_sums::<8>(quads::<8>(q))), d);
        let (even, odd) = (_mm256_unpacklo_epi32(w, d_bits), _mm256_unpackhi_epi32(w, d_bits));
        put_two([rec[0], rec[1]], _mm256_castsi256_si128(even));
        put_two([rec[2], rec[3]], _mm256_castsi256_si128(odd));
        put_two([rec[4], rec[5]], _mm256_extracti128_si256::<1>(even));
        put_two([rec[6], rec[7]], _mm256_extracti128_si256::<1>(odd));
    }
}

/// Eight blocks of one column in the order of products without panels. The first `blocks` (1 to 8) of them exist.
#[inline(always)]
pub(super) unsafe fn eight_blocks_by_rows(aux: Aux, x: [*const f32; 8], blocks: usize, out: *mut u8) {
    let mut m = [_mm512_setzero_ps(); 8];
    for i in 0..8 {
        m[i] = amax32(x[i]);
    }
    let (mul, d) = scales32(reduce::<MAX_ABS, 8>(m));
    let q = codes::<8>(x, anew(0), broadcasts::<8>(mul));
    let sums = if matches!(aux, Aux::Sums) {
        aux_words(aux, whole(half_sums::<8>(quads::<8>(q))), d)
    } else {
        _mm256_setzero_si256()
    };
    for r in 0..2 {
        if 4 * r >= blocks {
            return;
        }
        // four lanes for each block that exists; the others are zero
        let some = (0xffff_u32 >> (16 - 4 * (blocks - 4 * r).min(4))) as __mmask16;
        // words 0 to 3 of four blocks, then 4 to 7
        let first = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30);
        let second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
        let half = |order| _mm512_maskz_permutex2var_epi32(some, q[2 * r], order, q[2 * r + 1]);
        let (first, second) = (half(first), half(second));
        let i = 4 * r as i32;
        let lanes = _mm512_setr_epi32(
            i,
            i,
            i,
            i,
            i + 1,
            i + 1,
            i + 1,
            i + 1,
            i + 2,
            i + 2,
            i + 2,
            i + 2,
            i + 3,
            i + 3,
            i + 3,
            i + 3,
        );
        let spread = |v: __m256i, k| _mm512_maskz_permutexvar_epi32(k, lanes, _mm512_castsi256_si512(v));
        let aux = if let Aux::Seed(offset) = aux {
            let (zero, offset) = (_mm512_setzero_si512(), _mm512_set1_epi8(offset as i8));
            _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, offset, first), offset, second))
        } else {
            spread(sums, some & 0x1111)
        };
        let out = out.add(r * ROWS32.bytes);
        _mm512_storeu_si512(out.cast(), first);
        _mm512_storeu_si512(out.add(64).cast(), second);
        _mm512_storeu_si512(out.add(ROWS32.aux).cast(), aux);
        _mm512_storeu_si512(out.add(ROWS32.d).cast(), spread(_mm256_castps_si256(d), some));
    }
}

/// `aux` and scale of two records of one column.
#[inline(always)]
unsafe fn put_two(rec: [*mut u8; 2], v: __m128i) {
    _mm_storel_pd(rec[0].add(32).cast(), _mm_castsi128_pd(v));
    _mm_storeh_pd(rec[1].add(32).cast(), _mm_castsi128_pd(v));
}

/// A single column of super-blocks, each as eight times 32 elements.
#[inline(always)]
unsafe fn blocks256_of_one(format: ActFormat, x: *const f32, k: usize, out: *mut u8) {
    let cols = &raw const x;
    let mut p = out;
    for at in (0..k).step_by(256) {
        let (mut high, mut low) = ([_mm512_setzero_ps(); 4], [_mm512_setzero_ps(); 4]);
        for i in (0..256).step_by(64) {
            for j in 0..4 {
                let v = _mm512_loadu_ps(x.add(at + i + 16 * j));
                // the second operand is what a NaN gives
                (high[j], low[j]) = (_mm512_max_ps(v, high[j]), _mm512_min_ps(v, low[j]));
            }
        }
        let high = _mm512_max_ps(_mm512_max_ps(high[0], high[1]), _mm512_max_ps(high[2], high[3]));
        let low = _mm512_min_ps(_mm512_min_ps(low[0], low[1]), _mm512_min_ps(low[2], low[3]));
        // lane 0: the largest; lane 1: minus the smallest
        let both = reduce::<MAX, 2>([high, _mm512_xor_ps(low, _mm512_set1_ps(-0.0))]);
        let low = _mm256_xor_ps(_mm256_movehdup_ps(both), _mm256_set1_ps(-0.0));
        let (mul, d) = scales256::<1>(both, low, cols, at);
        let mul = _mm512_broadcastss_ps(_mm256_castps256_ps128(mul));
        let mut parts = [x; 8];
        for i in 1..8 {
            parts[i] = x.add(32 * i);
        }
        let q = codes::<8>(parts, at, [mul; 8]);
        for i in 0..4 {
            _mm512_storeu_si512(p.add(64 * i).cast(), in_order(q[i]));
        }
        p = p.add(256);
        if !matches!(format.aux, Aux::None) {
            // lanes: the eight times 32 elements
            let sums = half_sums::<8>(quads::<8>(q));
            let [a, b] = split(sums);
            match (format.aux, format.sub) {
                (Aux::Sums, 16) => {
                    _mm256_storeu_si256(p.cast(), pairs(a, b));
                    p = p.add(32);
                }
                (Aux::Sums, _) => {
                    let sums = _mm256_madd_epi16(whole(sums), _mm256_set1_epi16(1));
                    _mm_storeu_si128(p.cast(), _mm256_cvtepi32_epi16(sums));
                    p = p.add(16);
                }
                (_, 16) => {
                    let (a, b) = (aux_words(format.aux, a, d), aux_words(format.aux, b, d));
                    let zip = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                    let (a, b) = (_mm512_castsi256_si512(a), _mm512_castsi256_si512(b));
                    _mm512_storeu_si512(p.cast(), _mm512_permutex2var_epi32(a, zip, b));
                    p = p.add(64);
                }
                (_, 256) => {
                    let sums = whole(sums);
                    let sums = _mm_add_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
                    let sum = aux_words(format.aux, _mm256_castsi128_si256(add_lanes(sums)), d);
                    p.cast::<i32>().write_unaligned(_mm256_cvtsi256_si32(sum));
                    p = p.add(4);
                }
                _ => {
                    _mm256_storeu_si256(p.cast(), aux_words(format.aux, whole(sums), d));
                    p = p.add(32);
                }
            }
        }
        p.cast::<f32>().write_unaligned(_mm256_cvtss_f32(d));
        p = p.add(4);
    }
}

const MAX: u8 = 0;
const MIN: u8 = 1;
/// The larger magnitude, without its sign. A quiet NaN gives the other operand.
pub(super) const MAX_ABS: u8 = 2;

#[inline(always)]
pub(super) unsafe fn extreme<const OP: u8>(a: __m512, b: __m512) -> __m512 {
    match OP {
        MAX => _mm512_max_ps(a, b),
        MIN => _mm512_min_ps(a, b),
        _ => _mm512_range_ps::<0b1011>(a, b),
    }
}

/// The largest magnitudes of 32 floats, in sixteen lanes.
#[inline(always)]
unsafe fn amax32(x: *const f32) -> __m512 {
    extreme::<MAX_ABS>(_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16)))
}

/// The halves of `a` and `b` made one.
#[inline(always)]
unsafe fn halves<const OP: u8>(a: __m512, b: __m512) -> __m512 {
    extreme::<OP>(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
}

/// The same for the quarters of `a` and of `b`, two and two.
#[inline(always)]
unsafe fn quarters<const OP: u8>(a: __m512, b: __m512) -> __m512 {
    extreme::<OP>(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
}

/// Lane `c` of the result is the largest (smallest) lane of `m[c]`.
#[inline(always)]
pub(super) unsafe fn reduce<const OP: u8, const NC: usize>(m: [__m512; NC]) -> __m256 {
    let last = NC - 1; // stands in for missing ones
    let ab = halves::<OP>(m[0], m[1.min(last)]);
    let cd = if NC > 2 { halves::<OP>(m[2.min(last)], m[3.min(last)]) } else { ab };
    let mut v = quarters::<OP>(ab, cd);
    if NC > 4 {
        let ef = halves::<OP>(m[4.min(last)], m[5.min(last)]);
        let gh = if NC > 6 { halves::<OP>(m[6.min(last)], m[last]) } else { ef };
        let efgh = quarters::<OP>(ef, gh);
        v = extreme::<OP>(_mm512_unpacklo_ps(v, efgh), _mm512_unpackhi_ps(v, efgh));
    } else {
        v = extreme::<OP>(v, _mm512_permute_ps::<0b10_11_00_01>(v));
    }
    v = extreme::<OP>(v, _mm512_permute_ps::<0b01_00_11_10>(v));
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
    _mm512_castps512_ps256(_mm512_permutexvar_ps(order, v))
}

/// The factor of the elements and the scale, for blocks of 32 with these largest magnitudes.
#[inline(always)]
unsafe fn scales32(amax: __m256) -> (__m256, __m256) {
    let n = _mm256_set1_ps(127.0);
    let amax = _mm256_max_ps(amax, _mm256_setzero_ps()); // nothing but NaNs: 0
    let some = _mm256_cmp_ps_mask::<_CMP_GE_OQ>(amax, _mm256_set1_ps(SMALLEST));
    let d = _mm256_cvtph_ps(_mm256_cvtps_ph::<0>(_mm256_div_ps(amax, n)));
    (_mm256_maskz_div_ps(some, n, amax), d)
}

/// The same for super-blocks with these largest and smallest elements, which start `at` in each
/// of the `NC` columns.
#[inline(always)]
unsafe fn scales256<const NC: usize>(
    high: __m256,
    low: __m256,
    cols: *const *const f32,
    at: usize,
) -> (__m256, __m256) {
    let minus_low = _mm256_xor_ps(low, _mm256_set1_ps(-0.0));
    let amax = _mm256_max_ps(high, minus_low);
    let mut max = _mm256_mask_mov_ps(low, _mm256_cmp_ps_mask::<_CMP_GT_OQ>(high, minus_low), high);
    let some = _mm256_cmp_ps_mask::<_CMP_GE_OQ>(amax, _mm256_set1_ps(SMALLEST));
    let ties = _mm256_mask_cmp_ps_mask::<_CMP_EQ_OQ>(some, high, minus_low);
    let ties = u32::from(ties) & ((1 << NC) - 1);
    if ties != 0 {
        let mut v = core::mem::transmute::<__m256, [f32; 8]>(max);
        settle(ties, v.as_mut_ptr(), cols, at);
        max = core::mem::transmute::<[f32; 8], __m256>(v);
    }
    let mul = _mm256_maskz_div_ps(some, _mm256_set1_ps(-127.0), max);
    (mul, _mm256_maskz_div_ps(some, _mm256_set1_ps(1.0), mul))
}

/// Each of the first `NC` lanes in all lanes of a vector.
#[inline(always)]
pub(super) unsafe fn broadcasts<const NC: usize>(v: __m256) -> [__m512; NC] {
    let v = core::mem::transmute::<__m256, [f32; 8]>(v);
    let mut all = [_mm512_setzero_ps(); NC];
    for c in 0..NC {
        all[c] = _mm512_set1_ps(v[c]);
    }
    all
}

/// The codes of 16 floats, one for each lane.
#[inline(always)]
unsafe fn codes16(x: *const f32, mul: __m512) -> __m512i {
    _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), mul))
}

/// The codes of 32 floats from `at` on in each column, two columns in a vector: its 128-bit lane `i`
/// has words `i` and `4 + i` of the one, then of the other.
#[inline(always)]
pub(super) unsafe fn codes<const NC: usize>(x: [*const f32; NC], at: usize, mul: [__m512; NC]) -> [__m512i; 4] {
    let mut q = [_mm512_setzero_si512(); 8];
    for c in 0..NC {
        let x = x[c].add(at);
        q[c] = _mm512_packs_epi32(codes16(x, mul[c]), codes16(x.add(16), mul[c]));
    }
    let mut two = [_mm512_setzero_si512(); 4];
    for i in 0..NC.div_ceil(2) {
        two[i] = _mm512_packs_epi16(q[2 * i], q[2 * i + 1]);
    }
    two
}

/// The words of two times 32 elements that [`codes`] gives, in order.
#[inline(always)]
pub(super) unsafe fn in_order(q: __m512i) -> __m512i {
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, q)
}

#[inline(always)]
unsafe fn shuffle<const MASK: i32>(a: __m512i, b: __m512i) -> __m512i {
    _mm512_castps_si512(_mm512_shuffle_ps::<MASK>(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)))
}

/// From what [`codes`] gives: for columns 0 to 3 the lines 0 to 3 in 128 bits each, the lines 4 to 7;
/// then, if there are that many, the same for columns 4 to 7.
#[inline(always)]
pub(super) unsafe fn quads<const NC: usize>(q: [__m512i; 4]) -> [__m512i; 4] {
    let (a, b) = (shuffle::<0b10_00_10_00>(q[0], q[1]), shuffle::<0b11_01_11_01>(q[0], q[1]));
    if NC <= 4 {
        return [a, b, a, b];
    }
    [a, b, shuffle::<0b10_00_10_00>(q[2], q[3]), shuffle::<0b11_01_11_01>(q[2], q[3])]
}

#[inline(always)]
unsafe fn even_lanes(a: __m512i, b: __m512i) -> __m512i {
    _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b)
}

#[inline(always)]
unsafe fn odd_lanes(a: __m512i, b: __m512i) -> __m512i {
    _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)
}

/// Per column, the sum of elements 0 to 15 as two 16-bit numbers, for `k % 4` in {0, 1} and in {2, 3};
/// in the upper half the same for elements 16 to 31.
#[inline(always)]
pub(super) unsafe fn half_sums<const NC: usize>(q: [__m512i; 4]) -> __m512i {
    let one = _mm512_set1_epi8(1);
    let (a, b) = (_mm512_maddubs_epi16(one, q[0]), _mm512_maddubs_epi16(one, q[1]));
    if NC <= 4 {
        // 128-bit lanes: 0 to 15 twice, 16 to 31 twice
        let s = _mm512_add_epi16(even_lanes(a, b), odd_lanes(a, b));
        _mm512_add_epi16(s, _mm512_shuffle_i32x4::<0b10_11_00_01>(s, s))
    } else {
        let (c, d) = (_mm512_maddubs_epi16(one, q[2]), _mm512_maddubs_epi16(one, q[3]));
        // 128-bit lanes: columns 0 to 3 twice, 4 to 7 twice
        let s = _mm512_add_epi16(even_lanes(a, c), odd_lanes(a, c));
        let t = _mm512_add_epi16(even_lanes(b, d), odd_lanes(b, d));
        _mm512_add_epi16(even_lanes(s, t), odd_lanes(s, t))
    }
}

#[inline(always)]
unsafe fn split(v: __m512i) -> [__m256i; 2] {
    [_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v)]
}

/// The sums of 32 elements from what [`half_sums`] gives.
#[inline(always)]
pub(super) unsafe fn whole(sums: __m512i) -> __m256i {
    let [a, b] = split(sums);
    _mm256_add_epi16(a, b)
}

/// Which words of two [`quads`] vectors, for lines `first` on, make whole lines of `nc` columns.
const fn line_words(nc: usize, first: usize) -> [i32; 16] {
    let mut words = [0; 16];
    let mut i = 0;
    while i < 16 {
        let (line, c) = (first + i / nc, i % nc);
        if line < 4 {
            words[i] = (4 * line + c % 4 + 16 * (c / 4)) as i32;
        }
        i += 1;
    }
    words
}

/// Stores the lines of the first `NC` columns.
#[inline(always)]
unsafe fn put_codes<const NC: usize>(p: *mut u8, q: [__m512i; 4]) {
    if NC <= 4 {
        for i in 0..2 {
            let mut v = q[i];
            if NC < 4 {
                let words = const { line_words(NC, 0) };
                v = _mm512_permutexvar_epi32(_mm512_loadu_si512(words.as_ptr().cast()), v);
            }
            _mm512_mask_storeu_epi32(p.add(16 * NC * i).cast(), mask(4 * NC) as __mmask16, v);
        }
        return;
    }
    for i in 0..4 {
        let words = if i % 2 == 0 { const { line_words(NC, 0) } } else { const { line_words(NC, 2) } };
        let words = _mm512_loadu_si512(words.as_ptr().cast());
        let v = _mm512_permutex2var_epi32(q[i / 2], words, q[2 + i / 2]);
        _mm512_mask_storeu_epi32(p.add(8 * NC * i).cast(), mask(2 * NC) as __mmask16, v);
    }
}

/// The first `n` bits.
#[inline(always)]
const fn mask(n: usize) -> u32 {
    (1 << n) - 1
}

/// Stores the first `NC` words.
#[inline(always)]
unsafe fn put_words<const NC: usize>(p: *mut u8, v: __m256i) {
    if NC == 4 {
        return _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(v));
    }
    _mm256_mask_storeu_epi32(p.cast(), mask(NC) as __mmask8, v);
}
