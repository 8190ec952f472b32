//! Packing: sixteen rows of a weight type, as ggml stores them, into a panel (see
//! [`crate::formats`]). One file per family; the code is generic over the ISA.
//!
//! All types are unpacked *after* the transposition to rows in lanes: ggml's layouts keep the bits
//! of `k`, `k + 1`, `k + 2`, `k + 3` in corresponding bits of neighbouring bytes, so that one word
//! operation unpacks four elements of sixteen rows. Q5_0 and Q5_1, whose high bits are one word, and the types with a
//! grid are the exceptions.

mod bits;
mod block32;
mod float;
mod grid;
pub(crate) mod grid512;
mod iq1;
mod iq1_grid;
mod iq2;
mod iq3;
mod iq4_xs;
pub(crate) mod iq_grids;
mod nvfp4;
mod q2_k;
mod q3_k;
mod q4_k;
mod q6_k;
mod sink;
mod ternary;

pub use bits::{Q1_0, Q2_0};
pub use block32::{Iq4Nl, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(crate) use block32::{MXFP4_VALUES_U, e8m0_half};
pub use float::{Bf16, Bf16Pairs, F16, F32, FloatWeight, pack_f16_as_bf16};
pub use grid::Grid;
pub use iq1::{Iq1M, Iq1S};
pub(crate) use iq1_grid::NIBBLES as IQ1_NIBBLES;
pub use iq2::{Iq2S, Iq2Xs, Iq2Xxs};
pub use iq3::{Iq3S, Iq3Xxs};
pub use iq4_xs::Iq4Xs;
pub use nvfp4::Nvfp4;
pub(crate) use nvfp4::ue4m3_half;
pub use q2_k::Q2K;
pub use q3_k::Q3K;
pub use q4_k::{Q4K, Q5K};
pub use q6_k::Q6K;
pub use sink::Sink;
pub use ternary::{Tq1_0, Tq2_0};

use crate::formats::{LINE, Shape, WeightType};
use crate::isa::{Lanes, Quads};

/// A weight type.
pub trait Weight {
    /// Its name.
    const TYPE: WeightType;
    /// Its structure.
    const SHAPE: Shape = Self::TYPE.shape();
    /// Records of a block: more than one where ggml's block is longer than a block of activations.
    const RECORDS: usize = Self::TYPE.records(Self::SHAPE);
    /// Bytes of one row in these records.
    const BYTES: usize = Self::TYPE.row_bytes(Self::RECORDS * Self::SHAPE.block);
}

/// A weight type that can be packed.
pub trait Pack: Weight {
    /// Packs the [`Weight::RECORDS`] records of a block of sixteen rows.
    ///
    /// # Safety
    /// Each of the rows must be readable for [`Weight::BYTES`] bytes, `rec` writable for
    /// [`Shape::panel_record`] bytes for each record; see also [`Lanes`].
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8);
}

/// A weight type with codes and scales: how a record is unpacked.
#[allow(clippy::missing_safety_doc)] // one set of conditions for both methods, below
pub trait Quantised: Weight {
    /// Steps in which the codes are unpacked, at most eight.
    const STEPS: usize = 1;
    /// Calls of [`Sink::part`] for a record, at even distances.
    const PARTS: usize = Self::STEPS;

    /// Hands scales, mins, `d` and the minimum to `sink`.
    ///
    /// # Safety
    /// Each of the rows must be readable for [`Weight::BYTES`] bytes; see also [`Lanes`] and [`Sink`]. The same for
    /// [`Self::codes`].
    unsafe fn header<S: Lanes, K: Sink<S>>(rows: &Rows, sink: &mut K);
    /// Hands the codes of a step to `sink`.
    unsafe fn codes<S: Lanes, K: Sink<S>>(rows: &Rows, step: usize, sink: &mut K);
}

impl<W: Quantised> Pack for W {
    #[inline(always)]
    unsafe fn pack<S: Lanes>(rows: &Rows, rec: *mut u8) {
        sink::pack_records::<W, S>(rows, rec);
    }
}

/// The block to pack of sixteen rows.
#[derive(Clone, Copy)]
pub struct Rows {
    at: Quads,
    record: usize,
}

impl Rows {
    /// Block number `b` of `W` in the rows that begin at `p`.
    ///
    /// # Safety
    /// The block must lie in the rows' memory.
    #[inline(always)]
    pub unsafe fn new<W: Weight>(p: *const u8, stride: usize, b: usize) -> Self {
        Rows { at: Quads::new(p.add(b * W::BYTES), stride), record: 0 }
    }

    /// The same block, of which record `record` is meant.
    #[inline(always)]
    pub fn of_record(self, record: usize) -> Self {
        Rows { record, ..self }
    }

    /// The record that is meant.
    #[inline(always)]
    fn record(&self) -> usize {
        self.record
    }

    /// Sixteen bytes of every row, `at` bytes into the block, transposed.
    #[inline(always)]
    unsafe fn words4<S: Lanes>(&self, at: usize) -> [S::I; 4] {
        S::load_words4(&self.at, at)
    }

    /// The 32-bit word at `at` of every row.
    #[inline(always)]
    unsafe fn words1<S: Lanes>(&self, at: usize) -> S::I {
        S::load_words1(&self.at, at)
    }

    /// The 16-bit word at `at` of every row.
    #[inline(always)]
    unsafe fn halves<S: Lanes>(&self, at: usize) -> S::I {
        S::load_halves(&self.at, at)
    }
}

/// Repeats `$body` with `$i` a constant, so that every address in it is a displacement.
macro_rules! unrolled {
    ($i:ident in [$($n:literal),*] $body:block) => {
        $({
            let $i: usize = $n;
            $body
        })*
    };
}
pub(crate) use unrolled;

/// The values of IQ4_NL and IQ4_XS codes (ggml-common.h, `kvalues_iq4nl`).
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// [`IQ4_VALUES`] plus 128, as unsigned bytes.
const IQ4_VALUES_U: [i8; 16] = {
    let mut t = [0; 16];
    let mut i = 0;
    while i < 16 {
        t[i] = (IQ4_VALUES[i] as i16 + 128) as u8 as i8;
        i += 1;
    }
    t
};

/// The table from IQ4 codes to the operands of the ISA's dot product: signed, or unsigned with the offset 128.
pub(crate) const fn iq4_table<S: Lanes>() -> &'static [i8; 16] {
    if S::ACC16 { &IQ4_VALUES } else { &IQ4_VALUES_U }
}

/// Stores line `i` of the codes.
#[inline(always)]
unsafe fn put<S: Lanes>(rec: *mut u8, i: usize, v: S::I) {
    S::store(rec.add(i * LINE), v);
}

/// Byte `j` of each lane, zero-extended.
#[inline(always)]
unsafe fn byte<S: Lanes>(v: S::I, j: u32) -> S::I {
    if j == 3 { S::shr(v, 24) } else { S::and(S::shr(v, 8 * j), S::splat(0xff)) }
}

/// Byte `j` of each lane, sign-extended.
#[inline(always)]
unsafe fn sbyte<S: Lanes>(v: S::I, j: u32) -> S::I {
    if j == 3 { S::sar(v, 24) } else { S::sar(S::shl(v, 24 - 8 * j), 24) }
}

/// `d` and the minimum from a word that holds both as half precision.
#[inline(always)]
unsafe fn give_d_min<S: Lanes, K: Sink<S>>(sink: &mut K, dm: S::I) {
    sink.d(S::half_lo(dm));
    sink.min(S::half_lo(S::shr(dm, 16)));
}
