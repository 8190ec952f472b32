//! SSM_SCAN of models with one decay for each head (Mamba 2).

use zen5turbo_kernels::isa::LANES;
use zen5turbo_kernels::ops::{Functions, SsmScan, SsmScanFn};

use super::Job;
use super::layout::{apart, elements, floats, has_dense_rows, holds, is_dense};
use super::share::Threads;
use crate::ggml::abi::Tensor;
use crate::ggml::checked::is_address;
use crate::loader::Abi;
use crate::reason::Reason;

/// A scan of heads and sequences.
pub struct ScanJob<'a> {
    x: &'a Tensor,
    dt: &'a Tensor,
    a: &'a Tensor,
    b: &'a Tensor,
    c: &'a Tensor,
    state: &'a Tensor,
    /// For each sequence, the number of its state.
    ids: *const i32,
    result: *mut f32,
    function: SsmScanFn,
    bytes: usize,
}

/// Whether an SSM_SCAN is computed here.
///
/// # Safety
/// `op` is a tensor of the ggml of `abi`, and what its sources hold does not change.
pub unsafe fn scan<'a>(abi: &Abi, op: &'a Tensor, functions: &Functions) -> Result<ScanJob<'a>, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let sources = [0, 1, 2, 3, 4, 5, 6].map(|i| unsafe { op.source(i) });
    let [Some(state), Some(x), Some(dt), Some(a), Some(b), Some(c), Some(ids)] = sources else {
        return Err(Reason::SourceMissing);
    };
    for t in [op, state, x, dt, a, b, c] {
        floats(t)?;
        holds(has_dense_rows(t))?;
    }
    let [rows, heads, tokens, sequences] = x.ne;
    let len = b.ne[0];
    // Mamba 1 has a decay for each element, and rows of 16.
    holds(SsmScan::is_known(len as usize) && a.ne == [1, heads, 1, 1] && is_dense(a))?;
    holds(state.ne[..3] == [len, rows, heads] && is_dense(state))?;
    holds(dt.ne == [heads, tokens, sequences, 1])?;
    holds(b.ne == c.ne && b.ne[2..] == [tokens, sequences] && heads % b.ne[1] == 0)?;
    let dense_heads = |t: &Tensor| t.ne[1] == 1 || t.nb[1] == 4 * t.ne[0] as usize;
    holds([x, b, c].into_iter().all(dense_heads))?;
    // Results first, then the states after the last tokens: of the last one alone. Older releases do not have this parameter,
    // which is zero then.
    holds(matches!(op.op_params[0], 0 | 1) && is_dense(op))?;
    holds(elements(op) == elements(x) + (len * rows * heads * sequences) as usize)?;
    holds(
        abi.is_i32(ids.ty) && ids.ne == [sequences, 1, 1, 1] && ids.nb[0] == 4 && is_address::<i32>(ids.data.cast()),
    )?;
    let numbers: *const i32 = ids.data.cast_const().cast();
    // SAFETY: `ids` has been checked: so many integers at an address of integers, by the contract of this function.
    let known = |i: i64| (0..state.ne[3]).contains(&i64::from(unsafe { *numbers.add(i as usize) }));
    holds((0..sequences).all(known))?;
    for t in [state, x, dt, a, b, c] {
        apart(op, t)?;
    }
    Ok(ScanJob {
        x,
        dt,
        a,
        b,
        c,
        state,
        ids: numbers,
        result: op.data.cast(),
        function: functions.ssm_scan,
        bytes: 4 * (elements(x) + elements(b) + elements(c) + 2 * elements(op)),
    })
}

/// Pieces for each thread, at least. Rows of a state that threads share are whole cache lines of results.
const PIECES: usize = 4;

impl Job for ScanJob<'_> {
    unsafe fn run(&self, threads: Threads) {
        let [rows, heads, tokens, sequences] = self.x.ne.map(|n| n as usize);
        let (len, groups) = (self.b.ne[0] as usize, self.b.ne[1] as usize);
        let all = heads * sequences;
        let parts = (PIECES * threads.nth).div_ceil(all).clamp(1, rows.div_ceil(LANES));
        let part_rows = rows.div_ceil(parts).next_multiple_of(LANES);
        let at = |t: &Tensor, head: usize, sequence: usize| {
            let bytes = head * t.nb[1] + sequence * t.nb[3];
            (t.data.cast::<u8>().wrapping_add(bytes).cast_const().cast::<f32>(), t.nb[2] / 4)
        };
        for piece in threads.part(all * parts) {
            let (i, part) = (piece / parts, piece % parts);
            let (head, sequence) = (i % heads, i / heads);
            let group = head / (heads / groups);
            let dt = self.dt.data.cast::<u8>().wrapping_add(4 * head + sequence * self.dt.nb[2]);
            let state_len = len * rows;
            // SAFETY: `scan` has checked that there is a number for each sequence, and a rate for each head.
            let (id, a) = unsafe { (*self.ids.add(sequence), *self.a.data.cast::<f32>().add(head)) };
            let before = id as usize * self.state.nb[3] + 4 * head * state_len;
            let scan = SsmScan {
                x: at(self.x, head, sequence),
                dt: (dt.cast_const().cast(), self.dt.nb[1] / 4),
                a,
                b: at(self.b, group, sequence),
                c: at(self.c, group, sequence),
                out: (self.result.wrapping_add((sequence * tokens * heads + head) * rows), rows * heads),
                before: self.state.data.cast::<u8>().wrapping_add(before).cast_const().cast(),
                after: self.result.wrapping_add(elements(self.x) + i * state_len),
                tokens,
                len,
            };
            let first = (part * part_rows).min(rows);
            // SAFETY: `scan` has checked the tensors. No other thread has these rows of this head.
            unsafe { (self.function)(&scan, first..(first + part_rows).min(rows)) };
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}
