//! Weights fetched from memory before they are read.

use crate::formats::LINE;
use crate::width::DataPath;
use core::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// The cache that lines are fetched into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Level 1, `prefetcht0`.
    Level1,
    /// Level 2, `prefetcht1`.
    Level2,
}

impl Cache {
    /// The one to fetch into on CPUs that compute 512-bit operations so. (AMD EPYC, q4_K, 2048 x 2048 from memory, fused, us
    /// with one and four columns. Zen 5, 2026-11-29, into level 1: 55, 79. Zen 4, 2026-11-30: into level 1 239, 229, because
    /// few lines can be on their way to it at a time; into level 2 91, 137.)
    pub const fn of(path: DataPath) -> Self {
        match path {
            DataPath::Full => Cache::Level1,
            DataPath::Split => Cache::Level2,
        }
    }

    /// Fetches `bytes` bytes from `p` on, a line for every [`LINE`] bytes begun. They need not be valid: a prefetch does
    /// not fault.
    #[inline(always)]
    pub(crate) fn fetch(self, p: *const u8, bytes: usize) {
        // One question for all lines: an instruction's hint is a constant.
        match self {
            // SAFETY: a prefetch reads nothing; its instruction is part of x86-64.
            Cache::Level1 => each_line(p, bytes, |p| unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }),
            // SAFETY: as above.
            Cache::Level2 => each_line(p, bytes, |p| unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }),
        }
    }
}

/// How far ahead a kernel that reads rows as they lie fetches, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// `None`: nothing is fetched, the hardware's prefetcher does it.
    pub into: Option<Cache>,
    /// Bytes from what is read to what is fetched; for floats the most of them, else it is the next rows.
    pub ahead: u32,
}

impl Fetch {
    /// Nothing is fetched.
    pub const NONE: Self = Fetch { into: None, ahead: 0 };

    /// Quantised rows, one after the other. (AMD EPYC, Zen 5, 2026-11-29, one column, weights in memory, GB/s without and
    /// so: q8_0 33.7, 40.6; q4_K 33.4, 38.9; q6_K 33.4, 36.6; q4_0 31.9, 39.2; 1 to 2 KiB ahead do nothing, level 2 gains less.
    /// Zen 4, 2026-11-30, level 2, 6 KiB ahead: q4_K 27, 25; q6_K 29, 26; q8_0 28, 26; q4_0 25, 23; level 1 is slower still.)
    pub const fn rows(path: DataPath) -> Self {
        match path {
            DataPath::Full => Fetch { into: Some(Cache::Level1), ahead: 6 << 10 },
            DataPath::Split => Self::NONE,
        }
    }

    /// Floats, several rows at a time. (AMD EPYC, one column, k = 2048, GB/s without and four rows ahead. Zen 5, 2026-11-29,
    /// into level 1: f16 26.5, 32.9. Zen 4, 2026-11-30, into level 2: f16 17.0, 21.7, with four columns 14.1, 20.1; bf16 19.0,
    /// 23.1; into level 1: f16 13.9.)
    pub const fn floats(path: DataPath) -> Self {
        match path {
            DataPath::Full => Fetch { into: Some(Cache::Level1), ahead: 32 << 10 },
            DataPath::Split => Fetch { into: Some(Cache::Level2), ahead: 256 << 10 },
        }
    }

    /// The same for `R` rows that are read together and are so many bytes long: the next such rows, if they are not too
    /// far; else what lies a quarter of that ahead in each of them.
    #[inline(always)]
    pub(crate) fn next_rows(self, bytes: usize) -> Self {
        Fetch { ahead: if bytes <= self.ahead as usize { bytes as u32 } else { self.ahead / 4 }, ..self }
    }

    /// Fetches the `bytes` that lie `ahead` of `p`, if anything. (One question for all rows of a turn instead of one for each row is a
    /// third fewer instructions with one column, and slower with four: same machine and day, us: f16 359, 380; four 486, 466; bf16
    /// four 431, 395.)
    #[inline(always)]
    pub(crate) fn lines(self, p: *const u8, bytes: usize) {
        if let Some(cache) = self.into {
            cache.fetch(p.wrapping_add(self.ahead as usize), bytes);
        }
    }

    /// The same into the level-1 cache: by rows the kernels that fetch have no question in their loop. They are chosen where
    /// [`Self::into`] is anything.
    #[inline(always)]
    pub(crate) fn lines_near(self, p: *const u8, bytes: usize) {
        Cache::Level1.fetch(p.wrapping_add(self.ahead as usize), bytes);
    }
}

#[inline(always)]
fn each_line(p: *const u8, bytes: usize, fetch: impl Fn(*const u8)) {
    for i in 0..bytes.div_ceil(LINE) {
        fetch(p.wrapping_add(i * LINE));
    }
}
