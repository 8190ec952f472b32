//! The recurrence of state-space models with one decay for each head (Mamba 2, <https://arxiv.org/abs/2405.21060>).
//!
//! The state of a head has a row for each element of inputs and results. A token changes each row by itself:
//!
//! ```text
//! d      = softplus(dt)
//! row    = row * exp(d * a) + b * (x[j] * d)
//! out[j] = row . c
//! ```
//!
//! So a row stays in registers for some tokens, and is read and written once for them.

use super::math::exp;
use super::scalar::ln;
use crate::isa::{LANES, Real};
use core::mem::MaybeUninit;

/// Tokens that a row stays in registers for. Their `b` and `c`, 32 KiB with 128 elements, are read again for each row.
const TOKENS: usize = 32;

/// One head of one sequence. All addresses are aligned to 4 bytes; steps are floats from token to token.
#[derive(Clone, Copy, Debug)]
pub struct SsmScan {
    /// Inputs: one for each row of the state.
    pub x: (*const f32, usize),
    /// The time step of a token.
    pub dt: (*const f32, usize),
    /// Rate of the decay.
    pub a: f32,
    /// What inputs are written with: [`Self::len`] floats for each token.
    pub b: (*const f32, usize),
    /// What results are read with, as many.
    pub c: (*const f32, usize),
    /// Results, as many as inputs.
    pub out: (*mut f32, usize),
    /// The state before the first token: rows of `len` floats.
    pub before: *const f32,
    /// The state after the last token. May be [`Self::before`].
    pub after: *mut f32,
    /// Number of tokens, at least one.
    pub tokens: usize,
    /// Elements of a row: 64, 128 or 256.
    pub len: usize,
}

impl SsmScan {
    /// Whether rows of this length are computed.
    #[must_use]
    pub const fn is_known(len: usize) -> bool {
        matches!(len, 64 | 128 | 256)
    }
}

/// Computes some rows of the state, and the elements of the results that belong to them, for all tokens.
///
/// # Safety
/// What [`SsmScan`] names is readable and writable. No other thread computes the same rows.
pub type SsmScanFn = unsafe fn(scan: &SsmScan, rows: core::ops::Range<usize>);

/// See [`SsmScanFn`].
#[inline(always)]
pub(super) unsafe fn ssm_scan<S: Real>(scan: &SsmScan, rows: core::ops::Range<usize>) {
    // not zeroed as a whole, which would be a call
    let mut memory = MaybeUninit::<[[f32; TOKENS]; 2]>::uninit();
    let steps = memory.as_mut_ptr().cast::<f32>();
    let decays = steps.add(TOKENS);
    let mut first = 0;
    while first < scan.tokens {
        let n = (scan.tokens - first).min(TOKENS);
        // the last vector may not be whole
        S::storef(steps.add((n - 1) / LANES * LANES).cast(), S::splatf(0.0));
        let mut i = 0;
        while i < n {
            *steps.add(i) = *scan.dt.0.add((first + i) * scan.dt.1);
            i += 1;
        }
        i = 0;
        while i < n {
            S::storef(decays.add(i).cast(), exp::<S>(S::loadf(steps.add(i).cast())));
            i += LANES;
        }
        i = 0;
        while i < n {
            let dt = *steps.add(i);
            if dt <= LINEAR {
                *steps.add(i) = ln(1.0 + *decays.add(i)); // the sum is rounded, as ggml rounds it
            }
            i += 1;
        }
        i = 0;
        while i < n {
            let rate = S::mulf(S::loadf(steps.add(i).cast()), S::splatf(scan.a));
            S::storef(decays.add(i).cast(), exp::<S>(rate));
            i += LANES;
        }
        let from = if first == 0 { scan.before } else { scan.after.cast_const() };
        let block = Block { scan, steps, decays, first, n, from };
        let mut row = rows.start;
        while row + 2 <= rows.end && scan.len <= 128 {
            if scan.len == 128 {
                block.rows::<S, 8, 2>(row)
            } else {
                block.rows::<S, 4, 2>(row)
            }
            row += 2;
        }
        while row < rows.end {
            match scan.len {
                256 => block.rows::<S, 16, 1>(row),
                128 => block.rows::<S, 8, 1>(row),
                _ => block.rows::<S, 4, 1>(row),
            }
            row += 1;
        }
        first += n;
    }
}

/// Above, `softplus(x) = ln(1 + e^x)` is `x`, as in ggml.
const LINEAR: f32 = 20.0;

/// Some tokens of a head.
struct Block<'a> {
    scan: &'a SsmScan,
    /// One for each of these tokens.
    steps: *const f32,
    decays: *const f32,
    /// The first token, and their number.
    first: usize,
    n: usize,
    /// The state before them.
    from: *const f32,
}

impl Block<'_> {
    /// Computes `R` rows of `V` vectors.
    #[allow(clippy::needless_range_loop)] // each index is that of several arrays
    #[inline(always)]
    unsafe fn rows<S: Real, const V: usize, const R: usize>(&self, row: usize) {
        let scan = self.scan;
        // not of zeroes, which would be a call
        let mut state = [[S::loadf(self.from.add(row * scan.len).cast()); V]; R];
        for (r, state) in state.iter_mut().enumerate() {
            for (v, state) in state.iter_mut().enumerate() {
                *state = S::loadf(self.from.add((row + r) * scan.len + v * LANES).cast());
            }
        }
        let mut i = 0;
        while i < self.n {
            let token = self.first + i;
            let (b, c) = (scan.b.0.add(token * scan.b.1), scan.c.0.add(token * scan.c.1));
            let x = scan.x.0.add(token * scan.x.1 + row);
            let (decay, step) = (S::splatf(*self.decays.add(i)), *self.steps.add(i));
            let mut inputs = [S::splatf(0.0); R];
            for r in 0..R {
                inputs[r] = S::splatf(*x.add(r) * step);
            }
            let mut sums = [[S::splatf(0.0); 2]; R];
            for v in 0..V {
                let (b, c) = (S::loadf(b.add(v * LANES).cast()), S::loadf(c.add(v * LANES).cast()));
                for r in 0..R {
                    state[r][v] = S::fma(b, inputs[r], S::mulf(state[r][v], decay));
                    sums[r][v % 2] = S::fma(state[r][v], c, sums[r][v % 2]);
                }
            }
            for r in 0..R {
                *scan.out.0.add(token * scan.out.1 + row + r) = S::sum(S::addf(sums[r][0], sums[r][1]));
            }
            i += 1;
        }
        for (r, state) in state.iter().enumerate() {
            for (v, state) in state.iter().enumerate() {
                S::storef(scan.after.add((row + r) * scan.len + v * LANES).cast(), *state);
            }
        }
    }
}
