//! SOFT_MAX.

use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::ops::{Functions, RowMask, SoftMax, SoftMaxFn};

use super::Job;
use super::layout::{Rows, apart, apart_or_in_place, counts, elements, floats, has_dense_rows, holds};
use super::share::{Counts, Threads, next, place};
use crate::ggml::abi::{TYPE_F32, Tensor};
use crate::ggml::checked::is_address;
use crate::loader::Abi;
use crate::reason::Reason;

/// A soft max of rows: the scores of heads without flash attention, or of experts.
pub struct SoftMaxJob {
    n: usize,
    rows: Counts,
    to: Rows,
    from: Rows,
    /// The mask's rows, how many there are in each dimension, and whether they are halves.
    mask: Option<(Rows, Counts, bool)>,
    /// One for each head, or null.
    sinks: *const f32,
    scale: f32,
    function: SoftMaxFn,
    bytes: usize,
}

/// Whether a SOFT_MAX is computed here.
///
/// # Safety
/// `op` is a tensor of the ggml of `abi`.
pub unsafe fn soft_max(abi: &Abi, op: &Tensor, functions: &Functions) -> Result<SoftMaxJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let (Some(a), mask, sinks) = (unsafe { (op.source(0), op.source(1), op.source(2)) }) else {
        return Err(Reason::SourceMissing);
    };
    floats(op)?;
    floats(a)?;
    holds(op.ne == a.ne && has_dense_rows(op) && has_dense_rows(a))?;
    apart_or_in_place(op, a)?;
    let [scale, max_bias] = [0, 1].map(|i| f32::from_bits(op.op_params[i] as u32));
    holds(max_bias == 0.0)?; // no model with ALiBi was seen here
    let mask = match mask {
        Some(m) => Some(rows_of_mask(abi, op, m)?),
        None => None,
    };
    if let Some(sinks) = sinks {
        floats(sinks)?;
        holds(has_dense_rows(sinks) && sinks.ne[0] >= op.ne[2])?;
        apart(op, sinks)?;
    }
    Ok(SoftMaxJob {
        n: op.ne[0] as usize,
        rows: counts(op),
        to: Rows::of(op),
        from: Rows::of(a),
        mask,
        sinks: sinks.map_or(std::ptr::null(), |t| t.data.cast_const().cast()),
        scale,
        function: functions.soft_max,
        bytes: 8 * elements(op),
    })
}

/// The rows of a mask, which has at least as many as the scores of a head, and is repeated for heads and batches.
fn rows_of_mask(abi: &Abi, op: &Tensor, m: &Tensor) -> Result<(Rows, Counts, bool), Reason> {
    let (ty, size) = match abi.weight_type(m.ty) {
        Some(WeightType::F16) => (WeightType::F16, 2),
        _ if m.ty == TYPE_F32 => (WeightType::F32, 4),
        _ => return Err(Reason::TypeNotSupported),
    };
    holds(m.is_sound() && is_address::<f32>(m.data.cast()) && m.nb.iter().all(|nb| nb.is_multiple_of(size)))?;
    holds(m.nb[0] == size && m.ne[0] == op.ne[0] && m.ne[1] >= op.ne[1])?;
    holds(op.ne[2] % m.ne[2] == 0 && op.ne[3] % m.ne[3] == 0)?;
    let (to, from) = (op.extent(Some(WeightType::F32)), m.extent(Some(ty)));
    if to.end > from.start && from.end > to.start {
        return Err(Reason::ResultOverlaps);
    }
    Ok((Rows::of(m), counts(m), size == 2))
}

impl Job for SoftMaxJob {
    unsafe fn run(&self, threads: Threads) {
        let mine = threads.part(self.rows.iter().product());
        let mut at = place(mine.start, self.rows);
        for _ in mine {
            let mask = match &self.mask {
                None => RowMask::None,
                Some((rows, counts, halves)) => {
                    let row = rows.at([at[0], at[1] % counts[1], at[2] % counts[2]]);
                    if *halves { RowMask::Halves(row.cast()) } else { RowMask::Floats(row) }
                }
            };
            // SAFETY: `soft_max` has checked that there is a sink for each head.
            let sink = if self.sinks.is_null() { f32::NEG_INFINITY } else { unsafe { *self.sinks.add(at[1]) } };
            let row = SoftMax { x: self.from.at(at), mask, to: self.to.at(at), n: self.n, scale: self.scale, sink };
            // SAFETY: `soft_max` has checked the tensors, whose rows have these elements. No other thread has this row.
            unsafe { (self.function)(&row) };
            next(&mut at, self.rows);
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}
