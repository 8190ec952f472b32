//! RMS_NORM, alone and with the MUL after it, and L2_NORM.

use zen5turbo_kernels::ops::NormFn;

use super::Job;
use super::layout::{Rows, apart, apart_or_in_place, counts, floats, has_dense_rows, holds};
use super::share::{Counts, Threads, next, place};
use crate::ggml::abi::Tensor;
use crate::reason::Reason;

/// A norm of rows.
pub struct NormJob {
    n: usize,
    rows: Counts,
    to: Rows,
    from: Rows,
    /// With what each row is multiplied, and how many such rows there are: fewer than rows are repeated.
    weights: Option<(Rows, Counts)>,
    epsilon: f32,
    function: NormFn,
}

/// Whether a norm is computed here.
///
/// # Safety
/// `op` is a tensor of ggml.
pub unsafe fn norm(op: &Tensor, function: NormFn) -> Result<NormJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let Some(a) = (unsafe { op.source(0) }) else { return Err(Reason::SourceMissing) };
    floats(op)?;
    floats(a)?;
    holds(op.ne == a.ne && has_dense_rows(op) && has_dense_rows(a))?;
    apart_or_in_place(op, a)?;
    Ok(NormJob {
        n: op.ne[0] as usize,
        rows: counts(op),
        to: Rows::of(op),
        from: Rows::of(a),
        weights: None,
        epsilon: f32::from_bits(op.op_params[0] as u32),
        function,
    })
}

/// Whether a norm and the product with its weights, which ggml has fused, are computed here.
///
/// # Safety
/// `op` and `mul` are tensors of ggml.
pub unsafe fn norm_mul(op: &Tensor, mul: &Tensor, function: NormFn) -> Result<NormJob, Reason> {
    // SAFETY: both are tensors of ggml, by the contract of this function, and so are their sources, which live as long.
    let (a, sources) = unsafe { (op.source(0), [mul.source(0), mul.source(1)]) };
    let (Some(a), [Some(first), Some(second)]) = (a, sources) else { return Err(Reason::SourceMissing) };
    let weights = if std::ptr::eq(first, op) { second } else { first };
    holds(std::ptr::eq(first, op) != std::ptr::eq(second, op))?;
    floats(mul)?;
    floats(a)?;
    floats(weights)?;
    holds(mul.ne == a.ne && [mul, a, weights].into_iter().all(has_dense_rows))?;
    holds(weights.ne[0] == mul.ne[0] && (1..4).all(|i| mul.ne[i] % weights.ne[i] == 0))?;
    apart_or_in_place(mul, a)?;
    apart(mul, weights)?;
    Ok(NormJob {
        n: mul.ne[0] as usize,
        rows: counts(mul),
        to: Rows::of(mul),
        from: Rows::of(a),
        weights: Some((Rows::of(weights), counts(weights))),
        epsilon: f32::from_bits(op.op_params[0] as u32),
        function,
    })
}

impl Job for NormJob {
    #[inline]
    unsafe fn run(&self, threads: Threads) {
        let mine = threads.part(self.rows.iter().product());
        let mut place = place(mine.start, self.rows);
        for _ in mine {
            let weights = self.weights.map_or(std::ptr::null(), |(rows, counts)| {
                rows.at(std::array::from_fn(|i| if counts[i] == 1 { 0 } else { place[i] % counts[i] })).cast_const()
            });
            // SAFETY: `norm` or `norm_mul` has checked the tensors, whose rows have these elements. No other thread has
            // this row.
            unsafe { (self.function)(self.from.at(place), weights, self.to.at(place), self.n, self.epsilon) };
            next(&mut place, self.rows);
        }
    }

    fn bytes(&self) -> u64 {
        (8 * self.n * self.rows.iter().product::<usize>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::tensor;
    use super::*;

    unsafe fn nothing(_: *const f32, _: *const f32, _: *mut f32, _: usize, _: f32) {}

    /// Whether a norm of `x`, which `mul` multiplies with `weights`, is taken.
    fn taken(x: &Tensor, weights: &Tensor, to: &Tensor, norm_first: bool) -> Result<(), Reason> {
        let pointer = |t: &Tensor| std::ptr::from_ref(t).cast_mut();
        let mut norm = tensor(x.ne, std::ptr::dangling());
        norm.src[0] = pointer(x);
        let mut mul = tensor(to.ne, to.data.cast_const().cast());
        (mul.src[0], mul.src[1]) = (pointer(&norm), pointer(weights));
        if !norm_first {
            mul.src.swap(0, 1);
        }
        // SAFETY: the tensors and their sources live until the end of this function.
        unsafe { norm_mul(&norm, &mul, nothing) }.map(|_| ())
    }

    #[test]
    fn a_fused_norm_is_taken_with_weights_that_repeat_and_apart_from_its_result() {
        let memory = [0f32; 256];
        let at = |from: usize| memory[from..].as_ptr();
        let (x, to, row) = ([8, 2, 3, 1], at(0), [8, 1, 1, 1]);
        for norm_first in [true, false] {
            let with = |weights: Tensor, result: *const f32| {
                taken(&tensor(x, at(64)), &weights, &tensor(x, result), norm_first)
            };
            for weights in [row, [8, 2, 1, 1], [8, 1, 3, 1], x] {
                assert_eq!(with(tensor(weights, at(128)), to), Ok(()), "{weights:?}");
            }
            for weights in [[1, 1, 1, 1], [4, 1, 1, 1], [8, 2, 2, 1], [8, 4, 1, 1]] {
                assert_eq!(with(tensor(weights, at(128)), to), Err(Reason::ShapeNotSupported), "{weights:?}");
            }
            assert_eq!(with(tensor(row, at(128)), at(64)), Ok(()), "in place");
            assert_eq!(with(tensor(row, at(128)), at(65)), Err(Reason::ResultOverlaps));
            assert_eq!(with(tensor(row, at(47)), to), Err(Reason::ResultOverlaps));
            let mut gaps = tensor(row, at(128));
            gaps.nb[0] = 8;
            assert_eq!(with(gaps, to), Err(Reason::ShapeNotSupported));
            let mut halves = tensor(row, at(128));
            halves.ty = 1;
            assert_eq!(with(halves, to), Err(Reason::TypeNotSupported));
        }
        let (x, row, to) = (tensor(x, at(64)), tensor(row, at(128)), tensor(x, at(0)));
        // SAFETY: the tensors and their sources live until the end of this test.
        let unrelated = unsafe { norm_mul(&x, &to, nothing) };
        assert!(matches!(unrelated, Err(Reason::SourceMissing)));
        let (mut norm, mut mul) = (tensor(x.ne, at(0)), tensor(x.ne, at(0)));
        norm.src[0] = std::ptr::from_ref(&x).cast_mut();
        (mul.src[0], mul.src[1]) = (std::ptr::from_ref(&row).cast_mut(), std::ptr::from_ref(&row).cast_mut());
        // SAFETY: the same.
        let other = unsafe { norm_mul(&norm, &mul, nothing) };
        assert!(matches!(other, Err(Reason::ShapeNotSupported)), "the product of something else");
    }
}
