//! Weights that ggml has repacked for x86, back as rows: blocks of eight rows, their codes by eight bytes in turn.
//!
//! ```text
//! q4_0x8     d 8 x f16 | qs [2][8 rows][8], every nibble with its top bit flipped
//! iq4_nlx8   d 8 x f16 | qs [2][8][8]
//! mxfp4x8    e 8 x u8 | qs [2][8][8]
//! q4_Kx8     d 8 x f16 | dmin 8 x f16 | for each sub-block 12 B | qs [16][8][8]
//! q2_Kx8     d 8 x f16 | dmin 8 x f16 | for each two sub-blocks [8 rows][2] x u8 | qs [8][8][8]
//! 12 bytes of q4_Kx8: as the scales of q4_K, but with four rows for its first four sub-blocks and four for its others
//! ```

use crate::formats::WeightType;
use crate::pack::{Iq4Nl, Mxfp4, Q2K, Q4_0, Q4K, Weight};

/// Rows of a block.
pub const ROWS: usize = 8;

/// Writes the eight rows of `blocks` blocks at `src`, row `r` to `to + r * stride`.
///
/// # Safety
/// `src` is readable for as many blocks, each row writable for as many; of any alignment.
pub type UnpackFn = unsafe fn(src: *const u8, blocks: usize, to: *mut u8, stride: usize);

/// The function for a weight type; `None` for those that ggml does not repack on x86.
pub fn unpacker(weight: WeightType) -> Option<UnpackFn> {
    Some(match weight {
        WeightType::Q4_0 => unpack::<Q4_0>,
        WeightType::Q4K => unpack::<Q4K>,
        WeightType::Q2K => unpack::<Q2K>,
        WeightType::Iq4Nl => unpack::<Iq4Nl>,
        WeightType::Mxfp4 => unpack::<Mxfp4>,
        _ => return None,
    })
}

/// A type that ggml repacks.
trait Repacked: Weight {
    /// Byte offset of the codes of a row.
    const CODES: usize;
    /// Bytes of codes of a row.
    const CODE_BYTES: usize = 4 * Self::SHAPE.block / 8;
    /// Bits that are flipped in the codes.
    const FLIPPED: u64 = 0;

    /// Writes scales and minima.
    unsafe fn header(from: *const u8, to: *mut u8, stride: usize);
}

unsafe fn unpack<W: Repacked>(src: *const u8, blocks: usize, to: *mut u8, stride: usize) {
    for b in 0..blocks {
        let (from, to) = (src.add(b * ROWS * W::BYTES), to.add(b * W::BYTES));
        W::header(from, to, stride);
        let (from, to) = (from.add(ROWS * (W::BYTES - W::CODE_BYTES)), to.add(W::CODES));
        for piece in 0..W::CODE_BYTES / 8 {
            for r in 0..ROWS {
                let codes = from.add(8 * (ROWS * piece + r)).cast::<u64>().read_unaligned() ^ W::FLIPPED;
                to.add(r * stride + 8 * piece).cast::<u64>().write_unaligned(codes);
            }
        }
    }
}

/// A 16-bit word of each row.
#[inline(always)]
unsafe fn halves(from: *const u8, to: *mut u8, stride: usize) {
    for r in 0..ROWS {
        to.add(r * stride).cast::<u16>().write_unaligned(from.add(2 * r).cast::<u16>().read_unaligned());
    }
}

impl Repacked for Q4_0 {
    const CODES: usize = 2;
    const FLIPPED: u64 = 0x8888_8888_8888_8888;
    #[inline(always)]
    unsafe fn header(from: *const u8, to: *mut u8, stride: usize) {
        halves(from, to, stride);
    }
}

impl Repacked for Iq4Nl {
    const CODES: usize = 2;
    #[inline(always)]
    unsafe fn header(from: *const u8, to: *mut u8, stride: usize) {
        halves(from, to, stride);
    }
}

impl Repacked for Mxfp4 {
    const CODES: usize = 1;
    #[inline(always)]
    unsafe fn header(from: *const u8, to: *mut u8, stride: usize) {
        for r in 0..ROWS {
            to.add(r * stride).write(from.add(r).read());
        }
    }
}

impl Repacked for Q2K {
    const CODES: usize = 16;
    const CODE_BYTES: usize = 64;
    #[inline(always)]
    unsafe fn header(from: *const u8, to: *mut u8, stride: usize) {
        halves(from, to.add(80), stride);
        halves(from.add(16), to.add(82), stride);
        for two in 0..8 {
            halves(from.add(32 + 16 * two), to.add(2 * two), stride);
        }
    }
}

impl Repacked for Q4K {
    const CODES: usize = 16;
    #[inline(always)]
    unsafe fn header(from: *const u8, to: *mut u8, stride: usize) {
        halves(from, to, stride);
        halves(from.add(16), to.add(2), stride);
        // scales and mins of the sub-blocks, a byte for each of four rows
        let (mut s, mut m) = ([[0u32; 8]; 2], [[0u32; 8]; 2]);
        for i in 0..8 {
            let [a, b, c] = from.add(32 + 12 * i).cast::<[u32; 3]>().read_unaligned();
            (s[0][i], m[0][i]) = (a & SIX, b & SIX);
            (s[1][i], m[1][i]) = (c & FOUR | a >> 2 & TOP, c >> 4 & FOUR | b >> 2 & TOP);
        }
        for (h, (s, m)) in s.into_iter().zip(m).enumerate() {
            let mut words = [0u32; 12];
            for i in 0..4 {
                words[i] = s[i] | (s[4 + i] & TOP) << 2;
                words[4 + i] = m[i] | (m[4 + i] & TOP) << 2;
                words[8 + i] = s[4 + i] & FOUR | (m[4 + i] & FOUR) << 4;
            }
            let bytes = words.map(u32::to_le_bytes);
            for r in 0..4 {
                to.add((4 * h + r) * stride + 4).cast::<[u8; 12]>().write_unaligned(bytes.map(|word| word[r]));
            }
        }
    }
}

/// In every byte the lower six bits, the lower four, and bits 4 and 5.
const SIX: u32 = 0x3f3f_3f3f;
const FOUR: u32 = 0x0f0f_0f0f;
const TOP: u32 = 0x3030_3030;
