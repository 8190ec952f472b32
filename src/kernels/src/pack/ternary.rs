//! TQ1_0 and TQ2_0: values -1, 0, 1 with one scale for 256.
//!
//! ```text
//! tq2_0  qs 64 B | d f16                            value = d * (code - 1)
//!        element 128n + 32j + l: qs[32n + l] bits 2j..2j+1
//! tq1_0  qs 48 B | qh 4 B | d f16                   value = d * (digit - 1)
//!        a byte b holds five digits (qh: four) of the base 3, as a fraction of 256: digit n is the integer part of
//!        3 * (b * 3^n mod 256) / 256
//!        element 32n + l: digit n of qs[l]; 160 + 16n + l: digit n of qs[32 + l]; 240 + 4n + l: digit n of qh[l]
//! ```

use super::{Quantised, Rows, Sink, Weight, unrolled};
use crate::formats::WeightType;
use crate::isa::Lanes;

/// `d`, and the scale one for the only sub-block.
#[inline(always)]
unsafe fn give_d<S: Lanes, K: Sink<S>>(rows: &Rows, at: usize, sink: &mut K) {
    sink.scale(0, S::splat(1));
    sink.d(S::half_lo(rows.halves::<S>(at)));
}

/// Two bits for a value.
pub struct Tq2_0;
impl Weight for Tq2_0 {
    const TYPE: WeightType = WeightType::Tq2_0;
}
impl Quantised for Tq2_0 {
    /// Sixteen bytes of `qs`.
    const STEPS: usize = 4;

    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_d::<S, K>(rows, 64, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
        let two = S::splat(0x0303_0303);
        let (n, h) = (step / 2, step % 2);
        sink.part();
        if step == 0 {
            sink.open(0);
        }
        let qs = rows.words4::<S>(16 * step);
        unrolled!(j in [0, 1, 2, 3] {
            for (w, &q) in qs.iter().enumerate() {
                sink.codes(0, 32 * n + 8 * j + 4 * h + w, S::and(S::shr(q, 2 * j as u32), two));
            }
        });
        if step == 3 {
            sink.close(0);
        }
    }
}

/// Five values in a byte.
pub struct Tq1_0;
impl Weight for Tq1_0 {
    const TYPE: WeightType = WeightType::Tq1_0;
}

/// Gives the digits of a word: digit `n` to line `line + step * n`.
#[inline(always)]
unsafe fn give_digits<S: Lanes, K: Sink<S>>(mut q: S::I, digits: usize, line: usize, step: usize, sink: &mut K) {
    for n in 0..digits {
        sink.codes(0, line + step * n, S::thirds(q));
        q = S::add_bytes(S::add_bytes(q, q), q);
    }
}

impl Quantised for Tq1_0 {
    /// Sixteen bytes of `qs`; the last one has `qh` as well.
    const STEPS: usize = 3;

    #[inline(always)]
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K) {
        give_d::<S, K>(rows, 52, sink);
    }
    #[inline(always)]
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K) {
        sink.part();
        if step == 0 {
            sink.open(0);
        }
        for (w, q) in rows.words4::<S>(16 * step).into_iter().enumerate() {
            let (line, step) = if step < 2 { (4 * step + w, 8) } else { (40 + w, 4) };
            give_digits::<S, K>(q, 5, line, step, sink);
        }
        if step == 2 {
            give_digits::<S, K>(rows.words1::<S>(48), 4, 60, 1, sink);
            sink.close(0);
        }
    }
}
