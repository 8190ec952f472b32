//! Products of few columns with F16, BF16 and F32 weights: rows as they lie, consecutive `k` in lanes.
//! Packing would cost more than the product.

use crate::isa::{DotBf16, LANES, Lanes};
use crate::pack::FloatWeight;

/// Rows computed together: each activation loaded serves all of them.
const fn together<S: Lanes>(nc: usize) -> usize {
    match nc * S::REGISTERS {
        1..=4 => 4,
        5 | 6 => 2,
        _ => 1,
    }
}

/// A step of the product: what is multiplied at once.
trait Step<S: Lanes> {
    /// Elements.
    const K: usize;
    /// Bytes of an element in a row of weights, in a tile.
    const BYTES: (usize, usize);
    /// A vector of weights or activations.
    type V: Copy;
    unsafe fn weights(p: *const u8) -> Self::V;
    unsafe fn act(p: *const u8) -> Self::V;
    /// The last `n` elements, zero in the others.
    unsafe fn last(v: Self::V, n: usize) -> Self::V;
    /// Adds the products.
    unsafe fn add(acc: S::F, w: Self::V, a: Self::V) -> S::F;
}

/// Sixteen values, widened to `f32`.
struct Values<W>(W);
impl<S: Lanes, W: FloatWeight> Step<S> for Values<W> {
    const K: usize = LANES;
    const BYTES: (usize, usize) = (W::TYPE.row_bytes(1), 4);
    type V = S::F;
    #[inline(always)]
    unsafe fn weights(p: *const u8) -> S::F {
        W::widen::<S>(p)
    }
    #[inline(always)]
    unsafe fn act(p: *const u8) -> S::F {
        S::loadf(p)
    }
    #[inline(always)]
    unsafe fn last(v: S::F, n: usize) -> S::F {
        S::last(v, n)
    }
    #[inline(always)]
    unsafe fn add(acc: S::F, w: S::F, a: S::F) -> S::F {
        S::fma(w, a, acc)
    }
}

/// Sixteen pairs of `bf16`.
struct Pairs;
impl<S: DotBf16> Step<S> for Pairs {
    const K: usize = 2 * LANES;
    const BYTES: (usize, usize) = (2, 2);
    type V = S::I;
    #[inline(always)]
    unsafe fn weights(p: *const u8) -> S::I {
        S::load(p)
    }
    #[inline(always)]
    unsafe fn act(p: *const u8) -> S::I {
        S::load(p)
    }
    #[inline(always)]
    unsafe fn last(v: S::I, n: usize) -> S::I {
        S::last_words(v, n)
    }
    #[inline(always)]
    unsafe fn add(acc: S::F, w: S::I, a: S::I) -> S::F {
        S::dot_bf16(acc, w, a)
    }
}

/// The operands of a product, see [`super::DirectFn`].
#[derive(Clone, Copy)]
struct Operands {
    weights: *const u8,
    stride: usize,
    k: usize,
    act: *const u8,
    act_stride: usize,
    dst: *const *mut f32,
}

/// Adds one step of `R` rows at `w` and `NC` columns at `a`.
#[inline(always)]
unsafe fn step<S: Lanes, T: Step<S>, const NC: usize, const R: usize>(
    acc: &mut [[S::F; NC]; R],
    o: Operands,
    w: *const u8,
    a: *const u8,
) {
    for (r, acc) in acc.iter_mut().enumerate() {
        let w = T::weights(w.add(r * o.stride));
        for (c, acc) in acc.iter_mut().enumerate() {
            *acc = T::add(*acc, w, T::act(a.add(c * o.act_stride)));
        }
    }
}

/// `R` rows from `row` on.
#[inline(always)]
unsafe fn rows<S: Lanes, T: Step<S>, const NC: usize, const R: usize>(o: Operands, row: usize) {
    let w = o.weights.add(row * o.stride);
    let mut acc = [[S::splatf(0.0); NC]; R];
    let steps = o.k / T::K;
    let (mut p, mut a) = (w, o.act);
    for _ in 0..steps / 2 {
        step::<S, T, NC, R>(&mut acc, o, p, a);
        step::<S, T, NC, R>(&mut acc, o, p.add(T::K * T::BYTES.0), a.add(T::K * T::BYTES.1));
        (p, a) = (p.add(2 * T::K * T::BYTES.0), a.add(2 * T::K * T::BYTES.1));
    }
    if !steps.is_multiple_of(2) {
        step::<S, T, NC, R>(&mut acc, o, p, a);
    }
    let left = o.k % T::K;
    if left > 0 {
        // the last step of the row, without the elements that were in the step before; both operands
        // are masked because a zero does not hide what is not finite
        let (w, a) = (w.add((o.k - T::K) * T::BYTES.0), o.act.add((o.k - T::K) * T::BYTES.1));
        for (r, acc) in acc.iter_mut().enumerate() {
            let w = T::last(T::weights(w.add(r * o.stride)), left);
            for (c, acc) in acc.iter_mut().enumerate() {
                *acc = T::add(*acc, w, T::last(T::act(a.add(c * o.act_stride)), left));
            }
        }
    }
    for (r, acc) in acc.into_iter().enumerate() {
        for (c, acc) in acc.into_iter().enumerate() {
            (*o.dst.add(c)).add(row + r).write_unaligned(S::sum(acc));
        }
    }
}

#[inline(always)]
unsafe fn all<S: Lanes, T: Step<S>, const NC: usize>(o: Operands, n: usize) {
    let mut row = 0;
    if together::<S>(NC) == 4 {
        while row + 4 <= n {
            rows::<S, T, NC, 4>(o, row);
            row += 4;
        }
    }
    if together::<S>(NC) >= 2 {
        while row + 2 <= n {
            rows::<S, T, NC, 2>(o, row);
            row += 2;
        }
    }
    while row < n {
        rows::<S, T, NC, 1>(o, row);
        row += 1;
    }
}

/// Weights widened to `f32`.
///
/// # Safety
/// See [`super::DirectFn`].
#[inline(always)]
pub unsafe fn values<S: Lanes, W: FloatWeight, const NC: usize>(
    weights: *const u8,
    stride: usize,
    rows: usize,
    k: usize,
    act: *const u8,
    act_stride: usize,
    dst: *const *mut f32,
) {
    all::<S, Values<W>, NC>(Operands { weights, stride, k, act, act_stride, dst }, rows);
}

/// Pairs of `bf16`.
///
/// # Safety
/// See [`super::DirectFn`]; the CPU has AVX512_BF16.
#[inline(always)]
pub unsafe fn pairs<S: DotBf16, const NC: usize>(
    weights: *const u8,
    stride: usize,
    rows: usize,
    k: usize,
    act: *const u8,
    act_stride: usize,
    dst: *const *mut f32,
) {
    all::<S, Pairs, NC>(Operands { weights, stride, k, act, act_stride, dst }, rows);
}
