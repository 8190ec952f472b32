//! Norms: a row times one over its root mean square, or over its length.

use crate::isa::{LANES, Real};

/// Writes a row of `n` elements, normed, to `to`, which may be `x`. With `weights`, which may be null, every element is
/// then multiplied by its weight. `epsilon` is added to the mean of squares; a length below it counts as `epsilon`.
pub type NormFn = unsafe fn(x: *const f32, weights: *const f32, to: *mut f32, n: usize, epsilon: f32);

/// Vectors whose squares are added as `f32` before the sum goes on as `f64`. A lane adds four squares then, and the sum of a
/// vector takes four steps: its error is at most eight units of `f32`, however long the row is. ggml rounds each square to
/// `f32`, and adds these as `f64`.
const TOGETHER: usize = 4;

/// The sum of squares.
#[inline(always)]
unsafe fn squares<S: Real>(x: *const f32, n: usize) -> f64 {
    let (step, mut sum, mut i) = (TOGETHER * LANES, 0f64, 0);
    while i + step <= n {
        let mut v = S::splatf(0.0);
        for j in 0..TOGETHER {
            let x = S::loadf(x.add(i + j * LANES).cast());
            v = S::fma(x, x, v);
        }
        sum += f64::from(S::sum(v));
        i += step;
    }
    let mut v = S::splatf(0.0);
    while i + LANES <= n {
        let x = S::loadf(x.add(i).cast());
        v = S::fma(x, x, v);
        i += LANES;
    }
    if i < n {
        let x = S::loadf_n(x.add(i), n - i);
        v = S::fma(x, x, v);
    }
    sum + f64::from(S::sum(v))
}

/// Every element times `scale`, and times its weight where there are weights.
#[inline(always)]
unsafe fn scaled<S: Real>(x: *const f32, weights: *const f32, to: *mut f32, n: usize, scale: f32) {
    let (whole, scale) = (n / LANES * LANES, S::splatf(scale));
    let mut i = 0;
    if weights.is_null() {
        while i < whole {
            S::storef(to.add(i).cast(), S::mulf(S::loadf(x.add(i).cast()), scale));
            i += LANES;
        }
        if i < n {
            S::storef_n(to.add(i), S::mulf(S::loadf_n(x.add(i), n - i), scale), n - i);
        }
        return;
    }
    while i < whole {
        let v = S::mulf(S::loadf(x.add(i).cast()), scale);
        S::storef(to.add(i).cast(), S::mulf(v, S::loadf(weights.add(i).cast())));
        i += LANES;
    }
    if i < n {
        let v = S::mulf(S::loadf_n(x.add(i), n - i), scale);
        S::storef_n(to.add(i), S::mulf(v, S::loadf_n(weights.add(i), n - i)), n - i);
    }
}

/// A row over its root mean square (<https://arxiv.org/abs/1910.07467>); see [`NormFn`].
#[inline(always)]
pub(super) unsafe fn rms<S: Real>(x: *const f32, weights: *const f32, to: *mut f32, n: usize, epsilon: f32) {
    let mean = (squares::<S>(x, n) / n as f64) as f32;
    scaled::<S>(x, weights, to, n, 1.0 / (mean + epsilon).sqrt());
}

/// A row over its length; see [`NormFn`].
#[inline(always)]
pub(super) unsafe fn l2<S: Real>(x: *const f32, weights: *const f32, to: *mut f32, n: usize, epsilon: f32) {
    let length = (squares::<S>(x, n) as f32).sqrt();
    scaled::<S>(x, weights, to, n, 1.0 / length.max(epsilon));
}
