//! AVX-512 VNNI in 512-bit registers: one `zmm` holds the sixteen rows.

use super::{Dot, DotBf16, LANES, Lanes, Quads, Real};
use core::arch::x86_64::*;

/// Proof that the CPU and the operating system support AVX-512 F, BW, DQ, VL and VNNI, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// `None` where a feature is missing. The standard library's detection includes the operating
    /// system's support (XCR0).
    pub fn new() -> Option<Self> {
        let ok = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        ok.then_some(Avx512(()))
    }
}

/// Proof that the CPU supports AVX512_BF16 beside the features of [`Avx512`].
#[derive(Clone, Copy, Debug)]
pub struct Bf16(());

impl Bf16 {
    /// `None` where a feature is missing.
    pub fn new() -> Option<Self> {
        Avx512::new().filter(|_| is_x86_feature_detected!("avx512bf16")).map(|_| Bf16(()))
    }
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    debug_assert!((1..=LANES).contains(&n));
    (0xffff_u32 >> (LANES - n)) as __mmask16
}

/// A mask of all lanes, which the compiler does not know to be all. It splits a `vpdpwssd` without mask into a product
/// and an addition, and then needs a third instruction for the broadcast.
#[inline]
#[target_feature(enable = "avx512f")]
fn all() -> __mmask16 {
    let k: __mmask16;
    // SAFETY: sets one register and touches nothing else.
    unsafe { core::arch::asm!("kxnorw {0}, {0}, {0}", out(kreg) k, options(pure, nomem, nostack, preserves_flags)) };
    k
}

/// Sixteen bytes from rows `i`, `4 + i`, `8 + i` and `12 + i`, so that two unpack steps leave the rows
/// in order.
#[inline(always)]
unsafe fn quads(rows: &Quads, i: usize, at: usize) -> __m512i {
    let v = _mm512_castsi128_si512(_mm_loadu_si128(rows.row(0, i, at).cast()));
    let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(rows.row(1, i, at).cast()));
    let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(rows.row(2, i, at).cast()));
    _mm512_inserti32x4::<3>(v, _mm_loadu_si128(rows.row(3, i, at).cast()))
}

/// See [`Lanes::after`].
#[inline]
#[target_feature(enable = "avx512f")]
fn index_after(mut i: isize, v: __m512) -> isize {
    // SAFETY: no instruction; the value stays as it is.
    unsafe {
        core::arch::asm!("/* {0} {1} */", inout(reg) i, in(zmm_reg) v, options(pure, nomem, nostack, preserves_flags));
    }
    i
}

/// The sum of the four quarters.
#[inline(always)]
unsafe fn add_quarters(v: __m512) -> __m128 {
    let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v))
}

// SAFETY: only reached through kernels that enable these features, which the registry hands out
// after `Avx512::new()` succeeded; pointers are used only for the bytes the trait names.
unsafe impl Lanes for Avx512 {
    type I = __m512i;
    type F = __m512;
    const ACC16: bool = false;
    const REGISTERS: usize = 1;
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, v: __m512i) {
        _mm512_storeu_si512(p.cast(), v)
    }
    #[inline(always)]
    unsafe fn loadf(p: *const u8) -> __m512 {
        _mm512_loadu_ps(p.cast())
    }
    #[inline(always)]
    unsafe fn storef(p: *mut u8, v: __m512) {
        _mm512_storeu_ps(p.cast(), v)
    }
    #[inline(always)]
    unsafe fn loadf_n(p: *const f32, n: usize) -> __m512 {
        _mm512_maskz_loadu_ps(mask(n), p)
    }
    #[inline(always)]
    unsafe fn storef_n(p: *mut f32, v: __m512, n: usize) {
        _mm512_mask_storeu_ps(p, mask(n), v)
    }
    #[inline(always)]
    unsafe fn bcast(p: *const u8) -> __m512i {
        _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn bcastf(p: *const u8) -> __m512 {
        _mm512_set1_ps(p.cast::<f32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn splat(x: i32) -> __m512i {
        _mm512_set1_epi32(x)
    }
    #[inline(always)]
    unsafe fn splatf(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        _mm512_and_si512(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, b)
    }
    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        _mm512_xor_si512(a, b)
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512i, b: __m512i) -> __m512i {
        _mm512_sub_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn count_above(count: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_mask_sub_epi32(count, _mm512_cmpgt_epi32_mask(a, b), count, _mm512_set1_epi32(-1))
    }
    #[inline(always)]
    unsafe fn shl(a: __m512i, n: u32) -> __m512i {
        _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) // a constant: becomes the immediate form
    }
    #[inline(always)]
    unsafe fn shr(a: __m512i, n: u32) -> __m512i {
        _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) // a constant: becomes the immediate form
    }
    #[inline(always)]
    unsafe fn sar(a: __m512i, n: u32) -> __m512i {
        _mm512_sra_epi32(a, _mm_cvtsi32_si128(n as i32)) // a constant: becomes the immediate form
    }
    #[inline(always)]
    unsafe fn lut16(table: &[i8; 16], idx: __m512i) -> __m512i {
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), idx)
    }
    #[inline(always)]
    unsafe fn spread_bits<const G: usize>(x: __m512i) -> __m512i {
        // byte G/2 of the lane into all four, then one bit of it per byte
        let b = (G / 2) as i32 * 0x0101_0101;
        let (i0, i1, i2, i3) = (b, b + 0x0404_0404, b + 0x0808_0808, b + 0x0c0c_0c0c);
        let idx = _mm512_broadcast_i32x4(_mm_setr_epi32(i0, i1, i2, i3));
        let bits = _mm512_set1_epi32(0x0804_0201 << (4 * (G % 2)));
        let k = _mm512_test_epi8_mask(_mm512_shuffle_epi8(x, idx), bits);
        _mm512_maskz_set1_epi8(k, 0x10)
    }
    #[inline(always)]
    unsafe fn gather(table: *const u32, index: __m512i) -> __m512i {
        _mm512_i32gather_epi32::<4>(index, table.cast())
    }
    #[inline(always)]
    unsafe fn add_bytes(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi8(a, b)
    }
    #[inline(always)]
    unsafe fn abs_bytes(a: __m512i) -> __m512i {
        _mm512_abs_epi8(a)
    }
    #[inline(always)]
    unsafe fn mul_words(a: __m512i, b: __m512i) -> __m512i {
        _mm512_mullo_epi16(a, b)
    }
    #[inline(always)]
    unsafe fn pick_bytes<const WHICH: u32>(a: __m512i) -> __m512i {
        let which = WHICH as i32;
        let (i1, i2, i3) = (which + 0x0404_0404, which + 0x0808_0808, which + 0x0c0c_0c0c);
        _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(_mm_setr_epi32(which, i1, i2, i3)))
    }
    #[inline(always)]
    unsafe fn thirds(a: __m512i) -> __m512i {
        // a - 1 and half of a, their mean rounded down: three quarters of a, whose upper two bits are the result
        let b = _mm512_subs_epu8(a, _mm512_set1_epi8(1));
        let v = _mm512_avg_epu8(b, _mm512_avg_epu8(b, _mm512_setzero_si512()));
        _mm512_and_si512(_mm512_srli_epi16::<6>(v), _mm512_set1_epi8(3))
    }
    #[inline(always)]
    unsafe fn cvt(a: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(a)
    }
    #[inline(always)]
    unsafe fn half_lo(a: __m512i) -> __m512 {
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a))
    }
    #[inline(always)]
    unsafe fn mulf(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn after(i: isize, v: __m512) -> isize {
        index_after(i, v)
    }
    #[inline(always)]
    unsafe fn last(a: __m512, n: usize) -> __m512 {
        _mm512_maskz_mov_ps((0xffff_u32 << (LANES - n)) as __mmask16, a)
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        // within 128 bits first, as `store_sums` does
        let v = _mm512_add_ps(a, _mm512_permute_ps::<0b01_00_11_10>(a));
        let v = _mm512_add_ps(v, _mm512_permute_ps::<0b10_11_00_01>(v));
        _mm_cvtss_f32(add_quarters(v))
    }
    #[inline(always)]
    unsafe fn store_sums(p: *mut f32, v: [__m512; 4]) {
        let pairs = |a, b| _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
        let (ab, cd) = (pairs(v[0], v[1]), pairs(v[2], v[3]));
        let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
        let v = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
        _mm_storeu_ps(p, add_quarters(v));
    }
    #[inline(always)]
    unsafe fn widen_halves(p: *const u8) -> __m512 {
        // exact, so no rounding; `_mm512_cvtph_ps` asks for suppressed exceptions and so for a register
        _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn widen_bf16(p: *const u8) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fnmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn load_words4(rows: &Quads, at: usize) -> [__m512i; 4] {
        let (a, b) = (quads(rows, 0, at), quads(rows, 1, at));
        let (c, d) = (quads(rows, 2, at), quads(rows, 3, at));
        let ab0 = _mm512_unpacklo_epi32(a, b);
        let ab1 = _mm512_unpackhi_epi32(a, b);
        let cd0 = _mm512_unpacklo_epi32(c, d);
        let cd1 = _mm512_unpackhi_epi32(c, d);
        [
            _mm512_unpacklo_epi64(ab0, cd0),
            _mm512_unpackhi_epi64(ab0, cd0),
            _mm512_unpacklo_epi64(ab1, cd1),
            _mm512_unpackhi_epi64(ab1, cd1),
        ]
    }
    #[inline(always)]
    unsafe fn load_words1(rows: &Quads, at: usize) -> __m512i {
        use super::avx2::words4;
        let v = _mm512_castsi128_si512(words4(rows, 0, at));
        let v = _mm512_inserti32x4::<1>(v, words4(rows, 1, at));
        let v = _mm512_inserti32x4::<2>(v, words4(rows, 2, at));
        _mm512_inserti32x4::<3>(v, words4(rows, 3, at))
    }
    #[inline(always)]
    unsafe fn load_halves(rows: &Quads, at: usize) -> __m512i {
        _mm512_cvtepu16_epi32(super::avx2::halves16(rows, at))
    }
}

// SAFETY: only kernels that enable these features reach it; the registry hands them out after `Avx512::new()`.
unsafe impl Real for Avx512 {
    #[inline(always)]
    unsafe fn maxf(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn largest(a: __m512) -> f32 {
        let v = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
        super::avx2::largest8(v)
    }
    #[inline(always)]
    unsafe fn addf(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn divf(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn roundf(a: __m512) -> __m512 {
        _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(a)
    }
    #[inline(always)]
    unsafe fn scale2(a: __m512, n: __m512) -> __m512 {
        let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(n, _mm512_set1_ps(-126.0));
        _mm512_maskz_scalef_ps(normal, a, n)
    }
    #[inline(always)]
    unsafe fn scale2_wide(a: __m512, n: __m512) -> __m512 {
        _mm512_scalef_ps(a, n)
    }
    #[inline(always)]
    unsafe fn minf(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn subf(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn pick(x: __m512, a: __m512, b: __m512) -> __m512 {
        _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_setzero_ps()), a)
    }
}

// SAFETY: only kernels that enable these features reach it; the registry hands them out after `Avx512::new()`.
unsafe impl Dot for Avx512 {
    #[inline(always)]
    unsafe fn dot4(acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, w, a)
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        _mm512_mask_dpwssd_epi32(acc, all(), w, a)
    }
}

/// Inline assembly instead of the intrinsic, in which the compiler makes a load an operand.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_bf16_registers(mut acc: __m512, w: __m512i, a: __m512i) -> __m512 {
    // SAFETY: the feature is enabled; touches no memory.
    unsafe {
        core::arch::asm!("vdpbf16ps {0}, {1}, {2}", inout(zmm_reg) acc, in(zmm_reg) w, in(zmm_reg) a,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

// SAFETY: only reached through kernels that enable AVX512_BF16, handed out after `Bf16::new()`.
unsafe impl DotBf16 for Avx512 {
    #[inline(always)]
    unsafe fn dot_bf16(acc: __m512, w: __m512i, a: __m512i) -> __m512 {
        dot_bf16_registers(acc, w, a)
    }
    #[inline(always)]
    unsafe fn dot_bf16_pair(acc: __m512, w: __m512i, a: *const u8) -> __m512 {
        use core::mem::transmute;
        _mm512_dpbf16_ps(acc, transmute::<__m512i, __m512bh>(w), transmute::<__m512i, __m512bh>(Self::bcast(a)))
    }
    #[inline(always)]
    unsafe fn to_bf16_pairs(low: __m512, high: __m512) -> __m512i {
        use core::mem::transmute;
        // the words of `low`, then those of `high`: both of a lane are brought together
        let words = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
        let (evens, odds) =
            (_mm512_cvtepu16_epi32(_mm512_castsi512_si256(words)), _mm512_extracti64x4_epi64::<1>(words));
        _mm512_or_si512(evens, _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odds)))
    }
    #[inline(always)]
    unsafe fn last_words(a: __m512i, n: usize) -> __m512i {
        _mm512_maskz_mov_epi16((0xffff_ffff_u64 << (2 * LANES - n)) as __mmask32, a)
    }
}
