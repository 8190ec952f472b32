//! Products of random matrices, over shapes, strides and blockings.

use super::data::{Rng, block, is_float, random_columns, random_matrix, rounding_blocks};
use super::guard::{Side, guarded};
use super::harness::{Case, Expected, bits, rounds_weights, row_bytes};
use super::{every_kernel, scale};
use crate::formats::WeightType;
use crate::isa::DataPath;
use crate::kernel::Blocking;
use std::collections::HashMap;

const ROWS: [usize; 9] = [1, 2, 7, 15, 16, 17, 31, 33, 48];
const COLUMNS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 24];

/// In elements: a few blocks, and one block more than a usual size.
fn lengths(t: WeightType) -> [usize; 6] {
    if is_float(t) {
        return [1, 7, 16, 33, 80, 2051];
    }
    let b = t.block().0;
    [b, 2 * b, 3 * b, 5 * b, 8 * b, 2048 + b]
}

/// The usual one; K cut at every block, without prefetch; cut unevenly; prefetch far beyond the end.
const BLOCKINGS: [Blocking; 4] = [
    Blocking { panel_bytes: 20 << 10, prefetch_bytes: 16 << 10, ..Blocking::of(DataPath::Full) },
    Blocking { panel_bytes: 0, prefetch_bytes: 0, ..Blocking::MEASURED },
    Blocking { panel_bytes: 12 << 10, prefetch_bytes: 1 << 20, ..Blocking::of(DataPath::Split) },
    Blocking { panel_bytes: usize::MAX, prefetch_bytes: 1 << 10, ..Blocking::MEASURED },
];

#[test]
fn every_type_and_isa_agrees_with_the_reference_for_every_shape() {
    // K and blocking change from shape to shape; the scale adds more of them
    let variants = scale().min(lengths(WeightType::Q4_0).len() * BLOCKINGS.len());
    let mut expected = HashMap::new();
    for (i, kernel) in every_kernel().enumerate() {
        let mut turn = i;
        for rows in ROWS {
            for columns in COLUMNS {
                turn += 1;
                for v in 0..variants {
                    let k = lengths(kernel.weight)[(turn + v) % 6];
                    let blocking = BLOCKINGS[(turn / 6 + v / 6) % 4];
                    let stride = row_bytes(kernel.weight, k) + 10;
                    let (matrix, inputs, expected) =
                        expected.entry((kernel.weight, rounds_weights(kernel), k)).or_insert_with(|| {
                            let rng = &mut Rng(k as u64);
                            let matrix = random_matrix(kernel.weight, 48, k, stride, rng);
                            let inputs = random_columns(24, k, rng);
                            let expected = Expected::new(kernel, &matrix, stride, 48, &inputs);
                            (matrix, inputs, expected)
                        });
                    let case = Case {
                        weights: matrix,
                        stride,
                        rows,
                        k,
                        columns: &inputs[..columns],
                        blocking,
                        out_stride: rows + turn % 3,
                        pieces: None,
                    };
                    let blocks = rounding_blocks(kernel.weight, k);
                    expected.check(kernel, &case.run(kernel), rows, blocks, false);
                }
            }
        }
    }
}

/// Several rows are gone through at a time where a column does not stay in the level-1 cache.
#[test]
fn long_rows_agree_with_the_reference_and_are_read_to_their_end_only() {
    let rng = &mut Rng(8);
    // columns that do not fit in L1, alone or together, with gaps between their records and without, and with ends
    // of all kinds: odd numbers of records, records that are not whole
    let shapes: [(usize, usize); 5] =
        [(8192 + 5 * 32, 1), (5120 + 3 * 32, 2), (3456 + 2 * 32, 3), (2560 + 5 * 32, 4), (6144 + 6 * 32, 4)];
    for (kernel, (k, n)) in every_kernel().filter(|k| k.shape.block == 32).flat_map(|k| shapes.map(|s| (k, s))) {
        let (rows, k) = (35, k.next_multiple_of(block(kernel.weight)));
        let stride = row_bytes(kernel.weight, k);
        let (matrix, inputs) = (random_matrix(kernel.weight, rows, k, stride, rng), random_columns(n, k, rng));
        let expected = Expected::new(kernel, &matrix, stride, rows, &inputs);
        let blocking = Blocking::default();
        let case =
            Case { weights: &matrix, stride, rows, k, columns: &inputs, blocking, out_stride: rows, pieces: None };
        for side in [Side::Start, Side::End] {
            expected.check(kernel, &guarded(kernel, &case, side), rows, rounding_blocks(kernel.weight, k), false);
        }
        // a row of a panel that is not whole is computed by itself, and a column may be
        let alone = |first: usize, rows: usize, column: usize| {
            let columns = &inputs[column..=column];
            let case = Case { weights: &matrix[first * stride..], rows, columns, out_stride: rows, ..case };
            bits(&case.run(kernel))
        };
        let all = bits(&case.run(kernel));
        let c = n - 1;
        assert_eq!(all[c * rows + 5..c * rows + 17], alone(5, 12, c), "{} {k} {n}", kernel.name());
    }
}

#[test]
fn pieces_in_any_order_give_the_bits_of_one_call() {
    let rng = &mut Rng(5);
    for kernel in every_kernel() {
        let k = 3 * block(kernel.weight);
        let stride = row_bytes(kernel.weight, k);
        let (matrix, inputs) = (random_matrix(kernel.weight, 71, k, stride, rng), random_columns(19, k, rng));
        for blocking in BLOCKINGS {
            let mut case = Case {
                weights: &matrix,
                stride,
                rows: 71,
                k,
                columns: &inputs,
                blocking,
                out_stride: 80,
                pieces: None,
            };
            let whole = bits(&case.run(kernel));
            assert_eq!(whole, bits(&case.run(kernel)), "{}: runs differ", kernel.name());
            for _ in 0..2 {
                case.pieces = Some(rng.next());
                assert_eq!(whole, bits(&case.run(kernel)), "{}: pieces differ", kernel.name());
            }
        }
    }
}

/// Whether a row is one of 32 or of sixteen depends on how threads cut the matrix.
#[test]
fn two_panels_side_by_side_give_the_bits_of_one() {
    let rng = &mut Rng(7);
    for kernel in every_kernel().filter(|k| !k.pair.is_empty()) {
        for (n, blocks) in [(1, 1), (6, 9), (12, 7), (23, 2)] {
            let k = blocks * block(kernel.weight);
            let stride = row_bytes(kernel.weight, k);
            let (matrix, inputs) = (random_matrix(kernel.weight, 32, k, stride, rng), random_columns(n, k, rng));
            let blocking = Blocking::default();
            let case = Case {
                weights: &matrix,
                stride,
                rows: 32,
                k,
                columns: &inputs,
                blocking,
                out_stride: 32,
                pieces: None,
            };
            let both = bits(&case.run(kernel));
            for half in 0..2 {
                let one = Case { weights: &matrix[half * 16 * stride..], rows: 16, out_stride: 16, ..case.clone() };
                for (c, one) in bits(&one.run(kernel)).chunks(16).enumerate() {
                    assert_eq!(one, &both[c * 32 + half * 16..][..16], "{}, column {c} of {n}", kernel.name());
                }
            }
        }
    }
}

#[test]
fn a_row_that_is_not_finite_changes_no_other_row() {
    let rng = &mut Rng(6);
    for kernel in every_kernel() {
        let t = kernel.weight;
        let k = 2 * block(t);
        let stride = row_bytes(t, k);
        let mut matrix = random_matrix(t, 20, k, stride, rng);
        let inputs = random_columns(5, k, rng);
        let run = |matrix: &[u8]| {
            let blocking = Blocking::default();
            let case =
                Case { weights: matrix, stride, rows: 20, k, columns: &inputs, blocking, out_stride: 20, pieces: None };
            bits(&case.run(kernel))
        };
        let clean = run(&matrix);
        for r in [3, 18] {
            matrix[r * stride..][..stride].fill(0xff); // NaN scales
        }
        for (i, (a, b)) in clean.iter().zip(run(&matrix)).enumerate() {
            assert!(*a == b || [3, 18].contains(&(i % 20)), "{}: row {}", kernel.name(), i % 20);
        }
    }
}
