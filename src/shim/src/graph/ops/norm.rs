//! RMS_NORM, L2_NORM.

use zen5turbo_kernels::ops::NormFn;

use super::Job;
use super::layout::{Rows, apart_or_in_place, counts, floats, has_dense_rows, holds};
use super::share::{Counts, Threads, next, place};
use crate::ggml::abi::Tensor;
use crate::reason::Reason;

/// A norm of rows.
pub struct NormJob {
    n: usize,
    rows: Counts,
    to: Rows,
    from: Rows,
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
    let epsilon = f32::from_bits(op.op_params[0] as u32);
    Ok(NormJob { n: op.ne[0] as usize, rows: counts(op), to: Rows::of(op), from: Rows::of(a), epsilon, function })
}

impl Job for NormJob {
    #[inline]
    unsafe fn run(&self, threads: Threads) {
        let mine = threads.part(self.rows.iter().product());
        let mut place = place(mine.start, self.rows);
        for _ in mine {
            // SAFETY: `norm` has checked the tensors, whose rows have these elements. No other thread has this row.
            unsafe { (self.function)(self.from.at(place), std::ptr::null(), self.to.at(place), self.n, self.epsilon) };
            next(&mut place, self.rows);
        }
    }

    fn bytes(&self) -> u64 {
        (8 * self.n * self.rows.iter().product::<usize>()) as u64
    }
}
