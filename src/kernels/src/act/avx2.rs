//! Quantisation with AVX2. The columns of a tile are quantised together, 32 elements of each at a time.
//! Largest magnitude, scale and sums, one of each per column, are lanes of a vector. A transposition
//! of 4 x 8 words makes the lines of the tile.

#![allow(clippy::needless_range_loop)] // the indices are columns, or 32 elements, of several arrays

use super::SMALLEST;
use super::floats::floats_avx2;
use crate::formats::{ActFormat, Aux, Values};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// AVX2 version.
///
/// # Safety
/// See [`QuantizeFn`](super::QuantizeFn); needs AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn quantize_avx2(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    if format.values != Values::Q8 {
        return floats_avx2(format, cols, k, nc, out);
    }
    if nc <= 4 {
        quantize_narrow(format, cols, k, nc, out);
        return;
    }
    // No kernel of this ISA takes such a tile. It is made record by record, for up to four columns at a time; then the
    // words go to their places, which follow the same rule for codes, `aux` and scale.
    let mut record = MaybeUninit::<[u32; RECORD_WORDS]>::uninit();
    let record = record.as_mut_ptr().cast::<u32>();
    let block = if format.block == 32 { 32 } else { 256 };
    let mut line = out.cast::<u32>();
    for at in (0..k).step_by(block) {
        let mut words = 0;
        for c0 in (0..nc).step_by(4) {
            let n = (nc - c0).min(4);
            let mut x = [core::ptr::null(); 4];
            for (c, x) in x.iter_mut().enumerate() {
                *x = (*cols.add(c0 + c.min(n - 1))).add(at);
            }
            let end = quantize_narrow(format, x.as_ptr(), block, n, record.cast());
            words = end.cast::<u32>().offset_from(record) as usize / n.max(1); // no check for a zero
            for c in 0..n {
                for i in 0..words {
                    line.add(i * nc + c0 + c).write_unaligned(*record.add(i * n + c));
                }
            }
        }
        line = line.add(words * nc);
    }
}

/// Words of the largest record of four columns: a super-block with an `aux` word for each 16 elements.
const RECORD_WORDS: usize = 4 * (256 / 4 + 16 + 1);

/// One to four columns; returns the end of the tile.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize_narrow(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) -> *mut u8 {
    if matches!(format.aux, Aux::None) {
        quantise::<false>(format, cols, k, nc, out)
    } else {
        quantise::<true>(format, cols, k, nc, out)
    }
}

/// `SUMS`: whether the format has sums.
#[inline(always)]
unsafe fn quantise<const SUMS: bool>(
    format: ActFormat,
    cols: *const *const f32,
    k: usize,
    nc: usize,
    out: *mut u8,
) -> *mut u8 {
    match (format.block == 32, nc) {
        (true, 1) => blocks32_of_one::<SUMS>(format, *cols, k, out),
        (true, 2) => blocks32::<2, SUMS>(format, cols, k, out),
        (true, 3) => blocks32::<3, SUMS>(format, cols, k, out),
        (true, 4) => blocks32::<4, SUMS>(format, cols, k, out),
        (false, 1) => blocks256_of_one::<SUMS>(format, *cols, k, out),
        (false, 2) => blocks256::<2, SUMS>(format, cols, k, out),
        (false, 3) => blocks256::<3, SUMS>(format, cols, k, out),
        (false, 4) => blocks256::<4, SUMS>(format, cols, k, out),
        _ => out,
    }
}

#[inline(always)]
unsafe fn blocks32<const NC: usize, const SUMS: bool>(
    format: ActFormat,
    cols: *const *const f32,
    k: usize,
    out: *mut u8,
) -> *mut u8 {
    let x = cols.cast::<[*const f32; NC]>().read();
    let mut p = out;
    for at in (0..k).step_by(32) {
        let mut m = [_mm256_setzero_ps(); NC];
        for c in 0..NC {
            m[c] = amax32(x[c].add(at));
        }
        let (mul, d) = scales32(reduce::<MAX>(widen(m)));
        let mul = broadcasts(mul);
        let again = anew(at);
        let mut q = [_mm256_setzero_si256(); NC];
        for c in 0..NC {
            q[c] = codes32(x[c].add(again), mul[c]);
        }
        let q = widen(q);
        put_codes::<NC>(p, q);
        p = p.add(32 * NC);
        if SUMS && format.sub == 16 {
            let [a, b] = split(half_sums(lines(q)));
            put_words::<NC>(p, aux_words128(format.aux, a, d));
            put_words::<NC>(p.add(4 * NC), aux_words128(format.aux, b, d));
            p = p.add(8 * NC);
        } else if SUMS {
            put_words::<NC>(p, aux_words128(format.aux, whole(half_sums(lines(q))), d));
            p = p.add(4 * NC);
        }
        put_words::<NC>(p, _mm_castps_si128(d));
        p = p.add(4 * NC);
    }
    p
}

#[inline(always)]
unsafe fn blocks256<const NC: usize, const SUMS: bool>(
    format: ActFormat,
    cols: *const *const f32,
    k: usize,
    out: *mut u8,
) -> *mut u8 {
    let x = cols.cast::<[*const f32; NC]>().read();
    let mut rec = out;
    for at in (0..k).step_by(256) {
        let (mut high, mut low) = ([_mm256_setzero_ps(); NC], [_mm256_setzero_ps(); NC]);
        for i in (0..256).step_by(8) {
            for c in 0..NC {
                let v = _mm256_loadu_ps(x[c].add(at + i));
                // the second operand is what a NaN gives
                (high[c], low[c]) = (_mm256_max_ps(v, high[c]), _mm256_min_ps(v, low[c]));
            }
        }
        let (high, low) = (reduce::<MAX>(widen(high)), reduce::<MIN>(widen(low)));
        let (mul, d) = scales256::<NC>(high, low, cols, at);
        let mul = broadcasts(mul);
        let mut sums = [_mm256_setzero_si256(); 8];
        for i in 0..8 {
            let mut q = [_mm256_setzero_si256(); NC];
            for c in 0..NC {
                q[c] = codes32(x[c].add(at + 32 * i), mul[c]);
            }
            let q = widen(q);
            put_codes::<NC>(rec.add(32 * NC * i), q);
            if SUMS {
                sums[i] = half_sums(lines(q));
            }
        }
        rec = put_super_sums::<NC>(format, rec.add(256 * NC), &sums);
        put_words::<NC>(rec, _mm_castps_si128(d));
        rec = rec.add(4 * NC);
    }
    rec
}

/// Writes `aux` of a super-block from the half sums of its eight times 32 elements; returns its end.
#[inline(always)]
unsafe fn put_super_sums<const NC: usize>(format: ActFormat, aux: *mut u8, sums: &[__m256i; 8]) -> *mut u8 {
    let zero = _mm_setzero_ps();
    let words = match (format.aux, format.sub) {
        (Aux::None, _) => 0,
        (Aux::Sums, 16) => {
            for i in 0..8 {
                let [a, b] = split(sums[i]);
                put_words::<NC>(aux.add(4 * NC * i), pairs128(a, b));
            }
            8
        }
        (Aux::Sums, _) => {
            for i in 0..4 {
                put_words::<NC>(aux.add(4 * NC * i), pairs128(whole(sums[2 * i]), whole(sums[2 * i + 1])));
            }
            4
        }
        (_, 16) => {
            for i in 0..8 {
                let [a, b] = split(sums[i]);
                put_words::<NC>(aux.add(4 * NC * 2 * i), aux_words128(format.aux, a, zero));
                put_words::<NC>(aux.add(4 * NC * (2 * i + 1)), aux_words128(format.aux, b, zero));
            }
            16
        }
        (_, 256) => {
            let mut sum = whole(sums[0]);
            for sums in &sums[1..] {
                sum = _mm_add_epi16(sum, whole(*sums));
            }
            put_words::<NC>(aux, aux_words128(format.aux, sum, zero));
            1
        }
        _ => {
            for i in 0..8 {
                put_words::<NC>(aux.add(4 * NC * i), aux_words128(format.aux, whole(sums[i]), zero));
            }
            8
        }
    };
    aux.add(4 * NC * words)
}

/// Bytes of a record of one column of blocks of 32. (No division, which the compiler would guard against zero.)
#[inline(always)]
pub(super) const fn record32(format: ActFormat) -> usize {
    match (format.aux, format.sub) {
        (Aux::None, _) => 36,
        (_, 16) => 44,
        _ => 40,
    }
}

/// A single column, four blocks at a time.
#[inline(always)]
unsafe fn blocks32_of_one<const SUMS: bool>(format: ActFormat, x: *const f32, k: usize, out: *mut u8) -> *mut u8 {
    let (blocks, record) = (k / 32, record32(format));
    let (mut x, mut p) = (x, out);
    for _ in 0..blocks / 4 {
        let at = [x, x.add(32), x.add(64), x.add(96)];
        four_blocks::<SUMS>(format, at, [p, p.add(record), p.add(2 * record), p.add(3 * record)]);
        (x, p) = (x.add(128), p.add(4 * record));
    }
    let rest = blocks % 4;
    if rest > 0 {
        // the last one stands in for missing ones
        let (b, c) = (1.min(rest - 1), 2.min(rest - 1));
        let at = [x, x.add(32 * b), x.add(32 * c), x.add(32 * c)];
        four_blocks::<SUMS>(format, at, [p, p.add(record * b), p.add(record * c), p.add(record * c)]);
    }
    p.add(record * rest)
}

#[inline(always)]
unsafe fn four_blocks<const SUMS: bool>(format: ActFormat, x: [*const f32; 4], rec: [*mut u8; 4]) {
    let mut q = [_mm256_setzero_si256(); 4];
    let mut m = [_mm256_setzero_ps(); 4];
    for i in 0..4 {
        m[i] = amax32(x[i]);
    }
    let (mul, d) = scales32(reduce::<MAX>(m));
    let mul = broadcasts(mul);
    let again = anew(0);
    for i in 0..4 {
        q[i] = codes32(x[i].add(again), mul[i]);
        _mm256_storeu_si256(rec[i].cast(), in_order(q[i]));
    }
    let d_bits = _mm_castps_si128(d);
    if !SUMS {
        let d = core::mem::transmute::<__m128i, [u32; 4]>(d_bits);
        for i in 0..4 {
            rec[i].add(32).cast::<u32>().write_unaligned(d[i]);
        }
    } else if format.sub == 16 {
        let [a, b] = split(half_sums(lines(q)));
        let a = core::mem::transmute::<__m128i, [u32; 4]>(aux_words128(format.aux, a, d));
        let b = core::mem::transmute::<__m128i, [u32; 4]>(aux_words128(format.aux, b, d));
        let d = core::mem::transmute::<__m128i, [u32; 4]>(d_bits);
        for i in 0..4 {
            rec[i].add(32).cast::<[u32; 3]>().write_unaligned([a[i], b[i], d[i]]);
        }
    } else {
        let w = aux_words128(format.aux, whole(half_sums(lines(q))), d);
        let (w01, w23) = (_mm_unpacklo_epi32(w, d_bits), _mm_unpackhi_epi32(w, d_bits));
        for (i, w) in [w01, w23].into_iter().enumerate() {
            _mm_storel_pd(rec[2 * i].add(32).cast(), _mm_castsi128_pd(w));
            _mm_storeh_pd(rec[2 * i + 1].add(32).cast(), _mm_castsi128_pd(w));
        }
    }
}

/// A single column of super-blocks, 128 elements as four times 32.
#[inline(always)]
unsafe fn blocks256_of_one<const SUMS: bool>(format: ActFormat, x: *const f32, k: usize, out: *mut u8) -> *mut u8 {
    let cols = &raw const x;
    let mut p = out;
    for at in (0..k).step_by(256) {
        let (mut high, mut low) = ([_mm256_setzero_ps(); 4], [_mm256_setzero_ps(); 4]);
        for i in (0..256).step_by(32) {
            for j in 0..4 {
                let v = _mm256_loadu_ps(x.add(at + i + 8 * j));
                // the second operand is what a NaN gives
                (high[j], low[j]) = (_mm256_max_ps(v, high[j]), _mm256_min_ps(v, low[j]));
            }
        }
        let high = _mm256_max_ps(_mm256_max_ps(high[0], high[1]), _mm256_max_ps(high[2], high[3]));
        let low = _mm256_min_ps(_mm256_min_ps(low[0], low[1]), _mm256_min_ps(low[2], low[3]));
        let (high, low) = (lanes_max(high), lanes_max(negative(low)));
        let low = _mm_xor_ps(low, _mm_set1_ps(-0.0));
        let (mul, d) = scales256::<1>(high, low, cols, at);
        let mul = _mm256_broadcastss_ps(mul);
        let mut aux = p.add(256);
        let mut total = _mm_setzero_si128();
        for i in 0..2 {
            let mut q = [_mm256_setzero_si256(); 4];
            for j in 0..4 {
                q[j] = codes32(x.add(at + 128 * i + 32 * j), mul);
                _mm256_storeu_si256(p.add(128 * i + 32 * j).cast(), in_order(q[j]));
            }
            if !SUMS {
                continue;
            }
            // lanes: the four times 32 elements
            let sums = half_sums(lines(q));
            let [a, b] = split(sums);
            match (format.aux, format.sub) {
                (Aux::Sums, 16) => {
                    _mm_storeu_si128(aux.cast(), pairs128(a, b));
                    aux = aux.add(16);
                }
                (Aux::Sums, _) => {
                    let sums = _mm_madd_epi16(whole(sums), _mm_set1_epi16(1));
                    _mm_storel_epi64(aux.cast(), _mm_packs_epi32(sums, sums));
                    aux = aux.add(8);
                }
                (_, 16) => {
                    let (a, b) = (aux_words128(format.aux, a, d), aux_words128(format.aux, b, d));
                    _mm_storeu_si128(aux.cast(), _mm_unpacklo_epi32(a, b));
                    _mm_storeu_si128(aux.add(16).cast(), _mm_unpackhi_epi32(a, b));
                    aux = aux.add(32);
                }
                (_, 256) => total = _mm_add_epi16(total, whole(sums)),
                _ => {
                    _mm_storeu_si128(aux.cast(), aux_words128(format.aux, whole(sums), d));
                    aux = aux.add(16);
                }
            }
        }
        if SUMS && format.sub == 256 {
            let sum = aux_words128(format.aux, add_lanes(total), d);
            aux.cast::<i32>().write_unaligned(_mm_cvtsi128_si32(sum));
            aux = aux.add(4);
        }
        aux.cast::<f32>().write_unaligned(_mm_cvtss_f32(d));
        p = aux.add(4);
    }
    p
}

/// `v`, about which the compiler knows nothing. Otherwise it loads 32 elements once, for their magnitudes and for their
/// codes, which takes more instructions than to use them in memory twice.
#[inline(always)]
pub(super) fn anew(mut v: usize) -> usize {
    // SAFETY: no instruction; the value stays what it is.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// Four of them; the last one stands in for missing ones.
#[inline(always)]
fn widen<T: Copy, const N: usize>(v: [T; N]) -> [T; 4] {
    [v[0], v[1.min(N - 1)], v[2.min(N - 1)], v[N - 1]]
}

/// The largest magnitudes of 32 floats, in eight lanes; NaNs are ignored.
#[inline(always)]
unsafe fn amax32(x: *const f32) -> __m256 {
    let sign = _mm256_set1_ps(-0.0);
    let mut m = _mm256_setzero_ps();
    for i in 0..4 {
        // the second operand is what a NaN gives
        m = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x.add(8 * i))), m);
    }
    m
}

#[inline(always)]
unsafe fn negative(v: __m256) -> __m256 {
    _mm256_xor_ps(v, _mm256_set1_ps(-0.0))
}

const MAX: bool = true;
const MIN: bool = false;

#[inline(always)]
unsafe fn extreme<const OP: bool>(a: __m256, b: __m256) -> __m256 {
    if OP == MAX { _mm256_max_ps(a, b) } else { _mm256_min_ps(a, b) }
}

/// Lane `c` of the result is the largest (smallest) lane of `m[c]`.
#[inline(always)]
unsafe fn reduce<const OP: bool>(m: [__m256; 4]) -> __m128 {
    let ab = extreme::<OP>(_mm256_unpacklo_ps(m[0], m[1]), _mm256_unpackhi_ps(m[0], m[1]));
    let cd = extreme::<OP>(_mm256_unpacklo_ps(m[2], m[3]), _mm256_unpackhi_ps(m[2], m[3]));
    let abcd = extreme::<OP>(
        _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd), //
        _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
    );
    let (lo, hi) = (_mm256_castps256_ps128(abcd), _mm256_extractf128_ps::<1>(abcd));
    if OP == MAX { _mm_max_ps(lo, hi) } else { _mm_min_ps(lo, hi) }
}

/// The largest lane, in every lane.
#[inline(always)]
unsafe fn lanes_max(v: __m256) -> __m128 {
    let m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let m = _mm_max_ps(m, _mm_permute_ps::<0b01_00_11_10>(m));
    _mm_max_ps(m, _mm_permute_ps::<0b10_11_00_01>(m))
}

/// The factor of the elements and the scale, for blocks of 32 with these largest magnitudes.
#[inline(always)]
unsafe fn scales32(amax: __m128) -> (__m128, __m128) {
    let n = _mm_set1_ps(127.0);
    let mul = _mm_and_ps(_mm_cmpge_ps(amax, _mm_set1_ps(SMALLEST)), _mm_div_ps(n, amax));
    (mul, _mm_cvtph_ps(_mm_cvtps_ph::<0>(_mm_div_ps(amax, n))))
}

/// The same for super-blocks with these largest and smallest elements, which start `at` in each
/// of the `NC` columns.
#[inline(always)]
unsafe fn scales256<const NC: usize>(
    high: __m128,
    low: __m128,
    cols: *const *const f32,
    at: usize,
) -> (__m128, __m128) {
    let sign = _mm_set1_ps(-0.0);
    let minus_low = _mm_xor_ps(low, sign);
    let amax = _mm_max_ps(high, minus_low);
    let mut max = _mm_blendv_ps(low, high, _mm_cmpgt_ps(high, minus_low));
    let some = _mm_cmpge_ps(amax, _mm_set1_ps(SMALLEST));
    let ties = _mm_movemask_ps(_mm_and_ps(some, _mm_cmpeq_ps(high, minus_low))) & ((1 << NC) - 1);
    if ties != 0 {
        let mut v = core::mem::transmute::<__m128, [f32; 4]>(max);
        settle(ties as u32, v.as_mut_ptr(), cols, at);
        max = core::mem::transmute::<[f32; 4], __m128>(v);
    }
    let mul = _mm_and_ps(some, _mm_div_ps(_mm_set1_ps(-127.0), max));
    (mul, _mm_and_ps(some, _mm_div_ps(_mm_set1_ps(1.0), mul)))
}

/// Columns (bits of `ties`) with both signs of their largest magnitude: the first element counts.
#[inline(always)]
pub(super) unsafe fn settle(mut ties: u32, max: *mut f32, cols: *const *const f32, at: usize) {
    while ties != 0 {
        let c = ties.trailing_zeros() as usize;
        let (x, max) = ((*cols.add(c)).add(at), max.add(c));
        *max = first_of_magnitude(x, *max);
        ties &= ties - 1;
    }
}

/// The first of 256 floats whose magnitude is that of `a`.
#[inline(always)]
unsafe fn first_of_magnitude(x: *const f32, a: f32) -> f32 {
    let sign = _mm256_set1_ps(-0.0);
    let a = _mm256_andnot_ps(sign, _mm256_set1_ps(a));
    let n = core::hint::black_box(256); // rare: keeps the compiler from unrolling the loop
    for i in (0..n).step_by(8) {
        let v = _mm256_andnot_ps(sign, _mm256_loadu_ps(x.add(i)));
        let hit = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(v, a));
        if hit != 0 {
            return x.add(i + hit.trailing_zeros() as usize).read_unaligned();
        }
    }
    _mm256_cvtss_f32(a)
}

/// Each lane in all lanes of a vector.
#[inline(always)]
unsafe fn broadcasts(v: __m128) -> [__m256; 4] {
    let v = _mm256_set_m128(v, v);
    [
        _mm256_permute_ps::<0x00>(v),
        _mm256_permute_ps::<0x55>(v),
        _mm256_permute_ps::<0xaa>(v),
        _mm256_permute_ps::<0xff>(v),
    ]
}

/// The codes of eight floats, one for each lane.
#[inline(always)]
unsafe fn codes8(x: *const f32, mul: __m256) -> __m256i {
    _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), mul))
}

/// The codes of 32 floats; the words are in the order 0, 2, 4, 6, 1, 3, 5, 7.
#[inline(always)]
unsafe fn codes32(x: *const f32, mul: __m256) -> __m256i {
    let ab = _mm256_packs_epi32(codes8(x, mul), codes8(x.add(8), mul));
    let cd = _mm256_packs_epi32(codes8(x.add(16), mul), codes8(x.add(24), mul));
    _mm256_packs_epi16(ab, cd)
}

/// The words that `codes32` gives in order.
#[inline(always)]
unsafe fn in_order(q: __m256i) -> __m256i {
    _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// From the codes of four columns, as [`codes32`] gives them, the eight lines of a tile, two by two.
#[inline(always)]
unsafe fn lines(q: [__m256i; 4]) -> [__m256i; 4] {
    let (ab0, ab1) = (_mm256_unpacklo_epi32(q[0], q[1]), _mm256_unpackhi_epi32(q[0], q[1]));
    let (cd0, cd1) = (_mm256_unpacklo_epi32(q[2], q[3]), _mm256_unpackhi_epi32(q[2], q[3]));
    [
        _mm256_unpacklo_epi64(ab0, cd0),
        _mm256_unpackhi_epi64(ab0, cd0),
        _mm256_unpacklo_epi64(ab1, cd1),
        _mm256_unpackhi_epi64(ab1, cd1),
    ]
}

/// Per column, the sum of elements 0 to 15 as two 16-bit numbers, for `k % 4` in {0, 1} and in {2, 3};
/// in the upper half the same for elements 16 to 31.
#[inline(always)]
unsafe fn half_sums(lines: [__m256i; 4]) -> __m256i {
    let one = _mm256_set1_epi8(1);
    let a = _mm256_add_epi16(_mm256_maddubs_epi16(one, lines[0]), _mm256_maddubs_epi16(one, lines[1]));
    let b = _mm256_add_epi16(_mm256_maddubs_epi16(one, lines[2]), _mm256_maddubs_epi16(one, lines[3]));
    _mm256_add_epi16(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}

#[inline(always)]
unsafe fn split(v: __m256i) -> [__m128i; 2] {
    [_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v)]
}

/// The sums of 32 elements from what [`half_sums`] gives.
#[inline(always)]
unsafe fn whole(sums: __m256i) -> __m128i {
    let [a, b] = split(sums);
    _mm_add_epi16(a, b)
}

/// The sum of the four 32-bit lanes, of 16-bit numbers.
#[inline(always)]
pub(super) unsafe fn add_lanes(v: __m128i) -> __m128i {
    let v = _mm_add_epi16(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    _mm_add_epi16(v, _mm_shuffle_epi32::<0b10_11_00_01>(v))
}

/// Stores the lines of the first `NC` columns.
#[inline(always)]
unsafe fn put_codes<const NC: usize>(p: *mut u8, q: [__m256i; 4]) {
    if NC == 2 {
        let (a, b) = (_mm256_unpacklo_epi32(q[0], q[1]), _mm256_unpackhi_epi32(q[0], q[1]));
        _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(a));
        _mm256_storeu_si256(p.add(32).cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(b));
        return;
    }
    for (i, v) in lines(q).into_iter().enumerate() {
        let p = p.add(8 * NC * i);
        if NC == 4 {
            _mm256_storeu_si256(p.cast(), v);
            continue;
        }
        let v = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 6, 6));
        if i < 3 {
            // the next store overwrites the excess
            _mm256_storeu_si256(p.cast(), v);
        } else {
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(v));
            _mm_storel_epi64(p.add(16).cast(), _mm256_extracti128_si256::<1>(v));
        }
    }
}

/// Stores the first `NC` words.
#[inline(always)]
unsafe fn put_words<const NC: usize>(p: *mut u8, v: __m128i) {
    if NC == 4 {
        return _mm_storeu_si128(p.cast(), v);
    }
    _mm_storel_epi64(p.cast(), v);
    if NC == 3 {
        p.add(8).cast::<i32>().write_unaligned(_mm_extract_epi32::<2>(v));
    }
}

/// The `aux` words of sub-blocks with these half sums; [`Aux::Sums`] only of blocks of 32.
#[inline(always)]
pub(super) unsafe fn aux_words(aux: Aux, h: __m256i, d: __m256) -> __m256i {
    match aux {
        Aux::None => h,
        Aux::Seed(offset) => _mm256_madd_epi16(h, _mm256_set1_epi16(-offset as i16)),
        Aux::SeedPair(offset) => _mm256_mullo_epi16(h, _mm256_set1_epi16(-offset as i16)),
        Aux::Sums => {
            let sum = _mm256_madd_epi16(h, _mm256_set1_epi16(1));
            _mm256_castps_si256(_mm256_mul_ps(d, _mm256_cvtepi32_ps(sum)))
        }
    }
}

/// The `aux` words of two sub-blocks for [`Aux::Sums`] of super-blocks.
#[inline(always)]
pub(super) unsafe fn pairs(a: __m256i, b: __m256i) -> __m256i {
    let one = _mm256_set1_epi16(1);
    let (a, b) = (_mm256_madd_epi16(a, one), _mm256_madd_epi16(b, one));
    _mm256_blend_epi16::<0b1010_1010>(a, _mm256_slli_epi32::<16>(b))
}

#[inline(always)]
unsafe fn aux_words128(aux: Aux, h: __m128i, d: __m128) -> __m128i {
    _mm256_castsi256_si128(aux_words(aux, _mm256_castsi128_si256(h), _mm256_castps128_ps256(d)))
}

#[inline(always)]
unsafe fn pairs128(a: __m128i, b: __m128i) -> __m128i {
    _mm256_castsi256_si128(pairs(_mm256_castsi128_si256(a), _mm256_castsi128_si256(b)))
}
