//! The convolution along tokens of state-space models: each channel has a few weights of its own.

use crate::isa::{LANES, Real};
use core::mem::MaybeUninit;

/// The weights of a channel.
pub const TAPS: usize = 4;

/// Channels of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct SsmConv {
    /// The first channel: `tokens + TAPS - 1` floats. And floats from channel to channel.
    pub input: (*const f32, usize),
    /// [`TAPS`] floats for each channel, without gaps.
    pub weights: *const f32,
    /// The result of the first token and channel; those of a token lie side by side. And floats from token to token.
    pub output: (*mut f32, usize),
    /// Number of tokens.
    pub tokens: usize,
}

/// Computes some channels for all tokens.
///
/// # Safety
/// What [`SsmConv`] names is readable and writable. No other thread computes the same channels.
pub type SsmConvFn = unsafe fn(conv: &SsmConv, channels: core::ops::Range<usize>);

/// See [`SsmConvFn`].
#[inline(always)]
pub(super) unsafe fn ssm_conv<S: Real>(conv: &SsmConv, channels: core::ops::Range<usize>) {
    let mut channel = channels.start;
    while channel < channels.end {
        let n = (channels.end - channel).min(LANES);
        let mut token = 0;
        while token + LANES <= conv.tokens && n == LANES {
            tile::<S>(conv, channel, token);
            token += LANES;
        }
        while token < conv.tokens {
            let mut c = 0;
            while c < n {
                *conv.output.0.add(token * conv.output.1 + channel + c) = one(conv, channel + c, token);
                c += 1;
            }
            token += 1;
        }
        channel += n;
    }
}

/// One channel of one token.
#[inline(always)]
unsafe fn one(conv: &SsmConv, channel: usize, token: usize) -> f32 {
    let (x, w) = (conv.input.0.add(channel * conv.input.1 + token), conv.weights.add(channel * TAPS));
    let mut sum = *x * *w;
    for i in 1..TAPS {
        sum = (*x.add(i)).mul_add(*w.add(i), sum);
    }
    sum
}

/// Sixteen channels of sixteen tokens.
#[allow(clippy::needless_range_loop)] // rows become columns
#[inline(always)]
unsafe fn tile<S: Real>(conv: &SsmConv, channel: usize, token: usize) {
    // by channels first, because the tokens of a channel lie side by side
    // not zeroed, which would be a call: all of it is written below
    let mut memory = MaybeUninit::<[[f32; LANES]; LANES]>::uninit();
    let sums = memory.as_mut_ptr().cast::<[f32; LANES]>();
    for c in 0..LANES {
        let (x, w) = (conv.input.0.add((channel + c) * conv.input.1 + token), conv.weights.add((channel + c) * TAPS));
        let mut sum = S::mulf(S::loadf(x.cast()), S::bcastf(w.cast()));
        for i in 1..TAPS {
            sum = S::fma(S::loadf(x.add(i).cast()), S::bcastf(w.add(i).cast()), sum);
        }
        S::storef(sums.add(c).cast(), sum);
    }
    for t in 0..LANES {
        let mut row = [0f32; LANES];
        for c in 0..LANES {
            row[c] = *sums.add(c).cast::<f32>().add(t);
        }
        S::storef(conv.output.0.add((token + t) * conv.output.1 + channel).cast(), S::loadf(row.as_ptr().cast()));
    }
}
