//! Fused products, for few columns: sixteen rows are unpacked in registers, rows in lanes, and all columns multiply each line
//! of codes at once. Only scales are stored. So unpacking costs less than packing, and one more column costs only its
//! products. From a few tiles on a panel is faster, because it is unpacked once.
//!
//! Four columns of q4_K take 136 us fused, 185 by panels, 205 without panels (`kernel-choices`).

use crate::formats::{ActFormat, Shape};
use crate::isa::{Dot, LANES, Lanes};
use crate::pack::{Quantised, Rows, Sink};
use crate::prefetch::{Cache, FusedPrefetch};
use core::marker::PhantomData;
use core::mem::MaybeUninit;

/// Computes sixteen rows by `NC` columns over `blocks` blocks of the weights' rows. Row `r` starts at
/// `weights + r * stride`. `act` is a tile of [`crate::micro::MicroFn`]. `dst` points to `NC` column pointers, each to the
/// first of `rows` (1 to 16) floats; the results of the other rows are not stored. Unless `first`, the sums continue from
/// the floats there, so that a row gives the same bits in one piece and in several.
///
/// # Safety
/// Sixteen rows and the tile must be readable for `blocks` records, the columns writable for `rows` floats (and
/// readable, unless `first`); the CPU has the ISA's features.
pub type FusedFn = unsafe fn(
    weights: *const u8,
    stride: usize,
    blocks: usize,
    act: *const u8,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
    prefetch: FusedPrefetch,
);

/// The sink that multiplies.
struct Multiply<W, S: Lanes, const NC: usize> {
    /// Codes, `aux` and scales of the tile's record.
    act: *const u8,
    aux: *const u8,
    da: *const u8,
    /// Scales of the sub-blocks: integers in super-blocks, `d` in blocks of 32.
    scales: *mut S::F,
    /// Sums of a sub-block and of its mins.
    isum: [S::I; NC],
    msum: [S::I; NC],
    /// Scaled sums of a super-block: integers, exact below `2^24`.
    sum: [S::F; NC],
    acc: [S::F; NC],
    d: S::F,
    min: S::F,
    fetch: *const u8,
    /// Bytes that `fetch` moves on with each part.
    step: usize,
    near: bool,
    weight: PhantomData<W>,
}

impl<W: Quantised, S: Dot, const NC: usize> Multiply<W, S, NC> {
    const SHAPE: Shape = W::SHAPE;
    const FORMAT: ActFormat = W::SHAPE.act(false);
    /// Bytes that a part of sixteen rows takes in memory.
    const PART: usize = LANES * W::BYTES / (W::RECORDS * W::PARTS);
    /// Whether a block of 32 has several scales.
    const SCALES: bool = W::SHAPE.block == 32 && W::SHAPE.sub < 32;

    /// Begins a record.
    #[inline(always)]
    unsafe fn begin(&mut self, act: *const u8) {
        self.act = act;
        self.aux = act.add(Self::FORMAT.block * NC);
        self.da = self.aux.add(4 * NC * Self::FORMAT.aux_words());
        self.sum = [S::splatf(0.0); NC];
        self.msum = [S::splat(0); NC];
    }

    /// Adds the minimum of a block of 32, subtracts the mins of a super-block.
    #[inline(always)]
    unsafe fn add_mins(&mut self) {
        for c in 0..NC {
            self.acc[c] = if Self::SHAPE.block == 32 {
                S::fma(self.min, S::bcastf(self.aux.add(4 * c)), self.acc[c])
            } else {
                S::fnma(S::cvt(self.msum[c]), S::mulf(self.min, S::bcastf(self.da.add(4 * c))), self.acc[c])
            };
        }
    }

    /// Adds the sums of the record, times `d` of weights and activations.
    #[inline(always)]
    unsafe fn end(&mut self) {
        if Self::SCALES {
            return;
        }
        for c in 0..NC {
            let sum = if Self::SHAPE.block == 32 { S::cvt(self.isum[c]) } else { self.sum[c] };
            self.acc[c] = S::fma(sum, S::mulf(self.d, S::bcastf(self.da.add(4 * c))), self.acc[c]);
        }
    }
}

impl<W: Quantised, S: Dot, const NC: usize> Sink<S> for Multiply<W, S, NC> {
    const BY_SUB_BLOCK: bool = true;

    #[inline(always)]
    unsafe fn d(&mut self, d: S::F) {
        self.d = d;
    }
    #[inline(always)]
    unsafe fn d_of(&mut self, s: usize, d: S::F) {
        self.scales.add(s).write(d);
    }
    #[inline(always)]
    unsafe fn min(&mut self, m: S::F) {
        self.min = m;
    }
    #[inline(always)]
    unsafe fn scale(&mut self, s: usize, v: S::I) {
        self.scales.add(s).write(S::cvt(v));
    }
    #[inline(always)]
    unsafe fn mins(&mut self, pair: usize, even: S::I, odd: S::I) {
        let m = S::or(even, S::shl(odd, 16));
        for (c, msum) in self.msum.iter_mut().enumerate() {
            *msum = S::dot2(*msum, m, S::bcast(self.aux.add((pair * NC + c) * 4)));
        }
    }
    #[inline(always)]
    unsafe fn part(&mut self) {
        let into = if opaque(self.near) { Cache::Level1 } else { Cache::Level2 };
        into.fetch(self.fetch, Self::PART);
        self.fetch = self.fetch.wrapping_add(self.step);
    }
    #[inline(always)]
    unsafe fn open(&mut self, s: usize) {
        for (c, isum) in self.isum.iter_mut().enumerate() {
            *isum = if Self::SHAPE.min { S::splat(0) } else { S::bcast(self.aux.add((s * NC + c) * 4)) };
        }
    }
    #[inline(always)]
    unsafe fn codes(&mut self, s: usize, i: usize, v: S::I) {
        let act = self.act.add((s * (Self::SHAPE.sub / 4) + i) * NC * 4);
        for (c, isum) in self.isum.iter_mut().enumerate() {
            *isum = S::dot4(*isum, v, S::bcast(act.add(4 * c)));
        }
    }
    #[inline(always)]
    unsafe fn close(&mut self, s: usize) {
        if Self::SHAPE.block > 32 {
            let scale = self.scales.add(s).read();
            for c in 0..NC {
                self.sum[c] = S::fma(S::cvt(self.isum[c]), scale, self.sum[c]);
            }
        } else if Self::SCALES {
            let d = self.scales.add(s).read();
            for c in 0..NC {
                let d = S::mulf(d, S::bcastf(self.da.add(4 * c)));
                self.acc[c] = S::fma(S::cvt(self.isum[c]), d, self.acc[c]);
            }
        }
    }
}

/// The same value, about which the compiler knows nothing. Otherwise it sees that all parts of a record take the same branch,
/// copies the code between the parts into both branches, and spills.
#[inline(always)]
fn opaque(near: bool) -> bool {
    let mut near = u32::from(near);
    // SAFETY: no instruction; the value stays as it is.
    unsafe { core::arch::asm!("/* {0:e} */", inout(reg) near, options(pure, nomem, nostack, preserves_flags)) };
    near != 0
}

/// A kernel, see [`FusedFn`].
///
/// # Safety
/// See [`FusedFn`].
#[inline(always)]
pub unsafe fn product<W: Quantised, S: Dot, const NC: usize>(
    weights: *const u8,
    stride: usize,
    blocks: usize,
    mut act: *const u8,
    dst: *const *mut f32,
    rows: usize,
    first: bool,
    prefetch: FusedPrefetch,
) {
    let mut scales = MaybeUninit::<[S::F; 16]>::uninit();
    let zero = S::splatf(0.0);
    let mut sink = Multiply::<W, S, NC> {
        act,
        aux: act,
        da: act,
        scales: scales.as_mut_ptr().cast(),
        isum: [S::splat(0); NC],
        msum: [S::splat(0); NC],
        sum: [zero; NC],
        acc: [zero; NC],
        d: zero,
        min: zero,
        fetch: prefetch.at,
        step: if prefetch.moves { Multiply::<W, S, NC>::PART } else { 0 },
        near: prefetch.into == Cache::Level1,
        weight: PhantomData,
    };
    if !first {
        for (c, acc) in sink.acc.iter_mut().enumerate() {
            *acc = S::loadf_n(*dst.add(c), rows);
        }
    }
    for b in 0..blocks {
        let block = Rows::new::<W>(weights, stride, b);
        for r in 0..W::RECORDS {
            let record = block.of_record(r);
            sink.begin(act);
            W::header::<S, _>(&record, &mut sink);
            if W::SHAPE.min {
                sink.add_mins();
            }
            for step in 0..W::STEPS {
                W::codes::<S, _>(&record, step, &mut sink);
            }
            sink.end();
            act = act.add(Multiply::<W, S, NC>::FORMAT.record() * NC);
        }
    }
    for (c, acc) in sink.acc.into_iter().enumerate() {
        S::storef_n(*dst.add(c), acc, rows);
    }
}
