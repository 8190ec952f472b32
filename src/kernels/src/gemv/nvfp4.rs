//! NVFP4, two blocks at a time: 128 elements in the order of blocks of 32. The first vector holds sub-blocks 0, 2, 4, 6,
//! the second one the others; both have scales and sums of their own.

use super::{Operands, Row, load, product};
use crate::formats::{ROWS32, rows32_strides};
use crate::pack::{MXFP4_VALUES_U, Nvfp4, Weight};
use core::arch::x86_64::*;

/// NVFP4 as a parameter.
pub trait NvRow: Weight {}
impl NvRow for Nvfp4 {}

/// Bytes of a block of 64.
const BLOCK: usize = Nvfp4::TYPE.block().1;

/// The codes of the sub-blocks whose nibbles are, eight bytes for each and twice, in `q`.
#[inline(always)]
unsafe fn values(q: __m512i) -> __m512i {
    let q = _mm512_srlv_epi64(q, _mm512_set_epi64(4, 0, 4, 0, 4, 0, 4, 0));
    let table = _mm512_broadcast_i32x4(_mm_loadu_si128(MXFP4_VALUES_U.as_ptr().cast()));
    _mm512_shuffle_epi8(table, _mm512_and_si512(q, _mm512_set1_epi8(15)))
}

/// The scales of eight sub-blocks, see [`crate::pack`]: by halves with the same exponents.
#[inline(always)]
unsafe fn scales(d: [*const u8; 2]) -> __m256 {
    let [a, b] = d.map(|p| p.cast::<i32>().read_unaligned());
    let d = _mm_cvtepu8_epi16(_mm_unpacklo_epi32(_mm_cvtsi32_si128(a), _mm_cvtsi32_si128(b)));
    let some = _mm_cmpneq_epi16_mask(d, _mm_set1_epi16(0x7f));
    let bits = _mm_maskz_mov_epi16(some, _mm_and_si128(_mm_slli_epi16::<7>(d), _mm_set1_epi16(0x3f80)));
    _mm256_mul_ps(_mm256_cvtph_ps(bits), _mm256_set1_ps(128.0))
}

/// Adds the products of two blocks, at `p` and `q`.
#[inline(always)]
unsafe fn step(mut acc: __m512, [p, q]: [*const u8; 2], act: *const u8) -> __m512 {
    let codes = _mm512_castsi256_si512(_mm256_loadu_si256(p.add(4).cast()));
    let codes = _mm512_inserti64x4::<1>(codes, _mm256_loadu_si256(q.add(4).cast()));
    let d = _mm512_castps256_ps512(scales([p, q]));
    let da = _mm512_loadu_ps(act.add(ROWS32.d).cast());
    let (zero, offset) = (_mm512_setzero_si512(), _mm512_set1_epi8(Nvfp4::SHAPE.offset as i8));
    let even = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    let parts = [
        (_mm512_unpacklo_epi64(codes, codes), even),
        (_mm512_unpackhi_epi64(codes, codes), _mm512_add_epi32(even, _mm512_set1_epi32(1))),
    ];
    for (i, (q, lanes)) in parts.into_iter().enumerate() {
        let a = load(act.add(64 * i));
        let sum = _mm512_dpbusd_epi32(zero, values(q), a);
        let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_dpbusd_epi32(zero, offset, a)));
        acc = _mm512_fmadd_ps(sum, _mm512_mul_ps(_mm512_permutexvar_ps(lanes, d), da), acc);
    }
    acc
}

/// The product of one column; with `PREFETCH`, weights are prefetched.
///
/// # Safety
/// See [`super::GemvFn`].
#[inline(always)]
pub unsafe fn product_nvfp4<W: NvRow, const PREFETCH: bool>(o: Operands) {
    product::<Blocks<PREFETCH>>(o);
}

struct Blocks<const PREFETCH: bool>;

impl<const PREFETCH: bool> Row for Blocks<PREFETCH> {
    #[inline(always)]
    unsafe fn row(o: Operands, mut p: *const u8) -> __m512 {
        let (steps, stride) = (o.k / 128, rows32_strides(o.k));
        let mut act = o.act;
        let mut acc = _mm512_setzero_ps();
        for pair in 0..steps / 2 {
            if PREFETCH {
                o.prefetch.lines_to_l1(p, 4 * BLOCK);
            }
            for i in 0..2 {
                let at = p.add(i * 2 * BLOCK);
                acc = step(acc, [at, at.add(BLOCK)], act.add(i * ROWS32.bytes));
            }
            p = p.add(4 * BLOCK);
            act = act.add(stride(pair));
        }
        if PREFETCH {
            o.prefetch.lines_to_l1(p, o.k % 256 / 64 * BLOCK);
        }
        if steps % 2 > 0 {
            acc = step(acc, [p, p.add(BLOCK)], act);
            p = p.add(2 * BLOCK);
            act = act.add(ROWS32.bytes);
        }
        if o.k % 128 > 0 {
            // the block itself stands in for the missing one, whose activations are zero
            acc = step(acc, [p, p], act);
        }
        acc
    }
}
