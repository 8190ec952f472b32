//! The scalar reference: one element at a time, from ggml's block layouts (ggml-common.h) and its
//! `dequantize_row_*` (ggml-quants.c), in `f64`.

use crate::formats::{ActFormat, Rounding, Values, WeightType};
use crate::pack::IQ1_NIBBLES;
use crate::pack::iq_grids::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, all_signs};
use half::{bf16, f16};

/// One weight: `scaled` is `d * scale * code`, `min` what its minimum adds. Kept apart, because the
/// rounding errors of both count even where they cancel. `offset`, of super-blocks, is `d * scale` times what is
/// subtracted from every code, a part of `scaled`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Element {
    pub scaled: f64,
    pub min: f64,
    pub offset: f64,
}

/// ggml-common.h, `kvalues_iq4nl`.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// ggml-common.h, `kvalues_mxfp4`: doubled E2M1.
const MXFP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

fn half(b: &[u8], at: usize) -> f64 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f64()
}

fn scaled(scaled: f64) -> Element {
    Element { scaled, ..Element::default() }
}

/// Code `i` of 32 nibbles: the low ones of 16 bytes, then the high ones.
fn nibble(qs: &[u8], i: usize) -> u8 {
    if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 }
}

/// Bit `i` of a little-endian bit string.
fn bit(b: &[u8], i: usize) -> u8 {
    b[i / 8] >> (i % 8) & 1
}

/// The 32-bit word at `at`.
fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Element `e` of a block of IQ2 or IQ3, times eight: vector of the grid and place in it, sign, scale.
fn grid(t: WeightType, b: &[u8], e: usize) -> f64 {
    let (g, s, i) = (e / 8, e / 32, e % 8);
    let eight = |v: u64| f64::from((v >> (8 * i)) as u8);
    let four = |v: u32| f64::from((v >> (8 * (e % 4))) as u8);
    let seven = |signs: u32| all_signs(signs as usize & 127);
    let nibble = |at: usize, n: usize| b[at + n / 2] >> (4 * (n % 2)) & 15;
    let (magnitude, signs, scale, factor) = match t {
        WeightType::Iq2Xxs => {
            let w = word(b, 6 + 8 * s);
            let vector = IQ2_XXS[b[2 + 8 * s + g % 4] as usize];
            (eight(vector), seven(w >> (7 * (g % 4))), (w >> 28) as u8, 1.0)
        }
        WeightType::Iq2Xs => {
            let q = u16::from_le_bytes([b[2 + 2 * g], b[3 + 2 * g]]);
            (eight(IQ2_XS[usize::from(q) % 512]), seven(u32::from(q) / 512), nibble(66, e / 16), 1.0)
        }
        WeightType::Iq2S => {
            let high = usize::from(b[66 + s] >> (2 * (g % 4)) & 3);
            let vector = IQ2_S[usize::from(b[2 + g]) + 256 * high];
            (eight(vector), b[34 + g], nibble(74, e / 16), 1.0)
        }
        WeightType::Iq3Xxs => {
            let w = word(b, 66 + 4 * s);
            (four(IQ3_XXS[b[2 + e / 4] as usize]), seven(w >> (7 * (g % 4))), (w >> 28) as u8, 2.0)
        }
        _ => {
            let high = usize::from(bit(&b[66..], e / 4));
            (four(IQ3_S[usize::from(b[2 + e / 4]) + 256 * high]), b[74 + g], nibble(106, s), 8.0)
        }
    };
    let value = factor * (2.0 * f64::from(scale) + 1.0) * magnitude;
    if signs >> i & 1 == 1 { -value } else { value }
}

/// `get_scale_min_k4`: scale and min of sub-block `j` of Q4_K and Q5_K.
fn k4_scale_min(s: &[u8], j: usize) -> (f64, f64) {
    let (d, m) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (d.into(), m.into())
}

/// Value `j` of entry `index` of `iq1s_grid`.
fn iq1_grid(index: u16, j: usize) -> f64 {
    let (byte, high) = (IQ1_NIBBLES[usize::from(index)].to_le_bytes()[j % 4], j >= 4);
    f64::from(if high { byte >> 4 } else { byte & 15 }) - 2.0
}

/// An unsigned E4M3 (the sign does not count) of bias 7; the one that is no number is zero.
fn ue4m3(x: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(x >> 3 & 15), f64::from(x & 7));
    match (x, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa / 8.0 * (-6f64).exp2(),
        _ => (1.0 + mantissa / 8.0) * f64::from(exponent - 7).exp2(),
    }
}

/// Element `e` of block `b`.
pub fn weight(t: WeightType, b: &[u8], e: usize) -> Element {
    let code = |c: i32| f64::from(c);
    // within a super-block: half, quarter of the half, place in the quarter
    let (n, j, l) = (e / 128, e % 128 / 32, e % 32);
    match t {
        WeightType::Q4_0 => scaled(half(b, 0) * code(i32::from(nibble(&b[2..], e)) - 8)),
        WeightType::Q4_1 => Element { min: half(b, 2), ..scaled(half(b, 0) * f64::from(nibble(&b[4..], e))) },
        WeightType::Q5_0 => {
            let q = nibble(&b[6..], e) | bit(&b[2..], e) << 4;
            scaled(half(b, 0) * code(i32::from(q) - 16))
        }
        WeightType::Q5_1 => {
            let q = nibble(&b[8..], e) | bit(&b[4..], e) << 4;
            Element { min: half(b, 2), ..scaled(half(b, 0) * f64::from(q)) }
        }
        WeightType::Q8_0 => scaled(half(b, 0) * f64::from(b[2 + e] as i8)),
        WeightType::Iq4Nl => scaled(half(b, 0) * f64::from(IQ4[nibble(&b[2..], e) as usize])),
        WeightType::Mxfp4 => {
            let d = (f64::from(b[0]) - 128.0).exp2();
            scaled(d * f64::from(MXFP4[nibble(&b[1..], e) as usize]))
        }
        WeightType::Q2K => {
            let (q, s) = (b[16 + 32 * n + l] >> (2 * j) & 3, b[e / 16]);
            let min = -half(b, 82) * f64::from(s >> 4);
            Element { min, ..scaled(half(b, 80) * f64::from(s & 15) * f64::from(q)) }
        }
        WeightType::Q3K => {
            let s = e / 16;
            let low = if s < 8 { b[96 + s] & 15 } else { b[96 + s - 8] >> 4 };
            let high = b[104 + s % 4] >> (2 * (s / 4)) & 3;
            let q = b[32 + 32 * n + l] >> (2 * j) & 3 | (b[l] >> (4 * n + j) & 1) << 2;
            let d = half(b, 108) * code(i32::from(low | high << 4) - 32);
            Element { offset: 4.0 * d, ..scaled(d * code(i32::from(q) - 4)) }
        }
        WeightType::Q4K | WeightType::Q5K => {
            let (scale, min) = k4_scale_min(&b[4..16], e / 32);
            let qs = if t == WeightType::Q4K { &b[16..] } else { &b[48..] };
            let byte = qs[e / 64 * 32 + l];
            let mut q = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
            if t == WeightType::Q5K {
                q |= (b[16 + l] >> (e / 32) & 1) << 4;
            }
            Element { min: -half(b, 2) * min, ..scaled(half(b, 0) * scale * f64::from(q)) }
        }
        WeightType::Q6K => {
            let byte = b[64 * n + 32 * (j % 2) + l];
            let low = if j < 2 { byte & 15 } else { byte >> 4 };
            let q = low | (b[128 + 32 * n + l] >> (2 * j) & 3) << 4;
            let d = half(b, 208) * f64::from(b[192 + e / 16] as i8);
            Element { offset: 32.0 * d, ..scaled(d * code(i32::from(q) - 32)) }
        }
        WeightType::F16 => scaled(half(b, 0)),
        WeightType::Bf16 => scaled(bf16::from_le_bytes([b[0], b[1]]).to_f64()),
        WeightType::F32 => scaled(f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()),
        WeightType::Iq4Xs => {
            let s = e / 32;
            let low = b[4 + s / 2] >> (4 * (s % 2)) & 15;
            let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * s) & 3;
            let scale = f64::from(low) + f64::from(16 * high) - 32.0;
            scaled(half(b, 0) * scale * f64::from(IQ4[nibble(&b[8 + 16 * s..], l) as usize]))
        }
        WeightType::Iq2Xxs | WeightType::Iq2Xs | WeightType::Iq2S | WeightType::Iq3Xxs | WeightType::Iq3S => {
            scaled(half(b, 0) / 8.0 * grid(t, b, e))
        }
        WeightType::Iq1S => {
            let (s, g) = (e / 32, e / 8);
            let qh = u16::from_le_bytes([b[34 + 2 * s], b[35 + 2 * s]]);
            let index = u16::from(b[2 + g]) | (qh >> (3 * (g % 4)) & 7) << 8;
            let delta = if qh >> 15 == 1 { -0.125 } else { 0.125 };
            let d = half(b, 0) * f64::from(2 * (qh >> 12 & 7) + 1);
            Element { offset: 2.0 * d, ..scaled(d * (iq1_grid(index, e % 8) + delta)) }
        }
        WeightType::Iq1M => {
            let (s, g) = (e / 16, e / 8);
            let word = |i: usize| u16::from_le_bytes([b[48 + 2 * i], b[49 + 2 * i]]);
            let d = (0..4).fold(0, |d, i| d | word(i) >> 12 << (4 * i));
            let qh = u16::from(b[32 + g / 2] >> (4 * (g % 2)) & 15);
            let delta = if qh & 8 > 0 { -0.125 } else { 0.125 };
            let d = f16::from_bits(d).to_f64() * f64::from(2 * (word(s / 4) >> (3 * (s % 4)) & 7) + 1);
            Element { offset: 2.0 * d, ..scaled(d * (iq1_grid(u16::from(b[g]) | (qh & 7) << 8, e % 8) + delta)) }
        }
        WeightType::Tq1_0 => {
            let (byte, n) = match e {
                0..160 => (b[l], e / 32),
                160..240 => (b[32 + e % 16], (e - 160) / 16),
                _ => (b[48 + e % 4], (e - 240) / 4),
            };
            let digit = (u16::from(byte.wrapping_mul(3u8.pow(n as u32))) * 3) >> 8;
            Element { offset: half(b, 52), ..scaled(half(b, 52) * (f64::from(digit) - 1.0)) }
        }
        WeightType::Tq2_0 => {
            let q = b[32 * n + l] >> (2 * j) & 3;
            Element { offset: half(b, 64), ..scaled(half(b, 64) * (f64::from(q) - 1.0)) }
        }
        WeightType::Nvfp4 => {
            let (s, l) = (e / 16, e % 16);
            let byte = b[4 + 8 * s + l % 8];
            let q = if l < 8 { byte & 15 } else { byte >> 4 };
            scaled(ue4m3(b[s]) * f64::from(MXFP4[q as usize]) / 2.0)
        }
        WeightType::Q1_0 => scaled(if bit(&b[2..], e) == 1 { half(b, 0) } else { -half(b, 0) }),
        WeightType::Q2_0 => scaled(half(b, 0) * (f64::from(b[2 + e / 4] >> (2 * (e % 4)) & 3) - 1.0)),
    }
}

/// A whole row.
pub fn weights(t: WeightType, row: &[u8]) -> Vec<Element> {
    let (block, bytes) = t.block();
    row.chunks_exact(bytes).flat_map(|b| (0..block).map(move |e| weight(t, b, e))).collect()
}

/// One block of quantised activations: scale and codes.
#[derive(Clone, Debug, PartialEq)]
pub struct ActBlock {
    pub d: f32,
    pub codes: Vec<i32>,
}

/// `quantize_row_q8_0` (x86) for blocks of 32, `quantize_row_q8_K_ref` for blocks of 256. Where the
/// inverse scale overflows (magnitudes below 4e-37), ggml's codes are undefined and its scale is
/// zero; here the codes are zero too.
pub fn activations(format: ActFormat, x: &[f32]) -> Vec<ActBlock> {
    x.chunks_exact(format.block)
        .map(|x| {
            let mut max = 0f32;
            for &v in x {
                if v.abs() > max.abs() {
                    max = v;
                }
            }
            let (inverse, d) = if format.block == 32 {
                (127.0 / max.abs(), f16::from_f32(max.abs() / 127.0).to_f32())
            } else {
                (-127.0 / max, 1.0 / (-127.0 / max))
            };
            if max == 0.0 || !inverse.is_finite() {
                return ActBlock { d: 0.0, codes: vec![0; x.len()] };
            }
            ActBlock { d, codes: x.iter().map(|v| (v * inverse).round_ties_even() as i32).collect() }
        })
        .collect()
}

/// Quantised activations as values.
pub fn values(blocks: &[ActBlock]) -> Vec<f64> {
    blocks.iter().flat_map(|b| b.codes.iter().map(|&q| f64::from(b.d) * f64::from(q))).collect()
}

/// One activation of a float format (ggml rounds to the type of the weights, to nearest even).
pub fn rounded(values: Values, x: f32) -> f32 {
    match values {
        Values::F32(Rounding::None) => x,
        Values::F32(Rounding::F16) => f16::from_f32(x).to_f32(),
        Values::F32(Rounding::Bf16) | Values::Bf16Pairs => bf16::from_f32(x).to_f32(),
        Values::Q8 | Values::Rows(_) => panic!("a quantised format"),
    }
}

/// A column as the values that a format keeps of it.
pub fn kept(format: ActFormat, x: &[f32]) -> Vec<f64> {
    match format.values {
        Values::Q8 | Values::Rows(_) => values(&activations(format, x)),
        kind => x.iter().map(|&x| rounded(kind, x).into()).collect(),
    }
}

/// `vdpbf16ps` takes denormal operands as zero.
pub fn flushed(x: f64) -> f64 {
    if x.abs() < f64::from(f32::MIN_POSITIVE) { 0.0 } else { x }
}

/// A dot product and the sum of the magnitudes of its terms.
#[derive(Clone, Copy, Debug)]
pub struct Dot {
    pub value: f64,
    pub magnitude: f64,
}

pub fn dot(w: &[Element], a: &[f64]) -> Dot {
    assert_eq!(w.len(), a.len());
    let (mut value, mut magnitude) = (0.0, 0.0);
    for (w, a) in w.iter().zip(a) {
        value += w.scaled * a + w.min * a;
        // the code as it is stored, and what is subtracted
        magnitude += (w.scaled * a).abs() + (w.min * a).abs() + 2.0 * (w.offset * a).abs();
    }
    Dot { value, magnitude }
}

impl Dot {
    /// The largest difference that rounding explains, in a product of `blocks` blocks.
    ///
    /// Integer sums of a sub-block are exact. What rounds, each by at most `2^-24` of a partial sum
    /// that is itself no larger than `magnitude`: 16 scaled sums in a super-block; per term the
    /// product `d * da`, the conversion of its integer sum, `d * sum` (block sums of types with a
    /// minimum): 4; per block two additions to the accumulator and, at a cut of K, one to memory.
    /// Products by rows of super-blocks subtract the offset of the codes from other lanes than those with the codes,
    /// so that both count: see [`Element::offset`].
    /// Float types (a block is an element there): one addition per element, rounded with its product
    /// by FMA; `vdpbf16ps` has exact products. It flushes products and sums below `2^-126`.
    /// Below the normal range each rounding costs up to `2^-150`, times an integer sum below `2^29`.
    pub fn bound(self, blocks: usize) -> f64 {
        let steps = (3 * blocks + 20) as f64;
        // 1.01 for the terms of second order
        1.01 * steps * (-24f64).exp2() * self.magnitude + steps * (-121f64).exp2()
    }

    /// Panics unless `got` is this value but for rounding.
    #[track_caller]
    pub fn check(self, got: f32, blocks: usize, what: impl Fn() -> String) {
        let off = (f64::from(got) - self.value).abs();
        assert!(off <= self.bound(blocks), "{}: {got}, not {self:?}: off by {off:e}", what());
    }

    /// The same for products of integers: exact where every partial sum is a `f32`.
    #[track_caller]
    pub fn check_integer(self, got: f32, blocks: usize, what: impl Fn() -> String) {
        assert_eq!(self.value, self.value.trunc(), "{}: not an integer case", what());
        if self.magnitude < (24f64).exp2() {
            assert!(f64::from(got) == self.value, "{}: {got}, not {}", what(), self.value);
        } else {
            self.check(got, blocks, what);
        }
    }
}
