//! ADD, SUB, MUL, DIV, ADD_ID, GLU, UNARY.

use zen5turbo_kernels::ops::{Binary, BinaryFn, BinaryOneFn, Bounds, Functions, Glu, GluFn, Operation, UnaryFn};

use super::Job;
use super::layout::{Rows, apart, apart_or_in_place, counts, elements, floats, has_dense_rows, holds, is_dense};
use super::share::{Counts, Elements, Threads};
use crate::ggml::abi::Tensor;
use crate::ggml::checked::is_address;
use crate::loader::Abi;
use crate::reason::Reason;

/// A function of two elements. The second source is repeated.
pub struct BinaryJob {
    elements: Elements,
    to: Rows,
    a: Rows,
    b: Rows,
    /// The numbers of rows of the second source.
    b_rows: Counts,
    kind: Second,
    function: BinaryFn,
    with_one: BinaryOneFn,
    bytes: usize,
}

/// A row of the second source.
#[derive(Clone, Copy)]
enum Second {
    /// As long as those of the first.
    Row,
    /// One element for the whole row, such as the weight of an expert.
    One,
    /// This number of elements, again and again.
    Repeated(usize),
}

/// Rows of fewer elements are not repeated within a row: vectors would not be full.
const FEWEST_REPEATED: usize = 16;

/// Whether a function of two elements is computed here.
///
/// # Safety
/// `op` is a tensor of ggml.
pub unsafe fn binary(op: &Tensor, kind: Operation, functions: &Functions) -> Result<BinaryJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let (Some(a), Some(b)) = (unsafe { (op.source(0), op.source(1)) }) else { return Err(Reason::SourceMissing) };
    floats(op)?;
    floats(a)?;
    floats(b)?;
    holds(op.ne == a.ne && has_dense_rows(op) && has_dense_rows(a))?;
    holds((0..4).all(|i| op.ne[i] % b.ne[i] == 0))?;
    let second = match b.ne[0] as usize {
        n if n == op.ne[0] as usize => Second::Row,
        1 => Second::One,
        n if n >= FEWEST_REPEATED => Second::Repeated(n),
        _ => return Err(Reason::ShapeNotSupported),
    };
    holds(has_dense_rows(b) || b.ne[0] == 1)?;
    apart_or_in_place(op, a)?;
    apart_or_in_place(op, b)?;
    let (function, with_one) = functions.binary(match kind {
        Operation::Add => Binary::Add,
        Operation::Sub => Binary::Sub,
        Operation::Mul => Binary::Mul,
        _ => Binary::Div,
    });
    let one_row = b.ne == op.ne && is_dense(op) && is_dense(a) && is_dense(b);
    let (n, rows) = if one_row { (elements(op), [1; 3]) } else { (op.ne[0] as usize, counts(op)) };
    Ok(BinaryJob {
        elements: Elements { n, rows },
        to: Rows::of(op),
        a: Rows::of(a),
        b: Rows::of(b),
        b_rows: if one_row { [1; 3] } else { counts(b) },
        kind: second,
        function,
        with_one,
        bytes: 4 * (2 * elements(op) + elements(b)),
    })
}

impl Job for BinaryJob {
    #[inline]
    unsafe fn run(&self, threads: Threads) {
        self.elements.each(threads, |place, range| {
            let repeated = std::array::from_fn(|i| if self.b_rows[i] == 1 { 0 } else { place[i] % self.b_rows[i] });
            let (to, a, b) = (self.to.at(place), self.a.at(place), self.b.at(repeated).cast_const());
            // SAFETY: `binary` has checked the tensors, whose rows have these elements. No other thread has them.
            unsafe {
                match self.kind {
                    Second::Row => {
                        (self.function)(a.add(range.start), b.add(range.start), to.add(range.start), range.len());
                    }
                    Second::One => (self.with_one)(a.add(range.start), *b, to.add(range.start), range.len()),
                    Second::Repeated(n) => {
                        let mut at = range.start;
                        while at < range.end {
                            let from = at % n;
                            let len = (n - from).min(range.end - at);
                            (self.function)(a.add(at), b.add(from), to.add(at), len);
                            at += len;
                        }
                    }
                }
            }
        });
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

/// ADD_ID: to each row, the row that an index picks is added.
pub struct AddIdJob {
    elements: Elements,
    to: Rows,
    a: Rows,
    picked: Rows,
    picked_rows: usize,
    /// The indices: address, and bytes per step.
    ids: (*const u8, [usize; 2]),
    add: BinaryFn,
}

/// Whether an ADD_ID is computed here.
///
/// # Safety
/// `op` is a tensor of the ggml of `abi`.
pub unsafe fn add_id(abi: &Abi, op: &Tensor, functions: &Functions) -> Result<AddIdJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let [a, b, ids] = [0, 1, 2].map(|i| unsafe { op.source(i) });
    let (Some(a), Some(b), Some(ids)) = (a, b, ids) else { return Err(Reason::SourceMissing) };
    floats(op)?;
    floats(a)?;
    floats(b)?;
    if !abi.is_i32(ids.ty) {
        return Err(Reason::TypeNotSupported);
    }
    holds(op.ne == a.ne && op.ne[3] == 1 && b.ne[0] == op.ne[0] && b.ne[2..] == [1, 1])?;
    holds([op, a, b].into_iter().all(has_dense_rows))?;
    holds(ids.ne == [op.ne[1], op.ne[2], 1, 1] && ids.is_sound() && is_address::<i32>(ids.data.cast()))?;
    holds(ids.nb.iter().all(|nb| nb.is_multiple_of(4)))?;
    apart_or_in_place(op, a)?;
    apart(op, b)?;
    apart(op, ids)?; // as long as floats
    Ok(AddIdJob {
        elements: Elements { n: op.ne[0] as usize, rows: counts(op) },
        to: Rows::of(op),
        a: Rows::of(a),
        picked: Rows::of(b),
        picked_rows: b.ne[1] as usize,
        ids: (ids.data.cast_const().cast(), [ids.nb[0], ids.nb[1]]),
        add: functions.binary(Binary::Add).0,
    })
}

impl Job for AddIdJob {
    #[inline]
    unsafe fn run(&self, threads: Threads) {
        self.elements.each(threads, |place, range| {
            let (start, [nb0, nb1]) = self.ids;
            // SAFETY: `add_id` has checked the tensors, whose rows have these elements. No other thread has them. The
            // index is checked, as ggml does, which ends the program too.
            unsafe {
                let id = start.add(place[0] * nb0 + place[1] * nb1).cast::<i32>().read();
                let id = usize::try_from(id).ok().filter(|&id| id < self.picked_rows);
                let id = id.expect("an index of ADD_ID is that of a row");
                let (a, b, to) = (self.a.at(place), self.picked.at([id, 0, 0]), self.to.at(place));
                (self.add)(a.add(range.start), b.add(range.start), to.add(range.start), range.len());
            }
        });
    }

    fn bytes(&self) -> u64 {
        (12 * self.elements.n * self.elements.rows.iter().product::<usize>()) as u64
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
