//! Inputs: seeded random numbers, weight blocks, activations.

use crate::formats::WeightType;
use half::{bf16, f16};
use std::ops::Range;

/// splitmix64.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }
    pub fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.byte());
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// In -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub fn shuffle<T>(&mut self, v: &mut [T]) {
        for i in (1..v.len()).rev() {
            v.swap(i, self.below(i + 1));
        }
    }
}

/// Offsets of the half-precision fields of a block, and its integer scales; MXFP4's exponent is the
/// byte 0, NVFP4's scales are the bytes 0 to 3. Everything else is codes.
pub fn fields(t: WeightType) -> (&'static [usize], Range<usize>) {
    match t {
        WeightType::Q4_0 | WeightType::Q5_0 | WeightType::Q8_0 | WeightType::Iq4Nl => (&[0], 0..0),
        WeightType::Q4_1 | WeightType::Q5_1 => (&[0, 2], 0..0),
        WeightType::Q2K => (&[80, 82], 0..16),
        WeightType::Q3K => (&[108], 96..108),
        WeightType::Q4K | WeightType::Q5K => (&[0, 2], 4..16),
        WeightType::Q6K => (&[208], 192..208),
        WeightType::Iq4Xs => (&[0], 2..8),
        // scales in words with signs
        WeightType::Iq2Xxs | WeightType::Iq3Xxs => (&[0], 0..0),
        WeightType::Iq2Xs => (&[0], 66..74),
        WeightType::Iq2S => (&[0], 74..82),
        WeightType::Iq3S => (&[0], 106..110),
        WeightType::Iq1S => (&[0], 34..50),
        // `d` is in the top nibbles of the scales: see `set_scales`
        WeightType::Iq1M => (&[], 48..56),
        WeightType::Tq1_0 => (&[52], 0..0),
        WeightType::Tq2_0 => (&[64], 0..0),
        WeightType::Q1_0 | WeightType::Q2_0 => (&[0], 0..0),
        WeightType::Mxfp4 | WeightType::Nvfp4 | WeightType::F16 | WeightType::Bf16 | WeightType::F32 => (&[], 0..0),
    }
}

/// The smallest floating scale that makes integers of all elements.
pub fn unit(t: WeightType) -> f16 {
    f16::from_f32(match t {
        WeightType::Iq1S | WeightType::Iq1M | WeightType::Iq2Xxs | WeightType::Iq2Xs | WeightType::Iq2S => 8.0,
        WeightType::Iq3Xxs => 4.0,
        _ => 1.0,
    })
}

/// Whether elements are values, without blocks and scales.
pub fn is_float(t: WeightType) -> bool {
    t.block().0 == 1
}

/// Elements of what tests count as a block: of float rows one record and a part of the next.
pub fn block(t: WeightType) -> usize {
    if is_float(t) { 20 } else { t.block().0 }
}

/// Writes an element of a float type, rounded to it.
pub fn set_value(t: WeightType, element: &mut [u8], v: f32) {
    match t {
        WeightType::F16 => element.copy_from_slice(&f16::from_f32(v).to_le_bytes()),
        WeightType::Bf16 => element.copy_from_slice(&bf16::from_f32(v).to_le_bytes()),
        WeightType::F32 => element.copy_from_slice(&v.to_le_bytes()),
        _ => panic!("{t:?} has no values"),
    }
}

/// How many blocks round their sums as often as the `k` elements of a row do: sums are rounded once for each record, and
/// for each scale of NVFP4.
pub fn rounding_blocks(t: WeightType, k: usize) -> usize {
    match t {
        WeightType::Nvfp4 => k / 16,
        WeightType::Q1_0 | WeightType::Q2_0 => k / 32,
        _ => k / t.block().0,
    }
}

/// Overwrites the floating scales of a block; `d` of MXFP4 is the power of two above it, the scales of NVFP4 have fewer
/// bits, and a sign that does not count.
pub fn set_scales(t: WeightType, block: &mut [u8], mut d: impl FnMut() -> f16) {
    for &at in fields(t).0 {
        block[at..at + 2].copy_from_slice(&d().to_le_bytes());
    }
    if t == WeightType::Mxfp4 {
        block[0] = (d().to_f32().abs().log2().ceil() + 128.0) as u8;
    }
    if t == WeightType::Nvfp4 {
        for scale in &mut block[..4] {
            let d = d().to_bits();
            let exponent = (i32::from(d >> 10 & 31) - 7).clamp(0, 15);
            *scale = ((d >> 15) << 7 | (exponent as u16) << 3 | d >> 7 & 7) as u8;
        }
    }
    if t == WeightType::Iq1M {
        let d = d().to_bits();
        for (i, at) in [49, 51, 53, 55].into_iter().enumerate() {
            block[at] = block[at] & 15 | ((d >> (4 * i) & 15) << 4) as u8;
        }
    }
}

/// Fills a row with random codes and integer scales; floating scales, or the values of float types,
/// of either sign, 2^-9 to 2.
pub fn random_row(t: WeightType, row: &mut [u8], rng: &mut Rng) {
    let scale = |rng: &mut Rng| {
        let size = (1.0 + rng.unit().abs()) * (-(rng.below(10) as f32)).exp2();
        if rng.next() & 1 == 0 { size } else { -size }
    };
    for block in row.chunks_exact_mut(t.block().1) {
        if is_float(t) {
            set_value(t, block, scale(rng));
            continue;
        }
        block.fill_with(|| rng.byte());
        set_scales(t, block, || f16::from_f32(scale(rng)));
    }
}

/// `rows` random rows at a distance of `stride`, other bytes 0xff.
pub fn random_matrix(t: WeightType, rows: usize, k: usize, stride: usize, rng: &mut Rng) -> Vec<u8> {
    let bytes = k / t.block().0 * t.block().1;
    let mut m = vec![0xff; stride * (rows - 1) + bytes];
    for r in 0..rows {
        random_row(t, &mut m[r * stride..][..bytes], rng);
    }
    m
}

/// `n` columns of `k` floats, each of another size.
pub fn random_columns(n: usize, k: usize, rng: &mut Rng) -> Vec<Vec<f32>> {
    let mut column = |c: usize| (0..k).map(|_| rng.unit() * (c as f32 - 3.0).exp2()).collect();
    (0..n).map(|c| column(c % 9)).collect()
}
