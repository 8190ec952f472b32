//! Weight types and the layouts that packing, quantisation and micro-kernels agree on.
//!
//! # Weight panel
//! Sixteen rows by a number of blocks, one *record* per block, rows in lanes:
//!
//! ```text
//! Block32  (K = 32):   codes 8 x 64 B | d 16 x f32 | m 16 x f32 (types with a minimum)
//! Super256 (K = 256):  codes 64 x 64 B | scales 256/sub x 64 B | mins 256/sub/2 x 64 B (with a minimum)
//!                      | d 16 x f32 | dmin 16 x f32 (with a minimum)
//! Float    (K = 16):   values 16 x 64 B, or pairs of bf16 8 x 64 B
//! ```
//! Blocks of 32 with sub-blocks have a `d` for each. A block of ggml that is longer than a record is several records.
//! Signed codes of 8 bits are followed, behind all else, by their magnitudes where
//! [`Lanes::ACC16`](crate::isa::Lanes::ACC16).
//! A 64-byte line of codes holds, for one group of four consecutive `k`, four bytes of each row.
//! Integer scales are `f32`, or the `i16` twice where [`Lanes::ACC16`](crate::isa::Lanes::ACC16);
//! mins are pairs of `i16` of two neighbouring sub-blocks. A line of values holds one `f32` of each
//! row, a line of pairs two `bf16` of consecutive `k`, the first in the low half.
//!
//! # Activation tile
//! `nc` columns interleaved, one record per block of the weight type:
//!
//! ```text
//! Block32:   codes [8][nc] x 4 B | aux [n][nc] x 4 B | d [nc] x f32
//! Super256:  codes [64][nc] x 4 B | aux [n][nc] x 4 B | d [nc] x f32
//! Float:     values [16][nc] x f32, or pairs of bf16 [8][nc] x 4 B
//! ```
//! Rows of F16, BF16 and F32 may have any length: the last record of a panel and of a tile is filled
//! up with zeros.
//!
//! `aux` is what the weight type needs beside the codes, see [`Aux`].
//!
//! # Activations of products without panels
//! One column, for quantised weights in [`crate::gemv`], pieces of 16 codes in an [`Order`]:
//!
//! ```text
//! Block32, four blocks:  codes 128 x i8 | aux 16 x 4 B | d 16 x f32 (four lanes per block; each lane has its
//!                        own seed, a sum is in the first lane)
//! Super256, four:        codes 4 x 256 x i8 | negated sums, 64 B: eight i16 for each | 64 B: eight more |
//!                        d 8 x f32, twice each | 32 B not used
//! ```

use crate::isa::LANES;

/// Weight types of ggml with kernels here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum WeightType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq1S,
    Iq1M,
    Tq1_0,
    Tq2_0,
    Nvfp4,
    Q1_0,
    Q2_0,
    F16,
    Bf16,
    F32,
}

/// What is added to a code of IQ1_S and IQ1_M to make it unsigned: `8 * (grid + 2) + 8 * delta`.
const IQ1_OFFSET: i32 = 16;

impl WeightType {
    /// Every type.
    pub const ALL: [WeightType; 28] = [
        WeightType::Q4_0,
        WeightType::Q4_1,
        WeightType::Q5_0,
        WeightType::Q5_1,
        WeightType::Q8_0,
        WeightType::Q2K,
        WeightType::Q3K,
        WeightType::Q4K,
        WeightType::Q5K,
        WeightType::Q6K,
        WeightType::Iq4Nl,
        WeightType::Iq4Xs,
        WeightType::Mxfp4,
        WeightType::Iq2Xxs,
        WeightType::Iq2Xs,
        WeightType::Iq2S,
        WeightType::Iq3Xxs,
        WeightType::Iq3S,
        WeightType::Iq1S,
        WeightType::Iq1M,
        WeightType::Tq1_0,
        WeightType::Tq2_0,
        WeightType::Nvfp4,
        WeightType::Q1_0,
        WeightType::Q2_0,
        WeightType::F16,
        WeightType::Bf16,
        WeightType::F32,
    ];

    /// The name `ggml_type_name` gives it.
    pub const fn ggml_name(self) -> &'static str {
        match self {
            WeightType::Q4_0 => "q4_0",
            WeightType::Q4_1 => "q4_1",
            WeightType::Q5_0 => "q5_0",
            WeightType::Q5_1 => "q5_1",
            WeightType::Q8_0 => "q8_0",
            WeightType::Q2K => "q2_K",
            WeightType::Q3K => "q3_K",
            WeightType::Q4K => "q4_K",
            WeightType::Q5K => "q5_K",
            WeightType::Q6K => "q6_K",
            WeightType::Iq4Nl => "iq4_nl",
            WeightType::Iq4Xs => "iq4_xs",
            WeightType::Mxfp4 => "mxfp4",
            WeightType::Iq2Xxs => "iq2_xxs",
            WeightType::Iq2Xs => "iq2_xs",
            WeightType::Iq2S => "iq2_s",
            WeightType::Iq3Xxs => "iq3_xxs",
            WeightType::Iq3S => "iq3_s",
            WeightType::Iq1S => "iq1_s",
            WeightType::Iq1M => "iq1_m",
            WeightType::Tq1_0 => "tq1_0",
            WeightType::Tq2_0 => "tq2_0",
            WeightType::Nvfp4 => "nvfp4",
            WeightType::Q1_0 => "q1_0",
            WeightType::Q2_0 => "q2_0",
            WeightType::F16 => "f16",
            WeightType::Bf16 => "bf16",
            WeightType::F32 => "f32",
        }
    }

    /// The type that ggml calls `name`.
    pub fn from_ggml_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.ggml_name() == name)
    }

    /// Elements and bytes of one block, as `ggml_blck_size` and `ggml_type_size` give them.
    pub const fn block(self) -> (usize, usize) {
        match self {
            WeightType::Q4_0 => (32, 18),
            WeightType::Q4_1 => (32, 20),
            WeightType::Q5_0 => (32, 22),
            WeightType::Q5_1 => (32, 24),
            WeightType::Q8_0 => (32, 34),
            WeightType::Q2K => (256, 84),
            WeightType::Q3K => (256, 110),
            WeightType::Q4K => (256, 144),
            WeightType::Q5K => (256, 176),
            WeightType::Q6K => (256, 210),
            WeightType::Iq4Nl => (32, 18),
            WeightType::Iq4Xs => (256, 136),
            WeightType::Mxfp4 => (32, 17),
            WeightType::Iq2Xxs => (256, 66),
            WeightType::Iq2Xs => (256, 74),
            WeightType::Iq2S => (256, 82),
            WeightType::Iq3Xxs => (256, 98),
            WeightType::Iq3S => (256, 110),
            WeightType::Iq1S => (256, 50),
            WeightType::Iq1M => (256, 56),
            WeightType::Tq1_0 => (256, 54),
            WeightType::Tq2_0 => (256, 66),
            WeightType::Nvfp4 => (64, 36),
            WeightType::Q1_0 => (128, 18),
            WeightType::Q2_0 => (64, 18),
            WeightType::F16 | WeightType::Bf16 => (1, 2),
            WeightType::F32 => (1, 4),
        }
    }

    /// Bytes of `k` elements of a row, a multiple of the block size.
    pub const fn row_bytes(self, k: usize) -> usize {
        let (block, bytes) = self.block();
        k / block * bytes
    }

    /// Records of `shape` in a block.
    pub(crate) const fn records(self, shape: Shape) -> usize {
        let block = self.block().0;
        if block > shape.block { block / shape.block } else { 1 }
    }

    /// How its products are computed.
    pub const fn shape(self) -> Shape {
        use Codes::{Float, Narrow, Signed, Whole, Wide};
        match self {
            WeightType::Q4_0 => block32(false, 8, Wide),
            WeightType::Q4_1 => block32(true, 0, Wide),
            WeightType::Q5_0 => block32(false, 16, Wide),
            WeightType::Q5_1 => block32(true, 0, Narrow),
            WeightType::Q8_0 | WeightType::Iq4Nl => block32(false, 128, Signed),
            WeightType::Mxfp4 => block32(false, 12, Wide),
            WeightType::Iq1S => super256(32, false, IQ1_OFFSET, Wide),
            WeightType::Iq1M => super256(16, false, IQ1_OFFSET, Narrow),
            WeightType::Tq1_0 | WeightType::Tq2_0 => super256(256, false, 1, Whole),
            WeightType::Nvfp4 => Shape { sub: 16, ..block32(false, 12, Narrow) },
            WeightType::Q1_0 => block32(false, 8, Wide),
            WeightType::Q2_0 => block32(false, 1, Wide),
            WeightType::Q2K => super256(16, true, 0, Narrow),
            WeightType::Q3K => super256(16, false, 4, Narrow),
            WeightType::Q4K => super256(32, true, 0, Wide),
            WeightType::Q5K => super256(32, true, 0, Narrow),
            WeightType::Q6K => super256(16, false, 32, Narrow),
            WeightType::Iq4Xs => super256(32, false, 128, Signed),
            WeightType::Iq2Xxs | WeightType::Iq3Xxs | WeightType::Iq3S => super256(32, false, 128, Signed),
            WeightType::Iq2Xs | WeightType::Iq2S => super256(16, false, 128, Signed),
            WeightType::F16 => float(Float(Rounding::F16)),
            WeightType::Bf16 => float(Float(Rounding::Bf16)),
            WeightType::F32 => float(Float(Rounding::None)),
        }
    }
}

/// How wide a sum of `vpmaddubsw` products may grow in an `i16` before it has to be widened.
///
/// Activations are in `-127..=127`. A lane adds, per step of four `k`, two products. With the
/// accumulator seeded by `-offset * (sum of its activations)` the *final* value is
/// `sum((code - offset) * a)`; additions wrap, so only that final value has to fit, and each single
/// `vpmaddubsw` result (it saturates).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codes {
    /// Eight steps fit: unseeded `15 * 127 * 2 * 8 = 30480` (Q4_1, Q4_K); seeded
    /// `16 * 127 * 2 * 8 = 32512` (Q5_0, IQ1_S, offset 16) and less (Q4_0, MXFP4, Q1_0, Q2_0).
    Wide,
    /// Four steps fit: `31 * 127 * 2 * 4 = 31496` (Q5_1, Q5_K), seeded
    /// `32 * 127 * 2 * 4 = 32512` (Q6_K, offset 32), and less (Q2_K, Q3_K, IQ1_M, NVFP4).
    Narrow,
    /// All 64 steps of a super-block fit: seeded `2 * 127 * 2 * 64 = 32512` (TQ1_0, TQ2_0, offset 1, codes up to 3).
    Whole,
    /// Signed bytes, `-128..=127`: every product is widened at once.
    Signed,
    /// Not codes but values, as `f32`; activations are rounded as given.
    Float(Rounding),
    /// Pairs of `bf16` for `vdpbf16ps`, activations as well.
    Bf16Pairs,
}

/// What activations are rounded to before the product: ggml's `vec_dot_type` of F16 and BF16 weights
/// is the weight's own type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// Kept as they are.
    None,
    /// To IEEE half precision.
    F16,
    /// To `bf16`.
    Bf16,
}

/// The structure of a weight type's product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Elements of a record: a block of 32 or 256 (blocks of 256 have integer scales per sub-block),
    /// or [`FLOAT_RECORD`].
    pub block: usize,
    /// Elements that share a scale: 16 or 32, or all 256 of a super-block, whose integer scale is one.
    pub sub: usize,
    /// Whether a minimum is subtracted (K-quants) or added (Q4_1, Q5_1).
    pub min: bool,
    /// What is subtracted from an unsigned code to give its value (before the scale).
    pub offset: i32,
    /// The range of the codes.
    pub codes: Codes,
}

const fn block32(min: bool, offset: i32, codes: Codes) -> Shape {
    Shape { block: 32, sub: 32, min, offset, codes }
}

const fn super256(sub: usize, min: bool, offset: i32, codes: Codes) -> Shape {
    Shape { block: 256, sub, min, offset, codes }
}

/// Elements of a record of the float types. Small, because the last record of a row is filled up.
pub const FLOAT_RECORD: usize = 16;

/// Values without scales: F16, BF16, F32.
pub(crate) const fn float(codes: Codes) -> Shape {
    Shape { block: FLOAT_RECORD, sub: FLOAT_RECORD, min: false, offset: 0, codes }
}

/// Groups of four `k` in a block of `block` elements.
const fn groups(block: usize) -> usize {
    block / 4
}

/// Bytes of one line of a panel: four bytes for each row.
pub const LINE: usize = 4 * LANES;

impl Shape {
    const fn subs(self) -> usize {
        self.block / self.sub
    }

    /// Byte offset of the scales in a panel record (`d` for blocks of 32).
    pub const fn scales_at(self) -> usize {
        groups(self.block) * LINE
    }

    /// Byte offset of the pairs of mins (`m` for blocks of 32).
    pub const fn mins_at(self) -> usize {
        self.scales_at() + self.subs() * LINE
    }

    /// Byte offset of `d` in a record of a super-block; `dmin` follows it.
    pub const fn d_at(self) -> usize {
        self.mins_at() + if self.min { self.subs() / 2 * LINE } else { 0 }
    }

    /// Byte offset of the magnitudes of signed codes in a panel record, for ISAs that multiply into 16-bit
    /// lanes: as many lines as codes, so that they are not computed for every tile again.
    #[inline(always)]
    pub const fn magnitudes_at(self) -> usize {
        let min = if self.min { LINE } else { 0 };
        match self.codes {
            Codes::Float(_) => self.block * LINE,
            Codes::Bf16Pairs => self.block / 2 * LINE,
            _ if self.block == 32 => self.mins_at() + min,
            _ => self.d_at() + LINE + min,
        }
    }

    /// Bytes of a panel record (`acc16`: [`crate::isa::Lanes::ACC16`]).
    #[inline(always)]
    pub const fn panel_record(self, acc16: bool) -> usize {
        let magnitudes = acc16 && matches!(self.codes, Codes::Signed);
        self.magnitudes_at() + if magnitudes { groups(self.block) * LINE } else { 0 }
    }

    /// The activation format that the kernels of an ISA want (`acc16`: [`crate::isa::Lanes::ACC16`]).
    pub const fn act(self, acc16: bool) -> ActFormat {
        let values = match self.codes {
            Codes::Float(rounding) => Values::F32(rounding),
            Codes::Bf16Pairs => Values::Bf16Pairs,
            _ => Values::Q8,
        };
        let aux = if !matches!(values, Values::Q8) {
            Aux::None
        } else if self.min {
            Aux::Sums
        } else if !acc16 {
            Aux::Seed(self.offset)
        } else if matches!(self.codes, Codes::Signed) {
            Aux::None
        } else {
            Aux::SeedPair(self.offset)
        };
        ActFormat { block: self.block, sub: self.sub, values, aux }
    }

    /// The activation format for products without panels.
    pub const fn act_rows(self, order: Order) -> ActFormat {
        let tile = self.act(false);
        // super-blocks have sums in any case: of all sub-blocks, by 32 as they come, or of all pieces by 16
        let aux = if self.block == 256 { Aux::Sums } else { tile.aux };
        let sub = if self.sub > 32 { 32 } else { self.sub };
        ActFormat { block: self.block, sub, values: Values::Rows(order), aux }
    }
}

/// What an activation record holds beside codes and scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aux {
    /// Nothing.
    None,
    /// Per sub-block, `-offset * sum(codes)` as `i32`: the start value of the accumulators.
    Seed(i32),
    /// The same as two `i16`, for `k % 4` in {0, 1} and in {2, 3}.
    SeedPair(i32),
    /// Blocks of 32: `d * sum(codes)` as `f32`. Super-blocks: the sums of two neighbouring
    /// sub-blocks as two `i16`.
    Sums,
}

/// The form of the activations in a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Values {
    /// Signed bytes with a scale per block.
    Q8,
    /// Floats, rounded.
    F32(Rounding),
    /// Pairs of `bf16`.
    Bf16Pairs,
    /// Signed bytes with a scale per block, for products without panels.
    Rows(Order),
}

/// The order of the pieces of 16 elements in the activations of products without panels: that of the weights
/// once they are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The order of the row.
    Plain,
    /// Blocks of 32: the first halves of four blocks, then the second ones.
    Halves,
    /// Nibbles of 32 bytes: the first halves of sub-blocks 0, 2, 4, 6, their second ones, then those of 1, 3, 5, 7.
    Nibbles,
    /// Pairs of bits of 32 bytes: sub-blocks of 32 in the order 0, 4, 1, 5, 2, 6, 3, 7.
    Pairs,
    /// The same in diagonals: of the four vectors of 64 elements that these are, vector `v` has in dword `w` of each quarter
    /// dword `(w + v) % 4` of vector `w`.
    Diagonals,
    /// Not pieces of 16 but of two: quarter `j` has elements `2 * j` and `2 * j + 1` of every eight. Sums are in the
    /// order of the row.
    Octets,
}

impl Order {
    /// Which element, of 256, comes at each place.
    pub const fn element(self, place: usize) -> usize {
        match self {
            Order::Octets => place % 64 / 2 * 8 + place / 64 * 2 + place % 2,
            Order::Diagonals => {
                let (vector, quarter, dword) = (place / 64, place / 16 % 4, place / 4 % 4);
                self.pieces()[4 * dword + quarter] as usize * 16 + (dword + vector) % 4 * 4 + place % 4
            }
            _ => self.pieces()[place / 16] as usize * 16 + place % 16,
        }
    }

    /// Which piece of 16 elements, of 256, comes at each place, before [`Order::Diagonals`] takes their dwords apart. The order
    /// of the sums.
    pub const fn pieces(self) -> [u8; 16] {
        match self {
            Order::Plain | Order::Octets => [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            Order::Halves => [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15],
            Order::Nibbles => [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15],
            Order::Pairs | Order::Diagonals => [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15],
        }
    }
}

/// A record of the activations of products without panels.
#[derive(Clone, Copy, Debug)]
pub struct RowsRecord {
    /// Elements.
    pub k: usize,
    /// Byte offsets of the codes of each quarter.
    pub codes: [usize; 4],
    /// Byte offset of `aux`, or of the sums.
    pub aux: usize,
    /// Byte offset of `d`.
    pub d: usize,
    /// Bytes of the record.
    pub bytes: usize,
}

// Gaps of one or several cache lines, of different lengths, lie between the parts of the activations. Without them the
// hardware's prefetcher follows the activations, which are in the level-1 cache anyway, and no longer the weights. How
// much that costs depends on the placement of the instructions: q4_0 11 or 22 GB/s without gaps, 28 with them
// (`kernel-choices`). Gaps of one length do nothing.

/// Blocks of 32. The records come in pairs, of which [`rows32_strides`] tells the distance.
pub const ROWS32: RowsRecord = RowsRecord { k: 128, codes: [0, 32, 64, 96], aux: 128, d: 192, bytes: 256 };
/// Four super-blocks; `close`, without gaps, in columns of more than [`SPACED`] elements.
#[inline(always)]
pub const fn rows256(close: bool) -> RowsRecord {
    if close {
        RowsRecord { k: 1024, codes: [0, 256, 512, 768], aux: 1024, d: 1152, bytes: 1216 }
    } else {
        RowsRecord { k: 1024, codes: [0, 320, 576, 960], aux: 1216, d: 1344, bytes: 1408 }
    }
}

/// Bytes from a pair of records of [`ROWS32`] to the next one.
const ROWS32_STRIDES: [u16; 32] = {
    // any sequence without a pattern
    let lines = [0, 1, 2, 0, 5, 2, 4, 5, 0, 5, 1, 1, 4, 0, 0, 5, 2, 5, 5, 0, 4, 4, 1, 5, 5, 4, 2, 0, 3, 0, 2, 5];
    let mut strides = [0; 32];
    let mut i = 0;
    while i < strides.len() {
        strides[i] = 2 * ROWS32.bytes as u16 + 64 * lines[i];
        i += 1;
    }
    strides
};

/// Most elements of a column with gaps. Longer columns need the space in the cache.
pub const SPACED: usize = 6144;

/// Bytes from each pair of records of a column of `k` elements to the next one.
#[inline(always)]
pub const fn rows32_strides(k: usize) -> impl Fn(usize) -> usize {
    // the first stride has no gap
    let mask = if k <= SPACED { ROWS32_STRIDES.len() - 1 } else { 0 };
    move |pair| ROWS32_STRIDES[pair & mask] as usize
}

/// Bytes of a column of `k` elements in pairs of records of [`ROWS32`].
#[inline(always)]
const fn rows32_bytes(k: usize) -> usize {
    const BEGIN: [u16; SPACED / 256 + 1] = {
        let mut begin = [0; SPACED / 256 + 1];
        let mut i = 1;
        while i < begin.len() {
            begin[i] = begin[i - 1] + ROWS32_STRIDES[i - 1];
            i += 1;
        }
        begin
    };
    let pairs = k.div_ceil(2 * ROWS32.k);
    if pairs < BEGIN.len() { BEGIN[pairs] as usize } else { pairs * 2 * ROWS32.bytes }
}

/// A format of quantised activations; equal formats can share one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActFormat {
    /// Elements of a record: those of a scale, 32 (as ggml's Q8_0 and Q8_1) or 256 (as Q8_K), or
    /// [`FLOAT_RECORD`].
    pub block: usize,
    /// Elements per entry of `aux`.
    pub sub: usize,
    /// The values.
    pub values: Values,
    /// The extra values.
    pub aux: Aux,
}

impl ActFormat {
    /// Entries of `aux` per column and block.
    #[inline(always)]
    pub const fn aux_words(self) -> usize {
        match self.aux {
            Aux::None => 0,
            Aux::Sums if self.block == 256 => self.block / self.sub / 2,
            _ => self.block / self.sub,
        }
    }

    /// Bytes of a record per column.
    #[inline(always)]
    pub const fn record(self) -> usize {
        match self.values {
            Values::Q8 => self.block + 4 * self.aux_words() + 4,
            Values::F32(_) => 4 * self.block,
            Values::Bf16Pairs => 2 * self.block,
            Values::Rows(_) => self.rows(0).bytes,
        }
    }

    /// The record of a format for products without panels, in columns of `k` elements.
    #[inline(always)]
    pub const fn rows(self, k: usize) -> RowsRecord {
        if self.block == 32 { ROWS32 } else { rows256(k > SPACED) }
    }

    /// Bytes of `n` columns of `k` elements.
    #[inline(always)]
    pub const fn bytes(self, k: usize, n: usize) -> usize {
        let column = match self.values {
            Values::Rows(_) if self.block == 32 => rows32_bytes(k),
            Values::Rows(_) => k.div_ceil(self.rows(k).k) * self.rows(k).bytes,
            _ => k.div_ceil(self.block) * self.record(),
        };
        column * n
    }

    /// The tile format that has the same codes, scales and sums.
    #[inline(always)]
    pub const fn tile(self) -> Self {
        match self.values {
            Values::Rows(_) => ActFormat { values: Values::Q8, ..self },
            _ => self,
        }
    }
}
