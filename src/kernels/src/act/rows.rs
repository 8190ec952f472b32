//! Activations of products by rows.

use super::avx512::{eight_blocks_by_rows, quantize_avx512};
use crate::formats::{ActFormat, Aux, Order, RowsRecord, Values, rows32_strides};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// Bytes of a super-block of one column in a tile, at most: with 16 sums.
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
            let (record, mut at) = (format.rows(k), 0);
            while at < k {
                let n = ((k - at) / 256).min(4);
                let column = (*cols.add(c)).add(at);
                four_super_blocks(format, order, column, n, record, out.add(at / record.k * record.bytes));
                at += record.k;
            }
        }
    }
}

#[inline(always)]
unsafe fn blocks32(aux: Aux, mut x: *const f32, blocks: usize, mut out: *mut u8) {
    let stride = rows32_strides(32 * blocks);
    for pair in 0..blocks / 8 {
        let mut at = [x; 8];
        for (i, at) in at.iter_mut().enumerate() {
            *at = x.add(32 * i);
        }
        eight_blocks_by_rows(aux, at, 8, out);
        x = x.add(256);
        out = out.add(stride(pair));
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

/// Four pieces of 16 bytes.
#[inline(always)]
unsafe fn pieces(p: [*const u8; 4]) -> __m512i {
    let [a, b, c, d] = p.map(|p| _mm_loadu_si128(p.cast()));
    let v = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(v, c), d)
}

/// Quarter `j` of [`Order::Octets`]: the `j`-th 16-bit word of every four.
#[inline(always)]
unsafe fn octets(tile: *const u8, j: usize) -> __m512i {
    // words j, 4 + j, ... of 64, twice
    const FIRST: [i16; 32] = {
        let (mut idx, mut i) = ([0; 32], 0);
        while i < 32 {
            idx[i] = 4 * (i as i16 % 16);
            i += 1;
        }
        idx
    };
    let load = |at: usize| _mm512_loadu_si512(tile.add(at).cast());
    let idx = _mm512_add_epi16(_mm512_loadu_si512(FIRST.as_ptr().cast()), _mm512_set1_epi16(j as i16));
    let low = _mm512_permutex2var_epi16(load(0), idx, load(64));
    let high = _mm512_permutex2var_epi16(load(128), idx, load(192));
    _mm512_inserti64x4::<1>(low, _mm512_castsi512_si256(high))
}

/// Dword 0 of each quarter of the first vector, 1 of the second one and so on, all turned by `TURN`.
#[inline(always)]
unsafe fn diagonal<const TURN: i32>([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let v = _mm512_mask_shuffle_epi32::<TURN>(_mm512_shuffle_epi32::<TURN>(a), 0x2222, b);
    _mm512_mask_shuffle_epi32::<TURN>(_mm512_mask_shuffle_epi32::<TURN>(v, 0x4444, c), 0x8888, d)
}

/// Bytes of the sums of a super-block of one column in a tile.
#[inline(always)]
const fn sums_bytes(sub: usize) -> usize {
    if sub == 16 { 32 } else { 16 }
}

/// One record, of which `n` super-blocks exist.
#[inline(always)]
unsafe fn four_super_blocks(
    format: ActFormat,
    order: Order,
    column: *const f32,
    n: usize,
    places: RowsRecord,
    out: *mut u8,
) {
    let mut tiles = MaybeUninit::<[u8; 4 * TILE256]>::uninit();
    let tiles = tiles.as_mut_ptr().cast::<u8>();
    quantize_avx512(format.tile(), &raw const column, 256 * n, 1, tiles);
    // not `record()` of the tile, whose division the compiler would guard against zero
    let record = 256 + sums_bytes(format.sub) + 4;
    for (i, codes) in places.codes.into_iter().enumerate() {
        let at = [out.add(codes), out.add(places.aux + 16 * i), out.add(places.d + 8 * i)];
        if i < n { super_block(tiles.add(record * i), order, format.sub, at) } else { no_super_block(at) }
    }
}

/// Zeros for the codes, sums and scale of a super-block.
#[inline(always)]
unsafe fn no_super_block([codes, aux, d]: [*mut u8; 3]) {
    for v in 0..4 {
        _mm512_storeu_si512(codes.add(64 * v).cast(), _mm512_setzero_si512());
    }
    _mm_storeu_si128(aux.cast(), _mm_setzero_si128());
    _mm_storeu_si128(aux.add(64).cast(), _mm_setzero_si128());
    d.cast::<u64>().write_unaligned(0);
}

/// The codes, sums and scale of a super-block, from a tile of its own.
#[inline(always)]
unsafe fn super_block(tile: *const u8, order: Order, sub: usize, [codes, aux, d]: [*mut u8; 3]) {
    let piece = order.pieces();
    let mut vectors = [_mm512_setzero_si512(); 4];
    for (v, first) in [0, 4, 8, 12].into_iter().enumerate() {
        let at = |i: usize| tile.add(16 * usize::from(piece[first + i]));
        vectors[v] = if order == Order::Octets { octets(tile, v) } else { pieces([at(0), at(1), at(2), at(3)]) };
    }
    if order == Order::Diagonals {
        vectors = [
            diagonal::<0b11_10_01_00>(vectors),
            diagonal::<0b00_11_10_01>(vectors),
            diagonal::<0b01_00_11_10>(vectors),
            diagonal::<0b10_01_00_11>(vectors),
        ];
    }
    for (v, vector) in vectors.into_iter().enumerate() {
        _mm512_storeu_si512(codes.add(64 * v).cast(), vector);
    }
    let scale = tile.add(256 + sums_bytes(sub)).cast::<f32>().read_unaligned();
    if sub == 16 {
        let order = _mm256_cvtepu8_epi16(_mm_loadu_si128(piece.as_ptr().cast()));
        let sums = _mm256_permutexvar_epi16(order, _mm256_loadu_si256(tile.add(256).cast()));
        let sums = _mm256_sub_epi16(_mm256_setzero_si256(), sums);
        _mm_storeu_si128(aux.cast(), _mm256_castsi256_si128(sums));
        _mm_storeu_si128(aux.add(64).cast(), _mm256_extracti128_si256::<1>(sums));
    } else {
        let sums = _mm_sub_epi16(_mm_setzero_si128(), _mm_loadu_si128(tile.add(256).cast()));
        _mm_storeu_si128(aux.cast(), sums);
        _mm_storeu_si128(aux.add(64).cast(), _mm_setzero_si128());
    }
    d.cast::<[f32; 2]>().write_unaligned([scale, scale]);
}
