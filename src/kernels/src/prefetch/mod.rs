//! Software prefetch of weights: one type for each way to compute a product.
//!
//! [`PanelPrefetch`] goes with products by panels, [`FusedPrefetch`] with fused products, [`GemvPrefetch`] with products
//! without panels. The addresses need not be valid: a prefetch does not fault.

mod fused;
mod gemv;
mod panel;

pub use fused::FusedPrefetch;
pub use gemv::GemvPrefetch;
pub(crate) use panel::PanelPrefetch;

use crate::formats::LINE;
use crate::isa::DataPath;
use core::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// The cache that a prefetch fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Level 1, `prefetcht0`.
    Level1,
    /// Level 2, `prefetcht1`.
    Level2,
}

impl Cache {
    /// The best one for fused products. Zen 4 (split) has few buffers for lines on their way to level 1: four columns of
    /// q4_K take 229 us by way of it, and 137 by way of level 2 (`kernel-choices`).
    pub const fn of(path: DataPath) -> Self {
        match path {
            DataPath::Full => Cache::Level1,
            DataPath::Split => Cache::Level2,
        }
    }

    /// Prefetches `bytes` bytes from `p` on, rounded up to whole lines. The addresses need not be valid.
    #[inline(always)]
    pub(crate) fn fetch(self, p: *const u8, bytes: usize) {
        // The test is outside of the loop: the hint of an instruction is a constant.
        match self {
            // SAFETY: a prefetch reads nothing; its instruction is part of x86-64.
            Cache::Level1 => each_line(p, bytes, |p| unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }),
            // SAFETY: a prefetch reads nothing; its instruction is part of x86-64.
            Cache::Level2 => each_line(p, bytes, |p| unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }),
        }
    }
}

#[inline(always)]
fn each_line(p: *const u8, bytes: usize, fetch: impl Fn(*const u8)) {
    for i in 0..bytes.div_ceil(LINE) {
        fetch(p.wrapping_add(i * LINE));
    }
}
