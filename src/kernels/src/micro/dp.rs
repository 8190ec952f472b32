//! Micro-kernels for ISAs with 32-bit accumulation: AVX-512 VNNI at 512 and 256 bits, and the
//! portable tier. Weights are unsigned; their offset is the accumulator's start value (the seed of
//! the activation record), so it costs nothing.
//!
//! A 32-bit lane holds at most `255 * 127 * 32 < 2^20` in magnitude, plus a seed of the same size:
//! no overflow, and the conversion to `f32` is exact.

use super::{add_block32, add_min32, add_super256, finish, subtract_mins};
use crate::formats::{LINE, Shape};
use crate::isa::{Dot, Lanes};

/// A weight type, as a parameter of a micro-kernel.
pub trait Structure {
    /// The weight type's structure.
    const SHAPE: Shape;
}

/// `groups` steps of four `k`: the inner loop of everything here.
#[inline(always)]
unsafe fn dot_groups<S: Dot, const NC: usize>(
    mut acc: [S::I; NC],
    codes: *const u8,
    act: *const u8,
    groups: usize,
) -> [S::I; NC] {
    for g in 0..groups {
        let w = S::load(codes.add(g * LINE));
        for (c, acc) in acc.iter_mut().enumerate() {
            *acc = S::dot4(*acc, w, S::bcast(act.add((g * NC + c) * 4)));
        }
    }
    acc
}

/// Start values of the accumulators: the seeds at `aux`, or zero.
#[inline(always)]
unsafe fn start<S: Lanes, const NC: usize>(seeded: bool, aux: *const u8) -> [S::I; NC] {
    let mut acc = [S::splat(0); NC];
    if seeded {
        for (c, acc) in acc.iter_mut().enumerate() {
            *acc = S::bcast(aux.add(4 * c));
        }
    }
    acc
}

/// Blocks of 32 with one scale (and a minimum), or with two scales.
///
/// # Safety
/// See [`super::MicroFn`].
#[inline(always)]
pub unsafe fn block32<S: Dot, T: Structure, const NC: usize>(
    mut panel: *const u8,
    mut act: *const u8,
    blocks: usize,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
) {
    let shape = T::SHAPE;
    let format = shape.act(false);
    let groups = shape.sub / 4;
    let mut acc = [S::splatf(0.0); NC];
    for _ in 0..blocks {
        let aux = act.add(format.block * NC);
        let da = aux.add(4 * NC * format.aux_words());
        for s in 0..32 / shape.sub {
            let start = start::<S, NC>(!shape.min, aux.add(4 * NC * s));
            let (codes, act) = (panel.add(s * groups * LINE), act.add(s * groups * NC * 4));
            let isum = dot_groups::<S, NC>(start, codes, act, groups);
            if s == 0 {
                add_min32::<S, NC>(&mut acc, shape, panel, aux);
            }
            add_block32::<S, NC>(&mut acc, isum, s, shape, panel, da);
        }
        panel = panel.add(shape.panel_record(false));
        act = act.add(format.record() * NC);
    }
    finish::<S, NC>(acc, dst, rows, first);
}

/// Super-blocks of 256 with integer scales (and mins) per sub-block.
///
/// The scaled sums of a super-block are integers kept in `f32`; they are exact below `2^24`.
///
/// # Safety
/// See [`super::MicroFn`].
#[inline(always)]
pub unsafe fn super256<S: Dot, T: Structure, const NC: usize>(
    mut panel: *const u8,
    mut act: *const u8,
    blocks: usize,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
) {
    let shape = T::SHAPE;
    let format = shape.act(false);
    let groups = shape.sub / 4;
    let mut acc = [S::splatf(0.0); NC];
    for _ in 0..blocks {
        let aux = act.add(format.block * NC);
        let da = aux.add(4 * NC * format.aux_words());
        let mut sum = [S::splatf(0.0); NC];
        for s in 0..256 / shape.sub {
            let isum = dot_groups::<S, NC>(
                start::<S, NC>(!shape.min, aux.add(4 * NC * s)),
                panel.add(s * groups * LINE),
                act.add(s * groups * NC * 4),
                groups,
            );
            if shape.sub == 256 {
                // the only scale is one
                for c in 0..NC {
                    sum[c] = S::cvt(isum[c]);
                }
                break;
            }
            let scale = S::loadf(panel.add(shape.scales_at() + s * LINE));
            for c in 0..NC {
                sum[c] = S::fma(S::cvt(isum[c]), scale, sum[c]);
            }
        }
        if shape.min {
            let mut msum = [S::splat(0); NC];
            for p in 0..format.aux_words() {
                let m = S::load(panel.add(shape.mins_at() + p * LINE));
                for (c, msum) in msum.iter_mut().enumerate() {
                    *msum = S::dot2(*msum, m, S::bcast(aux.add((p * NC + c) * 4)));
                }
            }
            subtract_mins::<S, NC>(&mut acc, msum, shape, panel, da);
        }
        let d = S::loadf(panel.add(shape.d_at()));
        add_super256::<S, NC>(&mut acc, sum, d, da);
        panel = panel.add(shape.panel_record(false));
        act = act.add(format.record() * NC);
    }
    finish::<S, NC>(acc, dst, rows, first);
}
