//! Scales and activations at the ends of their ranges, and values that are not finite.

use super::data::{Rng, block, is_float, random_columns, random_row, rounding_blocks, set_scales, set_value};
use super::every_kernel;
use super::harness::{Case, Expected, bits, row_bytes};
use super::reference::kept;
use crate::formats::WeightType;
use crate::kernel::Blocking;
use half::f16;

const BLOCKS: usize = 2;

/// Zeros, denormals, the smallest normal, one, the largest; each with both signs.
const HALVES: [u16; 6] = [0x0000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0x7bff];

/// Rows whose scales are all from [`HALVES`], as one matrix, and their number.
fn extreme_matrix(t: WeightType, rng: &mut Rng) -> (Vec<u8>, usize) {
    let mut rows = vec![];
    for d in HALVES {
        for m in HALVES {
            for sign in [0, 0x8000] {
                let mut row = vec![0; row_bytes(t, BLOCKS * block(t))];
                random_row(t, &mut row, rng);
                for (i, b) in row.chunks_exact_mut(t.block().1).enumerate() {
                    if is_float(t) {
                        let size = f16::from_bits([d | sign, m][i % 2]).to_f32();
                        set_value(t, b, [size, size / f32::MAX, size * 1e-38][i % 3]);
                        continue;
                    }
                    let mut v = [d | sign, m].into_iter().cycle();
                    set_scales(t, b, || f16::from_bits(v.next().unwrap()));
                    if t == WeightType::Mxfp4 {
                        b[0] = [0, 1, 2, 127, 200, 255][rng.below(6)];
                    }
                }
                rows.push(row);
            }
        }
    }
    rows.push(vec![0; row_bytes(t, BLOCKS * block(t))]);
    (rows.concat(), rows.len())
}

fn columns(k: usize, rng: &mut Rng) -> Vec<Vec<f32>> {
    [0.0, 1e-44, 1e-38, 3e-37, 1e-30, 1e-6, 1.0, 8e6, 1e30, 3e38]
        .into_iter()
        .map(|size: f32| (0..k).map(|_| rng.unit() * size).collect())
        .collect()
}

fn run(kernel: &crate::kernel::Kernel, matrix: &[u8], rows: usize, columns: &[Vec<f32>]) -> Vec<f32> {
    let k = columns[0].len();
    Case {
        weights: matrix,
        stride: row_bytes(kernel.weight, k),
        rows,
        k,
        columns,
        blocking: Blocking::default(),
        out_stride: rows,
        pieces: None,
    }
    .run(kernel)
}

#[test]
fn extreme_scales_and_activations_agree_with_the_reference() {
    let rng = &mut Rng(13);
    for kernel in every_kernel() {
        let k = BLOCKS * block(kernel.weight);
        let (matrix, rows) = extreme_matrix(kernel.weight, rng);
        let columns = columns(k, rng);
        let expected = Expected::new(kernel, &matrix, row_bytes(kernel.weight, k), rows, &columns);
        let mut compared = 0;
        for (i, &got) in run(kernel, &matrix, rows, &columns).iter().enumerate() {
            let (c, r) = (i / rows, i % rows);
            let finite = kept(kernel.act, &columns[c]).iter().all(|v| v.is_finite());
            // an `f32` result, with room for `d * da` of a block whose codes cancel
            if finite && expected.at(r, c).magnitude < 1e34 {
                compared += 1;
                expected.at(r, c).check(got, rounding_blocks(kernel.weight, k), || {
                    format!("{}: row {r}, column {c}", kernel.name())
                });
            }
        }
        assert!(compared > rows * columns.len() / 2, "{}: only {compared} compared", kernel.name());
    }
}

#[test]
fn zero_activations_give_zero() {
    let rng = &mut Rng(14);
    for kernel in every_kernel() {
        let (matrix, rows) = extreme_matrix(kernel.weight, rng);
        let columns = vec![vec![0.0; BLOCKS * block(kernel.weight)]; 3];
        assert!(run(kernel, &matrix, rows, &columns).iter().all(|&v| v == 0.0), "{}", kernel.name());
    }
}

#[test]
fn zero_blocks_give_zero() {
    let rng = &mut Rng(15);
    for kernel in every_kernel() {
        let (k, bytes) = (BLOCKS * block(kernel.weight), kernel.weight.block().1);
        let mut matrix = vec![0; 17 * row_bytes(kernel.weight, k)];
        if kernel.weight == WeightType::Mxfp4 {
            matrix.chunks_exact_mut(bytes).for_each(|b| b[0] = 255);
        }
        let columns = random_columns(9, k, rng);
        assert!(run(kernel, &matrix, 17, &columns).iter().all(|&v| v == 0.0), "{}", kernel.name());
    }
}

#[test]
fn every_scale_of_nvfp4_is_right() {
    let rng = &mut Rng(17);
    for kernel in every_kernel().filter(|kernel| kernel.weight == WeightType::Nvfp4) {
        let mut matrix = vec![0; 256 * row_bytes(WeightType::Nvfp4, 64)];
        rng.fill(&mut matrix);
        for (i, block) in matrix.chunks_exact_mut(36).enumerate() {
            (0..4).for_each(|s| block[s] = i as u8 ^ [0, 0x55, 0x80, 0xff][s]);
        }
        let columns = random_columns(3, 64, rng);
        let expected = Expected::new(kernel, &matrix, 36, 256, &columns);
        expected.check(kernel, &run(kernel, &matrix, 256, &columns), 256, rounding_blocks(kernel.weight, 64), false);
    }
}

/// The values of such a column are free; the sentinels of [`Case`] and all other columns are not.
#[test]
fn activations_that_are_not_finite_change_no_other_column() {
    let rng = &mut Rng(16);
    for kernel in every_kernel() {
        let k = BLOCKS * block(kernel.weight);
        let mut matrix = vec![0; 33 * row_bytes(kernel.weight, k)];
        random_row(kernel.weight, &mut matrix, rng);
        let mut columns = random_columns(17, k, rng);
        let clean = bits(&run(kernel, &matrix, 33, &columns));
        let bad = [(1, f32::NAN), (4, f32::INFINITY), (8, f32::NEG_INFINITY), (16, -f32::NAN)];
        for (c, v) in bad {
            columns[c][c] = v;
        }
        columns[1].fill(f32::NAN);
        for (i, (a, b)) in clean.iter().zip(bits(&run(kernel, &matrix, 33, &columns))).enumerate() {
            assert!(*a == b || bad.iter().any(|b| b.0 == i / 33), "{}: column {}", kernel.name(), i / 33);
        }
    }
}

/// The last step of a direct product reads elements again that were counted already.
#[test]
fn an_infinite_value_of_a_float_type_counts_once() {
    const K: usize = 40;
    for kernel in every_kernel().filter(|kernel| is_float(kernel.weight)) {
        let (t, bytes) = (kernel.weight, kernel.weight.block().1);
        for place in 0..K {
            let (mut matrix, mut columns) = (vec![0; 3 * K * bytes], vec![vec![1.0; K]; 2]);
            matrix.chunks_exact_mut(bytes).for_each(|e| set_value(t, e, 1.0));
            columns[0][place] = f32::INFINITY;
            set_value(t, matrix.chunks_exact_mut(bytes).nth(K + place).unwrap(), f32::NEG_INFINITY);
            let (inf, k) = (f32::INFINITY, K as f32);
            assert_eq!(run(kernel, &matrix, 3, &columns), [inf, -inf, inf, k, -inf, k], "{}, {place}", kernel.name());
        }
    }
}
