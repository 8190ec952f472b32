//! ROPE.

use std::mem::MaybeUninit;

use zen5turbo_kernels::ops::{
    Frequencies, Functions, LARGEST_ANGLE, PAIRS, Rope, RopeFn, RopeParameters, Rotations, RotationsFn,
};

use super::Job;
use super::layout::{Rows, apart, apart_or_in_place, counts, elements, floats, has_dense_rows, holds};
use super::share::{Counts, Threads, next, place};
use crate::ggml::abi::Tensor;
use crate::ggml::checked::is_address;
use crate::loader::Abi;
use crate::reason::Reason;

/// Rows of heads, turned by the positions of their tokens.
pub struct RopeJob {
    n: usize,
    /// Heads, tokens, sequences.
    rows: Counts,
    to: Rows,
    from: Rows,
    positions: *const i32,
    frequencies: Frequencies,
    first: usize,
    neighbours: bool,
    functions: (RotationsFn, RopeFn),
    bytes: usize,
}

/// `GGML_ROPE_TYPE_NORMAL`, with pairs of neighbours.
const NORMAL: i32 = 0;

/// `GGML_ROPE_TYPE_NEOX`.
const NEOX: i32 = 2;

/// With positions up to this magnitude and divisors from a half on, no angle is larger than the kernels allow.
const FARTHEST: u32 = LARGEST_ANGLE as u32 / 2;

/// Whether a ROPE is computed here.
///
/// # Safety
/// `op` is a tensor of the ggml of `abi`, and what its sources hold does not change.
pub unsafe fn rope(abi: &Abi, op: &Tensor, functions: &Functions) -> Result<RopeJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let (Some(a), Some(positions), factors) = (unsafe { (op.source(0), op.source(1), op.source(2)) }) else {
        return Err(Reason::SourceMissing);
    };
    floats(op)?;
    floats(a)?;
    holds(op.ne == a.ne && has_dense_rows(op) && has_dense_rows(a))?;
    apart_or_in_place(op, a)?;
    let [_, dims, mode, _, original, ..] = op.op_params;
    let first = op.op_params[15];
    // The other modes have several positions for each token.
    holds(mode == NORMAL || mode == NEOX)?;
    holds(dims > 0 && dims % 2 == 0 && first >= 0 && i64::from(dims) + i64::from(first) <= op.ne[0])?;
    let (dims, first) = (dims as usize, first as usize);
    holds(dims / 2 <= PAIRS)?;
    let numbers = [5, 6, 7, 8, 9, 10].map(|i| f32::from_bits(op.op_params[i] as u32));
    let [base, freq_scale, ext_factor, _, fast, slow] = numbers;
    holds(base.is_normal() && base > 1.0 && freq_scale.is_normal() && (0.0..=1.0).contains(&freq_scale))?;
    holds(ext_factor == 0.0 || ((0.0..=1.0).contains(&ext_factor) && original > 0 && fast > 0.0 && slow > 0.0))?;
    holds(abi.is_i32(positions.ty) && positions.ne == [op.ne[2], 1, 1, 1] && positions.nb[0] == 4)?;
    holds(is_address::<i32>(positions.data.cast()))?;
    let at: *const i32 = positions.data.cast_const().cast();
    // SAFETY: `positions` has been checked: so many integers at an address of integers, by the contract of this function.
    let near = |i: i64| unsafe { *at.add(i as usize) }.unsigned_abs() <= FARTHEST;
    holds((0..op.ne[2]).all(near))?;
    let divisors: *const f32 = match factors {
        None => std::ptr::null(),
        Some(t) => {
            floats(t)?;
            holds(has_dense_rows(t) && t.ne[0] >= dims as i64 / 2)?;
            apart(op, t)?;
            let divisors: *const f32 = t.data.cast_const().cast();
            // SAFETY: `t` has been checked: so many floats at an address of floats, by the contract of this function.
            holds((0..dims / 2).all(|i| unsafe { *divisors.add(i) } >= 0.5))?;
            divisors
        }
    };
    Ok(RopeJob {
        n: op.ne[0] as usize,
        rows: counts(op),
        to: Rows::of(op),
        from: Rows::of(a),
        positions: at,
        frequencies: Frequencies::new(&RopeParameters { dims, original, floats: numbers }, divisors),
        first,
        neighbours: mode == NORMAL,
        functions: (functions.rotations, functions.rope),
        bytes: 8 * elements(op),
    })
}

impl Job for RopeJob {
    unsafe fn run(&self, threads: Threads) {
        let mine = threads.part(self.rows.iter().product());
        let mut at = place(mine.start, self.rows);
        let mut memory = MaybeUninit::<Rotations>::uninit();
        let mut known = None;
        for _ in mine {
            if known != Some(at[1]) {
                known = Some(at[1]);
                // SAFETY: `rope` has checked that there is a position for each token, how large it is, and that there are as
                // many factors as pairs.
                unsafe { (self.functions.0)(&self.frequencies, *self.positions.add(at[1]), memory.as_mut_ptr()) };
            }
            let row = Rope {
                x: self.from.at(at),
                to: self.to.at(at),
                n: self.n,
                first: self.first,
                pairs: self.frequencies.pairs,
                neighbours: self.neighbours,
            };
            // SAFETY: `rope` has checked the tensors, whose rows have these elements. No other thread has this row. The
            // rotations have been written above.
            unsafe { (self.functions.1)(&row, memory.as_ptr()) };
            next(&mut at, self.rows);
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}
