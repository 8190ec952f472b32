//! TQ2_0: super-blocks of 256 with nothing but a scale. All products of a super-block are added as integers.

use super::load;
use super::sums256::Step256;
use super::super256::{behind, words_twice};
use crate::formats::{Order, rows256};
use crate::pack::{Tq2_0, Weight};
use core::arch::x86_64::*;

/// Where the scale is.
const D: usize = 64;

/// Two bits of every byte: vector `j` has bits `2 * j` and `2 * j + 1`.
#[inline(always)]
unsafe fn pairs(q: __m512i) -> [__m512i; 4] {
    let m = _mm512_set1_epi8(3);
    [
        _mm512_and_si512(q, m),
        _mm512_and_si512(_mm512_srli_epi16::<2>(q), m),
        _mm512_and_si512(_mm512_srli_epi16::<4>(q), m),
        _mm512_and_si512(_mm512_srli_epi16::<6>(q), m),
    ]
}

impl Step256 for Tq2_0 {
    const ORDER: Order = Order::Pairs;

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
        let halves = _mm256_cvtph_ps(words_twice(behind(at, D)));
        let mut d = [_mm512_setzero_ps(); NC];
        for c in 0..NC {
            let da = _mm256_loadu_ps(act.add(c * apart + places.d).cast());
            d[c] = _mm512_castps256_ps512(_mm256_mul_ps(halves, da));
        }
        for i in 0..n {
            let q = pairs(load(at[i]));
            for c in 0..NC {
                let act = act.add(c * apart);
                // the sums of the activations, negated: the offset of the codes is one
                let sums = _mm_loadu_si128(act.add(places.aux + 16 * i).cast());
                let mut sum = _mm512_zextsi256_si512(_mm256_cvtepi16_epi32(sums));
                for v in 0..4 {
                    sum = _mm512_dpbusd_epi32(sum, q[v], load(act.add(places.codes[i] + 64 * v)));
                }
                let d = _mm512_permutexvar_ps(_mm512_set1_epi32(2 * i as i32), d[c]);
                acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, acc[c]);
            }
        }
        acc
    }
}
