//! Soft max of a row, with a mask that is added, and a sink.

use super::math::exp_minus;
use crate::isa::{LANES, Real};

/// What is added to the scores of a row, one number for each.
#[derive(Clone, Copy, Debug)]
pub enum RowMask {
    /// Nothing.
    None,
    /// Floats.
    Floats(*const f32),
    /// Halves.
    Halves(*const u16),
}

/// A row: `to[i] = e^(x[i] scale + mask[i]) / sum`. All addresses are aligned to their elements.
#[derive(Clone, Copy, Debug)]
pub struct SoftMax {
    /// The scores, [`Self::n`] of them.
    pub x: *const f32,
    /// As many numbers.
    pub mask: RowMask,
    /// The result, as many. May be [`Self::x`].
    pub to: *mut f32,
    /// Number of elements, at least one.
    pub n: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// One more score, which has a part of the sum and none of the result; minus infinity where there is none.
    pub sink: f32,
}

/// Computes one row.
///
/// # Safety
/// What [`SoftMax`] names is readable and writable, and nobody else writes it.
pub type SoftMaxFn = unsafe fn(row: &SoftMax);

/// Vectors that are added as `f32` before the sum goes on as `f64`: a lane of four accumulators adds sixteen of them.
const TOGETHER: usize = 64;

/// See [`SoftMaxFn`].
#[inline(always)]
pub(super) unsafe fn soft_max<S: Real>(row: &SoftMax) {
    let most = match row.mask {
        RowMask::None => scores::<S, NONE>(row, core::ptr::null()),
        RowMask::Floats(mask) => scores::<S, FLOATS>(row, mask.cast()),
        RowMask::Halves(mask) => scores::<S, HALVES>(row, mask.cast()),
    };
    let most = most.max(row.sink);
    let of_sink = S::largest(exp_minus::<S>(S::splatf(most - row.sink)));
    let sum = exponentials::<S>(row, most) + f64::from(of_sink);
    let factor = S::splatf((1.0 / sum) as f32);
    let mut i = 0;
    while i + LANES <= row.n {
        let at = row.to.add(i);
        S::storef(at.cast(), S::mulf(S::loadf(at.cast()), factor));
        i += LANES;
    }
    if i < row.n {
        let at = row.to.add(i);
        S::storef_n(at, S::mulf(S::loadf_n(at, row.n - i), factor), row.n - i);
    }
}

const NONE: u8 = 0;
const FLOATS: u8 = 1;
const HALVES: u8 = 2;

/// Writes the masked scores to the result; returns the largest one.
#[inline(always)]
unsafe fn scores<S: Real, const MASK: u8>(row: &SoftMax, mask: *const u8) -> f32 {
    let scale = S::splatf(row.scale);
    let mut most = S::splatf(f32::NEG_INFINITY);
    let mut i = 0;
    while i + LANES <= row.n {
        let mut v = S::mulf(S::loadf(row.x.add(i).cast()), scale);
        if MASK == FLOATS {
            v = S::addf(v, S::loadf(mask.add(4 * i)));
        } else if MASK == HALVES {
            v = S::addf(v, S::widen_halves(mask.add(2 * i)));
        }
        S::storef(row.to.add(i).cast(), v);
        most = S::maxf(v, most); // a NaN is left out here, and makes the sum one
        i += LANES;
    }
    let mut most = S::largest(most);
    if i < row.n {
        let n = row.n - i;
        let mut v = S::mulf(S::loadf_n(row.x.add(i), n), scale);
        if MASK == FLOATS {
            v = S::addf(v, S::loadf_n(mask.add(4 * i).cast(), n));
        } else if MASK == HALVES {
            let mut halves = [0u16; LANES];
            let (from, to) = (mask.cast::<u16>().add(i), halves.as_mut_ptr());
            let mut j = 0;
            while j < n {
                *to.add(j) = from.add(j).read_volatile(); // one by one: a copy would be a call
                j += 1;
            }
            v = S::addf(v, S::widen_halves(halves.as_ptr().cast()));
        }
        S::storef_n(row.to.add(i), v, n);
        while i < row.n {
            most = most.max(*row.to.add(i));
            i += 1;
        }
    }
    most
}

/// Replaces the scores in the result by their exponentials, divided by that of `most`; returns the sum.
#[inline(always)]
unsafe fn exponentials<S: Real>(row: &SoftMax, most: f32) -> f64 {
    let most = S::splatf(most);
    let (mut sum, mut i) = (0f64, 0);
    while i + LANES <= row.n {
        let end = row.n.min(i + TOGETHER * LANES) / LANES * LANES;
        let mut sums = [S::splatf(0.0); 4];
        while i + 4 * LANES <= end {
            for (j, sum) in sums.iter_mut().enumerate() {
                let at = row.to.add(i + j * LANES).cast();
                let e = exp_minus::<S>(S::subf(most, S::loadf(at)));
                S::storef(at, e);
                *sum = S::addf(*sum, e);
            }
            i += 4 * LANES;
        }
        while i < end {
            let at = row.to.add(i).cast();
            let e = exp_minus::<S>(S::subf(most, S::loadf(at)));
            S::storef(at, e);
            sums[0] = S::addf(sums[0], e);
            i += LANES;
        }
        sum += f64::from(S::sum(S::addf(S::addf(sums[0], sums[1]), S::addf(sums[2], sums[3]))));
    }
    if i < row.n {
        let (at, n) = (row.to.add(i), row.n - i);
        S::storef_n(at, exp_minus::<S>(S::subf(most, S::loadf_n(at, n))), n);
        sum += f64::from(S::sum(S::loadf_n(at, n))); // the lanes beyond are zero now
    }
    sum
}
