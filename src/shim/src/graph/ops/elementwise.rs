//! ADD, SUB, MUL, DIV, GLU, UNARY.

use zen5turbo_kernels::ops::{Binary, BinaryFn, Bounds, Functions, Glu, GluFn, Operation, UnaryFn};

use super::Job;
use super::layout::{Rows, apart, apart_or_in_place, counts, elements, floats, has_dense_rows, holds, is_dense};
use super::share::{Counts, Elements, Threads};
use crate::ggml::abi::Tensor;
use crate::loader::Abi;
use crate::reason::Reason;

/// A function of each row's elements and one number, such as the weight of an expert.
pub struct BinaryJob {
    elements: Elements,
    to: Rows,
    from: Rows,
    /// The numbers, and how many there are: fewer than rows are repeated.
    numbers: Rows,
    counts: Counts,
    function: BinaryFn,
}

/// Whether a function of two elements is computed here.
///
/// # Safety
/// `op` is a tensor of ggml.
pub unsafe fn binary(op: &Tensor, kind: Operation, functions: &Functions) -> Result<BinaryJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let (Some(a), Some(b)) = (unsafe { (op.source(0), op.source(1)) }) else { return Err(Reason::SourceMissing) };
    // ggml's own loops over rows are as fast (`2026-11-30-amd-epyc-ops`). One number for a row it takes one by one.
    if b.ne[0] != 1 || op.ne[0] == 1 {
        return Err(Reason::StockIsFaster);
    }
    floats(op)?;
    floats(a)?;
    floats(b)?;
    holds(op.ne == a.ne && has_dense_rows(op) && has_dense_rows(a))?;
    holds((1..4).all(|i| op.ne[i] % b.ne[i] == 0))?;
    apart_or_in_place(op, a)?;
    apart(op, b)?;
    Ok(BinaryJob {
        elements: Elements { n: op.ne[0] as usize, rows: counts(op) },
        to: Rows::of(op),
        from: Rows::of(a),
        numbers: Rows::of(b),
        counts: counts(b),
        function: functions.binary(match kind {
            Operation::Add => Binary::Add,
            Operation::Sub => Binary::Sub,
            Operation::Mul => Binary::Mul,
            _ => Binary::Div,
        }),
    })
}

impl Job for BinaryJob {
    #[inline]
    unsafe fn run(&self, threads: Threads) {
        self.elements.each(threads, |place, range| {
            let repeated = std::array::from_fn(|i| if self.counts[i] == 1 { 0 } else { place[i] % self.counts[i] });
            let (to, from, at) = (self.to.at(place), self.from.at(place), range.start);
            // SAFETY: `binary` has checked the tensors, whose rows have these elements. No other thread has them.
            unsafe { (self.function)(from.add(at), *self.numbers.at(repeated), to.add(at), range.len()) };
        });
    }

    fn bytes(&self) -> u64 {
        (8 * self.elements.n * self.elements.rows.iter().product::<usize>()) as u64
    }
}

/// A gated linear unit.
pub struct GluJob {
    elements: Elements,
    to: Rows,
    gate: Rows,
    other: Rows,
    /// The first element of a row: of the gate, and of the other one.
    from: [usize; 2],
    function: GluFn,
    bounds: Bounds,
}

/// Whether a GLU is computed here.
///
/// # Safety
/// `op` is a GLU of the ggml of `abi`.
pub unsafe fn glu(abi: &Abi, op: &Tensor, functions: &Functions) -> Result<GluJob, Reason> {
    let glu = abi.glu(op.op_params[0]).ok_or(Reason::OpNotSupported)?;
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let (Some(a), b) = (unsafe { (op.source(0), op.source(1)) }) else { return Err(Reason::SourceMissing) };
    let swapped = op.op_params[1] != 0;
    let [alpha, limit] = [2, 3].map(|i| f32::from_bits(op.op_params[i] as u32));
    floats(op)?;
    floats(a)?;
    holds(has_even_rows(op) && has_even_rows(a) && op.ne[1..] == a.ne[1..])?;
    let n = op.ne[0] as usize;
    let (other, from) = match b {
        Some(b) => {
            floats(b)?;
            holds(has_even_rows(b) && op.ne == a.ne && op.ne == b.ne)?;
            apart_or_in_place(op, a)?;
            apart_or_in_place(op, b)?;
            (b, [0, 0])
        }
        None => {
            holds(a.ne[0] == 2 * op.ne[0])?;
            apart(op, a)?;
            (a, if swapped { [n, 0] } else { [0, n] })
        }
    };
    let one_row = b.is_some() && [op, a, other].into_iter().all(is_dense);
    let (n, rows) = if one_row { (elements(op), [1; 3]) } else { (n, counts(op)) };
    Ok(GluJob {
        elements: Elements { n, rows },
        to: Rows::of(op),
        gate: Rows::of(a),
        other: Rows::of(other),
        from,
        function: functions.glu(glu),
        bounds: match glu {
            Glu::SwigluOai => Bounds { alpha, limit },
            Glu::SwigluClamp => Bounds { alpha: 1.0, limit },
            _ => Bounds::NONE,
        },
    })
}

/// Whether the elements of rows lie side by side, and all rows at one distance, as ggml asks for.
fn has_even_rows(t: &Tensor) -> bool {
    let even = |i: usize| t.ne[i] == 1 || t.nb[i] == t.nb[i - 1] * t.ne[i - 1] as usize;
    has_dense_rows(t) && even(2) && even(3)
}

impl Job for GluJob {
    #[inline]
    unsafe fn run(&self, threads: Threads) {
        self.elements.each(threads, |place, range| {
            let (to, at) = (self.to.at(place), range.start);
            let (gate, other) = (self.gate.at(place), self.other.at(place));
            // SAFETY: `glu` has checked the tensors, whose rows have these elements. No other thread has them.
            unsafe {
                let (gate, other) = (gate.add(self.from[0] + at), other.add(self.from[1] + at));
                (self.function)(gate, other, to.add(at), range.len(), self.bounds);
            }
        });
    }

    fn bytes(&self) -> u64 {
        (12 * self.elements.n * self.elements.rows.iter().product::<usize>()) as u64
    }
}

/// A function of one element.
pub struct UnaryJob {
    elements: Elements,
    to: Rows,
    from: Rows,
    function: UnaryFn,
}

/// Whether a UNARY is computed here.
///
/// # Safety
/// `op` is a UNARY of the ggml of `abi`.
pub unsafe fn unary(abi: &Abi, op: &Tensor, functions: &Functions) -> Result<UnaryJob, Reason> {
    let unary = abi.unary(op.op_params[0]).ok_or(Reason::OpNotSupported)?;
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let Some(a) = (unsafe { op.source(0) }) else { return Err(Reason::SourceMissing) };
    floats(op)?;
    floats(a)?;
    holds(op.ne == a.ne && has_dense_rows(op) && has_dense_rows(a))?;
    apart_or_in_place(op, a)?;
    let one_row = is_dense(op) && is_dense(a);
    let (n, rows) = if one_row { (elements(op), [1; 3]) } else { (op.ne[0] as usize, counts(op)) };
    let function = functions.unary(unary);
    Ok(UnaryJob { elements: Elements { n, rows }, to: Rows::of(op), from: Rows::of(a), function })
}

impl Job for UnaryJob {
    #[inline]
    unsafe fn run(&self, threads: Threads) {
        self.elements.each(threads, |place, range| {
            let (to, from, at) = (self.to.at(place), self.from.at(place), range.start);
            // SAFETY: `unary` has checked the tensors, whose rows have these elements. No other thread has them.
            unsafe { (self.function)(from.add(at), to.add(at), range.len()) };
        });
    }

    fn bytes(&self) -> u64 {
        (8 * self.elements.n * self.elements.rows.iter().product::<usize>()) as u64
    }
}
