//! Micro-kernels: one weight panel (sixteen rows) times one activation tile (a few columns).

pub mod dp;
pub mod float;
pub mod fused;
pub mod madd;
pub mod pair;

use crate::formats::{LINE, Shape};
use crate::isa::Lanes;

/// Computes sixteen rows by `NC` columns over `blocks` records.
///
/// `dst` points to `NC` column pointers, each to the first of `rows` (1 to 16) floats. With `first`
/// the result is stored, otherwise it is added to what is there (the next piece of K).
///
/// # Safety
/// `panel` and `act` must be readable for `blocks` records of the kernel's formats, the columns
/// writable for `rows` floats; the CPU has the ISA's features.
pub type MicroFn =
    unsafe fn(panel: *const u8, act: *const u8, blocks: usize, dst: *const *mut f32, rows: usize, first: bool);

/// Writes or adds a tile.
#[inline(always)]
unsafe fn finish<S: Lanes, const NC: usize>(acc: [S::F; NC], dst: *const *mut f32, rows: usize, first: bool) {
    for (c, v) in acc.into_iter().enumerate() {
        let p = *dst.add(c);
        let v = if first { v } else { S::fma(v, S::splatf(1.0), S::loadf_n(p, rows)) };
        S::storef_n(p, v, rows);
    }
}

/// Adds the minimum of a block of 32, times the sum of its activations. As in [`fused`], before the products: all kernels
/// of a weight type add in one order.
#[inline(always)]
unsafe fn add_min32<S: Lanes, const NC: usize>(acc: &mut [S::F; NC], shape: Shape, panel: *const u8, aux: *const u8) {
    if shape.min {
        let m = S::loadf(panel.add(shape.mins_at()));
        for (c, acc) in acc.iter_mut().enumerate() {
            *acc = S::fma(m, S::bcastf(aux.add(4 * c)), *acc);
        }
    }
}

/// Adds the integer sums of sub-block `s` of a block of 32, scaled by weights' and activations' `d`.
#[inline(always)]
unsafe fn add_block32<S: Lanes, const NC: usize>(
    acc: &mut [S::F; NC],
    isum: [S::I; NC],
    s: usize,
    shape: Shape,
    panel: *const u8,
    da: *const u8,
) {
    let d = S::loadf(panel.add(shape.scales_at() + s * LINE));
    for c in 0..NC {
        acc[c] = S::fma(S::cvt(isum[c]), S::mulf(d, S::bcastf(da.add(4 * c))), acc[c]);
    }
}

/// Adds the scaled sums of a super-block, times `d` of weights and activations.
#[inline(always)]
unsafe fn add_super256<S: Lanes, const NC: usize>(acc: &mut [S::F; NC], sum: [S::F; NC], d: S::F, da: *const u8) {
    for c in 0..NC {
        acc[c] = S::fma(sum[c], S::mulf(d, S::bcastf(da.add(4 * c))), acc[c]);
    }
}

/// Subtracts the sums of the mins of a super-block, times its `dmin` and the activations' `d`.
#[inline(always)]
unsafe fn subtract_mins<S: Lanes, const NC: usize>(
    acc: &mut [S::F; NC],
    msum: [S::I; NC],
    shape: Shape,
    panel: *const u8,
    da: *const u8,
) {
    let dmin = S::loadf(panel.add(shape.d_at() + LINE));
    for c in 0..NC {
        acc[c] = S::fnma(S::cvt(msum[c]), S::mulf(dmin, S::bcastf(da.add(4 * c))), acc[c]);
    }
}
