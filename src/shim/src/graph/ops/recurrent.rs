//! SSM_CONV, GATED_DELTA_NET.

use zen5turbo_kernels::isa::LANES;
use zen5turbo_kernels::ops::{DeltaNet, DeltaNetFn, Functions, SsmConv, SsmConvFn, TAPS};

use super::Job;
use super::layout::{apart, elements, floats, has_dense_rows, holds, is_dense};
use super::share::Threads;
use crate::ggml::abi::Tensor;
use crate::reason::Reason;

/// A convolution along tokens.
pub struct SsmConvJob {
    /// The first sequence, and bytes from sequence to sequence of input and output.
    first: SsmConv,
    steps: [usize; 2],
    channels: usize,
    sequences: usize,
    function: SsmConvFn,
    bytes: usize,
}

/// Whether an SSM_CONV is computed here.
///
/// # Safety
/// `op` is a tensor of ggml.
pub unsafe fn ssm_conv(op: &Tensor, functions: &Functions) -> Result<SsmConvJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let (Some(x), Some(w)) = (unsafe { (op.source(0), op.source(1)) }) else { return Err(Reason::SourceMissing) };
    for t in [op, x, w] {
        floats(t)?;
        holds(has_dense_rows(t))?;
    }
    let [channels, tokens, sequences, _] = op.ne;
    holds(w.ne == [TAPS as i64, channels, 1, 1] && is_dense(w))?;
    holds(x.ne == [tokens + TAPS as i64 - 1, channels, sequences, 1] && op.ne[3] == 1)?;
    apart(op, x)?;
    apart(op, w)?;
    Ok(SsmConvJob {
        first: SsmConv {
            input: (x.data.cast_const().cast(), x.nb[1] / 4),
            weights: w.data.cast_const().cast(),
            output: (op.data.cast(), op.nb[1] / 4),
            tokens: tokens as usize,
        },
        steps: [x.nb[2], op.nb[2]],
        channels: channels as usize,
        sequences: sequences as usize,
        function: functions.ssm_conv,
        bytes: 4 * (elements(op) + elements(x) + elements(w)),
    })
}

impl Job for SsmConvJob {
    unsafe fn run(&self, threads: Threads) {
        let mine = threads.part(self.channels.div_ceil(LANES));
        let channels = mine.start * LANES..(mine.end * LANES).min(self.channels);
        for sequence in 0..self.sequences {
            let [input, output] = self.steps.map(|step| sequence * step);
            let conv = SsmConv {
                input: (self.first.input.0.wrapping_byte_add(input), self.first.input.1),
                output: (self.first.output.0.wrapping_byte_add(output), self.first.output.1),
                ..self.first
            };
            // SAFETY: `ssm_conv` has checked the tensors. No other thread has these channels.
            unsafe { (self.function)(&conv, channels.clone()) };
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

/// The recurrence of gated delta networks.
pub struct DeltaNetJob {
    heads: usize,
    sequences: usize,
    tokens: usize,
    len: usize,
    query: Heads,
    key: Heads,
    value: Heads,
    gate: Heads,
    beta: Heads,
    state: Heads,
    result: *mut f32,
    snapshots: usize,
    function: DeltaNetFn,
    bytes: usize,
}

/// A tensor of heads, tokens and sequences. It may have fewer heads and sequences, which are repeated.
#[derive(Clone, Copy)]
struct Heads {
    start: *const u8,
    heads: usize,
    /// How many sequences in turn share one.
    sharing: usize,
    /// Bytes per step: heads, tokens, sequences.
    nb: [usize; 3],
}

impl Heads {
    fn new(t: &Tensor, sequences: i64) -> Self {
        Heads {
            start: t.data.cast_const().cast(),
            heads: t.ne[1] as usize,
            sharing: (sequences / t.ne[3]) as usize,
            nb: [t.nb[1], t.nb[2], t.nb[3]],
        }
    }

    /// The first token, and floats from token to token.
    fn of(&self, head: usize, sequence: usize) -> (*const f32, usize) {
        let at = head % self.heads * self.nb[0] + sequence / self.sharing * self.nb[2];
        (self.start.wrapping_add(at).cast(), self.nb[1] / 4)
    }
}

/// Whether a GATED_DELTA_NET is computed here.
///
/// # Safety
/// `op` is a tensor of ggml.
pub unsafe fn delta_net(op: &Tensor, functions: &Functions) -> Result<DeltaNetJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let sources = [0, 1, 2, 3, 4, 5].map(|i| unsafe { op.source(i) });
    let [Some(q), Some(k), Some(v), Some(g), Some(beta), Some(state)] = sources else {
        return Err(Reason::SourceMissing);
    };
    for t in [op, q, k, v, g, beta, state] {
        floats(t)?;
        holds(has_dense_rows(t))?;
    }
    let [len, heads, tokens, sequences] = v.ne;
    holds(DeltaNet::is_known(len as usize))?;
    for t in [q, k] {
        holds(t.ne[0] == len && t.ne[2] == tokens && heads % t.ne[1] == 0 && sequences % t.ne[3] == 0)?;
    }
    // One gate for each head. ggml also has one for each element, of which no model was seen here.
    holds([g, beta].into_iter().all(|t| t.ne == [1, heads, tokens, sequences] && is_dense(t)))?;
    holds(state.ne == [len, len, heads, sequences] && is_dense(state))?;
    // Results first, then the states after the last tokens. Releases of another layout do not have this parameter.
    let snapshots = i64::from(op.op_params[0]);
    holds(snapshots >= 1 && is_dense(op))?;
    holds(op.ne == [len * heads, tokens * sequences + snapshots * len * sequences, 1, 1])?;
    for t in [q, k, v, g, beta, state] {
        apart(op, t)?;
    }
    let of = |t: &Tensor| Heads::new(t, sequences);
    Ok(DeltaNetJob {
        heads: heads as usize,
        sequences: sequences as usize,
        tokens: tokens as usize,
        len: len as usize,
        query: of(q),
        key: of(k),
        value: of(v),
        gate: of(g),
        beta: of(beta),
        state: Heads { heads: heads as usize, sharing: 1, start: state.data.cast(), nb: [state.nb[2], 0, state.nb[3]] },
        result: op.data.cast(),
        snapshots: snapshots as usize,
        function: functions.delta_net,
        bytes: 4 * (elements(q) + elements(k) + elements(v) + elements(state) + elements(op)),
    })
}

/// Pieces for each thread, at least. Rows of a state that threads share are whole cache lines of results.
const PIECES: usize = 4;

impl Job for DeltaNetJob {
    unsafe fn run(&self, threads: Threads) {
        let (all, len) = (self.heads * self.sequences, self.len);
        let parts = (PIECES * threads.nth).div_ceil(all).clamp(1, len / LANES).next_power_of_two();
        let rows = len / parts;
        let state_len = len * len;
        let results = len * self.heads * self.tokens * self.sequences;
        for piece in threads.part(all * parts) {
            let (i, part) = (piece / parts, piece % parts);
            let (head, sequence) = (i % self.heads, i / self.heads);
            let out = (sequence * self.tokens * self.heads + head) * len;
            let net = DeltaNet {
                query: self.query.of(head, sequence),
                key: self.key.of(head, sequence),
                value: self.value.of(head, sequence),
                gate: self.gate.of(head, sequence),
                beta: self.beta.of(head, sequence),
                out: (self.result.wrapping_add(out), len * self.heads),
                before: self.state.of(head, sequence).0,
                after: self.result.wrapping_add(results + i * state_len),
                snapshots: (state_len * all, self.snapshots),
                tokens: self.tokens,
                len,
                scale: 1.0 / (len as f32).sqrt(),
            };
            // SAFETY: `delta_net` has checked the tensors. No other thread has these rows of this head.
            unsafe { (self.function)(&net, part * rows..(part + 1) * rows) };
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}
