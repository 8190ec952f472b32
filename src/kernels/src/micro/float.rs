//! Micro-kernels for F16, BF16 and F32 weights: a panel of values times broadcast activations.
//!
//! Every result is one chain of additions per piece of K, or up to four of them where a tile has too
//! few columns to keep the multipliers busy.

use super::finish;
use crate::formats::{FLOAT_RECORD, LINE};
use crate::isa::{DotBf16, Lanes};

/// Most chains per result.
pub(super) const CHAINS: usize = 4;

/// Chains per result: about eight independent additions in all (two per cycle, latency four).
pub(super) const fn chains<S: Lanes>(nc: usize) -> usize {
    match 8 / (nc * S::REGISTERS) {
        0 | 1 => 1,
        2 | 3 => 2,
        _ => CHAINS,
    }
}

/// Adds the chains up.
#[inline(always)]
pub(super) unsafe fn join<S: Lanes, const NC: usize>(acc: [[S::F; NC]; CHAINS]) -> [S::F; NC] {
    let n = chains::<S>(NC);
    let mut sum = acc[0];
    for c in 0..NC {
        if n > 1 {
            sum[c] = S::fma(acc[1][c], S::splatf(1.0), sum[c]);
        }
        if n > 2 {
            let high = S::fma(acc[3][c], S::splatf(1.0), acc[2][c]);
            sum[c] = S::fma(high, S::splatf(1.0), sum[c]);
        }
    }
    sum
}

/// Lines of `f32`.
///
/// # Safety
/// See [`super::MicroFn`].
#[inline(always)]
pub unsafe fn values<S: Lanes, const NC: usize>(
    mut panel: *const u8,
    mut act: *const u8,
    blocks: usize,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
) {
    let mut acc = [[S::splatf(0.0); NC]; CHAINS];
    for _ in 0..blocks * (FLOAT_RECORD / CHAINS) {
        for i in 0..CHAINS {
            let w = S::loadf(panel.add(i * LINE));
            let acc = &mut acc[i % chains::<S>(NC)];
            for (c, acc) in acc.iter_mut().enumerate() {
                *acc = S::fma(w, S::bcastf(act.add((i * NC + c) * 4)), *acc);
            }
        }
        panel = panel.add(CHAINS * LINE);
        act = act.add(CHAINS * NC * 4);
    }
    finish::<S, NC>(join::<S, NC>(acc), dst, rows, first);
}

/// Lines of `bf16` pairs.
///
/// # Safety
/// See [`super::MicroFn`]; the CPU has AVX512_BF16.
#[inline(always)]
pub unsafe fn pairs<S: DotBf16, const NC: usize>(
    mut panel: *const u8,
    mut act: *const u8,
    blocks: usize,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
) {
    let mut acc = [[S::splatf(0.0); NC]; CHAINS];
    for _ in 0..blocks * (FLOAT_RECORD / 2 / CHAINS) {
        for i in 0..CHAINS {
            let w = S::load(panel.add(i * LINE));
            let acc = &mut acc[i % chains::<S>(NC)];
            for (c, acc) in acc.iter_mut().enumerate() {
                *acc = S::dot_bf16_pair(*acc, w, act.add((i * NC + c) * 4));
            }
        }
        panel = panel.add(CHAINS * LINE);
        act = act.add(CHAINS * NC * 4);
    }
    finish::<S, NC>(join::<S, NC>(acc), dst, rows, first);
}
