//! Micro-kernels for AVX2: products of unsigned weights and signed activations into 16-bit lanes
//! (`vpmaddubsw`), widened (`vpmaddwd`, which applies the integer scale on the way) only when the
//! lanes are full. The bounds are derived at [`Codes`].
//!
//! Minimums are added behind the products, not before them as in [`super::dp`]: with sixteen registers there is no room for
//! both, and q5_1 loses 17 % (512 columns, Zen 4, 2026-11-30). There are no fused kernels that would have to add in the same
//! order.

use super::{add_block32, add_min32, add_super256, dp::Structure, finish, subtract_mins};
use crate::formats::{Codes, LINE};
use crate::isa::Lanes;
use crate::isa::avx2::{Avx2, F2, I2};
use core::arch::x86_64::*;

#[inline(always)]
unsafe fn load(p: *const u8) -> I2 {
    Avx2::load(p)
}

#[inline(always)]
unsafe fn bcast(p: *const u8) -> __m256i {
    _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
}

/// With `PIN`, keeps the compiler from regrouping a chain of additions: its trees of partial sums need more registers than
/// there are, and spill in the middle of the loop. q4_0 needs 9.4 instructions per 64 MAC with it and 10.8 without; only
/// q4_K loses (`kernel-choices`).
#[inline(always)]
unsafe fn chain<const PIN: bool>(v: __m256i) -> __m256i {
    if PIN { pin(v) } else { v }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pin(mut v: __m256i) -> __m256i {
    // SAFETY: no instruction.
    core::arch::asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags));
    v
}

/// `groups` steps of four `k` into 16-bit lanes, starting from `acc` or, without it, from nothing.
#[inline(always)]
unsafe fn dot16<const NC: usize, const PIN: bool>(
    seed: Option<*const u8>,
    codes: *const u8,
    act: *const u8,
    groups: usize,
) -> [I2; NC] {
    let mut acc = [[_mm256_setzero_si256(); 2]; NC];
    if let Some(seed) = seed {
        for (c, acc) in acc.iter_mut().enumerate() {
            *acc = [bcast(seed.add(4 * c)); 2];
        }
    }
    for g in 0..groups {
        let w = load(codes.add(g * LINE));
        for (c, acc) in acc.iter_mut().enumerate() {
            let a = bcast(act.add((g * NC + c) * 4));
            let p = [_mm256_maddubs_epi16(w[0], a), _mm256_maddubs_epi16(w[1], a)];
            let sum = [_mm256_add_epi16(acc[0], p[0]), _mm256_add_epi16(acc[1], p[1])];
            *acc = [chain::<PIN>(sum[0]), chain::<PIN>(sum[1])];
        }
    }
    acc
}

/// The same for signed weights, widened at every step. `|w|` is at most 128 and a pair of products
/// at most `128 * 127 * 2 = 32512`, so nothing saturates.
#[inline(always)]
unsafe fn dot32_signed<const NC: usize>(
    codes: *const u8,
    magnitudes: *const u8,
    act: *const u8,
    groups: usize,
) -> [I2; NC] {
    let one = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_si256(); 2]; NC];
    for g in 0..groups {
        let w = load(codes.add(g * LINE));
        let u = load(magnitudes.add(g * LINE));
        for (c, acc) in acc.iter_mut().enumerate() {
            let a = bcast(act.add((g * NC + c) * 4));
            for v in 0..2 {
                let p = _mm256_maddubs_epi16(u[v], _mm256_sign_epi8(a, w[v]));
                acc[v] = _mm256_add_epi32(acc[v], _mm256_madd_epi16(p, one));
            }
        }
    }
    acc
}

#[inline(always)]
unsafe fn widen(acc: I2, scale: I2) -> I2 {
    [_mm256_madd_epi16(acc[0], scale[0]), _mm256_madd_epi16(acc[1], scale[1])]
}

/// Exact sums of a block, scale 1.
#[inline(always)]
unsafe fn block_sums<T: Structure, const NC: usize>(codes: *const u8, act: *const u8, aux: *const u8) -> [I2; NC] {
    let shape = T::SHAPE;
    let seed = (!shape.min).then_some(aux);
    let one = [_mm256_set1_epi16(1); 2];
    match shape.codes {
        Codes::Signed => dot32_signed::<NC>(codes, codes.add(shape.magnitudes_at()), act, 8),
        Codes::Float(_) | Codes::Bf16Pairs => unreachable!("values without codes"),
        Codes::Whole | Codes::Folded => unreachable!("a super-block"),
        Codes::Wide => dot16::<NC, true>(seed, codes, act, 8).map(|a| widen(a, one)),
        Codes::Narrow => {
            let lo = dot16::<NC, true>(seed, codes, act, 4).map(|a| widen(a, one));
            let hi = dot16::<NC, true>(None, codes.add(4 * LINE), act.add(16 * NC), 4).map(|a| widen(a, one));
            std::array::from_fn(|c| Avx2::add(lo[c], hi[c]))
        }
    }
}

/// Blocks of 32 with one scale (and a minimum), or with two scales.
///
/// # Safety
/// See [`super::MicroFn`].
#[inline(always)]
pub unsafe fn block32<T: Structure, const NC: usize>(
    mut panel: *const u8,
    mut act: *const u8,
    blocks: usize,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
) {
    let shape = T::SHAPE;
    let format = shape.act(true);
    let mut acc: [F2; NC] = [Avx2::splatf(0.0); NC];
    for _ in 0..blocks {
        let aux = act.add(format.block * NC);
        let da = aux.add(4 * NC * format.aux_words());
        if shape.sub == 16 {
            let one = [_mm256_set1_epi16(1); 2];
            for s in 0..2 {
                let (seed, codes) = (Some(aux.add(4 * NC * s)), panel.add(s * 4 * LINE));
                let isum = dot16::<NC, true>(seed, codes, act.add(s * 16 * NC), 4).map(|a| widen(a, one));
                add_block32::<Avx2, NC>(&mut acc, isum, s, shape, panel, da);
            }
        } else {
            let isum = block_sums::<T, NC>(panel, act, aux);
            add_block32::<Avx2, NC>(&mut acc, isum, 0, shape, panel, da);
            add_min32::<Avx2, NC>(&mut acc, shape, panel, aux);
        }
        panel = panel.add(shape.panel_record(true));
        act = act.add(format.record() * NC);
    }
    finish::<Avx2, NC>(acc, dst, rows, first);
}

/// Super-blocks of 256 with integer scales (and mins) per sub-block.
///
/// The integer sum of a super-block is at most `32 * 127 * 128 * 256 < 2^28` (Q6_K).
///
/// # Safety
/// See [`super::MicroFn`].
#[inline(always)]
pub unsafe fn super256<T: Structure, const NC: usize>(
    mut panel: *const u8,
    mut act: *const u8,
    blocks: usize,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
) {
    let shape = T::SHAPE;
    let format = shape.act(true);
    let mut acc: [F2; NC] = [Avx2::splatf(0.0); NC];
    for _ in 0..blocks {
        let aux = act.add(format.block * NC);
        let da = aux.add(4 * NC * format.aux_words());
        let d = Avx2::loadf(panel.add(shape.d_at()));
        if matches!(shape.codes, Codes::Signed) {
            let mut sum: [F2; NC] = [Avx2::splatf(0.0); NC];
            let groups = shape.sub / 4;
            for s in 0..256 / shape.sub {
                let at = s * groups;
                let (codes, magnitudes) = (panel.add(at * LINE), panel.add(shape.magnitudes_at() + at * LINE));
                let isum = dot32_signed::<NC>(codes, magnitudes, act.add(at * NC * 4), groups);
                let scale = Avx2::loadf(panel.add(shape.scales_at() + s * LINE));
                for c in 0..NC {
                    sum[c] = Avx2::fma(Avx2::cvt(isum[c]), scale, sum[c]);
                }
            }
            add_super256::<Avx2, NC>(&mut acc, sum, d, da);
        } else {
            let mut sum: [I2; NC] = [[_mm256_setzero_si256(); 2]; NC];
            let per = match shape.codes {
                Codes::Whole => 64,
                Codes::Wide => 8,
                _ => 4,
            };
            for s in 0..64 / per {
                let sub = s * per * 4 / shape.sub;
                let seed = (!shape.min).then_some(aux.add(4 * NC * sub));
                let (codes, act) = (panel.add(s * per * LINE), act.add(s * per * NC * 4));
                let a = if per == 8 {
                    dot16::<NC, false>(seed, codes, act, 8)
                } else {
                    dot16::<NC, true>(seed, codes, act, per)
                };
                let scale = load(panel.add(shape.scales_at() + sub * LINE));
                for c in 0..NC {
                    sum[c] = Avx2::add(sum[c], widen(a[c], scale));
                }
            }
            let mut scaled = [Avx2::splatf(0.0); NC];
            for c in 0..NC {
                scaled[c] = Avx2::cvt(sum[c]);
            }
            add_super256::<Avx2, NC>(&mut acc, scaled, d, da);
        }
        if shape.min {
            let mut msum: [I2; NC] = [[_mm256_setzero_si256(); 2]; NC];
            for p in 0..format.aux_words() {
                let m = load(panel.add(shape.mins_at() + p * LINE));
                for (c, msum) in msum.iter_mut().enumerate() {
                    *msum = Avx2::add(*msum, widen(m, [bcast(aux.add((p * NC + c) * 4)); 2]));
                }
            }
            subtract_mins::<Avx2, NC>(&mut acc, msum, shape, panel, da);
        }
        panel = panel.add(shape.panel_record(true));
        act = act.add(format.record() * NC);
    }
    finish::<Avx2, NC>(acc, dst, rows, first);
}
