//! AVX-512 VNNI in 256-bit registers (AVX-512VL): for CPUs on which they are faster than 512-bit ones.

use super::{Dot, DotBf16, Lanes, avx2::lanes_of_two_ymm, avx512::Avx512};
use core::arch::x86_64::*;

/// Proof that the CPU supports the features of [`Avx512`], used here at 256 bits.
#[derive(Clone, Copy, Debug)]
pub struct Vnni256(());

impl Vnni256 {
    /// `None` where a feature is missing.
    pub fn new() -> Option<Self> {
        Avx512::new().map(|_| Vnni256(()))
    }
}

lanes_of_two_ymm!(Vnni256, false);

// SAFETY: only kernels that enable these features reach it; the registry hands them out after `Vnni256::new()`.
unsafe impl Dot for Vnni256 {
    #[inline(always)]
    unsafe fn dot4(acc: Self::I, w: Self::I, a: Self::I) -> Self::I {
        [_mm256_dpbusd_epi32(acc[0], w[0], a[0]), _mm256_dpbusd_epi32(acc[1], w[1], a[1])]
    }
    #[inline(always)]
    unsafe fn dot2(acc: Self::I, w: Self::I, a: Self::I) -> Self::I {
        [_mm256_dpwssd_epi32(acc[0], w[0], a[0]), _mm256_dpwssd_epi32(acc[1], w[1], a[1])]
    }
}

/// Inline assembly instead of the intrinsic, in which the compiler makes a load an operand.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
fn dot_bf16_registers(mut acc: __m256, w: __m256i, a: __m256i) -> __m256 {
    // SAFETY: the features are enabled; touches no memory.
    unsafe {
        core::arch::asm!("vdpbf16ps {0}, {1}, {2}", inout(ymm_reg) acc, in(ymm_reg) w, in(ymm_reg) a,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

// SAFETY: only reached through kernels that enable AVX512_BF16, handed out after `Bf16::new()`.
unsafe impl DotBf16 for Vnni256 {
    #[inline(always)]
    unsafe fn dot_bf16(acc: Self::F, w: Self::I, a: Self::I) -> Self::F {
        [dot_bf16_registers(acc[0], w[0], a[0]), dot_bf16_registers(acc[1], w[1], a[1])]
    }
    #[inline(always)]
    unsafe fn dot_bf16_pair(acc: Self::F, w: Self::I, a: *const u8) -> Self::F {
        use core::mem::transmute;
        let a = <Self as Lanes>::bcast(a);
        [
            _mm256_dpbf16_ps(acc[0], transmute::<__m256i, __m256bh>(w[0]), transmute::<__m256i, __m256bh>(a[0])),
            _mm256_dpbf16_ps(acc[1], transmute::<__m256i, __m256bh>(w[1]), transmute::<__m256i, __m256bh>(a[1])),
        ]
    }
    #[inline(always)]
    unsafe fn to_bf16_pairs(low: Self::F, high: Self::F) -> Self::I {
        use core::mem::transmute;
        let mut pairs = [_mm256_setzero_si256(); 2];
        for (i, pairs) in pairs.iter_mut().enumerate() {
            let words = transmute::<__m256bh, __m256i>(_mm256_cvtne2ps_pbh(high[i], low[i]));
            let evens = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words));
            let odds = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(words));
            *pairs = _mm256_or_si256(evens, _mm256_slli_epi32::<16>(odds));
        }
        pairs
    }
    #[inline(always)]
    unsafe fn last_words(a: Self::I, n: usize) -> Self::I {
        let keep = (0xffff_ffff_u64 << (32 - n)) as u32;
        [_mm256_maskz_mov_epi16(keep as u16, a[0]), _mm256_maskz_mov_epi16((keep >> 16) as u16, a[1])]
    }
}
