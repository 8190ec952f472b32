//! Activations of products by rows.

use super::avx512::{eight_blocks_by_rows, quantize_avx512};
use crate::formats::{ActFormat, Aux, Order, ROWS32, ROWS256, Values};
use core::arch::x86_64::*;

/// Bytes of a super-block of one column in a tile with 16 sums.
const TILE256: usize = 256 + 32 + 4;

/// Quantises `nc` columns, one behind the other.
///
/// # Safety
/// See [`QuantizeFn`](super::QuantizeFn), for a format with [`Values::Rows`]; needs what
/// [`quantize_avx512`] needs, and AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub unsafe fn quantize_rows(format: ActFormat, cols: *const *const f32, k: usize, nc: usize, out: *mut u8) {
    let Values::Rows(order) = format.values else { return };
    for c in 0..nc {
        let out = out.add(c * format.bytes(k, 1));
        if format.block == 32 {
            blocks32(format.aux, *cols.add(c), k / 32, out);
        } else {
            quantize_avx512(format.tile(), cols.add(c), k, 1, out);
            // The new records are larger: in place from the last to the first, each read before it is
            // written.
            for r in (0..k / 256).rev() {
                super_block(out, r, order);
            }
        }
    }
}

#[inline(always)]
unsafe fn blocks32(aux: Aux, mut x: *const f32, blocks: usize, mut out: *mut u8) {
    for _ in 0..blocks / 8 {
        let mut at = [x; 8];
        for (i, at) in at.iter_mut().enumerate() {
            *at = x.add(32 * i);
        }
        eight_blocks_by_rows(aux, at, 8, out);
        x = x.add(256);
        out = out.add(2 * ROWS32.bytes);
    }
    let rest = blocks % 8;
    if rest > 0 {
        // the last one stands in for those that are not there
        let mut at = [x; 8];
        for (i, at) in at.iter_mut().enumerate() {
            *at = x.add(32 * i.min(rest - 1));
        }
        eight_blocks_by_rows(aux, at, rest, out);
    }
}

#[inline(always)]
unsafe fn word(p: *const u8) -> i32 {
    p.cast::<i32>().read_unaligned()
}

/// Four pieces of 16 bytes.
#[inline(always)]
unsafe fn pieces(p: [*const u8; 4]) -> __m512i {
    let [a, b, c, d] = p.map(|p| _mm_loadu_si128(p.cast()));
    let v = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(v, c), d)
}

/// Record `r` of a column of super-blocks.
#[inline(always)]
unsafe fn super_block(column: *mut u8, r: usize, order: Order) {
    let from = column.add(r * TILE256).cast_const();
    let piece = order.pieces();
    let codes = [0, 4, 8, 12].map(|i| {
        let at = |i: usize| from.add(16 * usize::from(piece[i]));
        pieces([at(i), at(i + 1), at(i + 2), at(i + 3)])
    });
    let sums = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_loadu_si256(from.add(256).cast()));
    let d = word(from.add(288));
    let to = column.add(r * ROWS256.bytes);
    for (i, v) in codes.into_iter().enumerate() {
        _mm512_storeu_si512(to.add(64 * i).cast(), v);
    }
    _mm256_storeu_si256(to.add(ROWS256.aux).cast(), sums);
    to.add(ROWS256.d).cast::<i32>().write_unaligned(d);
}
