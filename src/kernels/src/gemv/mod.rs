//! Products without panels (GEMV): every row of weights is read once, as it lies in memory, by a few columns at most.
//! Packing costs more than it saves where few columns share a panel.
//!
//! [`float`] has F16, BF16 and F32 weights on every ISA. `block32` has quantised weights and one column,
//! `sums256` one or two (with the steps of `super256`, `q2_k` and `ternary`), `grid256` types with a grid and a few columns, with AVX-512 in 512-bit registers: sixteen 32-bit
//! lanes, which are added up at the end of a row.
//!
//! Every row is computed by itself. So the cuts of a product do not change a result.

mod block32;
mod dot;
pub mod float;
mod grid256;
mod q2_k;
mod sums256;
mod super256;
mod ternary;

pub(crate) use block32::{Block32, product32};
pub(crate) use dot::dot32;
pub(crate) use grid256::{ORDER as GRID_ORDER, product_grid};
pub(crate) use sums256::{Step256, product256};

use crate::isa::LANES;
use crate::prefetch::GemvPrefetch;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// Computes `rows` rows by `NC` columns, and reads each row once.
///
/// Row `r` is at `weights + r * stride`. Column `c` is a tile of its own at `act + c * act_stride`. `dst` points to
/// `NC` column pointers, each to the first of `rows` floats. `prefetch` says how far ahead weights are prefetched.
///
/// # Safety
/// `k` is at least 32. Rows must be readable for `k` elements, tiles for the records that hold `k` elements, the columns
/// writable for `rows` floats; the CPU has the ISA's features.
pub type GemvFn = unsafe fn(
    weights: *const u8,
    stride: usize,
    rows: usize,
    k: usize,
    act: *const u8,
    act_stride: usize,
    dst: *const *mut f32,
    prefetch: GemvPrefetch,
);

/// The operands of a product, see [`GemvFn`].
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub weights: *const u8,
    pub stride: usize,
    pub rows: usize,
    pub k: usize,
    pub act: *const u8,
    pub act_stride: usize,
    pub dst: *const *mut f32,
    pub prefetch: GemvPrefetch,
}

/// 64 bytes at `p`.
#[inline(always)]
unsafe fn load(p: *const u8) -> __m512i {
    _mm512_loadu_si512(p.cast())
}

/// Both nibbles of every byte.
#[inline(always)]
unsafe fn nibbles(q: __m512i) -> [__m512i; 2] {
    let m = _mm512_set1_epi8(15);
    [_mm512_and_si512(q, m), _mm512_and_si512(_mm512_srli_epi16::<4>(q), m)]
}

/// `a | (b & mask)`.
#[inline(always)]
unsafe fn or_masked(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, mask)
}

/// Adds, per lane, the two products of signed 16-bit `w` and `a`. Inline assembly instead of the intrinsic, which the
/// compiler splits into a product and an addition.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot2(mut acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
    // SAFETY: needs AVX-512 VNNI, as its callers do; touches no memory.
    core::arch::asm!("vpdpwssd {0}, {1}, {2}", inout(zmm_reg) acc, in(zmm_reg) w, in(zmm_reg) a,
        options(pure, nomem, nostack, preserves_flags));
    acc
}

/// Copies `n` (1 to 3) times `SIZE` bytes, without calling `memcpy`.
#[inline(always)]
pub(crate) unsafe fn copy<const SIZE: usize>(from: *const u8, to: *mut u8, n: usize) {
    match n {
        1 => core::ptr::copy_nonoverlapping(from, to, SIZE),
        2 => core::ptr::copy_nonoverlapping(from, to, 2 * SIZE),
        _ => core::ptr::copy_nonoverlapping(from, to, 3 * SIZE),
    }
}

/// Lanes of two vectors interleaved, each the sum of two within 128 bits.
#[inline(always)]
unsafe fn sums2(v: &[MaybeUninit<__m512>]) -> __m512d {
    let (a, b) = (v[0].assume_init(), v[1].assume_init());
    _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)))
}

/// For each 128 bits of four vectors their sums.
#[inline(always)]
unsafe fn sums4(v: &[MaybeUninit<__m512>]) -> __m512 {
    let (a, b) = (sums2(v), sums2(&v[2..]));
    let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
    _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
}

/// Adds neighbouring quarters of `a`, then of `b`.
#[inline(always)]
unsafe fn halve(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
}

/// The sums of sixteen vectors, the first in lane 0.
#[inline(always)]
unsafe fn sums16(v: &[MaybeUninit<__m512>; LANES]) -> __m512 {
    halve(halve(sums4(&v[..4]), sums4(&v[4..8])), halve(sums4(&v[8..12]), sums4(&v[12..])))
}

/// The sum of one, by the same additions.
#[inline(always)]
unsafe fn sum(v: __m512) -> f32 {
    let v = _mm512_add_ps(v, _mm512_permute_ps::<0b01_00_11_10>(v));
    let v = _mm512_add_ps(v, _mm512_permute_ps::<0b10_11_00_01>(v));
    let v = _mm512_add_ps(v, _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v));
    _mm512_cvtss_f32(_mm512_add_ps(v, _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v)))
}

/// How a row is computed, by `NC` columns. (Not a closure: those are not inlined where two places call them.)
trait Row<const NC: usize> {
    /// The products of the row at `p` with each column, in lanes still to be added up.
    unsafe fn row(o: Operands, p: *const u8) -> [__m512; NC];
}

/// Prefetches the first line of the small page after the one in which the row at `p` ends. The hardware's prefetcher stops
/// at the end of a page, and the address of the next one has to be looked up. In small pages q4_K gains from 24.4 to
/// 26.4 GB/s, in huge pages nothing (`kernel-choices`).
#[inline(always)]
unsafe fn touch_next_page(p: *const u8, stride: usize) {
    let next = p.wrapping_add(stride).map_addr(|a| (a | 4095) + 1);
    _mm_prefetch::<_MM_HINT_T1>(next.cast());
}

/// Computes all rows, one after the other: the hardware's prefetcher follows weights that are read in the order of memory.
/// q4_K reaches 43 GMAC/s so on Zen 4, and 21 with four rows at a time (`kernel-choices`).
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the indices are rows and columns, of several arrays
unsafe fn product<T: Row<NC>, const NC: usize>(o: Operands) {
    let dst = o.dst.cast::<[*mut f32; NC]>().read();
    let mut sums = [[MaybeUninit::<__m512>::uninit(); LANES]; NC];
    let mut first = 0;
    while first + LANES <= o.rows {
        for r in 0..LANES {
            let p = o.weights.add((first + r) * o.stride);
            touch_next_page(p, o.stride);
            let row = T::row(o, p);
            for c in 0..NC {
                sums[c][r].write(row[c]);
            }
        }
        for c in 0..NC {
            _mm512_storeu_ps(dst[c].add(first), sums16(&sums[c]));
        }
        first += LANES;
    }
    for r in first..o.rows {
        let row = T::row(o, o.weights.add(r * o.stride));
        for c in 0..NC {
            dst[c].add(r).write_unaligned(sum(row[c]));
        }
    }
}
