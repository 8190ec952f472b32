//! Exponential, sigmoid, hyperbolic tangent of sixteen floats.

use crate::isa::Real;

/// `e` to the power of `x` as `(p, n)`: `p` times two to the power of `n`, a whole number. `x` is from -500 to 500, or NaN.
/// The error of `p` is below two units in the last place.
#[inline(always)]
pub unsafe fn exp_parts<S: Real>(x: S::F) -> (S::F, S::F) {
    let n = S::roundf(S::mulf(x, S::splatf(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, of which the first has few digits: its products are exact
    let r = S::fnma(n, S::splatf(0.693_359_4), x);
    let r = S::fnma(n, S::splatf(-2.121_944_4e-4), r);
    // Taylor's series would need one term more: these are Cephes' coefficients (expf.c)
    let mut p = S::splatf(1.987_569_2e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = S::fma(p, r, S::splatf(c));
    }
    let p = S::fma(S::mulf(p, r), r, r);
    (S::addf(p, S::splatf(1.0)), n)
}

/// From here on, and below the negative of it, the exponential is infinite, or zero.
const BEYOND: f32 = 104.0;

/// `e` to the power of `x`, any number; infinities and denormals as they must be.
#[inline(always)]
pub unsafe fn exp<S: Real>(x: S::F) -> S::F {
    let x = S::maxf(S::splatf(-BEYOND), S::minf(S::splatf(BEYOND), x)); // a NaN stays
    let (p, n) = exp_parts::<S>(x);
    S::scale2_wide(p, n)
}

/// `a / (1 + e^-x)`
#[inline(always)]
pub unsafe fn times_sigmoid<S: Real>(a: S::F, x: S::F) -> S::F {
    S::divf(a, S::addf(S::splatf(1.0), exp::<S>(S::subf(S::splatf(0.0), x))))
}

/// sqrt(2 / pi)
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// Gelu by the hyperbolic tangent (<https://arxiv.org/abs/1606.08415>): `x / 2 (1 + tanh u)` is `x / (1 + e^-2u)`.
#[inline(always)]
pub unsafe fn gelu<S: Real>(x: S::F) -> S::F {
    // Below -16 the result is zero; that of minus infinity is not a number otherwise. A NaN stays.
    let x = S::maxf(S::splatf(-16.0), x);
    let cubic = S::fma(S::mulf(x, x), S::splatf(0.044_715), S::splatf(1.0));
    let u2 = S::mulf(S::mulf(x, S::splatf(2.0 * SQRT_2_OVER_PI)), cubic);
    times_sigmoid::<S>(x, u2)
}

/// Below this magnitude, a polynomial is exact where the difference to one is not.
const SMALL: f32 = 0.625;

/// The hyperbolic tangent.
#[inline(always)]
pub unsafe fn tanh<S: Real>(x: S::F) -> S::F {
    let (zero, one) = (S::splatf(0.0), S::splatf(1.0));
    let magnitude = S::maxf(S::subf(zero, x), x);
    // Cephes' coefficients (tanhf.c)
    let z = S::mulf(x, x);
    let mut p = S::splatf(-5.704_988_7e-3);
    for c in [2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1] {
        p = S::fma(p, z, S::splatf(c));
    }
    let small = S::fma(S::mulf(p, z), x, x);
    let e = exp::<S>(S::addf(magnitude, magnitude));
    let large = S::subf(one, S::divf(S::splatf(2.0), S::addf(e, one)));
    let large = S::pick(x, large, S::subf(zero, large));
    S::pick(S::subf(S::splatf(SMALL), magnitude), small, large)
}
