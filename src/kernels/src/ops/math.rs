//! Exponential, sigmoid, hyperbolic tangent of sixteen floats.

use crate::isa::Real;

/// From here on the exponential is infinite; below the negative of it, it is zero.
const BEYOND: f32 = 104.0;

/// The error of this polynomial in `x` is below 1.6 halves of a unit in the last place, where the magnitude of `x` is at most
/// half of ln 2: `e^-x = 1 + x (c0 + x (c1 + ...))`. Fitted to the least largest relative error, by least squares with weights
/// that grow where the error is large.
const EXP_MINUS: [f32; 5] = [-0.999_999_7, 0.499_991_48, -0.166_676_39, 0.041_898_16, -0.008_290_272];

/// `e` to the power of `-x`, for any number; infinities and denormals as they must be. The error is below two units in the
/// last place.
#[inline(always)]
pub unsafe fn exp_minus<S: Real>(x: S::F) -> S::F {
    let x = S::maxf(S::splatf(-BEYOND), S::minf(S::splatf(BEYOND), x)); // a NaN stays
    let n = S::roundf(S::mulf(x, S::splatf(-std::f32::consts::LOG2_E)));
    // ln 2 in two parts, of which the first has few digits: its products are exact
    let r = S::fma(n, S::splatf(0.693_359_4), x);
    let r = S::fma(n, S::splatf(-2.121_944_4e-4), r);
    let [c0, c1, c2, c3, c4] = EXP_MINUS;
    let mut p = S::splatf(c4);
    for c in [c3, c2, c1, c0, 1.0] {
        p = S::fma(p, r, S::splatf(c));
    }
    S::scale2_wide(p, n)
}

/// `e` to the power of `x`.
#[inline(always)]
pub unsafe fn exp<S: Real>(x: S::F) -> S::F {
    exp_minus::<S>(S::subf(S::splatf(0.0), x))
}

/// `a / (1 + e^-x)`
#[inline(always)]
pub unsafe fn times_sigmoid<S: Real>(a: S::F, x: S::F) -> S::F {
    S::divf(a, S::addf(S::splatf(1.0), exp_minus::<S>(x)))
}

/// sqrt(2 / pi)
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// To the eleven bits of a half-precision number, by Veltkamp's splitting: below `2^115`, where the product is finite.
#[inline(always)]
unsafe fn to_eleven_bits<S: Real>(x: S::F) -> S::F {
    let far = S::mulf(x, S::splatf(8193.0));
    S::subf(far, S::subf(far, x))
}

/// Gelu by the hyperbolic tangent (<https://arxiv.org/abs/1606.08415>): `x / 2 (1 + tanh u)` is `x / (1 + e^-2u)`. Argument
/// and result are rounded to half precision below 10, as in the table that ggml takes it from: exact values are further from
/// ggml's answers (mean KL divergence with Gemma 3 270M 0.0065 instead of 0.0063) and no nearer to those of F32.
#[inline(always)]
pub unsafe fn gelu<S: Real>(x: S::F) -> S::F {
    // Below -16 the result is zero; that of minus infinity is not a number otherwise. A NaN stays.
    let x = S::maxf(S::splatf(-16.0), x);
    // From 10 on it is the argument itself.
    let above = S::maxf(S::splatf(0.0), S::subf(x, S::splatf(10.0)));
    let below = S::subf(S::splatf(0.0), S::maxf(S::splatf(-10.0), S::subf(S::splatf(0.0), x)));
    let x = to_eleven_bits::<S>(below);
    S::addf(to_eleven_bits::<S>(gelu_unrounded::<S>(x)), above)
}

#[inline(always)]
unsafe fn gelu_unrounded<S: Real>(x: S::F) -> S::F {
    let cubic = S::fma(S::mulf(x, x), S::splatf(0.044_715), S::splatf(1.0));
    let u2 = S::mulf(S::mulf(x, S::splatf(2.0 * SQRT_2_OVER_PI)), cubic);
    times_sigmoid::<S>(x, u2)
}

/// Below this magnitude, `erf x = x + x P(x^2)`, with [`ERF_SMALL`]; above, it is one less an exponential, with [`ERF_LARGE`].
const ERF_SMALL_END: f32 = 0.96;

/// From here on it is one.
const ERF_ONE: f32 = 4.0;

/// Fitted as [`EXP_MINUS`] is; the error is below half of a half unit in the last place.
const ERF_SMALL: [f32; 6] =
    [0.128_379_14, -0.376_124_26, 0.112_811_21, -0.026_741_99, 0.004_957_959_5, -0.000_581_610_25];

/// The negative logarithm of `1 - erf x`. Its error, as one of `erf x`, is below a tenth of a half unit.
const ERF_LARGE: [f32; 7] =
    [0.000_262_520_77, 1.127_403, 0.637_635_5, 0.103_538_394, -0.022_039_43, 0.002_996_654_7, -0.000_191_234_43];

/// The error function, up to two units in the last place.
#[inline(always)]
unsafe fn erf<S: Real>(x: S::F) -> S::F {
    let (zero, one) = (S::splatf(0.0), S::splatf(1.0));
    let magnitude = S::maxf(S::subf(zero, x), x);
    let z = S::mulf(x, x);
    let [s0, s1, s2, s3, s4, s5] = ERF_SMALL;
    let mut p = S::splatf(s5);
    for c in [s4, s3, s2, s1, s0] {
        p = S::fma(p, z, S::splatf(c));
    }
    let small = S::fma(p, x, x);
    let t = S::minf(S::splatf(ERF_ONE), magnitude); // a NaN stays
    let [l0, l1, l2, l3, l4, l5, l6] = ERF_LARGE;
    let mut p = S::splatf(l6);
    for c in [l5, l4, l3, l2, l1, l0] {
        p = S::fma(p, t, S::splatf(c));
    }
    let large = S::subf(one, exp_minus::<S>(p));
    let large = S::pick(x, large, S::subf(zero, large));
    S::pick(S::subf(S::splatf(ERF_SMALL_END), magnitude), small, large)
}

/// Gelu by the error function: `x / 2 (1 + erf(x / sqrt 2))`.
#[inline(always)]
pub unsafe fn gelu_erf<S: Real>(x: S::F) -> S::F {
    // Below -16 the result is zero; that of minus infinity is not a number otherwise. A NaN stays.
    let x = S::maxf(S::splatf(-16.0), x);
    let half = S::mulf(x, S::splatf(0.5));
    S::mulf(half, S::addf(S::splatf(1.0), erf::<S>(S::mulf(x, S::splatf(std::f32::consts::FRAC_1_SQRT_2)))))
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
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = S::fma(p, z, S::splatf(c));
    }
    let small = S::fma(S::mulf(p, z), x, x);
    let e = exp::<S>(S::addf(magnitude, magnitude));
    let large = S::subf(one, S::divf(S::splatf(2.0), S::addf(e, one)));
    let large = S::pick(x, large, S::subf(zero, large));
    S::pick(S::subf(S::splatf(SMALL), magnitude), small, large)
}
