//! Rows of weights as floats, bit for bit what ggml's `dequantize_row_*` (the portable C of ggml-quants.c) gives:
//! the same products and sums, rounded one by one. (Of two NaNs either may come out, in ggml and here.)
//!
//! One version, for AVX2: most of the time goes to storing the results, which are eight times as large as the weights.

use crate::formats::WeightType;
use crate::isa::Isa;
use crate::isa::avx2::thirds;
use crate::pack::{
    Grid, IQ1_NIBBLES, IQ4_VALUES, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, MXFP4_VALUES_U, e8m0_half, ue4m3_half,
};
use core::arch::x86_64::*;

/// Writes the `k` elements of the row at `x`, a multiple of the block size, as floats to `y`.
///
/// # Safety
/// `x` is readable for `k` elements, `y` writable for `k` floats, of any alignment; the CPU has the features of
/// the ISA that [`dequantizer`] was asked for.
pub type DequantizeFn = unsafe fn(x: *const u8, y: *mut f32, k: usize);

/// The function for a weight type; `None` for float types, and where the CPU or the tier lacks AVX2.
pub fn dequantizer(isa: Isa, weight: WeightType) -> Option<DequantizeFn> {
    (isa != Isa::Scalar && Isa::Avx2.available()).then_some(())?;
    let row: DequantizeFn = match weight {
        WeightType::Q4_0 => q4_0,
        WeightType::Q4_1 => q4_1,
        WeightType::Q5_0 => q5_0,
        WeightType::Q5_1 => q5_1,
        WeightType::Q8_0 => q8_0,
        WeightType::Q2K => q2_k,
        WeightType::Q3K => q3_k,
        WeightType::Q4K => q4_k,
        WeightType::Q5K => q5_k,
        WeightType::Q6K => q6_k,
        WeightType::Iq4Nl => iq4_nl,
        WeightType::Iq4Xs => iq4_xs,
        WeightType::Mxfp4 => mxfp4,
        WeightType::Iq2Xxs => iq2_xxs,
        WeightType::Iq2Xs => iq2_xs,
        WeightType::Iq2S => iq2_s,
        WeightType::Iq3Xxs => iq3_xxs,
        WeightType::Iq3S => iq3_s,
        WeightType::Iq1S => iq1_s,
        WeightType::Iq1M => iq1_m,
        WeightType::Tq1_0 => tq1_0,
        WeightType::Tq2_0 => tq2_0,
        WeightType::Nvfp4 => nvfp4,
        WeightType::Q1_0 => q1_0,
        WeightType::Q2_0 => q2_0,
        WeightType::F16 | WeightType::Bf16 | WeightType::F32 => return None,
    };
    Some(row)
}

/// What happens to the minimum `m` of a sub-block after the product.
const NO_MIN: u8 = 0;
const ADD_MIN: u8 = 1;
const SUB_MIN: u8 = 2;

/// Scale and minimum of a sub-block.
#[derive(Clone, Copy)]
struct Scale {
    d: __m256,
    m: __m256,
}

#[inline(always)]
unsafe fn scale(d: f32, m: f32) -> Scale {
    Scale { d: _mm256_set1_ps(d), m: _mm256_set1_ps(m) }
}

/// The half at `p`.
#[inline(always)]
unsafe fn half(p: *const u8) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(p.cast::<u16>().read_unaligned()))))
}

/// Eight elements, of codes as 32-bit integers.
#[inline(always)]
unsafe fn put8<const MIN: u8>(y: *mut f32, q: __m256i, s: Scale) {
    let v = _mm256_mul_ps(_mm256_cvtepi32_ps(q), s.d);
    let v = match MIN {
        ADD_MIN => _mm256_add_ps(v, s.m),
        SUB_MIN => _mm256_sub_ps(v, s.m),
        _ => v,
    };
    _mm256_storeu_ps(y, v);
}

/// Sixteen elements, of signed bytes.
#[inline(always)]
unsafe fn put16<const MIN: u8>(y: *mut f32, q: __m128i, s: Scale) {
    put8::<MIN>(y, _mm256_cvtepi8_epi32(q), s);
    put8::<MIN>(y.add(8), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(q, q)), s);
}

/// 32 elements; the upper half has a scale of its own.
#[inline(always)]
unsafe fn put32<const MIN: u8>(y: *mut f32, q: __m256i, s: [Scale; 2]) {
    put16::<MIN>(y, _mm256_castsi256_si128(q), s[0]);
    put16::<MIN>(y.add(16), _mm256_extracti128_si256::<1>(q), s[1]);
}

#[inline(always)]
unsafe fn load32(p: *const u8) -> __m256i {
    _mm256_loadu_si256(p.cast())
}

/// Bits of every byte from `shift` on, `mask` after the shift.
#[inline(always)]
unsafe fn bits(v: __m256i, shift: usize, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srl_epi16(v, _mm_cvtsi64_si128(shift as i64)), _mm256_set1_epi8(mask))
}

/// The low nibbles of sixteen bytes, then the high ones.
#[inline(always)]
unsafe fn nibbles(p: *const u8) -> __m256i {
    let q = _mm_loadu_si128(p.cast());
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(q), q), _mm256_set1_epi8(15))
}

/// Adds sixteen to the codes whose bit is set in the word at `p`.
#[inline(always)]
unsafe fn fifth_bits(q: __m256i, p: *const u8) -> __m256i {
    let word = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
    let (zeros, ones) = (0, 0x0101_0101_0101_0101);
    let bytes = _mm256_shuffle_epi8(word, _mm256_setr_epi64x(zeros, ones, 2 * ones, 3 * ones));
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    _mm256_or_si256(q, _mm256_and_si256(set, _mm256_set1_epi8(16)))
}

/// The table's values.
#[inline(always)]
unsafe fn lookup(table: &[i8; 16], q: __m256i) -> __m256i {
    let table = _mm_loadu_si128(table.as_ptr().cast());
    _mm256_shuffle_epi8(_mm256_set_m128i(table, table), q)
}

/// `get_scale_min_k4` of ggml.
#[inline(always)]
unsafe fn k4_scale(s: *const u8, j: usize, d: f32, dmin: f32) -> Scale {
    let at = |i: usize| s.add(i).read();
    let (sc, m) = if j < 4 {
        (at(j) & 63, at(j + 4) & 63)
    } else {
        (at(j + 4) & 15 | at(j - 4) >> 6 << 4, at(j + 4) >> 4 | at(j) >> 6 << 4)
    };
    scale(d * f32::from(sc), dmin * f32::from(m))
}

/// A row function: `$body` writes the block at `$x` to `$y`.
macro_rules! row {
    ($(#[$doc:meta])* $name:ident, $weight:ident, |$x:ident, $y:ident| $body:block) => {
        $(#[$doc])*
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn $name(x: *const u8, y: *mut f32, k: usize) {
            const BLOCK: (usize, usize) = WeightType::$weight.block();
            for b in 0..k / BLOCK.0 {
                let ($x, $y) = (x.add(b * BLOCK.1), y.add(b * BLOCK.0));
                $body
            }
        }
    };
}

row!(q4_0, Q4_0, |x, y| {
    let q = _mm256_sub_epi8(nibbles(x.add(2)), _mm256_set1_epi8(8));
    put32::<NO_MIN>(y, q, [scale(half(x), 0.0); 2]);
});

row!(q4_1, Q4_1, |x, y| {
    put32::<ADD_MIN>(y, nibbles(x.add(4)), [scale(half(x), half(x.add(2))); 2]);
});

row!(q5_0, Q5_0, |x, y| {
    let q = _mm256_sub_epi8(fifth_bits(nibbles(x.add(6)), x.add(2)), _mm256_set1_epi8(16));
    put32::<NO_MIN>(y, q, [scale(half(x), 0.0); 2]);
});

row!(q5_1, Q5_1, |x, y| {
    let q = fifth_bits(nibbles(x.add(8)), x.add(4));
    put32::<ADD_MIN>(y, q, [scale(half(x), half(x.add(2))); 2]);
});

row!(q8_0, Q8_0, |x, y| {
    put32::<NO_MIN>(y, load32(x.add(2)), [scale(half(x), 0.0); 2]);
});

row!(iq4_nl, Iq4Nl, |x, y| {
    put32::<NO_MIN>(y, lookup(&IQ4_VALUES, nibbles(x.add(2))), [scale(half(x), 0.0); 2]);
});

row!(mxfp4, Mxfp4, |x, y| {
    let q = _mm256_sub_epi8(lookup(&MXFP4_VALUES_U, nibbles(x.add(1))), _mm256_set1_epi8(12));
    put32::<NO_MIN>(y, q, [scale(e8m0_half(x.read()), 0.0); 2]);
});

row!(q2_k, Q2K, |x, y| {
    let (d, dmin) = (half(x.add(80)), half(x.add(82)));
    for i in 0..8 {
        let of = |s: u8| scale(d * f32::from(s & 15), dmin * f32::from(s >> 4));
        let s = [of(x.add(2 * i).read()), of(x.add(2 * i + 1).read())];
        let q = bits(load32(x.add(16 + i / 4 * 32)), i % 4 * 2, 3);
        put32::<SUB_MIN>(y.add(32 * i), q, s);
    }
});

row!(q3_k, Q3K, |x, y| {
    let (d, high) = (half(x.add(108)), load32(x));
    let of = |i: usize| {
        let low = x.add(96 + i % 8).read() >> (i / 8 * 4) & 15;
        let high = x.add(104 + i % 4).read() >> (i / 4 * 2) & 3;
        scale(d * (f32::from(low | high << 4) - 32.0), 0.0)
    };
    for i in 0..8 {
        let q = bits(load32(x.add(32 + i / 4 * 32)), i % 4 * 2, 3);
        let bit = _mm256_slli_epi16::<2>(bits(high, i, 1));
        let q = _mm256_sub_epi8(_mm256_or_si256(q, bit), _mm256_set1_epi8(4));
        put32::<NO_MIN>(y.add(32 * i), q, [of(2 * i), of(2 * i + 1)]);
    }
});

row!(q4_k, Q4K, |x, y| {
    let (d, dmin) = (half(x), half(x.add(2)));
    for i in 0..8 {
        let q = bits(load32(x.add(16 + i / 2 * 32)), i % 2 * 4, 15);
        put32::<SUB_MIN>(y.add(32 * i), q, [k4_scale(x.add(4), i, d, dmin); 2]);
    }
});

row!(q5_k, Q5K, |x, y| {
    let (d, dmin, high) = (half(x), half(x.add(2)), load32(x.add(16)));
    for i in 0..8 {
        let q = bits(load32(x.add(48 + i / 2 * 32)), i % 2 * 4, 15);
        let q = _mm256_or_si256(q, _mm256_slli_epi16::<4>(bits(high, i, 1)));
        put32::<SUB_MIN>(y.add(32 * i), q, [k4_scale(x.add(4), i, d, dmin); 2]);
    }
});

row!(q6_k, Q6K, |x, y| {
    let d = half(x.add(208));
    let of = |i: usize| scale(d * f32::from(x.add(192 + i).cast::<i8>().read()), 0.0);
    for i in 0..8 {
        let (n, j) = (i / 4, i % 4);
        let low = bits(load32(x.add(64 * n + j % 2 * 32)), j / 2 * 4, 15);
        let high = _mm256_slli_epi16::<4>(bits(load32(x.add(128 + 32 * n)), 2 * j, 3));
        let q = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
        put32::<NO_MIN>(y.add(32 * i), q, [of(2 * i), of(2 * i + 1)]);
    }
});

row!(iq4_xs, Iq4Xs, |x, y| {
    let (d, high) = (half(x), x.add(2).cast::<u16>().read_unaligned());
    for i in 0..8 {
        let low = x.add(4 + i / 2).read() >> (i % 2 * 4) & 15;
        let ls = i32::from(low) | i32::from(high >> (2 * i) & 3) << 4;
        let q = lookup(&IQ4_VALUES, nibbles(x.add(8 + 16 * i)));
        put32::<NO_MIN>(y.add(32 * i), q, [scale(d * (ls - 32) as f32, 0.0); 2]);
    }
});

/// The 32 elements of sub-block `s` of a type with a grid.
#[inline(always)]
unsafe fn from_grid<W: Grid>(x: *const u8, s: usize) -> __m256i {
    let [a, b, c, d] = W::sub_block(x, s);
    _mm256_setr_epi64x(a as i64, b as i64, c as i64, d as i64)
}

/// The scale of a type with a grid; `factor` is a power of two, so that the order of the products makes no difference.
#[inline(always)]
unsafe fn odd_scale(d: f32, s: u32, factor: f32) -> Scale {
    scale(d * (0.5 + s as f32) * factor, 0.0)
}

row!(iq2_xxs, Iq2Xxs, |x, y| {
    let d = half(x);
    for i in 0..8 {
        let word = x.add(6 + 8 * i).cast::<u32>().read_unaligned();
        put32::<NO_MIN>(y.add(32 * i), from_grid::<Iq2Xxs>(x, i), [odd_scale(d, word >> 28, 0.25); 2]);
    }
});

row!(iq2_xs, Iq2Xs, |x, y| {
    let d = half(x);
    for i in 0..8 {
        let s = u32::from(x.add(66 + i).read());
        let s = [odd_scale(d, s & 15, 0.25), odd_scale(d, s >> 4, 0.25)];
        put32::<NO_MIN>(y.add(32 * i), from_grid::<Iq2Xs>(x, i), s);
    }
});

row!(iq2_s, Iq2S, |x, y| {
    let d = half(x);
    for i in 0..8 {
        let s = u32::from(x.add(74 + i).read());
        let s = [odd_scale(d, s & 15, 0.25), odd_scale(d, s >> 4, 0.25)];
        put32::<NO_MIN>(y.add(32 * i), from_grid::<Iq2S>(x, i), s);
    }
});

row!(iq3_xxs, Iq3Xxs, |x, y| {
    let d = half(x);
    for i in 0..8 {
        let word = x.add(66 + 4 * i).cast::<u32>().read_unaligned();
        put32::<NO_MIN>(y.add(32 * i), from_grid::<Iq3Xxs>(x, i), [odd_scale(d, word >> 28, 0.5); 2]);
    }
});

row!(iq3_s, Iq3S, |x, y| {
    let d = half(x);
    for i in 0..8 {
        let s = u32::from(x.add(106 + i / 2).read() >> (i % 2 * 4) & 15);
        put32::<NO_MIN>(y.add(32 * i), from_grid::<Iq3S>(x, i), [odd_scale(d, s, 2.0); 2]);
    }
});

/// Eight elements of a grid of IQ1: `dl * (value + delta)`. The index is `low` and the lowest three bits of `high`.
#[inline(always)]
unsafe fn iq1_group(y: *mut f32, low: u8, high: u16, dl: f32, negative: bool) {
    // SAFETY: eleven bits, and the table has 2048 entries.
    let values = IQ1_NIBBLES.as_ptr().add(usize::from(low) | usize::from(high & 7) << 8).read();
    let eight = u64::from(values & 0x0f0f_0f0f) | u64::from(values >> 4 & 0x0f0f_0f0f) << 32;
    let values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(eight as i64)));
    // the table's values are larger by two
    let delta = _mm256_set1_ps(if negative { -2.125 } else { -1.875 });
    _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_add_ps(values, delta), _mm256_set1_ps(dl)));
}

row!(iq1_s, Iq1S, |x, y| {
    let d = half(x);
    for i in 0..8 {
        let qh = x.add(34 + 2 * i).cast::<u16>().read_unaligned();
        let dl = d * f32::from(2 * (qh >> 12 & 7) + 1);
        for l in 0..4 {
            iq1_group(y.add(32 * i + 8 * l), x.add(2 + 4 * i + l).read(), qh >> (3 * l), dl, qh >> 15 > 0);
        }
    }
});

row!(iq1_m, Iq1M, |x, y| {
    let word = |i: usize| x.add(48 + 2 * i).cast::<u16>().read_unaligned();
    let bits = word(0) >> 12 | word(1) >> 8 & 0xf0 | word(2) >> 4 & 0xf00 | word(3) & 0xf000;
    let d = half((&raw const bits).cast());
    for g in 0..32 {
        let (s, qh) = (g / 2, x.add(32 + g / 2).read() >> (4 * (g % 2)));
        let dl = d * f32::from(2 * (word(s / 4) >> (3 * (s % 4)) & 7) + 1);
        iq1_group(y.add(8 * g), x.add(g).read(), qh.into(), dl, qh & 8 > 0);
    }
});

/// 32 elements of codes 0 to 3, whose values are less by one.
#[inline(always)]
unsafe fn put_less_one(y: *mut f32, q: __m256i, d: f32) {
    put32::<NO_MIN>(y, _mm256_sub_epi8(q, _mm256_set1_epi8(1)), [scale(d, 0.0); 2]);
}

/// Each byte three times.
#[inline(always)]
unsafe fn threefold(q: __m256i) -> __m256i {
    _mm256_add_epi8(q, _mm256_add_epi8(q, q))
}

row!(tq1_0, Tq1_0, |x, y| {
    let d = half(x.add(52));
    let mut q = load32(x);
    for n in 0..5 {
        put_less_one(y.add(32 * n), thirds(q), d);
        q = threefold(q);
    }
    let mut first = _mm256_castsi128_si256(_mm_loadu_si128(x.add(32).cast()));
    for n in 0..3 {
        // two digits of sixteen bytes; the last ones are overwritten
        let second = threefold(first);
        let both = _mm256_permute2x128_si256::<0x20>(first, second);
        put_less_one(y.add(160 + 32 * n), thirds(both), d);
        first = threefold(second);
    }
    let first = x.add(48).cast::<u32>().read_unaligned();
    let second = triple(first);
    let third = triple(second);
    let q = _mm256_setr_epi32(first as i32, second as i32, third as i32, triple(third) as i32, 0, 0, 0, 0);
    let q = _mm256_sub_epi8(thirds(q), _mm256_set1_epi8(1));
    put16::<NO_MIN>(y.add(240), _mm256_castsi256_si128(q), scale(d, 0.0));
});

/// Each byte of a word three times.
#[inline(always)]
fn triple(word: u32) -> u32 {
    u32::from_le_bytes(word.to_le_bytes().map(|b| b.wrapping_mul(3)))
}

row!(tq2_0, Tq2_0, |x, y| {
    let d = half(x.add(64));
    for i in 0..8 {
        put_less_one(y.add(32 * i), bits(load32(x.add(i / 4 * 32)), i % 4 * 2, 3), d);
    }
});

row!(nvfp4, Nvfp4, |x, y| {
    for s in 0..4 {
        let q = _mm_loadl_epi64(x.add(4 + 8 * s).cast());
        // low nibbles, then high ones
        let q = _mm_and_si128(_mm_unpacklo_epi64(q, _mm_srli_epi16::<4>(q)), _mm_set1_epi8(15));
        let q = _mm_shuffle_epi8(_mm_loadu_si128(MXFP4_VALUES_U.as_ptr().cast()), q);
        let d = scale(ue4m3_half(x.add(s).read()), 0.0);
        put16::<NO_MIN>(y.add(16 * s), _mm_sub_epi8(q, _mm_set1_epi8(12)), d);
    }
});

row!(q1_0, Q1_0, |x, y| {
    // the sign of `d` is flipped where the bit is not set
    let (d, sign) = (_mm256_set1_ps(half(x)), _mm256_set1_ps(-0.0));
    let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    for i in 0..16 {
        let bits = _mm256_and_si256(_mm256_set1_epi32(x.add(2 + i).read().into()), bit);
        let clear = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, _mm256_setzero_si256()));
        _mm256_storeu_ps(y.add(8 * i), _mm256_xor_ps(d, _mm256_and_ps(clear, sign)));
    }
});

row!(q2_0, Q2_0, |x, y| {
    let d = scale(half(x), 0.0);
    let shifts = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    for i in 0..8 {
        let word = i32::from(x.add(2 + 2 * i).cast::<u16>().read_unaligned());
        let q = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(word), shifts), _mm256_set1_epi32(3));
        put8::<NO_MIN>(y.add(8 * i), _mm256_sub_epi32(q, _mm256_set1_epi32(1)), d);
    }
});
