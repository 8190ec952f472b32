//! Micro-kernels for two panels side by side, 32 rows by a few columns, for CPUs with
//! [`DataPath::Full`](crate::isa::DataPath::Full).
//!
//! Such a CPU multiplies as fast as it loads, two vectors a cycle, and a broadcast from memory is a load. With sixteen
//! rows every product loads its activation: nine loads for eight products. With 32 rows a broadcast serves two products:
//! eight loads for twelve. Tiles of 32 x 6 reach the multipliers' limit, tiles of 16 x 8 89 % of it (`kernel-choices`).
//! Each result comes from the same additions in the same order as with one panel. So it does not matter which of the two
//! computes a row.

// values are by panel and column, and the outer loop is that over columns
#![allow(clippy::needless_range_loop)]

use super::dp::Structure;
use super::float::UNROLLED;
use crate::formats::{FLOAT_RECORD, LINE, Shape};
use crate::isa::{Dot, DotBf16, Lanes};

/// A [`super::MicroFn`] for two panels, the second `apart` bytes behind the first: 32 rows by `NC` columns over `blocks`
/// records.
///
/// # Safety
/// That of [`super::MicroFn`], for both panels; the columns are writable for 32 floats.
pub type PairFn =
    unsafe fn(panel: *const u8, apart: usize, act: *const u8, blocks: usize, dst: *const *mut f32, first: bool);

/// A value for each panel and column.
type Both<T, const NC: usize> = [[T; NC]; 2];

/// Sets every entry to the one of its column, from the `u32` at `p + 4 * column`.
#[inline(always)]
unsafe fn columns<S: Lanes, const NC: usize>(p: *const u8) -> Both<S::I, NC> {
    let mut v = [S::splat(0); NC];
    for (c, v) in v.iter_mut().enumerate() {
        *v = S::bcast(p.add(4 * c));
    }
    [v; 2]
}

/// `dot_groups` of one panel, for two.
#[inline(always)]
unsafe fn dot_groups<S: Dot, const NC: usize>(
    mut acc: Both<S::I, NC>,
    codes: *const u8,
    apart: usize,
    act: *const u8,
    groups: usize,
) -> Both<S::I, NC> {
    for g in 0..groups {
        let w = [S::load(codes.add(g * LINE)), S::load(codes.add(apart + g * LINE))];
        for c in 0..NC {
            let a = S::bcast(act.add((g * NC + c) * 4));
            for (acc, w) in acc.iter_mut().zip(w) {
                acc[c] = S::dot4(acc[c], w, a);
            }
        }
    }
    acc
}

/// The floats at `p` of both panels.
#[inline(always)]
unsafe fn both<S: Lanes>(p: *const u8, apart: usize) -> [S::F; 2] {
    [S::loadf(p), S::loadf(p.add(apart))]
}

/// Writes or adds a tile.
#[inline(always)]
unsafe fn finish<S: Lanes, const NC: usize>(acc: &Both<S::F, NC>, dst: *const *mut f32, first: bool) {
    for c in 0..NC {
        let column = (*dst.add(c)).cast::<u8>();
        for (r, acc) in acc.iter().enumerate() {
            let p = column.add(r * LINE);
            S::storef(p, if first { acc[c] } else { S::fma(acc[c], S::splatf(1.0), S::loadf(p)) });
        }
    }
}

/// Blocks of 32 with one scale (and a minimum), or with two scales.
///
/// # Safety
/// See [`PairFn`].
#[inline(always)]
pub unsafe fn block32<S: Dot, T: Structure, const NC: usize>(
    mut panel: *const u8,
    apart: usize,
    mut act: *const u8,
    blocks: usize,
    dst: *const *mut f32,
    first: bool,
) {
    let shape = T::SHAPE;
    let format = shape.act(false);
    let groups = shape.sub / 4;
    let mut acc = [[S::splatf(0.0); NC]; 2];
    for _ in 0..blocks {
        let aux = act.add(format.block * NC);
        let da = aux.add(4 * NC * format.aux_words());
        for s in 0..32 / shape.sub {
            let start = if shape.min { [[S::splat(0); NC]; 2] } else { columns::<S, NC>(aux.add(4 * NC * s)) };
            let (codes, act) = (panel.add(s * groups * LINE), act.add(s * groups * NC * 4));
            let isum = dot_groups::<S, NC>(start, codes, apart, act, groups);
            if shape.min && s == 0 {
                let m = both::<S>(panel.add(shape.mins_at()), apart);
                for c in 0..NC {
                    let sum = S::bcastf(aux.add(4 * c));
                    for r in 0..2 {
                        acc[r][c] = S::fma(m[r], sum, acc[r][c]);
                    }
                }
            }
            let d = both::<S>(panel.add(shape.scales_at() + s * LINE), apart);
            for c in 0..NC {
                let da = S::bcastf(da.add(4 * c));
                for r in 0..2 {
                    acc[r][c] = S::fma(S::cvt(isum[r][c]), S::mulf(d[r], da), acc[r][c]);
                }
            }
        }
        panel = panel.add(shape.panel_record(false));
        act = act.add(format.record() * NC);
    }
    finish::<S, NC>(&acc, dst, first);
}

/// Super-blocks of 256 with integer scales (and mins) per sub-block.
///
/// # Safety
/// See [`PairFn`].
#[inline(always)]
pub unsafe fn super256<S: Dot, T: Structure, const NC: usize>(
    mut panel: *const u8,
    apart: usize,
    mut act: *const u8,
    blocks: usize,
    dst: *const *mut f32,
    first: bool,
) {
    let shape = T::SHAPE;
    let format = shape.act(false);
    let groups = shape.sub / 4;
    // The sums of a sub-block and of a super-block fill the registers. The sums of the row wait in memory, and are touched
    // once in a super-block.
    let mut acc = [[S::splatf(0.0); NC]; 2];
    for _ in 0..blocks {
        in_memory(&mut acc);
        let aux = act.add(format.block * NC);
        let da = aux.add(4 * NC * format.aux_words());
        let mut sum = [[S::splatf(0.0); NC]; 2];
        for s in 0..256 / shape.sub {
            let start = if shape.min { [[S::splat(0); NC]; 2] } else { columns::<S, NC>(aux.add(4 * NC * s)) };
            let (codes, act) = (panel.add(s * groups * LINE), act.add(s * groups * NC * 4));
            let isum = dot_groups::<S, NC>(start, codes, apart, act, groups);
            let one = shape.sub == 256;
            let scale =
                if one { [S::splatf(1.0); 2] } else { both::<S>(panel.add(shape.scales_at() + s * LINE), apart) };
            for c in 0..NC {
                for r in 0..2 {
                    let v = S::cvt(isum[r][c]);
                    sum[r][c] = if one { v } else { S::fma(v, scale[r], sum[r][c]) };
                }
            }
        }
        if shape.min {
            subtract_mins::<S, NC>(&mut acc, shape, (panel, apart), (aux, format.aux_words()), da);
        }
        add::<S, NC>(&mut acc, sum, shape, panel, apart, da);
        panel = panel.add(shape.panel_record(false));
        act = act.add(format.record() * NC);
    }
    finish::<S, NC>(&acc, dst, first);
}

/// No instruction, but the compiler must assume that `v` is read and changed here. Otherwise it keeps a part of the sums in
/// registers, and the inner loop spills others.
#[inline(always)]
fn in_memory<T>(v: &mut T) {
    // SAFETY: no instruction, so nothing is read or written.
    unsafe { core::arch::asm!("/* {0} */", in(reg) core::ptr::from_mut(v), options(nostack, preserves_flags)) };
}

/// Adds the scaled sums of a super-block, times `d` of weights and activations.
#[inline(always)]
unsafe fn add<S: Lanes, const NC: usize>(
    acc: &mut Both<S::F, NC>,
    sum: Both<S::F, NC>,
    shape: Shape,
    panel: *const u8,
    apart: usize,
    da: *const u8,
) {
    let d = both::<S>(panel.add(shape.d_at()), apart);
    for c in 0..NC {
        let da = S::bcastf(da.add(4 * c));
        for r in 0..2 {
            acc[r][c] = S::fma(sum[r][c], S::mulf(d[r], da), acc[r][c]);
        }
    }
}

/// Subtracts the sums of the mins of a super-block, times its `dmin` and the activations' `d`.
#[inline(always)]
unsafe fn subtract_mins<S: Dot, const NC: usize>(
    acc: &mut Both<S::F, NC>,
    shape: Shape,
    (panel, apart): (*const u8, usize),
    (aux, words): (*const u8, usize),
    da: *const u8,
) {
    let mut msum = [[S::splat(0); NC]; 2];
    for p in 0..words {
        let m = panel.add(shape.mins_at() + p * LINE);
        let m = [S::load(m), S::load(m.add(apart))];
        for c in 0..NC {
            let a = S::bcast(aux.add((p * NC + c) * 4));
            for r in 0..2 {
                msum[r][c] = S::dot2(msum[r][c], m[r], a);
            }
        }
    }
    let dmin = both::<S>(panel.add(shape.d_at() + LINE), apart);
    for c in 0..NC {
        let da = S::bcastf(da.add(4 * c));
        for r in 0..2 {
            acc[r][c] = S::fnma(S::cvt(msum[r][c]), S::mulf(dmin[r], da), acc[r][c]);
        }
    }
}

/// A kernel for values: `$steps` lines in a record, weights and activations read by `$load` and `$bcast`, added by `$add`.
macro_rules! floats {
    ($(#[$doc:meta])* $name:ident, $lanes:ident, $steps:expr, $load:ident, $bcast:ident, |$acc:ident, $w:ident, $a:ident| $add:expr) => {
        $(#[$doc])*
        #[inline(always)]
        pub unsafe fn $name<S: $lanes, const NC: usize>(
            mut panel: *const u8,
            apart: usize,
            mut act: *const u8,
            blocks: usize,
            dst: *const *mut f32,
            first: bool,
        ) {
            let mut acc = [[S::splatf(0.0); NC]; 2];
            for _ in 0..blocks * ($steps / UNROLLED) {
                for i in 0..UNROLLED {
                    let w = [S::$load(panel.add(i * LINE)), S::$load(panel.add(apart + i * LINE))];
                    for c in 0..NC {
                        let $a = S::$bcast(act.add((i * NC + c) * 4));
                        for (acc, $w) in acc.iter_mut().zip(w) {
                            let $acc = acc[c];
                            acc[c] = $add;
                        }
                    }
                }
                panel = panel.add(UNROLLED * LINE);
                act = act.add(UNROLLED * NC * 4);
            }
            finish::<S, NC>(&acc, dst, first);
        }
    };
}
floats!(
    /// Lines of `f32`.
    ///
    /// # Safety
    /// See [`PairFn`].
    values, Lanes, FLOAT_RECORD, loadf, bcastf, |acc, w, a| S::fma(w, a, acc)
);
floats!(
    /// Lines of `bf16` pairs.
    ///
    /// # Safety
    /// See [`PairFn`]; the CPU has AVX512_BF16.
    pairs, DotBf16, FLOAT_RECORD / 2, load, bcast, |acc, w, a| S::dot_bf16(acc, w, a)
);
