//! The layout of tensors of floats: what an operation needs, checked before anything is computed.

use std::ops::Range;

use zen5turbo_kernels::formats::WeightType;

use super::share::Counts;
use crate::ggml::abi::{TYPE_F32, Tensor};
use crate::ggml::checked::is_address;
use crate::reason::Reason;

/// Rows of floats.
#[derive(Clone, Copy)]
pub struct Rows {
    start: *mut u8,
    /// Bytes per step in the dimensions of rows.
    nb: [usize; 3],
}

impl Rows {
    /// The rows of a tensor that [`floats`] has accepted.
    pub fn of(t: &Tensor) -> Self {
        Rows { start: t.data.cast(), nb: [t.nb[1], t.nb[2], t.nb[3]] }
    }

    /// The first element of a row.
    #[inline]
    pub fn at(&self, place: Counts) -> *mut f32 {
        let [i1, i2, i3] = place;
        self.start.wrapping_add(i1 * self.nb[0] + i2 * self.nb[1] + i3 * self.nb[2]).cast()
    }
}

/// Whether `t` holds floats, at least one, at an address where floats can lie.
pub fn floats(t: &Tensor) -> Result<(), Reason> {
    if t.ty != TYPE_F32 {
        return Err(Reason::TypeNotSupported);
    }
    holds(t.is_sound() && is_address::<f32>(t.data.cast()) && t.nb.iter().all(|nb| nb.is_multiple_of(4)))
}

/// [`Reason::ShapeNotSupported`] unless the condition holds.
pub fn holds(condition: bool) -> Result<(), Reason> {
    if condition { Ok(()) } else { Err(Reason::ShapeNotSupported) }
}

/// Whether the elements of a row lie side by side.
pub fn has_dense_rows(t: &Tensor) -> bool {
    t.nb[0] == 4
}

/// Whether all elements lie side by side.
pub fn is_dense(t: &Tensor) -> bool {
    let mut next = 4;
    t.ne.iter().zip(t.nb).all(|(&ne, nb)| {
        let fits = nb == next || ne == 1;
        next *= ne as usize;
        fits
    })
}

/// The numbers of rows.
pub fn counts(t: &Tensor) -> Counts {
    [t.ne[1], t.ne[2], t.ne[3]].map(|n| n as usize)
}

/// Number of elements.
pub fn elements(t: &Tensor) -> usize {
    t.ne.iter().product::<i64>() as usize
}

/// The addresses of a tensor of floats.
fn extent(t: &Tensor) -> Range<usize> {
    t.extent(Some(WeightType::F32))
}

/// The result and a source share no memory.
pub fn apart(result: &Tensor, source: &Tensor) -> Result<(), Reason> {
    let (to, from) = (extent(result), extent(source));
    if to.end <= from.start || from.end <= to.start { Ok(()) } else { Err(Reason::ResultOverlaps) }
}

/// The result and a source share no memory, or every element of the result lies where the source's lies.
pub fn apart_or_in_place(result: &Tensor, source: &Tensor) -> Result<(), Reason> {
    let same_step = |i: usize| result.ne[i] == 1 || result.nb[i] == source.nb[i];
    if result.data == source.data && result.ne == source.ne && (0..4).all(same_step) {
        return Ok(());
    }
    apart(result, source)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A dense tensor at these floats.
    pub fn tensor(ne: [i64; 4], at: *const f32) -> Tensor {
        // SAFETY: a tensor is integers and pointers, for which zeroes are valid.
        let mut t: Tensor = unsafe { std::mem::zeroed() };
        let n = |i: usize| 4 * ne[..i].iter().product::<i64>() as usize;
        (t.ne, t.nb, t.data) = (ne, [n(0), n(1), n(2), n(3)], at.cast_mut().cast());
        t
    }

    #[test]
    fn a_result_may_lie_where_its_source_lies_and_nowhere_else_in_it() {
        let memory = [0f32; 64];
        let source = tensor([4, 4, 1, 1], memory.as_ptr());
        assert_eq!(apart_or_in_place(&tensor([4, 4, 1, 1], memory.as_ptr()), &source), Ok(()));
        assert_eq!(apart(&tensor([4, 4, 1, 1], memory.as_ptr()), &source), Err(Reason::ResultOverlaps));
        assert_eq!(apart(&tensor([4, 4, 1, 1], memory[16..].as_ptr()), &source), Ok(()));
        for wrong in [tensor([4, 4, 1, 1], memory[1..].as_ptr()), tensor([8, 2, 1, 1], memory.as_ptr())] {
            assert_eq!(apart_or_in_place(&wrong, &source), Err(Reason::ResultOverlaps));
        }
        let mut apart_rows = tensor([4, 4, 1, 1], memory.as_ptr());
        apart_rows.nb[1] = 32;
        assert_eq!(apart_or_in_place(&apart_rows, &source), Err(Reason::ResultOverlaps));
    }

    #[test]
    fn floats_have_elements_and_an_address() {
        let memory = [0f32; 16];
        let t = tensor([4, 4, 1, 1], memory.as_ptr());
        assert!(floats(&t).is_ok() && is_dense(&t) && has_dense_rows(&t));
        let mut other = tensor([4, 4, 1, 1], memory.as_ptr());
        other.ty = 1;
        assert_eq!(floats(&other), Err(Reason::TypeNotSupported));
        let empty = tensor([4, 0, 1, 1], memory.as_ptr());
        let odd = tensor([4, 4, 1, 1], memory.as_ptr().wrapping_byte_add(2));
        let nowhere = tensor([4, 4, 1, 1], std::ptr::null());
        for t in [empty, odd, nowhere] {
            assert_eq!(floats(&t), Err(Reason::ShapeNotSupported));
        }
    }
}
