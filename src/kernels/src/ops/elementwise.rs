//! Functions of one and of two numbers, over rows.

use super::math::{exp, gelu, gelu_erf, tanh, times_sigmoid};
use crate::isa::{LANES, Real};

/// Writes the function of `a[i]` and `b` to `to[i]`, for `n` elements. `to` may be `a`.
pub type BinaryFn = unsafe fn(a: *const f32, b: f32, to: *mut f32, n: usize);

/// Writes the unit of the gate `x[i]` and of `y[i]` to `to[i]`, for `n` elements. `to` may be `x` or `y`.
pub type GluFn = unsafe fn(x: *const f32, y: *const f32, to: *mut f32, n: usize, bounds: Bounds);

/// Writes the function of `x[i]` to `to[i]`, for `n` elements. `to` may be `x`.
pub type UnaryFn = unsafe fn(x: *const f32, to: *mut f32, n: usize);

/// Parameters of [`super::Glu::SwigluOai`] and [`super::Glu::SwigluClamp`].
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Factor of the gate in the sigmoid.
    pub alpha: f32,
    /// The gate is at most this; `y` is at most this, and at least the negative of it.
    pub limit: f32,
}

impl Bounds {
    /// Of units that use none.
    pub const NONE: Self = Bounds { alpha: 1.0, limit: f32::INFINITY };
}

/// A function of two vectors.
pub(super) trait Two {
    unsafe fn of<S: Real>(a: S::F, b: S::F, bounds: Bounds) -> S::F;
}

/// A function of one vector.
pub(super) trait One {
    unsafe fn of<S: Real>(x: S::F) -> S::F;
}

/// See [`GluFn`].
#[inline(always)]
pub(super) unsafe fn map2<S: Real, T: Two>(a: *const f32, b: *const f32, to: *mut f32, n: usize, bounds: Bounds) {
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        let v = T::of::<S>(S::loadf(a.add(i).cast()), S::loadf(b.add(i).cast()), bounds);
        S::storef(to.add(i).cast(), v);
        i += LANES;
    }
    if i < n {
        let v = T::of::<S>(S::loadf_n(a.add(i), n - i), S::loadf_n(b.add(i), n - i), bounds);
        S::storef_n(to.add(i), v, n - i);
    }
}

/// See [`BinaryFn`].
#[inline(always)]
pub(super) unsafe fn map_one<S: Real, T: Two>(a: *const f32, b: f32, to: *mut f32, n: usize) {
    let (whole, b) = (n / LANES * LANES, S::splatf(b));
    let mut i = 0;
    while i < whole {
        S::storef(to.add(i).cast(), T::of::<S>(S::loadf(a.add(i).cast()), b, Bounds::NONE));
        i += LANES;
    }
    if i < n {
        S::storef_n(to.add(i), T::of::<S>(S::loadf_n(a.add(i), n - i), b, Bounds::NONE), n - i);
    }
}

/// See [`UnaryFn`].
#[inline(always)]
pub(super) unsafe fn map1<S: Real, T: One>(x: *const f32, to: *mut f32, n: usize) {
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        S::storef(to.add(i).cast(), T::of::<S>(S::loadf(x.add(i).cast())));
        i += LANES;
    }
    if i < n {
        S::storef_n(to.add(i), T::of::<S>(S::loadf_n(x.add(i), n - i)), n - i);
    }
}

/// Declares types that stand for functions of two vectors.
macro_rules! two {
    ($($name:ident: |$a:ident, $b:ident, $bounds:pat_param| $value:expr;)*) => {
        $(
            pub(super) struct $name;
            impl Two for $name {
                #[inline(always)]
                unsafe fn of<S: Real>($a: S::F, $b: S::F, $bounds: Bounds) -> S::F {
                    $value
                }
            }
        )*
    };
}

two! {
    Add: |a, b, _| S::addf(a, b);
    Sub: |a, b, _| S::subf(a, b);
    Mul: |a, b, _| S::mulf(a, b);
    Div: |a, b, _| S::divf(a, b);
    Geglu: |x, y, _| S::mulf(gelu::<S>(x), y);
    Swiglu: |x, y, _| S::mulf(times_sigmoid::<S>(x, x), y);
    GegluQuick: |x, y, _| S::mulf(quick::<S>(x), y);
    GegluErf: |x, y, _| S::mulf(gelu_erf::<S>(x), y);
    SwigluOai: |x, y, Bounds { alpha, limit }| {
        let (x, y) = within::<S>(x, y, limit);
        S::mulf(times_sigmoid::<S>(x, S::mulf(x, S::splatf(alpha))), S::addf(y, S::splatf(1.0)))
    };
    SwigluClamp: |x, y, Bounds { limit, .. }| {
        let (x, y) = within::<S>(x, y, limit);
        S::mulf(times_sigmoid::<S>(x, x), y)
    };
}

/// The gate and the other one within the limit; a NaN stays.
#[inline(always)]
unsafe fn within<S: Real>(x: S::F, y: S::F, limit: f32) -> (S::F, S::F) {
    let most = S::splatf(limit);
    (S::minf(most, x), S::minf(most, S::maxf(S::splatf(-limit), y)))
}

#[inline(always)]
unsafe fn quick<S: Real>(x: S::F) -> S::F {
    times_sigmoid::<S>(x, S::mulf(x, S::splatf(1.702)))
}

/// Declares types that stand for functions of one vector.
macro_rules! one {
    ($($name:ident: |$x:ident| $value:expr;)*) => {
        $(
            pub(super) struct $name;
            impl One for $name {
                #[inline(always)]
                unsafe fn of<S: Real>($x: S::F) -> S::F {
                    $value
                }
            }
        )*
    };
}

one! {
    Silu: |x| times_sigmoid::<S>(x, x);
    Gelu: |x| gelu::<S>(x);
    GeluQuick: |x| quick::<S>(x);
    GeluErf: |x| gelu_erf::<S>(x);
    Sigmoid: |x| times_sigmoid::<S>(S::splatf(1.0), x);
    Tanh: |x| tanh::<S>(x);
    Exp: |x| exp::<S>(x);
}
