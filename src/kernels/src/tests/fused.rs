//! Products that multiply at once what they unpack.

use super::data::{Rng, random_columns, random_matrix, rounding_blocks};
use super::every_kernel;
use super::guard::{Side, guarded};
use super::harness::{Case, Expected, bits, row_bytes};
use crate::isa::DataPath;
use crate::kernel::{Blocking, Kernel};

fn fused() -> impl Iterator<Item = &'static Kernel> {
    every_kernel().filter(|kernel| !kernel.fused.is_empty())
}

/// The usual blocking, and one that cuts the copy of the last rows at every block, without prefetch.
const BLOCKINGS: [Blocking; 2] =
    [Blocking::of(DataPath::Full), Blocking { panel_bytes: 0, prefetch_bytes: 0, ..Blocking::MEASURED }];

/// One tile and two, whole groups of sixteen rows and rows left over, one block and odd numbers of them.
#[test]
fn every_width_and_number_of_rows_agrees_with_the_reference_between_guard_pages() {
    const ROWS: usize = 40;
    let rng = &mut Rng(31);
    for kernel in fused() {
        let widest = kernel.fused.len();
        for blocks in [1, 3, 5] {
            let k = blocks * kernel.block();
            let stride = row_bytes(kernel.weight, k);
            let matrix = random_matrix(kernel.weight, ROWS, k, stride, rng);
            let inputs = random_columns(widest + 1, k, rng);
            let expected = Expected::new(kernel, &matrix, stride, ROWS, &inputs);
            let all_widths = (1..=widest + 1).map(|n| (16, n));
            for (i, (rows, n)) in (1..=ROWS).map(|rows| (rows, 1 + rows % widest)).chain(all_widths).enumerate() {
                let case = Case {
                    weights: &matrix[..rows * stride],
                    stride,
                    rows,
                    k,
                    columns: &inputs[..n],
                    blocking: BLOCKINGS[i % 2],
                    out_stride: rows,
                    pieces: None,
                };
                let side = [Side::End, Side::Start][i % 3 / 2];
                let rounded = rounding_blocks(kernel.weight, k);
                expected.check(kernel, &guarded(kernel, &case, side), rows, rounded, false);
            }
        }
    }
}

/// The last rows of a matrix are computed in several pieces, from a copy.
#[test]
fn a_row_gives_the_same_bits_wherever_it_lies() {
    let rng = &mut Rng(32);
    for kernel in fused() {
        let (rows, n, k) = (35, 3, 7 * kernel.block());
        let stride = row_bytes(kernel.weight, k) + 6;
        let (matrix, inputs) = (random_matrix(kernel.weight, rows, k, stride, rng), random_columns(n, k, rng));
        let run = |first: usize, rows: usize, blocking| {
            let weights = &matrix[first * stride..];
            let case = Case { weights, stride, rows, k, columns: &inputs, blocking, out_stride: rows, pieces: None };
            bits(&case.run(kernel))
        };
        let all = run(0, rows, BLOCKINGS[0]);
        for (first, count) in [(5, 12), (16, 16), (34, 1), (30, 5)] {
            for blocking in BLOCKINGS {
                let part = run(first, count, blocking);
                for c in 0..n {
                    let same = all[c * rows + first..][..count] == part[c * count..][..count];
                    assert!(same, "{}: {count} rows from {first}, column {c}", kernel.name());
                }
            }
        }
    }
}
