//! A [`Sink`] takes the parts of a record as they are unpacked. One sink stores them to a panel. The other,
//! [`crate::micro::fused`], multiplies them at once. So every type has one piece of code that unpacks it.

use super::fold::{Fold, Fold4};
use super::{Quantised, Rows, byte, unrolled};
use crate::formats::{Codes, LINE, Shape};
use crate::isa::Lanes;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

/// Takes the parts of a record of sixteen rows, rows in lanes: first scales, mins, `d` and the minimum, in any order,
/// then the sub-blocks one by one and their lines of codes in any order. A sink that does not ask for
/// [`Self::BY_SUB_BLOCK`] takes all of it in any order, but of types whose codes are folded, where it needs the scales
/// first and one sub-block after the other.
///
/// # Safety
/// See [`Lanes`]; what a number names must be in the record.
#[allow(clippy::missing_safety_doc)] // one set of conditions for all methods, above
pub trait Sink<S: Lanes> {
    /// Whether all lines of a sub-block must come between its `open` and `close`. Otherwise these two do nothing.
    const BY_SUB_BLOCK: bool;

    /// The scale of the record (super-blocks: of its integer scales).
    unsafe fn d(&mut self, d: S::F);
    /// The scale of sub-block `s` of a block of 32 that has several.
    unsafe fn d_of(&mut self, s: usize, d: S::F);
    /// The minimum of a block of 32, or the scale of the mins of a super-block.
    unsafe fn min(&mut self, m: S::F);
    /// The integer scale of sub-block `s`.
    unsafe fn scale(&mut self, s: usize, v: S::I);
    /// Those of sub-blocks `s` to `s + 3`, `s` a multiple of four: unsigned bytes, less `bias`.
    #[inline(always)]
    unsafe fn scales(&mut self, s: usize, four: S::I, bias: i32) {
        each_scale(self, s, four, bias);
    }
    /// The mins of sub-blocks `2 * pair` and `2 * pair + 1`, unsigned.
    unsafe fn mins(&mut self, pair: usize, even: S::I, odd: S::I);
    /// A part of the codes begins: [`Quantised::PARTS`] times for a record, in the order of the loads.
    unsafe fn part(&mut self);
    /// Sub-block `s` begins.
    unsafe fn open(&mut self, s: usize);
    /// Line `i` of the codes of sub-block `s`: four bytes of each row.
    unsafe fn codes(&mut self, s: usize, i: usize, v: S::I);
    /// Sub-block `s` is complete.
    unsafe fn close(&mut self, s: usize);
}

/// Hands four scales to `sink` one by one.
#[inline(always)]
unsafe fn each_scale<S: Lanes, K: Sink<S> + ?Sized>(sink: &mut K, s: usize, four: S::I, bias: i32) {
    for j in 0..4 {
        let v = byte::<S>(four, j as u32);
        sink.scale(s + j, if bias == 0 { v } else { S::sub(v, S::splat(bias)) });
    }
}

/// Stores everything to a record of a panel, see [`crate::formats`]. Unless `FOLD`, codes are never folded.
struct Panel<W, S: Lanes, const FOLD: bool> {
    rec: *mut u8,
    /// Where codes are folded: the scales, and that of the sub-block that was opened last.
    folds: [MaybeUninit<Fold4<S>>; 4],
    fold: MaybeUninit<Fold<S>>,
    weight: PhantomData<W>,
}

impl<W: Quantised, S: Lanes, const FOLD: bool> Panel<W, S, FOLD> {
    const SHAPE: Shape = if FOLD { W::TYPE.shape_on(S::ACC16) } else { W::SHAPE };
    const SIGNED: bool = matches!(W::SHAPE.codes, Codes::Signed);
    const FOLDED: bool = matches!(Self::SHAPE.codes, Codes::Folded);
    /// Lines of codes of a sub-block, as the type has them.
    const LINES: usize = W::SHAPE.sub / 4;
}

impl<W: Quantised, S: Lanes, const FOLD: bool> Sink<S> for Panel<W, S, FOLD> {
    const BY_SUB_BLOCK: bool = false;

    #[inline(always)]
    unsafe fn d(&mut self, d: S::F) {
        let at = if Self::SHAPE.block == 32 { Self::SHAPE.scales_at() } else { Self::SHAPE.d_at() };
        S::storef(self.rec.add(at), d);
    }
    #[inline(always)]
    unsafe fn d_of(&mut self, s: usize, d: S::F) {
        S::storef(self.rec.add(Self::SHAPE.scales_at() + s * LINE), d);
    }
    #[inline(always)]
    unsafe fn min(&mut self, m: S::F) {
        let at = if Self::SHAPE.block == 32 { Self::SHAPE.mins_at() } else { Self::SHAPE.d_at() + LINE };
        S::storef(self.rec.add(at), m);
    }
    #[inline(always)]
    unsafe fn scale(&mut self, s: usize, v: S::I) {
        let p = self.rec.add(Self::SHAPE.scales_at() + s * LINE);
        // signed 8-bit codes: every ISA scales in f32
        if S::ACC16 && !Self::SIGNED {
            S::store(p, S::or(S::and(v, S::splat(0xffff)), S::shl(v, 16)));
        } else {
            S::storef(p, S::cvt(v));
        }
    }
    #[inline(always)]
    unsafe fn scales(&mut self, s: usize, four: S::I, bias: i32) {
        if Self::FOLDED {
            self.folds[s / 4].write(Fold4::new::<W>(four, bias));
        } else {
            each_scale(self, s, four, bias);
        }
    }
    #[inline(always)]
    unsafe fn mins(&mut self, pair: usize, even: S::I, odd: S::I) {
        S::store(self.rec.add(Self::SHAPE.mins_at() + pair * LINE), S::or(even, S::shl(odd, 16)));
    }
    #[inline(always)]
    unsafe fn part(&mut self) {}
    #[inline(always)]
    unsafe fn open(&mut self, s: usize) {
        if Self::FOLDED {
            // the header came before the codes
            self.fold.write(self.folds[s / 4].assume_init().of(s % 4));
        }
    }
    #[inline(always)]
    unsafe fn codes(&mut self, s: usize, i: usize, v: S::I) {
        let line = s * Self::LINES + i;
        let v = if Self::FOLDED { self.fold.assume_init().apply::<W>(v) } else { v };
        S::store(self.rec.add(line * LINE), v);
        if S::ACC16 && Self::SIGNED {
            S::store(self.rec.add(Self::SHAPE.magnitudes_at() + line * LINE), S::abs_bytes(v));
        }
    }
    #[inline(always)]
    unsafe fn close(&mut self, _s: usize) {}
}

/// Packs the records of a block of sixteen rows. Unless `FOLD`, a record has the structure of [`super::Weight::SHAPE`] on every ISA.
///
/// # Safety
/// See [`super::Pack::pack`].
#[inline(always)]
pub unsafe fn pack_records<W: Quantised, S: Lanes, const FOLD: bool>(rows: &Rows, rec: *mut u8) {
    const { assert!(W::RECORDS <= 4) };
    let bytes = const { Panel::<W, S, FOLD>::SHAPE.panel_record(S::ACC16) };
    unrolled!(r in [0, 1, 2, 3] {
        if r < W::RECORDS {
            pack_record::<W, S, FOLD>(&rows.of_record(r), rec.add(r * bytes));
        }
    });
}

/// Packs one of them.
#[inline(always)]
unsafe fn pack_record<W: Quantised, S: Lanes, const FOLD: bool>(rows: &Rows, rec: *mut u8) {
    const { assert!(W::STEPS <= 8) };
    let (folds, fold) = ([MaybeUninit::uninit(); 4], MaybeUninit::uninit());
    let mut panel = Panel::<W, S, FOLD> { rec, folds, fold, weight: PhantomData };
    if Panel::<W, S, FOLD>::FOLDED {
        W::header::<S, _>(rows, &mut panel);
    }
    unrolled!(step in [0, 1, 2, 3, 4, 5, 6, 7] {
        if step < W::STEPS {
            W::codes::<S, _>(rows, step, &mut panel);
        }
    });
    if !Panel::<W, S, FOLD>::FOLDED {
        W::header::<S, _>(rows, &mut panel);
    }
}
