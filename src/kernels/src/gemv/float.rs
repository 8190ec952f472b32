//! F16, BF16 and F32 weights by a few columns: rows as they lie in memory, consecutive `k` in lanes.

use crate::isa::{DotBf16, LANES, Lanes};
use crate::pack::{FloatWeight, unrolled};
use crate::prefetch::GemvPrefetch;

/// Rows computed together: each activation loaded serves all of them. Sums, a vector of each row and one of
/// activations fit the registers, 32 with one each, else 16 or (with AVX-512VL) 32 with two.
const fn together<S: Lanes>(nc: usize) -> usize {
    match nc * S::REGISTERS {
        1..=4 => 4,
        5 | 6 => {
            if S::REGISTERS == 1 {
                4
            } else {
                2
            }
        }
        _ => 1,
    }
}

/// Steps of a turn of the loop: so the instructions that count the turns are few.
const STEPS: usize = 4;

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
    /// The last `n` elements; the other lanes are zero.
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

/// The operands of a product, see [`super::GemvFn`].
#[derive(Clone, Copy)]
struct Operands {
    weights: *const u8,
    stride: usize,
    k: usize,
    act: *const u8,
    act_stride: usize,
    dst: *const *mut f32,
    prefetch: GemvPrefetch,
}

/// The same pointers, but the compiler must assume that they are unrelated. So it keeps them in registers and changes one
/// common index, instead of computing each from the others or changing all of them.
#[inline(always)]
fn unrelated<const N: usize>(mut p: [*const u8; N]) -> [*const u8; N] {
    for p in &mut p {
        // SAFETY: no instruction, so nothing is read through the pointer; the value stays as it is.
        #[allow(clippy::pointers_in_nomem_asm_block)]
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) * p, options(pure, nomem, nostack, preserves_flags));
        }
    }
    p
}

/// Adds one step of `R` rows and `NC` columns, `at` elements behind element `i`; only the last `left` elements if
/// there are any. The result is `i`.
#[inline(always)]
unsafe fn step<S: Lanes, T: Step<S>, const NC: usize, const R: usize>(
    acc: &mut [[S::F; NC]; R],
    w: [*const u8; R],
    a: [*const u8; NC],
    mut i: isize,
    at: usize,
    left: Option<usize>,
) -> isize {
    let from = |p: *const u8, i: isize, bytes: usize| p.wrapping_offset(i * bytes as isize).wrapping_add(at * bytes);
    let mut v = [masked::<S, T>(T::weights(from(w[0], i, T::BYTES.0)), left); R];
    for (v, w) in v.iter_mut().zip(w).skip(1) {
        *v = masked::<S, T>(T::weights(from(w, i, T::BYTES.0)), left);
    }
    for (c, a) in a.into_iter().enumerate() {
        let a = masked::<S, T>(T::act(from(a, i, T::BYTES.1)), left);
        for (acc, w) in acc.iter_mut().zip(v) {
            acc[c] = T::add(acc[c], w, a);
        }
        // one column after the other
        i = S::after(i, acc[R - 1][c]);
    }
    i
}

/// The last `left` elements, unless all of them count. For both operands: zero times an infinity is not zero.
#[inline(always)]
unsafe fn masked<S: Lanes, T: Step<S>>(v: T::V, left: Option<usize>) -> T::V {
    match left {
        Some(n) => T::last(v, n),
        None => v,
    }
}

/// `R` rows from `row` on. Every sum is one chain of additions, whatever `R` and `NC` are.
#[inline(always)]
unsafe fn rows<S: Lanes, T: Step<S>, const NC: usize, const R: usize>(o: Operands, row: usize) {
    let turn = STEPS * T::K;
    let whole = o.k / turn * turn;
    // relative to the end of the turns: the index counts up to zero, so the loop needs no comparison
    let mut w = [core::ptr::null(); R];
    for (r, w) in w.iter_mut().enumerate() {
        *w = o.weights.wrapping_add((row + r) * o.stride + whole * T::BYTES.0);
    }
    let mut a = [core::ptr::null(); NC];
    for (c, a) in a.iter_mut().enumerate() {
        *a = o.act.wrapping_add(c * o.act_stride + whole * T::BYTES.1);
    }
    let (w, a) = (unrelated(w), unrelated(a));
    let mut acc = [[S::splatf(0.0); NC]; R];
    let prefetch = o.prefetch.next_rows(R * o.stride);
    let mut i = -(whole as isize);
    while i != 0 {
        for w in w {
            prefetch.lines(w.wrapping_offset(i * T::BYTES.0 as isize), turn * T::BYTES.0);
        }
        unrolled!(s in [0, 1, 2, 3] {
            i = step::<S, T, NC, R>(&mut acc, w, a, i, s * T::K, None);
        });
        i += turn as isize;
    }
    let mut left = o.k - whole;
    while left >= T::K {
        i = step::<S, T, NC, R>(&mut acc, w, a, i, 0, None);
        i += T::K as isize;
        left -= T::K;
    }
    if left > 0 {
        // the end of the row, without the elements that were in the step before
        step::<S, T, NC, R>(&mut acc, w, a, i + left as isize - T::K as isize, 0, Some(left));
    }
    for c in 0..NC {
        let p = (*o.dst.add(c)).add(row);
        if R == 4 {
            S::store_sums(p, [acc[0][c], acc[1 % R][c], acc[2 % R][c], acc[3 % R][c]]);
        } else {
            for (r, acc) in acc.iter().enumerate() {
                p.add(r).write_unaligned(S::sum(acc[c]));
            }
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
/// See [`super::GemvFn`].
#[inline(always)]
pub unsafe fn values<S: Lanes, W: FloatWeight, const NC: usize>(
    weights: *const u8,
    stride: usize,
    rows: usize,
    k: usize,
    act: *const u8,
    act_stride: usize,
    dst: *const *mut f32,
    prefetch: GemvPrefetch,
) {
    all::<S, Values<W>, NC>(Operands { weights, stride, k, act, act_stride, dst, prefetch }, rows);
}

/// Pairs of `bf16`.
///
/// # Safety
/// See [`super::GemvFn`]; the CPU has AVX512_BF16.
#[inline(always)]
pub unsafe fn pairs<S: DotBf16, const NC: usize>(
    weights: *const u8,
    stride: usize,
    rows: usize,
    k: usize,
    act: *const u8,
    act_stride: usize,
    dst: *const *mut f32,
    prefetch: GemvPrefetch,
) {
    all::<S, Pairs, NC>(Operands { weights, stride, k, act, act_stride, dst, prefetch }, rows);
}
