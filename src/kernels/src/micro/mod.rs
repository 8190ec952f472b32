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
/// `dst` points to `NC` column pointers, each to the first of `rows` (1 to 16) floats. Unless `first`, the sums continue
/// from the floats there (the next piece of K), so that a row gives the same bits in one piece and in several.
///
/// # Safety
/// `panel` and `act` must be readable for `blocks` records of the kernel's formats, the columns
/// writable for `rows` floats (and readable, unless `first`); the CPU has the ISA's features.
pub type MicroFn =
    unsafe fn(panel: *const u8, act: *const u8, blocks: usize, dst: *const *mut f32, rows: usize, first: bool);

/// The sums before the first record of a piece.
#[inline(always)]
unsafe fn begin<S: Lanes, const NC: usize>(dst: *const *mut f32, rows: usize, first: bool) -> [S::F; NC] {
    let mut acc = [S::splatf(0.0); NC];
    if !first {
        for (c, acc) in acc.iter_mut().enumerate() {
            *acc = S::loadf_n(*dst.add(c), rows);
        }
    }
    acc
}

/// Writes a tile.
#[inline(always)]
unsafe fn finish<S: Lanes, const NC: usize>(acc: [S::F; NC], dst: *const *mut f32, rows: usize) {
    for (c, v) in acc.into_iter().enumerate() {
        S::storef_n(*dst.add(c), v, rows);
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
