//! Integer cases: every scale is one, or what makes integers of all elements, so that results are integers, and the reference is exact.
//!
//! Overflow would show here. A 16-bit lane that took one step of four `k` too many would reach, with
//! all codes at their maximum and all activations at 127, `31 * 127 * 2 * 5 > 32767` for 5-bit codes,
//! `15 * 127 * 2 * 9 > 32767` for 4-bit codes, and with offset codes at their minimum
//! `-32 * 127 * 2 * 5 < -32768` (Q6_K), `-16 * 127 * 2 * 9 < -32768` (Q5_0); a byte of weights taken as
//! unsigned saturates `vpmaddubsw` at `255 * 127 * 2`. A lane that wraps is off by `2^16` times its
//! scale, far above the bound used where sums exceed `2^24`.

use super::data::{Rng, block, fields, is_float, random_row, rounding_blocks, set_scales, set_value, unit};
use super::every_kernel;
use super::harness::{Case, Expected, row_bytes};
use super::reference::weight;
use crate::formats::WeightType;
use crate::kernel::{Blocking, Kernel};

const BLOCKS: usize = 2;

/// Blocks with scales of one, or integer values: `code`, `scale` give the bytes of codes and of integer scales.
fn unit_row(t: WeightType, blocks: usize, mut code: impl FnMut() -> u8, mut scale: impl FnMut() -> u8) -> Vec<u8> {
    let mut row = vec![0; row_bytes(t, blocks * block(t))];
    for block in row.chunks_exact_mut(t.block().1) {
        if is_float(t) {
            set_value(t, block, f32::from(code() as i8));
            continue;
        }
        block.fill_with(&mut code);
        block[fields(t).1].fill_with(&mut scale);
        set_scales(t, block, || unit(t));
    }
    row
}

fn random_unit_row(t: WeightType, blocks: usize, rng: &mut Rng) -> Vec<u8> {
    if is_float(t) {
        return unit_row(t, blocks, || rng.byte(), || 0);
    }
    let mut row = vec![0; row_bytes(t, blocks * block(t))];
    random_row(t, &mut row, rng);
    row.chunks_exact_mut(t.block().1).for_each(|b| set_scales(t, b, || unit(t)));
    row
}

/// Rows of extreme codes and scales. In every type one of these bytes is all codes at the largest
/// value, one all at the smallest, and the others mix them.
fn extreme_rows(t: WeightType) -> Vec<Vec<u8>> {
    const CODES: [u8; 8] = [0x00, 0xff, 0x0f, 0xf0, 0x77, 0x7f, 0x80, 0x88];
    const SCALES: [u8; 5] = [0x00, 0xff, 0x7f, 0x80, 0x01];
    let scales = fields(t).1.len();
    let mut rows = vec![];
    for code in CODES {
        for scale in SCALES {
            rows.push(unit_row(t, BLOCKS, || code, || scale));
        }
        // an extreme scale in one sub-block keeps the others' sums small enough to be exact
        for i in 0..scales {
            for scale in [0x7f, 0x80] {
                let mut j = 0;
                let mut lone = || {
                    j += 1;
                    if (j - 1) % scales == i { scale } else { 0 }
                };
                rows.push(unit_row(t, BLOCKS, || code, &mut lone));
            }
        }
        if scales == 0 {
            rows.truncate(rows.len() - SCALES.len() + 1); // all the same
        }
    }
    rows
}

/// Activations of magnitude 127 (which makes their scale 1 or -1), by place in the block.
fn extreme_columns(k: usize) -> Vec<Vec<f32>> {
    let sign: [fn(usize) -> bool; 9] = [
        |_| true,
        |_| false,
        |i| i % 2 == 0,
        |i| i % 4 < 2, // the two halves of a 16-bit pair of lanes
        |i| i % 4 >= 2,
        |i| i % 8 < 4,
        |i| i % 16 < 8,
        |i| i % 32 < 16,
        |i| i % 64 < 32,
    ];
    sign.into_iter().map(|s| (0..k).map(|i| if s(i) { 127.0 } else { -127.0 }).collect()).collect()
}

fn check(kernel: &Kernel, rows: &[Vec<u8>], columns: &[Vec<f32>]) {
    let k = columns[0].len();
    let matrix = rows.concat();
    let stride = row_bytes(kernel.weight, k);
    let expected = Expected::new(kernel, &matrix, stride, rows.len(), columns);
    for panel_bytes in [20 << 10, 0] {
        let blocking = Blocking { panel_bytes, prefetch_bytes: 0, ..Blocking::MEASURED };
        let case = Case {
            weights: &matrix,
            stride,
            rows: rows.len(),
            k,
            columns,
            blocking,
            out_stride: rows.len(),
            pieces: None,
        };
        expected.check(kernel, &case.run(kernel), rows.len(), rounding_blocks(kernel.weight, k), true);
    }
}

#[test]
fn extreme_codes_and_scales_overflow_nothing() {
    for kernel in every_kernel() {
        let k = BLOCKS * block(kernel.weight);
        check(kernel, &extreme_rows(kernel.weight), &extreme_columns(k));
    }
}

/// For each row a column that makes every product positive, and one that makes every one negative:
/// no sum over any part of the row can be larger.
#[test]
fn products_of_one_sign_overflow_nothing() {
    let rng = &mut Rng(8);
    for kernel in every_kernel() {
        let t = kernel.weight;
        let mut rows = extreme_rows(t);
        rng.shuffle(&mut rows);
        rows.truncate(24);
        rows.extend([0x00, 0xff, 0x7f, 0x80].map(|scale| unit_row(t, BLOCKS, || rng.byte(), || scale)));
        rows.extend((0..8).map(|_| random_unit_row(t, BLOCKS, rng)));
        let mut columns = vec![];
        for row in &rows {
            for sign in [127.0, -127.0] {
                let (block, bytes) = t.block();
                let of = |b: &[u8], e| if weight(t, b, e).scaled < 0.0 { -sign } else { sign };
                columns.push(row.chunks_exact(bytes).flat_map(|b| (0..block).map(move |e| of(b, e))).collect());
            }
        }
        check(kernel, &rows, &columns);
    }
}

/// Random codes and scales; activations are as large as sums below `2^24` allow, and at least one
/// of each block is 127.
#[test]
fn integer_products_are_exact() {
    let rng = &mut Rng(9);
    for kernel in every_kernel() {
        let t = kernel.weight;
        for blocks in [1, 2, 5] {
            let rows: Vec<_> = (0..20).map(|_| random_unit_row(t, blocks, rng)).collect();
            let k = blocks * block(t);
            let mut size = 127.0f32;
            loop {
                let columns: Vec<Vec<f32>> = (0..9)
                    .map(|_| {
                        let mut x: Vec<f32> = (0..k).map(|_| (rng.unit() * size).round()).collect();
                        for x in x.chunks_exact_mut(t.shape().block) {
                            x[rng.below(x.len())] = 127.0;
                        }
                        x
                    })
                    .collect();
                let expected = Expected::new(kernel, &rows.concat(), row_bytes(t, k), rows.len(), &columns);
                let all = || (0..rows.len()).flat_map(|r| (0..columns.len()).map(move |c| (r, c)));
                if all().all(|(r, c)| expected.at(r, c).magnitude < (24f64).exp2()) {
                    check(kernel, &rows, &columns);
                    break;
                }
                assert!(size > 1.0, "{}: no exact case", kernel.name());
                size /= 2.0;
            }
        }
    }
}
