//! ARGSORT.

use zen5turbo_kernels::ops::{Functions, ORDERED, OrderFn};

use super::Job;
use super::layout::{Rows, apart, counts, elements, floats, has_dense_rows, holds};
use super::share::{Counts, Threads, next, place};
use crate::ggml::abi::Tensor;
use crate::ggml::checked::is_address;
use crate::loader::Abi;
use crate::reason::Reason;

/// The order of the numbers of rows, such as the probabilities of experts.
pub struct OrderJob {
    n: usize,
    rows: Counts,
    to: Rows,
    from: Rows,
    largest_first: bool,
    function: OrderFn,
    bytes: usize,
}

/// `GGML_SORT_ORDER_DESC`; `GGML_SORT_ORDER_ASC` is zero.
const LARGEST_FIRST: i32 = 1;

/// Whether an ARGSORT is computed here.
///
/// # Safety
/// `op` is a tensor of the ggml of `abi`.
pub unsafe fn order(abi: &Abi, op: &Tensor, functions: &Functions) -> Result<OrderJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let Some(a) = (unsafe { op.source(0) }) else { return Err(Reason::SourceMissing) };
    floats(a)?;
    if !abi.is_i32(op.ty) {
        return Err(Reason::TypeNotSupported);
    }
    holds(op.is_sound() && is_address::<i32>(op.data.cast()) && op.nb.iter().all(|nb| nb.is_multiple_of(4)))?;
    holds(op.ne == a.ne && has_dense_rows(op) && has_dense_rows(a))?;
    holds(a.ne[0] as usize <= ORDERED && matches!(op.op_params[0], 0 | LARGEST_FIRST))?;
    apart(op, a)?; // integers have the size of floats
    Ok(OrderJob {
        n: op.ne[0] as usize,
        rows: counts(op),
        to: Rows::of(op),
        from: Rows::of(a),
        largest_first: op.op_params[0] == LARGEST_FIRST,
        function: functions.order,
        bytes: 8 * elements(op),
    })
}

impl Job for OrderJob {
    unsafe fn run(&self, threads: Threads) {
        let mine = threads.part(self.rows.iter().product());
        let mut at = place(mine.start, self.rows);
        for _ in mine {
            // SAFETY: `order` has checked the tensors, whose rows have these elements. No other thread has this row.
            unsafe { (self.function)(self.from.at(at), self.to.at(at).cast(), self.n, self.largest_first) };
            next(&mut at, self.rows);
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}
