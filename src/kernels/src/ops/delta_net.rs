//! The recurrence of gated delta networks (<https://arxiv.org/abs/2412.06464>), with one gate for each head and token.
//!
//! The state of a head is a square matrix. ggml keeps it transposed: row `j` belongs to element `j` of values and results.
//! A token changes each row by itself:
//!
//! ```text
//! row    = row * exp(gate)
//! row    = row + key * ((value[j] - row . key) * beta)
//! out[j] = row . query * scale
//! ```
//!
//! So a row stays in registers for many tokens, and is read and written once.

use super::math::exp;
use crate::isa::{LANES, Real};
use core::mem::MaybeUninit;

/// Most tokens that a row stays in registers for: their decays lie on the stack.
const TOKENS: usize = 256;

/// One head of one sequence. All addresses are aligned to 4 bytes; steps are floats from token to token.
#[derive(Clone, Copy, Debug)]
pub struct DeltaNet {
    /// Queries, keys, values of the head: [`Self::len`] floats for each token.
    pub query: (*const f32, usize),
    /// See [`Self::query`].
    pub key: (*const f32, usize),
    /// See [`Self::query`].
    pub value: (*const f32, usize),
    /// The logarithms of the decays, one for each token.
    pub gate: (*const f32, usize),
    /// One for each token.
    pub beta: (*const f32, usize),
    /// Results, as many as values.
    pub out: (*mut f32, usize),
    /// The state before the first token: `len` rows of `len` floats.
    pub before: *const f32,
    /// The state after the last token. May be [`Self::before`].
    pub after: *mut f32,
    /// States after earlier tokens: floats from the state after a token to the state after the token before it; and the number
    /// of states, 1 for the last one alone.
    pub snapshots: (usize, usize),
    /// Number of tokens, at least one.
    pub tokens: usize,
    /// Elements of a key: 64 or 128.
    pub len: usize,
    /// Factor of the results.
    pub scale: f32,
}

impl DeltaNet {
    /// Whether heads of this length are computed.
    #[must_use]
    pub const fn is_known(len: usize) -> bool {
        matches!(len, 64 | 128)
    }
}

/// Computes some rows of the state, and the elements of the results that belong to them, for all tokens.
///
/// # Safety
/// What [`DeltaNet`] names is readable and writable. No other thread computes the same rows.
pub type DeltaNetFn = unsafe fn(net: &DeltaNet, rows: core::ops::Range<usize>);

/// See [`DeltaNetFn`].
#[inline(always)]
pub(super) unsafe fn delta_net<S: Real>(net: &DeltaNet, rows: core::ops::Range<usize>) {
    // not zeroed as a whole, which would be a call
    let mut memory = MaybeUninit::<[f32; TOKENS]>::uninit();
    let decays = memory.as_mut_ptr().cast::<f32>();
    let mut first = 0;
    while first < net.tokens {
        let n = (net.tokens - first).min(TOKENS);
        // the last vector may not be whole
        S::storef(decays.add((n - 1) / LANES * LANES).cast(), S::splatf(0.0));
        let mut i = 0;
        while i < n {
            *decays.add(i) = *net.gate.0.add((first + i) * net.gate.1);
            i += 1;
        }
        i = 0;
        while i < n {
            let at = decays.add(i).cast();
            S::storef(at, exp::<S>(S::loadf(at)));
            i += LANES;
        }
        let from = if first == 0 { net.before } else { net.after.cast_const() };
        let block = Block { net, decays, first, n, from };
        let mut row = rows.start;
        while row + 2 <= rows.end {
            if net.len == 128 {
                block.rows::<S, 8, 2>(row)
            } else {
                block.rows::<S, 4, 2>(row)
            }
            row += 2;
        }
        if row < rows.end {
            if net.len == 128 { block.rows::<S, 8, 1>(row) } else { block.rows::<S, 4, 1>(row) }
        }
        first += n;
    }
}

/// Some tokens of a head.
struct Block<'a> {
    net: &'a DeltaNet,
    /// One for each of these tokens.
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
        let net = self.net;
        let mut state = [[S::splatf(0.0); V]; R];
        for (r, state) in state.iter_mut().enumerate() {
            for (v, state) in state.iter_mut().enumerate() {
                *state = S::loadf(self.from.add((row + r) * net.len + v * LANES).cast());
            }
        }
        let mut i = 0;
        while i < self.n {
            let token = self.first + i;
            let key = net.key.0.add(token * net.key.1);
            let query = net.query.0.add(token * net.query.1);
            let (decay, beta) = (S::splatf(*self.decays.add(i)), *net.beta.0.add(token * net.beta.1));
            let mut sums = [[S::splatf(0.0); 2]; R];
            for v in 0..V {
                let key = S::loadf(key.add(v * LANES).cast());
                for r in 0..R {
                    state[r][v] = S::mulf(state[r][v], decay);
                    sums[r][v % 2] = S::fma(state[r][v], key, sums[r][v % 2]);
                }
            }
            let mut deltas = [S::splatf(0.0); R];
            for r in 0..R {
                let value = *net.value.0.add(token * net.value.1 + row + r);
                deltas[r] = S::splatf((value - S::sum(S::addf(sums[r][0], sums[r][1]))) * beta);
            }
            let mut sums = [[S::splatf(0.0); 2]; R];
            for v in 0..V {
                let (key, query) = (S::loadf(key.add(v * LANES).cast()), S::loadf(query.add(v * LANES).cast()));
                for r in 0..R {
                    state[r][v] = S::fma(key, deltas[r], state[r][v]);
                    sums[r][v % 2] = S::fma(state[r][v], query, sums[r][v % 2]);
                }
            }
            for r in 0..R {
                let sum = S::sum(S::addf(sums[r][0], sums[r][1]));
                *net.out.0.add(token * net.out.1 + row + r) = sum * net.scale;
            }
            let (step, count) = net.snapshots;
            let before_last = net.tokens - 1 - token;
            if before_last > 0 && before_last < count {
                self.store::<S, V, R>(&state, net.after.add(before_last * step), row);
            }
            i += 1;
        }
        self.store::<S, V, R>(&state, net.after, row);
    }

    #[inline(always)]
    unsafe fn store<S: Real, const V: usize, const R: usize>(&self, state: &[[S::F; V]; R], to: *mut f32, row: usize) {
        for (r, state) in state.iter().enumerate() {
            for (v, state) in state.iter().enumerate() {
                S::storef(to.add((row + r) * self.net.len + v * LANES).cast(), *state);
            }
        }
    }
}
