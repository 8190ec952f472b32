//! Single rows: as floats, as ggml's blocks of activations, and their dot products. Every buffer lies between two
//! pages that cannot be accessed.

use super::data::{Rng, random_row, set_scales};
use super::guard::{Guarded, Side};
use super::reference;
use crate::act::blocks::{Blocks, quantizer};
use crate::dequantize::dequantizer;
use crate::dot::{LEAST, dot};
use crate::formats::WeightType;
use crate::isa::Isa;
use half::f16;

const SIDES: [Side; 2] = [Side::Start, Side::End];

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Products of a half with small integers, and what they are added to, are exact in `f64`: rounding once gives what
/// ggml's two steps in `f32` give.
fn expected_floats(t: WeightType, row: &[u8]) -> Vec<f32> {
    let has_min = t.shape().min;
    reference::weights(t, row).iter().map(|e| if has_min { e.scaled + e.min } else { e.scaled } as f32).collect()
}

fn check_dequantize(isa: Isa, t: WeightType, row: &[u8]) {
    let Some(f) = dequantizer(isa, t) else { return };
    let k = row.len() / t.block().1 * t.block().0;
    for side in SIDES {
        let (x, y) = (Guarded::of(row, side), Guarded::new(4 * k, 4, side));
        // SAFETY: the buffers are as large as documented, and no larger.
        unsafe { f(x.ptr(), y.ptr().cast(), k) };
        y.check("the floats");
        assert_eq!(bits(&floats(y.bytes())), bits(&expected_floats(t, row)), "{} {t:?} {k}", isa.name());
    }
}

#[test]
fn rows_become_the_floats_of_the_reference_bit_for_bit() {
    let rng = &mut Rng(21);
    for isa in Isa::ALL {
        for t in WeightType::ALL.into_iter().filter(|t| t.block().0 > 1) {
            for blocks in [1, 2, 3, 7] {
                let mut row = vec![0; blocks * t.block().1];
                random_row(t, &mut row, rng);
                check_dequantize(isa, t, &row);
            }
            // the largest codes and scales, no codes, the smallest scales, zeros of either sign
            for (byte, d) in [(0xff, f16::MAX), (0, f16::MIN), (0x55, f16::MIN_POSITIVE_SUBNORMAL), (7, f16::NEG_ZERO)]
            {
                let mut row = vec![byte; 2 * t.block().1];
                for block in row.chunks_exact_mut(t.block().1) {
                    set_scales(t, block, || d);
                }
                check_dequantize(isa, t, &row);
            }
        }
        assert!(dequantizer(isa, WeightType::F16).is_none());
    }
}

#[test]
fn every_power_of_two_of_mxfp4_is_right() {
    for e in 0..=254 {
        let mut row = [0; 17];
        (1..17).for_each(|i| row[i] = (i as u8 - 1) | (16 - i as u8) << 4);
        row[0] = e;
        check_dequantize(Isa::Avx2, WeightType::Mxfp4, &row);
    }
}

/// ggml's `quantize_row_*` of x86 for ordinary blocks and zeros; the sums of a super-block of zeros stay as they are.
fn expected_blocks(blocks: Blocks, x: &[f32], before: &[u8]) -> Vec<u8> {
    let (k, bytes) = blocks.block();
    let mut out = before.to_vec();
    for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(bytes)) {
        let max = x.iter().copied().fold(0f32, |m, v| if v.abs() > m.abs() { v } else { m });
        let inverse = if max == 0.0 { 0.0 } else { if k == 32 { 127.0 / max.abs() } else { -127.0 / max } };
        let q: Vec<i8> = x.iter().map(|v| (v * inverse).round_ties_even() as i8).collect();
        let (d, sum) = (max.abs() / 127.0, q.iter().map(|&q| i32::from(q)).sum::<i32>());
        let half = |v: f32| f16::from_f32(v).to_le_bytes();
        if blocks == Blocks::Q8K {
            out[..4].copy_from_slice(&(if max == 0.0 { 0.0 } else { 1.0 / inverse }).to_le_bytes());
            if max != 0.0 {
                for (i, q) in q.chunks(16).enumerate() {
                    let sum: i16 = q.iter().map(|&q| i16::from(q)).sum();
                    out[260 + 2 * i..262 + 2 * i].copy_from_slice(&sum.to_le_bytes());
                }
            }
        } else {
            out[..2].copy_from_slice(&half(d));
        }
        if blocks == Blocks::Q8_1 {
            out[2..4].copy_from_slice(&half(d * sum as f32));
        }
        let at = [2, 4, 4][blocks as usize];
        q.iter().enumerate().for_each(|(i, &q)| out[at + i] = q as u8);
    }
    out
}

fn quantized(isa: Isa, blocks: Blocks, x: &[f32], side: Side) -> Option<Vec<u8>> {
    let f = quantizer(isa, blocks)?;
    let (k, bytes) = blocks.block();
    let (from, to) = (Guarded::floats(x, side), Guarded::new(x.len() / k * bytes, 1, side));
    // SAFETY: the buffers are as large as documented, and no larger.
    unsafe { f(from.ptr().cast(), to.ptr(), x.len()) };
    to.check("the blocks");
    Some(to.bytes().to_vec())
}

/// What is in a buffer of [`Guarded`] before.
fn untouched(blocks: Blocks, x: &[f32]) -> Vec<u8> {
    vec![0xa5; x.len() / blocks.block().0 * blocks.block().1]
}

#[test]
fn activations_become_the_blocks_of_the_reference_byte_for_byte() {
    let rng = &mut Rng(22);
    for isa in Isa::ALL {
        for blocks in Blocks::ALL {
            for n in 1..20 {
                let k = blocks.block().0;
                let mut x: Vec<f32> = (0..n * k).map(|i| rng.unit() * ((i / k) as f32 - 6.0).exp2()).collect();
                let zeros = rng.below(n) * k;
                x[zeros..zeros + k].fill(0.0);
                // both signs of the largest magnitude, in either order; halves
                let (a, b) = (rng.below(n * k), rng.below(n * k));
                (x[a], x[b]) = (127.0, -127.0);
                x.iter_mut().skip(rng.below(n) * k).take(16).for_each(|v| *v = (*v * 8.0).round() + 0.5);
                for side in SIDES {
                    let Some(got) = quantized(isa, blocks, &x, side) else { continue };
                    let expected = expected_blocks(blocks, &x, &untouched(blocks, &x));
                    assert!(got == expected, "{} {blocks:?} {n}", isa.name());
                }
            }
        }
    }
}

/// Blocks are computed eight at a time: what is beside an unusual one, and that one itself, are as they are alone.
#[test]
fn unusual_blocks_do_not_change_others() {
    let rng = &mut Rng(23);
    let unusual = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, 1e-38, f32::MIN_POSITIVE, f32::MAX];
    for (isa, blocks) in Isa::ALL.into_iter().flat_map(|isa| Blocks::ALL.map(|blocks| (isa, blocks))) {
        let (k, bytes) = blocks.block();
        for (i, v) in unusual.into_iter().enumerate() {
            let mut x: Vec<f32> = (0..11 * k).map(|_| rng.unit()).collect();
            x[i * k..(i + 1) * k].fill(0.0);
            x[i * k + rng.below(k)] = v;
            let Some(all) = quantized(isa, blocks, &x, Side::End) else { continue };
            for (x, got) in x.chunks_exact(k).zip(all.chunks_exact(bytes)) {
                assert_eq!(Some(got.to_vec()), quantized(isa, blocks, x, Side::End), "{} {blocks:?} {v}", isa.name());
                if x.iter().all(|x| x.abs() <= 1.0 && (*x == 0.0 || x.abs() > 1e-30)) {
                    assert!(got == expected_blocks(blocks, x, &untouched(blocks, x)), "{} {blocks:?} {v}", isa.name());
                }
            }
        }
    }
}

#[test]
fn dot_products_are_those_of_the_reference() {
    let rng = &mut Rng(24);
    for (isa, t) in Isa::ALL.into_iter().flat_map(|isa| WeightType::ALL.map(|t| (isa, t))) {
        let Some(f) = dot(isa, t) else { continue };
        for blocks in (0..20).chain([LEAST / 32, 64, 129]) {
            let mut row = vec![0; blocks * t.block().1];
            random_row(t, &mut row, rng);
            if blocks == 129 {
                // the largest sums of integers
                row.chunks_exact_mut(t.block().1).for_each(|block| block[2..].fill(0));
            }
            let mut y = vec![0; blocks * 34];
            for block in y.chunks_exact_mut(34) {
                block.fill_with(|| if blocks == 129 { 0x81 } else { rng.byte().max(0x81) });
                block[..2].copy_from_slice(&f16::from_f32(rng.unit()).to_le_bytes());
            }
            let a: Vec<f64> = y
                .chunks_exact(34)
                .flat_map(|b| {
                    let d = f16::from_le_bytes([b[0], b[1]]).to_f64();
                    b[2..].iter().map(move |&q| d * f64::from(q as i8)).collect::<Vec<_>>()
                })
                .collect();
            for side in SIDES {
                let (x, y) = (Guarded::of(&row, side), Guarded::of(&y, side));
                // SAFETY: the buffers are as large as documented, and no larger; 31 elements more are no block.
                let got = unsafe { f(32 * blocks + 31, x.ptr(), y.ptr()) };
                let what = || format!("{} {t:?}, {blocks} blocks", isa.name());
                reference::dot(&reference::weights(t, &row), &a).check(got, blocks.max(1), what);
            }
        }
    }
}
