//! AVX2: a pair of `ymm` registers holds the sixteen rows. The operations are shared with the
//! 256-bit VNNI tier, which differs only in its dot products.

use super::{LANES, Quads};
use core::arch::x86_64::*;

/// Proof that the CPU and the operating system support AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// `None` where a feature is missing.
    pub fn new() -> Option<Self> {
        let ok =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        ok.then_some(Avx2(()))
    }
}

/// Rows 0-7 and 8-15.
pub type I2 = [__m256i; 2];
/// Rows 0-7 and 8-15.
pub type F2 = [__m256; 2];

// Helpers are functions, not closures: only functions can be forced into their (feature-enabled)
// callers, and a helper that is not inlined calls every intrinsic out of line.

#[inline(always)]
unsafe fn half8(rows: &Quads, q: usize, at: usize) -> __m128i {
    let mut h = [0i16; 8];
    for (r, h) in h.iter_mut().enumerate() {
        *h = rows.row(q + r / 4, r % 4, at).cast::<i16>().read_unaligned();
    }
    _mm_setr_epi16(h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7])
}

/// One 16-bit word from each of sixteen rows.
#[inline(always)]
pub(super) unsafe fn halves16(rows: &Quads, at: usize) -> __m256i {
    _mm256_set_m128i(half8(rows, 2, at), half8(rows, 0, at))
}

/// One 32-bit word from each of four rows.
#[inline(always)]
pub(super) unsafe fn words4(rows: &Quads, q: usize, at: usize) -> __m128i {
    let mut w = [0i32; 4];
    for (r, w) in w.iter_mut().enumerate() {
        *w = rows.row(q, r, at).cast::<i32>().read_unaligned();
    }
    _mm_setr_epi32(w[0], w[1], w[2], w[3])
}

/// Sixteen bytes from rows `4 * q + i` and `4 * q + 4 + i`.
#[inline(always)]
unsafe fn two_rows(rows: &Quads, q: usize, i: usize, at: usize) -> __m256i {
    let lo = _mm_loadu_si128(rows.row(q, i, at).cast());
    _mm256_set_m128i(_mm_loadu_si128(rows.row(q + 1, i, at).cast()), lo)
}

/// Sixteen bytes from each of the eight rows from `4 * q` on, transposed.
#[inline(always)]
unsafe fn words4_of_8(rows: &Quads, q: usize, at: usize) -> [__m256i; 4] {
    let (a, b) = (two_rows(rows, q, 0, at), two_rows(rows, q, 1, at));
    let (c, d) = (two_rows(rows, q, 2, at), two_rows(rows, q, 3, at));
    let ab0 = _mm256_unpacklo_epi32(a, b);
    let ab1 = _mm256_unpackhi_epi32(a, b);
    let cd0 = _mm256_unpacklo_epi32(c, d);
    let cd1 = _mm256_unpackhi_epi32(c, d);
    [
        _mm256_unpacklo_epi64(ab0, cd0),
        _mm256_unpackhi_epi64(ab0, cd0),
        _mm256_unpacklo_epi64(ab1, cd1),
        _mm256_unpackhi_epi64(ab1, cd1),
    ]
}

/// Sixteen bytes from each of sixteen rows, transposed.
#[inline(always)]
pub(super) unsafe fn words4_of_16(rows: &Quads, at: usize) -> [I2; 4] {
    let (lo, hi) = (words4_of_8(rows, 0, at), words4_of_8(rows, 2, at));
    [[lo[0], hi[0]], [lo[1], hi[1]], [lo[2], hi[2]], [lo[3], hi[3]]]
}

/// Bits `4*g + j` of each lane to bit 4 of byte `j`.
#[inline(always)]
pub(super) unsafe fn spread(v: __m256i, g: usize) -> __m256i {
    // byte g/2 of the lane into all four, then one bit of it per byte
    let b = (g / 2) as i32 * 0x0101_0101;
    let (i0, i1, i2, i3) = (b, b + 0x0404_0404, b + 0x0808_0808, b + 0x0c0c_0c0c);
    let idx = _mm256_setr_epi32(i0, i1, i2, i3, i0, i1, i2, i3);
    let bits = _mm256_set1_epi32(0x0804_0201 << (4 * (g % 2)));
    let s = _mm256_and_si256(_mm256_shuffle_epi8(v, idx), bits);
    _mm256_and_si256(_mm256_cmpeq_epi8(s, bits), _mm256_set1_epi8(0x10))
}

/// See [`super::Lanes::thirds`].
#[inline(always)]
pub(crate) unsafe fn thirds(a: __m256i) -> __m256i {
    // a - 1 and half of a, their mean rounded down: three quarters of a, whose upper two bits are the result
    let b = _mm256_subs_epu8(a, _mm256_set1_epi8(1));
    let v = _mm256_avg_epu8(b, _mm256_avg_epu8(b, _mm256_setzero_si256()));
    _mm256_and_si256(_mm256_srli_epi16::<6>(v), _mm256_set1_epi8(3))
}

/// Lanes below `n` of the half that starts at row `first`, as a store mask.
#[inline(always)]
pub(super) unsafe fn mask8(first: i32, n: usize) -> __m256i {
    let row = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    debug_assert!((1..=LANES).contains(&n));
    _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32 - first), row)
}

/// The largest of eight.
#[inline(always)]
pub(super) unsafe fn largest8(v: __m256) -> f32 {
    let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
}

/// See [`super::Real::scale2`].
#[inline(always)]
pub(super) unsafe fn scale2_8(a: __m256, n: __m256) -> __m256 {
    // the exponent's bits, all zero below the normal numbers: the number zero
    let exponent = _mm256_cvtps_epi32(_mm256_max_ps(n, _mm256_set1_ps(-127.0)));
    let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)));
    // a NaN in n is one in a
    _mm256_mul_ps(a, _mm256_castsi256_ps(power))
}

/// See [`super::Real::scale2_wide`].
#[inline(always)]
pub(super) unsafe fn scale2_wide_8(a: __m256, n: __m256) -> __m256 {
    // in two steps, of which the first is exact; a NaN stays in `a`
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let bias = _mm256_set1_epi32(127);
    let low = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias)));
    let high = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias)));
    _mm256_mul_ps(_mm256_mul_ps(a, low), high)
}

/// Implements [`super::Lanes`] and [`super::Real`] over pairs of `ymm` for `$t`.
macro_rules! lanes_of_two_ymm {
    ($t:ty, $madd:expr) => {
        // SAFETY: only reached through kernels that enable the features of this ISA, which the
        // registry hands out after its token was made; pointers are used only for the bytes named.
        unsafe impl $crate::isa::Lanes for $t {
            type I = $crate::isa::avx2::I2;
            type F = $crate::isa::avx2::F2;
            const ACC16: bool = $madd;
            const REGISTERS: usize = 2;

            #[inline(always)]
            unsafe fn load(p: *const u8) -> Self::I {
                [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())]
            }
            #[inline(always)]
            unsafe fn store(p: *mut u8, v: Self::I) {
                _mm256_storeu_si256(p.cast(), v[0]);
                _mm256_storeu_si256(p.add(32).cast(), v[1]);
            }
            #[inline(always)]
            unsafe fn loadf(p: *const u8) -> Self::F {
                [_mm256_loadu_ps(p.cast()), _mm256_loadu_ps(p.add(32).cast())]
            }
            #[inline(always)]
            unsafe fn storef(p: *mut u8, v: Self::F) {
                _mm256_storeu_ps(p.cast(), v[0]);
                _mm256_storeu_ps(p.add(32).cast(), v[1]);
            }
            #[inline(always)]
            unsafe fn loadf_n(p: *const f32, n: usize) -> Self::F {
                use $crate::isa::avx2::mask8;
                [_mm256_maskload_ps(p, mask8(0, n)), _mm256_maskload_ps(p.wrapping_add(8), mask8(8, n))]
            }
            #[inline(always)]
            unsafe fn storef_n(p: *mut f32, v: Self::F, n: usize) {
                use $crate::isa::avx2::mask8;
                if n == $crate::isa::LANES {
                    return Self::storef(p.cast(), v);
                }
                _mm256_maskstore_ps(p, mask8(0, n), v[0]);
                _mm256_maskstore_ps(p.wrapping_add(8), mask8(8, n), v[1]);
            }
            #[inline(always)]
            unsafe fn bcast(p: *const u8) -> Self::I {
                [_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2]
            }
            #[inline(always)]
            unsafe fn bcastf(p: *const u8) -> Self::F {
                [_mm256_set1_ps(p.cast::<f32>().read_unaligned()); 2]
            }
            #[inline(always)]
            unsafe fn splat(x: i32) -> Self::I {
                [_mm256_set1_epi32(x); 2]
            }
            #[inline(always)]
            unsafe fn splatf(x: f32) -> Self::F {
                [_mm256_set1_ps(x); 2]
            }
            #[inline(always)]
            unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
                [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
                [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn xor(a: Self::I, b: Self::I) -> Self::I {
                [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn add(a: Self::I, b: Self::I) -> Self::I {
                [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn sub(a: Self::I, b: Self::I) -> Self::I {
                [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn count_above(count: Self::I, a: Self::I, b: Self::I) -> Self::I {
                let above = [_mm256_cmpgt_epi32(a[0], b[0]), _mm256_cmpgt_epi32(a[1], b[1])];
                [_mm256_sub_epi32(count[0], above[0]), _mm256_sub_epi32(count[1], above[1])]
            }
            #[inline(always)]
            unsafe fn shl(a: Self::I, n: u32) -> Self::I {
                let n = _mm_cvtsi32_si128(n as i32); // a constant: becomes the immediate form
                [_mm256_sll_epi32(a[0], n), _mm256_sll_epi32(a[1], n)]
            }
            #[inline(always)]
            unsafe fn shr(a: Self::I, n: u32) -> Self::I {
                let n = _mm_cvtsi32_si128(n as i32); // a constant: becomes the immediate form
                [_mm256_srl_epi32(a[0], n), _mm256_srl_epi32(a[1], n)]
            }
            #[inline(always)]
            unsafe fn sar(a: Self::I, n: u32) -> Self::I {
                let n = _mm_cvtsi32_si128(n as i32); // a constant: becomes the immediate form
                [_mm256_sra_epi32(a[0], n), _mm256_sra_epi32(a[1], n)]
            }
            #[inline(always)]
            unsafe fn lut16(table: &[i8; 16], idx: Self::I) -> Self::I {
                let t = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                [_mm256_shuffle_epi8(t, idx[0]), _mm256_shuffle_epi8(t, idx[1])]
            }
            #[inline(always)]
            unsafe fn spread_bits<const G: usize>(x: Self::I) -> Self::I {
                use $crate::isa::avx2::spread;
                [spread(x[0], G), spread(x[1], G)]
            }
            #[inline(always)]
            unsafe fn gather(table: *const u32, index: Self::I) -> Self::I {
                let table = table.cast();
                [_mm256_i32gather_epi32::<4>(table, index[0]), _mm256_i32gather_epi32::<4>(table, index[1])]
            }
            #[inline(always)]
            unsafe fn add_bytes(a: Self::I, b: Self::I) -> Self::I {
                [_mm256_add_epi8(a[0], b[0]), _mm256_add_epi8(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn thirds(a: Self::I) -> Self::I {
                use $crate::isa::avx2::thirds;
                [thirds(a[0]), thirds(a[1])]
            }
            #[inline(always)]
            unsafe fn abs_bytes(a: Self::I) -> Self::I {
                [_mm256_abs_epi8(a[0]), _mm256_abs_epi8(a[1])]
            }
            #[inline(always)]
            unsafe fn mul_words(a: Self::I, b: Self::I) -> Self::I {
                [_mm256_mullo_epi16(a[0], b[0]), _mm256_mullo_epi16(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn pick_bytes<const WHICH: u32>(a: Self::I) -> Self::I {
                let which = WHICH as i32;
                let (i1, i2, i3) = (which + 0x0404_0404, which + 0x0808_0808, which + 0x0c0c_0c0c);
                let which = _mm256_broadcastsi128_si256(_mm_setr_epi32(which, i1, i2, i3));
                [_mm256_shuffle_epi8(a[0], which), _mm256_shuffle_epi8(a[1], which)]
            }
            #[inline(always)]
            unsafe fn cvt(a: Self::I) -> Self::F {
                [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])]
            }
            #[inline(always)]
            unsafe fn half_lo(a: Self::I) -> Self::F {
                let m = _mm256_set1_epi32(0xffff);
                // packus works per 128-bit half: the permutation restores the row order
                let p = _mm256_packus_epi32(_mm256_and_si256(a[0], m), _mm256_and_si256(a[1], m));
                let p = _mm256_permute4x64_epi64::<0b11_01_10_00>(p);
                [_mm256_cvtph_ps(_mm256_castsi256_si128(p)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(p))]
            }
            #[inline(always)]
            unsafe fn mulf(a: Self::F, b: Self::F) -> Self::F {
                [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn last(a: Self::F, n: usize) -> Self::F {
                let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                // lane i of the sixteen is kept if i > 15 - n
                let bound = 15 - n as i32;
                let lo = _mm256_castsi256_ps(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(bound)));
                let hi = _mm256_castsi256_ps(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(bound - 8)));
                [_mm256_and_ps(a[0], lo), _mm256_and_ps(a[1], hi)]
            }
            #[inline(always)]
            unsafe fn sum(a: Self::F) -> f32 {
                let s = _mm256_add_ps(a[0], a[1]);
                let s = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
                let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
                _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)))
            }
            #[inline(always)]
            unsafe fn widen_halves(p: *const u8) -> Self::F {
                [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast()))]
            }
            #[inline(always)]
            unsafe fn widen_bf16(p: *const u8) -> Self::F {
                let lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                let hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
                [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(lo)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(hi))]
            }
            #[inline(always)]
            unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
            }
            #[inline(always)]
            unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                [_mm256_fnmadd_ps(a[0], b[0], c[0]), _mm256_fnmadd_ps(a[1], b[1], c[1])]
            }
            #[inline(always)]
            unsafe fn load_words4(rows: &$crate::isa::Quads, at: usize) -> [Self::I; 4] {
                $crate::isa::avx2::words4_of_16(rows, at)
            }
            #[inline(always)]
            unsafe fn load_words1(rows: &$crate::isa::Quads, at: usize) -> Self::I {
                use $crate::isa::avx2::words4;
                [
                    _mm256_set_m128i(words4(rows, 1, at), words4(rows, 0, at)),
                    _mm256_set_m128i(words4(rows, 3, at), words4(rows, 2, at)),
                ]
            }
            #[inline(always)]
            unsafe fn load_halves(rows: &$crate::isa::Quads, at: usize) -> Self::I {
                let h = $crate::isa::avx2::halves16(rows, at);
                [
                    _mm256_cvtepu16_epi32(_mm256_castsi256_si128(h)),
                    _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(h)),
                ]
            }
        }

        // SAFETY: only kernels that enable the features of this ISA reach it; the registry hands them out where the token exists.
        unsafe impl $crate::isa::Real for $t {
            #[inline(always)]
            unsafe fn maxf(a: Self::F, b: Self::F) -> Self::F {
                [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn largest(a: Self::F) -> f32 {
                $crate::isa::avx2::largest8(_mm256_max_ps(a[0], a[1]))
            }
            #[inline(always)]
            unsafe fn addf(a: Self::F, b: Self::F) -> Self::F {
                [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn divf(a: Self::F, b: Self::F) -> Self::F {
                [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn roundf(a: Self::F) -> Self::F {
                const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
                [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])]
            }
            #[inline(always)]
            unsafe fn scale2(a: Self::F, n: Self::F) -> Self::F {
                use $crate::isa::avx2::scale2_8;
                [scale2_8(a[0], n[0]), scale2_8(a[1], n[1])]
            }
            #[inline(always)]
            unsafe fn scale2_wide(a: Self::F, n: Self::F) -> Self::F {
                use $crate::isa::avx2::scale2_wide_8;
                [scale2_wide_8(a[0], n[0]), scale2_wide_8(a[1], n[1])]
            }
            #[inline(always)]
            unsafe fn minf(a: Self::F, b: Self::F) -> Self::F {
                [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn subf(a: Self::F, b: Self::F) -> Self::F {
                [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
            }
            #[inline(always)]
            unsafe fn pick(x: Self::F, a: Self::F, b: Self::F) -> Self::F {
                let zero = _mm256_setzero_ps();
                let (low, high) = (_mm256_cmp_ps::<_CMP_GT_OQ>(x[0], zero), _mm256_cmp_ps::<_CMP_GT_OQ>(x[1], zero));
                [_mm256_blendv_ps(b[0], a[0], low), _mm256_blendv_ps(b[1], a[1], high)]
            }
        }
    };
}
pub(super) use lanes_of_two_ymm;

lanes_of_two_ymm!(Avx2, true);
