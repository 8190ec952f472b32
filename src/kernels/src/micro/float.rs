//! Micro-kernels for F16, BF16 and F32 weights: a panel of values times broadcast activations.
//!
//! Every result is one chain of additions. Tiles of so few columns that one chain leaves the multipliers idle do not
//! come here: they have [`crate::gemv::float`].

use super::finish;
use crate::formats::{FLOAT_RECORD, LINE};
use crate::isa::{DotBf16, Lanes};

/// Lines of a turn of the loop.
pub(super) const UNROLLED: usize = 4;

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
    let mut acc = [S::splatf(0.0); NC];
    for _ in 0..blocks * (FLOAT_RECORD / UNROLLED) {
        for i in 0..UNROLLED {
            let w = S::loadf(panel.add(i * LINE));
            for (c, acc) in acc.iter_mut().enumerate() {
                *acc = S::fma(w, S::bcastf(act.add((i * NC + c) * 4)), *acc);
            }
        }
        panel = panel.add(UNROLLED * LINE);
        act = act.add(UNROLLED * NC * 4);
    }
    finish::<S, NC>(acc, dst, rows, first);
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
    let mut acc = [S::splatf(0.0); NC];
    for _ in 0..blocks * (FLOAT_RECORD / 2 / UNROLLED) {
        for i in 0..UNROLLED {
            let w = S::load(panel.add(i * LINE));
            for (c, acc) in acc.iter_mut().enumerate() {
                *acc = S::dot_bf16_pair(*acc, w, act.add((i * NC + c) * 4));
            }
        }
        panel = panel.add(UNROLLED * LINE);
        act = act.add(UNROLLED * NC * 4);
    }
    finish::<S, NC>(acc, dst, rows, first);
}
