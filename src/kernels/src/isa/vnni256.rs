//! AVX-512 VNNI in 256-bit registers (AVX-512VL): for parts that split 512-bit operations.

use super::{Dot, avx2::lanes_of_two_ymm, avx512::Avx512};
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

// SAFETY: as for `Lanes`.
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
