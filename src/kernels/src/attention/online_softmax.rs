//! Online softmax: the scores of one query become weights, a tile of keys at a time. A weight is the exponential of the
//! distance between its score and the largest score so far. When a larger score comes, everything that was summed before is
//! rescaled.

use crate::isa::{LANES, Real};

/// How the products of a query with keys become scores.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Factor of the products.
    pub scale: f32,
    /// With a value other than 0, scores `s` become `cap * tanh(s / cap)` before they are masked; `scale` is then
    /// already divided by it.
    pub cap: f32,
}

/// The largest score and the sum of the weights of a query, over the keys so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunningMax {
    /// Largest score so far; negative infinity before the first one. In one order: the largest power of two of one.
    pub max: f32,
    /// Sum of the weights, each `e` to the power of its score, divided by the same (or two) to the power of [`Self::max`].
    pub sum: f32,
}

impl RunningMax {
    /// Before the first score.
    pub const NOTHING: Self = RunningMax { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// The mask that is added to the scores of a query.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    /// Halves, one for every key; or null.
    pub halves: *const u8,
    /// The halves of the last keys that do not fill a vector of sixteen, filled up.
    pub last: [u8; 2 * LANES],
    /// Factor of the halves.
    pub slope: f32,
}

/// Makes weights of the `n` products of a query in `scores`, which has room for `n` rounded up to sixteen. Leaves the
/// weights there, zeros behind the `n`-th. Where no key was seen so far, it leaves anything. Returns the factor for
/// everything that was summed with earlier weights.
///
/// # Safety
/// The mask is readable for `n` halves, unless it is null.
pub type OnlineSoftmaxFn =
    unsafe fn(scores: *mut f32, n: usize, mask: &Mask, scale: Scale, running: &mut RunningMax) -> f32;

/// `e` to the power of `x`, which is at most 0 or not much above, with an error of two units in the last place; zero
/// below -87.3.
#[inline(always)]
unsafe fn exp<S: Real>(x: S::F) -> S::F {
    let x = S::maxf(S::splatf(-500.0), x); // a NaN stays
    let n = whole::<S>(x);
    S::scale2(rest::<S>(x, n), n)
}

/// `x` in units of `ln 2`, rounded.
#[inline(always)]
unsafe fn whole<S: Real>(x: S::F) -> S::F {
    S::roundf(S::mulf(x, S::splatf(std::f32::consts::LOG2_E)))
}

/// `e` to the power of what `x` is above `n` times `ln 2`: 0.7 to 1.42 where `n` is [`whole`] of `x`.
#[inline(always)]
unsafe fn rest<S: Real>(x: S::F, n: S::F) -> S::F {
    // ln 2 in two parts, of which the first has few digits: its products are exact
    let r = S::fnma(n, S::splatf(0.693_359_4), x);
    let r = S::fnma(n, S::splatf(-2.121_944_4e-4), r);
    // Taylor's series would need one term more: these are Cephes' coefficients (expf.c)
    let mut p = S::splatf(1.987_569_2e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = S::fma(p, r, S::splatf(c));
    }
    let p = S::fma(S::mulf(p, r), r, r);
    S::addf(p, S::splatf(1.0))
}

/// [`exp`] of one number.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub unsafe fn exp1<S: Real>(x: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    S::storef(lanes.as_mut_ptr().cast(), exp::<S>(S::splatf(x)));
    lanes[0]
}

/// `-max(x, -15)`.
#[inline(always)]
unsafe fn bounded<S: Real>(x: S::F) -> S::F {
    S::fnma(S::maxf(S::splatf(-15.0), x), S::splatf(1.0), S::splatf(0.0))
}

/// `cap * tanh(x)`, as `cap - 2 cap / (e^2x + 1)`.
#[inline(always)]
unsafe fn capped<S: Real>(x: S::F, cap: S::F) -> S::F {
    let x = bounded::<S>(bounded::<S>(x)); // beyond 15 nothing is left of the difference to one
    let e = exp::<S>(S::addf(x, x));
    S::fnma(S::divf(S::addf(cap, cap), S::addf(e, S::splatf(1.0))), S::splatf(1.0), cap)
}

/// Makes scores of the products in `scores`, with negative infinity behind the `n`-th; returns the largest one. `of` is
/// applied to every vector of scores before the largest one is looked for.
#[inline(always)]
unsafe fn to_scores<S: Real>(
    scores: *mut f32,
    n: usize,
    mask: &Mask,
    Scale { scale, cap }: Scale,
    of: impl Fn(S::F) -> S::F,
) -> f32 {
    let padded = n.next_multiple_of(LANES);
    let at = |i: usize| scores.add(i).cast::<u8>();
    let mut max = S::splatf(f32::NEG_INFINITY);
    for i in (0..padded).step_by(LANES) {
        let mut s = S::mulf(S::loadf(at(i)), S::splatf(scale));
        if cap != 0.0 {
            s = capped::<S>(s, S::splatf(cap));
        }
        let whole = i + LANES <= n;
        if !mask.halves.is_null() {
            let halves = if whole { mask.halves.add(2 * i) } else { mask.last.as_ptr() };
            s = S::fma(S::widen_halves(halves), S::splatf(mask.slope), s);
        }
        if !whole {
            S::storef(at(i), S::splatf(f32::NEG_INFINITY));
            S::storef_n(scores.add(i), s, n - i);
            s = S::loadf(at(i));
        }
        S::storef(at(i), s);
        max = S::maxf(of(s), max);
    }
    S::largest(max)
}

/// See [`OnlineSoftmaxFn`].
///
/// # Safety
/// That of [`OnlineSoftmaxFn`], and see [`crate::isa::Lanes`].
#[inline(always)]
pub unsafe fn online_softmax<S: Real>(
    scores: *mut f32,
    n: usize,
    mask: &Mask,
    scale: Scale,
    running: &mut RunningMax,
) -> f32 {
    let padded = n.next_multiple_of(LANES);
    let at = |i: usize| scores.add(i).cast::<u8>();
    let old = running.max;
    let new = old.max(to_scores::<S>(scores, n, mask, scale, |s| s));
    if new == f32::NEG_INFINITY {
        return 1.0;
    }
    let (minus, mut sum) = (S::splatf(-new), S::splatf(0.0));
    for i in (0..padded).step_by(LANES) {
        let p = exp::<S>(S::addf(S::loadf(at(i)), minus));
        S::storef(at(i), p);
        sum = S::addf(sum, p);
    }
    let factor = if old == new { 1.0 } else { exp1::<S>(old - new) };
    *running = RunningMax { max: new, sum: running.sum * factor + S::sum(sum) };
    factor
}

/// Scores are raised to this one, so that whole numbers stay exact.
const LOWEST: f32 = -40_000.0;

/// Keys whose scores have a smaller [`whole`] count as not seen.
const FEWEST: f32 = -57_000.0;

/// A power of two that no weight reaches.
const NEVER: f32 = -1000.0;

/// See [`OnlineSoftmaxFn`]. [`RunningMax::max`] is the largest [`whole`] of a score, and a weight is `e` to the power of its
/// score, divided by two to the power of that. So what was summed before is rescaled by powers of two, which is exact, and
/// weights and their sum, which is one chain of additions, have the bits that they would have if all keys were computed
/// together: those before and between that are not seen add zeros. (Sums below the normal numbers round as they are
/// rescaled: these are less than 2^-100 of the largest weight.)
///
/// # Safety
/// That of [`OnlineSoftmaxFn`], and see [`crate::isa::Lanes`].
#[inline(always)]
pub unsafe fn one_order_softmax<S: Real>(
    scores: *mut f32,
    n: usize,
    mask: &Mask,
    scale: Scale,
    running: &mut RunningMax,
) -> f32 {
    let padded = n.next_multiple_of(LANES);
    let at = |i: usize| scores.add(i).cast::<u8>();
    let old = running.max;
    let largest = to_scores::<S>(scores, n, mask, scale, |s| whole::<S>(s));
    let new = if largest < FEWEST { old } else { old.max(largest) };
    if new == f32::NEG_INFINITY {
        return 1.0;
    }
    let factor = power_of_two::<S>(old - new);
    let mut sum = running.sum * factor;
    for i in (0..padded).step_by(LANES) {
        let s = S::maxf(S::splatf(LOWEST), S::loadf(at(i)));
        let k = whole::<S>(s);
        // a NaN stays, here and below
        let above = S::pick(S::subf(S::splatf(FEWEST), k), S::splatf(NEVER), S::subf(k, S::splatf(new)));
        S::storef(at(i), S::scale2(rest::<S>(s, k), S::maxf(S::splatf(NEVER), above)));
    }
    for i in 0..n {
        sum += *scores.add(i);
    }
    *running = RunningMax { max: new, sum };
    factor
}

/// Two to the power of a whole number that is not above zero; of negative infinity, zero.
#[inline(always)]
unsafe fn power_of_two<S: Real>(n: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    S::storef(lanes.as_mut_ptr().cast(), S::scale2(S::splatf(1.0), S::splatf(n.max(NEVER))));
    lanes[0]
}
