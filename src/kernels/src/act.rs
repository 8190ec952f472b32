//! Quantisation of activations, with the numerics of ggml's `quantize_row_q8_0`, `q8_1` and `q8_K`,
//! into the interleaved tiles of [`crate::formats`].

use crate::formats::{ActFormat, Aux, Rounding, Values};
use core::arch::x86_64::*;
use half::f16;

/// Quantises `nc` columns of `k` floats into one tile.
///
/// # Safety
/// `cols` points to `nc` pointers, each readable for `k` floats (any alignment); `k` is a multiple of
/// `format.block` for quantised formats; `out` is writable for `format.bytes(k, nc)` bytes. The CPU has the ISA's features.
pub type QuantizeFn = unsafe fn(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8);

/// Blocks whose largest magnitude is smaller count as zero: `127 / amax` would overflow, and the
/// codes with it (ggml gives such a block the scale zero and codes without meaning).
const SMALLEST: f32 = 127.0 / f32::MAX;
const _: () = assert!((127.0 / SMALLEST).is_finite());

/// Where the parts of one column of one record go.
#[derive(Clone, Copy)]
struct Slot {
    codes: *mut u8,
    aux: *mut u8,
    d: *mut u8,
    /// Bytes between neighbouring words of the same column.
    step: usize,
}

impl Slot {
    #[inline(always)]
    unsafe fn new(format: ActFormat, rec: *mut u8, c: usize, nc: usize) -> Self {
        let aux = rec.add(format.block * nc);
        let d = aux.add(4 * nc * format.aux_words());
        Slot { codes: rec.add(4 * c), aux: aux.add(4 * c), d: d.add(4 * c), step: 4 * nc }
    }

    /// Four codes of group `g`.
    #[inline(always)]
    unsafe fn put_codes(self, g: usize, v: u32) {
        self.codes.add(g * self.step).cast::<u32>().write_unaligned(v);
    }

    #[inline(always)]
    unsafe fn put_d(self, d: f32) {
        self.d.cast::<f32>().write_unaligned(d);
    }

    /// `aux` word `i`.
    #[inline(always)]
    unsafe fn put_aux(self, i: usize, v: u32) {
        self.aux.add(i * self.step).cast::<u32>().write_unaligned(v);
    }

    /// The word for a sub-block with the half sums `h` (`k % 4` in {0, 1}, in {2, 3}).
    #[inline(always)]
    unsafe fn put_sums(self, aux: Aux, i: usize, h: [i32; 2], d: f32) {
        match aux {
            Aux::None => {}
            Aux::Seed(off) => self.put_aux(i, (-off * (h[0] + h[1])) as u32),
            Aux::SeedPair(off) => self.put_aux(i, pair(-off * h[0], -off * h[1])),
            // only blocks of 32 come here: super-blocks write theirs two by two
            Aux::Sums => self.put_aux(i, (d * (h[0] + h[1]) as f32).to_bits()),
        }
    }
}

#[inline(always)]
fn pair(lo: i32, hi: i32) -> u32 {
    u32::from(lo as u16) | u32::from(hi as u16) << 16
}

/// Writes the sums of a super-block from its half sums per 16 elements.
#[inline(always)]
unsafe fn put_super_sums(s: Slot, format: ActFormat, h: &[[i32; 2]; 16]) {
    let per = format.sub / 16;
    let sub = |i: usize| {
        let a = h[per * i];
        if per == 1 { a } else { [a[0] + h[2 * i + 1][0], a[1] + h[2 * i + 1][1]] }
    };
    if format.aux == Aux::Sums {
        for i in 0..format.aux_words() {
            let (a, b) = (sub(2 * i), sub(2 * i + 1));
            s.put_aux(i, pair(a[0] + a[1], b[0] + b[1]));
        }
    } else {
        for i in 0..format.aux_words() {
            s.put_sums(format.aux, i, sub(i), 0.0);
        }
    }
}

/// Portable version; also what the others are tested against.
///
/// # Safety
/// See [`QuantizeFn`].
pub unsafe fn quantize_scalar(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    if format.values != Values::Q8 {
        return floats_scalar(format, cols, k, nc, out);
    }
    for c in 0..nc {
        let x = *cols.add(c);
        for b in 0..k / format.block {
            let s = Slot::new(format, out.add(b * format.record() * nc), c, nc);
            let mut block = [0f32; 256];
            let block = &mut block[..format.block];
            for (i, v) in block.iter_mut().enumerate() {
                *v = x.add(b * format.block + i).read_unaligned();
            }
            let mut q = [0i8; 256];
            let d = if format.block == 32 { codes_q8_0(block, &mut q) } else { codes_q8_k(block, &mut q) };
            s.put_d(d);
            let mut h = [[0i32; 2]; 16];
            for g in 0..format.block / 4 {
                let v = [q[4 * g], q[4 * g + 1], q[4 * g + 2], q[4 * g + 3]];
                s.put_codes(g, u32::from_le_bytes(v.map(|x| x as u8)));
                h[g / 4][0] += i32::from(v[0]) + i32::from(v[1]);
                h[g / 4][1] += i32::from(v[2]) + i32::from(v[3]);
            }
            if format.block == 32 {
                s.put_sums(format.aux, 0, [h[0][0] + h[1][0], h[0][1] + h[1][1]], d);
            } else {
                put_super_sums(s, format, &h);
            }
        }
    }
}

/// `quantize_row_q8_0` of ggml's x86 code: `d = amax / 127`, kept as half precision.
fn codes_q8_0(x: &[f32], q: &mut [i8; 256]) -> f32 {
    let amax = x.iter().fold(0f32, |m, v| if v.abs() > m { v.abs() } else { m });
    let id = if amax >= SMALLEST { 127.0 / amax } else { 0.0 };
    for (q, x) in q.iter_mut().zip(x) {
        *q = round(x * id);
    }
    f16::from_f32(amax / 127.0).to_f32()
}

/// `quantize_row_q8_K_ref` of ggml: the value of largest magnitude becomes -127.
fn codes_q8_k(x: &[f32], q: &mut [i8; 256]) -> f32 {
    let (mut amax, mut max) = (0f32, 0f32);
    for &v in x {
        if v.abs() > amax {
            (amax, max) = (v.abs(), v);
        }
    }
    if amax < SMALLEST {
        q.fill(0);
        return 0.0;
    }
    let iscale = -127.0 / max;
    for (q, x) in q.iter_mut().zip(x) {
        *q = round(x * iscale);
    }
    1.0 / iscale
}

fn round(x: f32) -> i8 {
    x.round_ties_even() as i8 // saturates, as the packing instructions do
}

/// 32 floats times `mul`, as 32 codes in order.
#[inline(always)]
unsafe fn codes32(x: *const f32, mul: __m256) -> __m256i {
    let cvt = |i: usize| _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.add(8 * i)), mul));
    let ab = _mm256_packs_epi32(cvt(0), cvt(1));
    let cd = _mm256_packs_epi32(cvt(2), cvt(3));
    // the packs work per 128-bit half: put the words back in order
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), order)
}

/// Half sums of elements 0-15 and 16-31.
#[inline(always)]
unsafe fn half_sums(q: __m256i) -> [[i32; 2]; 2] {
    let p = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    let p = _mm256_add_epi16(p, _mm256_shuffle_epi32::<0b01_00_11_10>(p));
    let p = _mm256_add_epi16(p, _mm256_shuffle_epi32::<0b10_11_00_01>(p));
    let (a, b) = (_mm256_extract_epi32::<0>(p), _mm256_extract_epi32::<4>(p));
    [[i32::from(a as i16), a >> 16], [i32::from(b as i16), b >> 16]]
}

#[inline(always)]
unsafe fn put32(s: Slot, g: usize, q: __m256i) {
    if s.step == 4 {
        _mm256_storeu_si256(s.codes.add(4 * g).cast(), q);
        return;
    }
    let mut w = [0u32; 8];
    _mm256_storeu_si256(w.as_mut_ptr().cast(), q);
    for (i, w) in w.into_iter().enumerate() {
        s.put_codes(g + i, w);
    }
}

#[inline(always)]
unsafe fn hmax(v: __m256) -> f32 {
    let m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)))
}

/// Largest magnitude of `n` (a multiple of 32) floats; NaNs are passed over.
#[inline(always)]
unsafe fn amax(x: *const f32, n: usize) -> f32 {
    let sign = _mm256_set1_ps(-0.0);
    let mut m = [_mm256_setzero_ps(); 4];
    for i in (0..n).step_by(32) {
        for (j, m) in m.iter_mut().enumerate() {
            // the second operand is what a NaN gives
            *m = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x.add(i + 8 * j))), *m);
        }
    }
    hmax(_mm256_max_ps(_mm256_max_ps(m[0], m[1]), _mm256_max_ps(m[2], m[3])))
}

/// The first of 256 floats whose magnitude is `amax`.
#[inline(always)]
unsafe fn first_of_magnitude(x: *const f32, amax: f32) -> f32 {
    let (sign, a) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(amax));
    for i in (0..256).step_by(8) {
        let v = _mm256_andnot_ps(sign, _mm256_loadu_ps(x.add(i)));
        let hit = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(v, a));
        if hit != 0 {
            return x.add(i + hit.trailing_zeros() as usize).read_unaligned();
        }
    }
    amax
}

/// AVX2 version.
///
/// # Safety
/// See [`QuantizeFn`]; needs AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn quantize_avx2(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    if format.values != Values::Q8 {
        return floats_avx2(format, cols, k, nc, out);
    }
    for c in 0..nc {
        let x = *cols.add(c);
        let mut rec = out;
        for b in 0..k / format.block {
            let s = Slot::new(format, rec, c, nc);
            let x = x.add(b * format.block);
            if format.block == 32 {
                let amax = amax(x, 32);
                let id = if amax >= SMALLEST { 127.0 / amax } else { 0.0 };
                let d = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtps_ph::<0>(_mm_set_ss(amax / 127.0))));
                let q = codes32(x, _mm256_set1_ps(id));
                put32(s, 0, q);
                s.put_d(d);
                let h = half_sums(q);
                s.put_sums(format.aux, 0, [h[0][0] + h[1][0], h[0][1] + h[1][1]], d);
            } else {
                let amax = amax(x, 256);
                let (mul, d) = if amax < SMALLEST {
                    (0.0, 0.0)
                } else {
                    let iscale = -127.0 / first_of_magnitude(x, amax);
                    (iscale, 1.0 / iscale)
                };
                let mut h = [[0i32; 2]; 16];
                for i in 0..8 {
                    let q = codes32(x.add(32 * i), _mm256_set1_ps(mul));
                    put32(s, 8 * i, q);
                    [h[2 * i], h[2 * i + 1]] = half_sums(q);
                }
                s.put_d(d);
                put_super_sums(s, format, &h);
            }
            rec = rec.add(format.record() * nc);
        }
    }
}

impl ActFormat {
    /// What the values are rounded to, and whether they are kept as pairs.
    fn rounding(self) -> (Rounding, bool) {
        match self.values {
            Values::F32(rounding) => (rounding, false),
            Values::Bf16Pairs | Values::Q8 => (Rounding::Bf16, true),
        }
    }
}

/// `ggml_compute_fp32_to_bf16`, widened again: to nearest even; NaNs become quiet.
fn to_bf16(x: f32) -> f32 {
    let u = x.to_bits();
    let u = if x.is_nan() { u | 0x0040_0000 } else { u.wrapping_add(0x7fff + (u >> 16 & 1)) };
    f32::from_bits(u & 0xffff_0000)
}

unsafe fn floats_scalar(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    let (rounding, pairs) = format.rounding();
    for c in 0..nc {
        for i in 0..k.next_multiple_of(format.block) {
            let x = if i < k { (*cols.add(c)).add(i).read_unaligned() } else { 0.0 };
            let x = match rounding {
                Rounding::None => x,
                Rounding::F16 => f16::from_f32(x).to_f32(),
                Rounding::Bf16 => to_bf16(x),
            };
            if pairs {
                let at = out.add((i / 2 * nc + c) * 4 + i % 2 * 2);
                at.cast::<u16>().write_unaligned((x.to_bits() >> 16) as u16);
            } else {
                out.add((i * nc + c) * 4).cast::<f32>().write_unaligned(x);
            }
        }
    }
}

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
unsafe fn floats_avx2(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    let (rounding, pairs) = format.rounding();
    let padded = k.next_multiple_of(format.block);
    if nc == 1 && !pairs {
        for i in (0..padded).step_by(4) {
            _mm_storeu_ps(out.add(4 * i).cast(), rounded4(*cols, i, k, rounding));
        }
        return;
    }
    if nc == 1 {
        for i in (0..padded).step_by(8) {
            let high = |i| _mm_srli_epi32::<16>(_mm_castps_si128(rounded4(*cols, i, k, rounding)));
            _mm_storeu_si128(out.add(2 * i).cast(), _mm_packus_epi32(high(i), high(i + 4)));
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
                    let low = _mm_castsi128_ps(_mm_srli_epi32::<16>(_mm_castps_si128(v[2 * j])));
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
