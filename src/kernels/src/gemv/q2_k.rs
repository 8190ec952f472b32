//! Q2_K: the codes stay where they lie in their bytes.
//!
//! A byte has one code of each of four sub-blocks. In the four dwords of a quarter of a vector a mask leaves the codes of
//! four different sub-blocks, too large by 1, 4, 16 and 64. The same masks again, with the dwords turned by one, two and
//! three places, leave the other codes of the same sub-blocks. So all four vectors are added up in one, whose lanes are the
//! sixteen sub-blocks, and no sum is packed or spread. A lane holds at most `192 * 127 * 16`, and times its scale less than
//! `2^24`.

use super::sums256::Step256;
use super::super256::{behind, bytes_to_words, dword, pieces, quarters};
use super::{dot2, load, nibbles};
use crate::formats::{Order, rows256};
use crate::pack::{Q2K, Weight, unrolled};
use core::arch::x86_64::*;

/// The same sixteen bytes in every quarter.
#[inline(always)]
unsafe fn each(v: __m128i) -> __m512i {
    _mm512_broadcast_i32x4(v)
}

/// The codes of the super-block at `p`: for each turn of the dwords those that the masks leave.
#[inline(always)]
unsafe fn codes(p: *const u8) -> [__m512i; 4] {
    let masks = each(_mm_setr_epi32(0x0303_0303, 0x0c0c_0c0c, 0x3030_3030, 0xc0c0_c0c0_u32 as i32));
    let q = load(p.add(16));
    [
        _mm512_and_si512(q, masks),
        _mm512_and_si512(_mm512_shuffle_epi32::<0b00_11_10_01>(q), masks),
        _mm512_and_si512(_mm512_shuffle_epi32::<0b01_00_11_10>(q), masks),
        _mm512_and_si512(_mm512_shuffle_epi32::<0b10_01_00_11>(q), masks),
    ]
}

/// Quarter `i`, a constant once inlined, in every quarter. (Not by way of memory: loads of what was just stored wait.)
#[inline(always)]
unsafe fn quarter(v: __m512i, i: usize) -> __m512i {
    match i {
        0 => _mm512_shuffle_i32x4::<0b00_00_00_00>(v, v),
        1 => _mm512_shuffle_i32x4::<0b01_01_01_01>(v, v),
        2 => _mm512_shuffle_i32x4::<0b10_10_10_10>(v, v),
        _ => _mm512_shuffle_i32x4::<0b11_11_11_11>(v, v),
    }
}

/// The bytes of a header of scales in the lanes of their sub-blocks.
#[inline(always)]
unsafe fn to_lanes(scales: __m512i) -> __m512i {
    const IDX: [u8; 64] = {
        let mut idx = [0x80; 64];
        let mut lane = 0;
        while lane < 16 {
            let (n, h, w) = (lane / 8, lane / 4 % 2, lane % 4);
            idx[4 * lane] = (8 * n + 2 * w + h) as u8;
            lane += 1;
        }
        idx
    };
    _mm512_shuffle_epi8(scales, load(IDX.as_ptr()))
}

impl Step256 for Q2K {
    const ORDER: Order = Order::Diagonals;

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // the indices are columns, of several arrays
    unsafe fn step<const CLOSE: bool, const NC: usize>(
        mut acc: [__m512; NC],
        p: *const u8,
        n: usize,
        act: *const u8,
        apart: usize,
    ) -> [__m512; NC] {
        let places = const { rows256(CLOSE) };
        // the last super-block stands in for missing ones, whose activations are zero
        let at = [
            p,
            p.add(1.min(n - 1) * Self::BYTES),
            p.add(2.min(n - 1) * Self::BYTES),
            p.add(3.min(n - 1) * Self::BYTES),
        ];
        let mut sums = [[_mm512_setzero_si512(); 4]; NC];
        unrolled!(i in [0, 1, 2, 3] {
            if i < n {
                let q = codes(at[i]);
                for (c, sums) in sums.iter_mut().enumerate() {
                    let a = act.add(c * apart + places.codes[i]);
                    let sum = _mm512_dpbusd_epi32(sums[i], q[0], load(a));
                    let sum = _mm512_dpbusd_epi32(sum, q[1], load(a.add(64)));
                    let sum = _mm512_dpbusd_epi32(sum, q[2], load(a.add(128)));
                    sums[i] = _mm512_dpbusd_epi32(sum, q[3], load(a.add(192)));
                }
            }
        });
        // SAFETY: no instruction. Keeps the compiler from reading the headers before the codes, see `sums256`.
        core::arch::asm!("", options(nostack, preserves_flags));
        let [low, high] = nibbles(quarters(at));
        let mins = [
            _mm512_shuffle_epi8(high, bytes_to_words(pieces(Self::ORDER, 0))),
            _mm512_shuffle_epi8(high, bytes_to_words(pieces(Self::ORDER, 1))),
        ];
        let d = behind(at, 80);
        let d = _mm256_cvtph_ps(_mm_setr_epi32(dword(d[0]), dword(d[1]), dword(d[2]), dword(d[3])));
        let mut factors = [_mm512_setzero_ps(); NC];
        for c in 0..NC {
            let act = act.add(c * apart);
            let d = _mm512_castps256_ps512(_mm256_mul_ps(d, _mm256_loadu_ps(act.add(places.d).cast())));
            let sum = _mm512_madd_epi16(mins[0], load(act.add(places.aux)));
            let sum = dot2(sum, mins[1], load(act.add(places.aux + 64)));
            let dmin = _mm512_permutexvar_ps(_mm512_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7), d);
            acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), dmin, acc[c]);
            // what the codes of a lane are too large by
            let over = _mm512_broadcast_f32x4(_mm_setr_ps(1.0, 1.0 / 4.0, 1.0 / 16.0, 1.0 / 64.0));
            let d = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6), d);
            factors[c] = _mm512_mul_ps(d, over);
        }
        unrolled!(i in [0, 1, 2, 3] {
            if i < n {
                let scale = to_lanes(quarter(low, i));
                for c in 0..NC {
                    let sum = _mm512_cvtepi32_ps(_mm512_mullo_epi32(sums[c][i], scale));
                    let factor = _mm512_castsi512_ps(quarter(_mm512_castps_si512(factors[c]), i));
                    acc[c] = _mm512_fmadd_ps(sum, factor, acc[c]);
                }
            }
        });
        acc
    }
}
