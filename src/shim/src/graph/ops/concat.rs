//! CONCAT: two tensors, one after the other along a dimension. Rows are copied; a source that lies transposed, as the
//! activations of a convolution do, is copied by tiles.

use std::ops::Range;

use zen5turbo_kernels::ops::transpose;

use super::Job;
use super::layout::{apart, elements, floats, has_dense_rows, holds};
use super::share::Threads;
use crate::ggml::abi::Tensor;
use crate::reason::Reason;

/// Rows of a piece: their beginnings are whole cache lines of a transposed source.
const ROWS: usize = 16;

/// A CONCAT.
pub struct ConcatJob {
    parts: [Part; 2],
    bytes: usize,
}

/// What is copied from one source.
#[derive(Clone, Copy)]
struct Part {
    from: *const u8,
    /// Bytes per step of the source.
    nb: [usize; 4],
    ne: [usize; 4],
    to: *mut u8,
    /// Bytes per step of the result.
    to_nb: [usize; 4],
}

/// Whether a CONCAT is computed here.
///
/// # Safety
/// `op` is a tensor of ggml.
pub unsafe fn concat(op: &Tensor) -> Result<ConcatJob, Reason> {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function.
    let (Some(a), Some(b)) = (unsafe { (op.source(0), op.source(1)) }) else { return Err(Reason::SourceMissing) };
    for t in [op, a, b] {
        floats(t)?;
    }
    let dimension = usize::try_from(op.op_params[0]).ok().filter(|&d| d < 4).ok_or(Reason::ShapeNotSupported)?;
    let expected = |i: usize| if i == dimension { a.ne[i] + b.ne[i] } else { a.ne[i] };
    holds((0..4).all(|i| op.ne[i] == expected(i) && (i == dimension || a.ne[i] == b.ne[i])))?;
    holds(has_dense_rows(op) && [a, b].into_iter().all(|t| has_dense_rows(t) || lies_transposed(t)))?;
    apart(op, a)?;
    apart(op, b)?;
    let part = |t: &Tensor, at: usize| Part {
        from: t.data.cast_const().cast(),
        nb: t.nb,
        ne: t.ne.map(|n| n as usize),
        to: op.data.cast::<u8>().wrapping_add(at),
        to_nb: op.nb,
    };
    let parts = [part(a, 0), part(b, a.ne[dimension] as usize * op.nb[dimension])];
    Ok(ConcatJob { parts, bytes: 8 * elements(op) })
}

/// Whether first elements of rows lie side by side.
fn lies_transposed(t: &Tensor) -> bool {
    t.nb[1] == 4 || t.ne[1] == 1
}

impl Part {
    /// The number of pieces.
    fn pieces(&self) -> usize {
        self.ne[1].div_ceil(ROWS) * self.ne[2] * self.ne[3]
    }

    /// # Safety
    /// The tensors are allocated, and no other thread copies the same pieces.
    unsafe fn copy(&self, pieces: Range<usize>) {
        let groups = self.ne[1].div_ceil(ROWS);
        for i in pieces {
            let (row, plane) = (i % groups * ROWS, i / groups);
            let (i2, i3) = (plane % self.ne[2], plane / self.ne[2]);
            let rows = (self.ne[1] - row).min(ROWS);
            let at = |nb: [usize; 4]| row * nb[1] + i2 * nb[2] + i3 * nb[3];
            let (from, to) = (self.from.wrapping_add(at(self.nb)), self.to.wrapping_add(at(self.to_nb)));
            // SAFETY: `concat` has checked the tensors, so all of these rows are in them.
            unsafe { self.rows(from, to, rows) };
        }
    }

    /// Copies some rows of a plane.
    unsafe fn rows(&self, from: *const u8, to: *mut u8, rows: usize) {
        let n = self.ne[0];
        // SAFETY: the caller has found the rows in the tensors, which do not overlap.
        unsafe {
            if self.nb[0] == 4 || n == 1 {
                if n < SHORT {
                    for row in 0..rows {
                        let (from, to) =
                            (from.add(row * self.nb[1]).cast::<u32>(), to.add(row * self.to_nb[1]).cast::<u32>());
                        for i in 0..n {
                            *to.add(i) = *from.add(i);
                        }
                    }
                    return;
                }
                for row in 0..rows {
                    let from = from.add(row * self.nb[1]);
                    to.add(row * self.to_nb[1]).copy_from_nonoverlapping(from, 4 * n);
                }
            } else {
                transpose(from.cast(), self.nb[0] / 4, to.cast(), self.to_nb[1] / 4, rows, n);
            }
        }
    }
}

/// Rows below this length are copied without a call.
const SHORT: usize = 8;

impl Job for ConcatJob {
    unsafe fn run(&self, threads: Threads) {
        for part in &self.parts {
            // SAFETY: the caller promises that the tensors are allocated, and that no other thread has this number.
            unsafe { part.copy(threads.part(part.pieces())) };
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}
