//! Activations in ggml's own blocks, byte for byte what its x86 `quantize_row_q8_0`, `quantize_row_q8_1` and
//! `quantize_row_q8_K` write.
//!
//! Blocks with infinities, NaNs, or magnitudes whose inverse overflows are not ordinary. They are computed one element at a
//! time, by ggml's own sequence of operations. Bytes that ggml leaves unwritten stay unwritten here.

use super::SMALLEST;
use super::avx2::anew;
use super::avx512::{MAX_ABS, broadcasts, codes, half_sums, in_order, quads, quantize_avx512, reduce, whole};
use super::{QuantizeFn, quantize_avx2};
use crate::formats::{ActFormat, Aux, Values};
use crate::isa::Isa;
use core::arch::x86_64::*;
use half::f16;

/// A block format of ggml for activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// `block_q8_0`: `d` as a half, 32 codes.
    Q8_0,
    /// `block_q8_1`: `d` and `d * sum(codes)` as halves, 32 codes.
    Q8_1,
    /// `block_q8_K`: `d` as `f32`, 256 codes, the sums of sixteen codes as `i16`.
    Q8K,
}

impl Blocks {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Q8_0, Self::Q8_1, Self::Q8K];

    /// The name `ggml_type_name` gives it.
    pub const fn ggml_name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q8_1 => "q8_1",
            Self::Q8K => "q8_K",
        }
    }

    /// Elements and bytes of a block.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::Q8_0 => (32, 34),
            Self::Q8_1 => (32, 36),
            Self::Q8K => (256, 292),
        }
    }
}

/// Quantises the `k` floats at `x`, a multiple of the block size, to `y`.
///
/// # Safety
/// `x` is readable for `k` floats, `y` writable for as many blocks, of any alignment; the CPU has the features of
/// the ISA that [`quantizer`] was asked for.
pub type BlocksFn = unsafe fn(x: *const f32, y: *mut u8, k: usize);

/// The function for a format. `None` for blocks of 32 with AVX2, where ggml's own is as fast, and for the portable tier.
pub fn quantizer(isa: Isa, blocks: Blocks) -> Option<BlocksFn> {
    if !isa.available() {
        return None;
    }
    Some(match (isa, blocks) {
        (Isa::Scalar, _) | (Isa::Avx2, Blocks::Q8_0 | Blocks::Q8_1) => return None,
        (Isa::Avx2, Blocks::Q8K) => q8_k_avx2,
        (_, Blocks::Q8K) => q8_k_avx512,
        (_, Blocks::Q8_0) => q8_0_avx512,
        (_, Blocks::Q8_1) => q8_1_avx512,
    })
}

/// The largest finite magnitude, as bits; above it are infinities and NaNs.
const LARGEST: u32 = f32::MAX.to_bits();

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn q8_0_avx512(x: *const f32, y: *mut u8, k: usize) {
    blocks32::<34>(x, y, k / 32);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn q8_1_avx512(x: *const f32, y: *mut u8, k: usize) {
    blocks32::<36>(x, y, k / 32);
}

/// Eight blocks at a time; `STRIDE` is the size of one.
#[inline(always)]
unsafe fn blocks32<const STRIDE: usize>(x: *const f32, y: *mut u8, blocks: usize) {
    let mut b = 0;
    while b < blocks {
        // the last one stands in for missing ones
        let n = (blocks - b).min(8);
        let (mut from, mut to) = ([x; 8], [y; 8]);
        for i in 0..8 {
            let at = b + i.min(n - 1);
            (from[i], to[i]) = (x.add(32 * at), y.add(STRIDE * at));
        }
        if !eight_blocks::<STRIDE>(from, to) {
            for i in 0..n {
                block32_exactly(from[i], to[i], STRIDE);
            }
        }
        b += 8;
    }
}

/// False, and nothing is written, when a block is not ordinary.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the indices are blocks, of several arrays
unsafe fn eight_blocks<const STRIDE: usize>(x: [*const f32; 8], y: [*mut u8; 8]) -> bool {
    let magnitude = _mm512_set1_epi32(i32::MAX);
    let bits = |p: *const f32| _mm512_and_si512(_mm512_loadu_si512(p.cast()), magnitude);
    let (mut m, mut worst) = ([_mm512_setzero_ps(); 8], _mm512_setzero_si512());
    for i in 0..8 {
        let v = _mm512_max_epu32(bits(x[i]), bits(x[i].add(16)));
        worst = _mm512_max_epu32(worst, v);
        m[i] = _mm512_castsi512_ps(v);
    }
    let amax = reduce::<MAX_ABS, 8>(m);
    let n = _mm256_set1_ps(127.0);
    let some = _mm256_cmp_ps_mask::<_CMP_GE_OQ>(amax, _mm256_set1_ps(SMALLEST));
    let zero = _mm256_cmp_ps_mask::<_CMP_EQ_OQ>(amax, _mm256_setzero_ps());
    let unusual = _mm512_cmpgt_epu32_mask(worst, _mm512_set1_epi32(LARGEST as i32));
    if unusual != 0 || some | zero != 0xff {
        return false;
    }
    let d = _mm256_div_ps(amax, n);
    let q = codes::<8>(x, anew(0), broadcasts::<8>(_mm256_maskz_div_ps(some, n, amax)));
    let halves = core::mem::transmute::<__m128i, [u16; 8]>(_mm256_cvtps_ph::<0>(d));
    let mut sums = [0u16; 8];
    if STRIDE == 36 {
        let sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(whole(half_sums::<8>(quads::<8>(q))), _mm256_set1_epi16(1)));
        sums = core::mem::transmute::<__m128i, [u16; 8]>(_mm256_cvtps_ph::<0>(_mm256_mul_ps(d, sum)));
    }
    for i in 0..4 {
        let v = in_order(q[i]);
        for (i, v) in [(2 * i, _mm512_castsi512_si256(v)), (2 * i + 1, _mm512_extracti64x4_epi64::<1>(v))] {
            y[i].cast::<u16>().write_unaligned(halves[i]);
            if STRIDE == 36 {
                y[i].add(2).cast::<u16>().write_unaligned(sums[i]);
            }
            _mm256_storeu_si256(y[i].add(STRIDE - 32).cast(), v);
        }
    }
    true
}

/// `maxps`: where one is a NaN, the second.
fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// To nearest even; `i32::MIN` where that is no `i32`, as `cvtps2dq` does.
fn to_integer(x: f32) -> i32 {
    // SAFETY: every x86-64 has SSE.
    unsafe { _mm_cvtss_si32(_mm_set_ss(x)) }
}

/// A block of 32 by ggml's sequence of AVX2 operations.
#[cold]
unsafe fn block32_exactly(x: *const f32, y: *mut u8, stride: usize) {
    let at = |i: usize| x.add(i).read_unaligned();
    let mut m = [0f32; 8];
    for (l, m) in m.iter_mut().enumerate() {
        *m = at(l).abs();
        for i in 1..4 {
            *m = max(*m, at(8 * i + l).abs());
        }
    }
    let four = [0, 1, 2, 3].map(|l| max(m[4 + l], m[l]));
    let two = [max(four[0], four[2]), max(four[1], four[3])];
    let amax = max(two[0], two[1]);
    let d = amax / 127.0;
    let inverse = if amax != 0.0 { 127.0 / amax } else { 0.0 };
    let mut sum = 0i32;
    for i in 0..32 {
        let q = to_integer(at(i) * inverse);
        sum = sum.wrapping_add(q);
        y.add(stride - 32 + i).write(q.clamp(-128, 127) as u8);
    }
    y.cast::<u16>().write_unaligned(f16::from_f32(d).to_bits());
    if stride == 36 {
        y.add(2).cast::<u16>().write_unaligned(f16::from_f32(d * sum as f32).to_bits());
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn q8_k_avx512(x: *const f32, y: *mut u8, k: usize) {
    super_blocks(quantize_avx512, x, y, k / 256);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q8_k_avx2(x: *const f32, y: *mut u8, k: usize) {
    super_blocks(quantize_avx2, x, y, k / 256);
}

/// The largest magnitude of 256 floats, as bits.
#[inline(always)]
unsafe fn largest_magnitude(x: *const f32) -> u32 {
    let mask = _mm256_set1_epi32(i32::MAX);
    let mut largest = [_mm256_setzero_si256(); 4];
    for i in 0..8 {
        for (j, m) in largest.iter_mut().enumerate() {
            let v = _mm256_loadu_si256(x.add(32 * i + 8 * j).cast());
            *m = _mm256_max_epu32(*m, _mm256_and_si256(v, mask));
        }
    }
    let [a, b, c, d] = largest;
    let m = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
    let m = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
    let m = _mm_max_epu32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
    let m = _mm_max_epu32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
    _mm_cvtsi128_si32(m) as u32
}

/// A tile of one column has codes, sums and `d` in the same form, but `d` behind them.
const TILE: ActFormat = ActFormat { block: 256, sub: 16, values: Values::Q8, aux: Aux::Sums };

#[inline(always)]
unsafe fn super_blocks(quantize: QuantizeFn, mut x: *const f32, mut y: *mut u8, blocks: usize) {
    for _ in 0..blocks {
        let worst = largest_magnitude(x);
        if (SMALLEST.to_bits()..=LARGEST).contains(&worst) {
            let mut tile = [core::mem::MaybeUninit::<u8>::uninit(); 292];
            let tile = tile.as_mut_ptr().cast::<u8>();
            quantize(TILE, &raw const x, 256, 1, tile);
            core::ptr::copy_nonoverlapping(tile, y.add(4), 288);
            core::ptr::copy_nonoverlapping(tile.add(288), y, 4);
        } else {
            super_block_exactly(x, y);
        }
        x = x.add(256);
        y = y.add(292);
    }
}

/// `nearest_int` of ggml-quants.c.
fn nearest_int(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// `quantize_row_q8_K_ref` of ggml-quants.c.
#[cold]
unsafe fn super_block_exactly(x: *const f32, y: *mut u8) {
    let at = |i: usize| x.add(i).read_unaligned();
    let (mut amax, mut max) = (0f32, 0f32);
    for i in 0..256 {
        if at(i).abs() > amax {
            (amax, max) = (at(i).abs(), at(i));
        }
    }
    if amax == 0.0 {
        y.cast::<f32>().write_unaligned(0.0);
        y.add(4).write_bytes(0, 256);
        return; // the sums are left as they are
    }
    let inverse = -127.0 / max;
    for g in 0..16 {
        let mut sum = 0i16;
        for i in 16 * g..16 * g + 16 {
            let q = nearest_int(inverse * at(i)).min(127) as i8;
            y.add(4 + i).cast::<i8>().write(q);
            sum += i16::from(q);
        }
        y.add(260 + 2 * g).cast::<i16>().write_unaligned(sum);
    }
    y.cast::<f32>().write_unaligned(1.0 / inverse);
}
