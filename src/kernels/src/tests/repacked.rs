//! Products of repacked weights and activations, against the reference of the rows and columns they were made of.

use super::data::{Rng, random_columns, random_matrix, set_scales};
use super::guard::{Guarded, Side};
use super::reference::{ActBlock, activations, dot, values, weights};
use super::scale;
use crate::formats::{Aux, Values, WeightType};
use crate::isa::Isa;
use crate::kernel::Kernel;
use crate::repacked::{MOST_K, Product, ROWS, kernel, unpacker};
use half::f16;
use zen5turbo_skip::{Need, skip};

const TYPES: [WeightType; 5] =
    [WeightType::Q4_0, WeightType::Q4K, WeightType::Q2K, WeightType::Iq4Nl, WeightType::Mxfp4];

fn kernels(weight: WeightType) -> impl Iterator<Item = &'static Kernel> {
    let available = Isa::ALL.into_iter().filter(|isa| isa.available());
    available.filter_map(move |isa| kernel(isa, weight))
}

/// Scale and min of sub-block `j` of a block of Q4_K, and what is left of the second eight of their bits.
fn scale_min(block: &[u8], j: usize) -> [u8; 2] {
    let s = &block[4..16];
    if j < 4 {
        [s[j] & 63, s[j + 4] & 63]
    } else {
        [s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4]
    }
}

/// ggml's `make_block_*x8`, value by value, of one block of eight rows.
fn repack_block(t: WeightType, rows: [&[u8]; ROWS]) -> Vec<u8> {
    let mut out = vec![];
    let mut take = |at: usize, bytes: usize| rows.iter().for_each(|row| out.extend(&row[at..at + bytes]));
    let (codes, flip) = match t {
        WeightType::Mxfp4 => (1, 0),
        WeightType::Q4_0 => (2, 0x88),
        WeightType::Iq4Nl => (2, 0),
        _ => (16, 0),
    };
    match t {
        WeightType::Mxfp4 => take(0, 1),
        WeightType::Q4_0 | WeightType::Iq4Nl => take(0, 2),
        WeightType::Q4K => {
            take(0, 2);
            take(2, 2);
            for j in 0..8 {
                // four rows as the first sub-blocks of Q4_K, four as the others
                let of = |r: usize| scale_min(rows[r], j);
                for i in 0..2 {
                    out.extend((0..4).map(|r| of(r)[i] | of(r + 4)[i] >> 4 << 6));
                }
                out.extend((0..4).map(|r| of(r + 4)[0] & 15 | of(r + 4)[1] << 4));
            }
        }
        WeightType::Q2K => {
            take(80, 2);
            take(82, 2);
            (0..8).for_each(|two| take(2 * two, 2));
        }
        _ => panic!("{t:?} is not repacked"),
    }
    let bytes = t.block().0 / if t == WeightType::Q2K { 4 } else { 2 };
    for piece in (0..bytes).step_by(8) {
        rows.iter().for_each(|row| out.extend(row[codes + piece..][..8].iter().map(|q| q ^ flip)));
    }
    assert_eq!(out.len(), ROWS * t.block().1);
    out
}

/// Eight rows after eight rows.
fn repack(t: WeightType, matrix: &[u8], row_bytes: usize) -> Vec<u8> {
    let block = t.block().1;
    let eights = matrix.chunks_exact(ROWS * row_bytes);
    let blocks = eights.flat_map(|rows| (0..row_bytes / block).map(move |b| (rows, b)));
    blocks
        .flat_map(|(rows, b)| repack_block(t, std::array::from_fn(|r| &rows[r * row_bytes + b * block..][..block])))
        .collect()
}

/// ggml's `block_q8_0x4` or `block_q8_Kx4`, four columns after four columns.
fn quantised(columns: &[Vec<ActBlock>]) -> Vec<u8> {
    let mut out = vec![];
    for four in columns.chunks_exact(4) {
        for b in 0..four[0].len() {
            let of = four.iter().map(|column| &column[b]);
            let k = four[0][b].codes.len();
            match k {
                32 => of.clone().for_each(|b| out.extend(f16::from_f32(b.d).to_le_bytes())),
                _ => of.clone().for_each(|b| out.extend(b.d.to_le_bytes())),
            }
            for i in (0..k).step_by(8) {
                of.clone().for_each(|b| out.extend(b.codes[i..i + 8].iter().map(|&q| q as u8)));
            }
            if k == 256 {
                for i in (0..k).step_by(64) {
                    let sums =
                        |b: &ActBlock| b.codes[i..i + 64].chunks(16).map(|c| c.iter().sum()).collect::<Vec<i32>>();
                    of.clone().flat_map(sums).for_each(|sum| out.extend((sum as i16).to_le_bytes()));
                }
            }
        }
    }
    out
}

/// A product of `matrix` and `columns` with all buffers guarded; checks every `step`th result.
fn check(kernel: &Kernel, matrix: &[u8], columns: &[Vec<ActBlock>], side: Side, gap: usize, step: usize) {
    let t = kernel.weight;
    let k = columns[0].len() * kernel.shape.block;
    let row_bytes = t.row_bytes(k);
    let (rows, n) = (matrix.len() / row_bytes, columns.len());
    let (w, a) = (Guarded::of(&repack(t, matrix, row_bytes), side), Guarded::of(&quantised(columns), side));
    let out_stride = rows + gap;
    let out = Guarded::new(4 * (out_stride * (n - 1) + rows), 4, side);
    let product =
        Product { k, rows, columns: n, weights: w.ptr(), activations: a.ptr(), out: out.ptr().cast(), out_stride };
    assert!(product.fits(kernel));
    let scratch = Guarded::new(product.scratch_bytes(kernel), 64, side);
    let before = out.bytes().to_vec();
    // SAFETY: the buffers are as large as documented, and no larger.
    unsafe { product.multiply(kernel, scratch.ptr()) };
    for (guarded, what) in [(&w, "the weights"), (&a, "the columns"), (&scratch, "the scratch"), (&out, "the result")] {
        guarded.check(what);
    }
    let got = out.bytes();
    for at in 0..got.len() / 4 {
        let (c, r) = (at / out_stride, at % out_stride);
        let bytes = &got[4 * at..][..4];
        if r >= rows {
            assert_eq!(bytes, &before[4 * at..][..4], "written between columns");
        } else if at % step == 0 {
            let expected = dot(&weights(t, &matrix[r * row_bytes..][..row_bytes]), &values(&columns[c]));
            let what = || format!("{}, {rows} rows, {n} columns, K={k}: row {r}, column {c}", kernel.name());
            expected.check(f32::from_le_bytes(bytes.try_into().unwrap()), columns[0].len(), what);
        }
    }
}

fn random(kernel: &Kernel, n: usize, k: usize, rng: &mut Rng) -> Vec<Vec<ActBlock>> {
    random_columns(n, k, rng).iter().map(|x| activations(kernel.act, x)).collect()
}

#[test]
fn unpacked_rows_are_those_that_were_repacked() {
    let rng = &mut Rng(31);
    for t in TYPES {
        let unpack = unpacker(t).expect("a type that is repacked");
        for blocks in [1, 2, 5] {
            let bytes = blocks * t.block().1;
            let matrix: Vec<u8> = (0..ROWS * bytes).map(|_| rng.byte()).collect();
            for side in [Side::Start, Side::End] {
                let (from, to) = (Guarded::of(&repack(t, &matrix, bytes), side), Guarded::new(matrix.len(), 1, side));
                // SAFETY: the buffers are as large as documented, and no larger.
                unsafe { unpack(from.ptr(), blocks, to.ptr(), bytes) };
                to.check("the rows");
                assert_eq!(to.bytes(), matrix, "{t:?}");
            }
        }
    }
    assert!(WeightType::ALL.into_iter().all(|t| TYPES.contains(&t) == unpacker(t).is_some()));
}

#[test]
fn products_are_those_of_the_reference_and_stay_inside() {
    let rng = &mut Rng(32);
    for kernel in TYPES.into_iter().flat_map(kernels) {
        // half a panel, whole ones, both; tiles that are whole and not
        for (rows, n, blocks) in
            [(8, 4, 1), (16, 8, 2), (24, 12, 3), (8, 20, 5), (40, 28, 2)].into_iter().take(3 + scale())
        {
            let k = blocks * kernel.shape.block;
            let matrix = random_matrix(kernel.weight, rows, k, kernel.weight.row_bytes(k), rng);
            let columns = random(kernel, n, k, rng);
            for (side, gap) in [(Side::Start, 0), (Side::End, 5)] {
                check(kernel, &matrix, &columns, side, gap, 1);
            }
        }
    }
}

/// The largest weights and activations of either sign, and none.
#[test]
fn the_largest_values_are_exact() {
    for kernel in TYPES.into_iter().flat_map(kernels) {
        let (t, k) = (kernel.weight, 2 * kernel.shape.block);
        for byte in [0xff, 0x00, 0x88, 0x0f, 0xf0] {
            let mut matrix = vec![byte; 16 * t.row_bytes(k)];
            matrix.chunks_exact_mut(t.block().1).for_each(|block| set_scales(t, block, || f16::ONE));
            let codes = |c: usize| {
                (0..kernel.shape.block)
                    .map(move |i| if c == 2 && i % 2 == 1 { -127 } else { [127, -127, 127, 0][c % 4] })
            };
            let column = |c| vec![ActBlock { d: 0.5, codes: codes(c).collect() }; 2];
            check(kernel, &matrix, &(0..8).map(column).collect::<Vec<_>>(), Side::End, 0, 1);
        }
    }
}

/// So many columns of so long rows that they are multiplied in groups.
#[test]
fn columns_in_groups_are_computed_once() {
    let rng = &mut Rng(33);
    for kernel in TYPES.into_iter().take(1 + scale()).flat_map(kernels) {
        let k = 64 * 256;
        let matrix = random_matrix(kernel.weight, 8, k, kernel.weight.row_bytes(k), rng);
        let mut columns = random(kernel, 4, k, rng);
        columns.extend_from_within(..);
        let columns: Vec<_> = columns.into_iter().cycle().take(76).collect();
        check(kernel, &matrix, &columns, Side::End, 0, 23);
    }
}

#[test]
fn what_is_not_whole_or_too_long_does_not_fit() {
    let Some(kernel) = kernels(WeightType::Q4K).next() else {
        return skip(Need::Avx2, "this CPU has no AVX2, without which no repacked weights are read");
    };
    let good = Product {
        k: 512,
        rows: 24,
        columns: 20,
        weights: std::ptr::null(),
        activations: std::ptr::null(),
        out: std::ptr::null_mut(),
        out_stride: 24,
    };
    assert!(good.fits(kernel) && good.pays());
    for k in [0, 32, 511, 513, MOST_K + 256, usize::MAX] {
        assert!(!Product { k, ..good }.fits(kernel), "{k}");
    }
    for n in [0, 1, 2, 7, 9, 26] {
        assert!(!Product { rows: n, ..good }.fits(kernel) && !Product { columns: n, ..good }.fits(kernel), "{n}");
    }
    assert!(!Product { rows: 8, ..good }.pays() && !Product { columns: 4, ..good }.pays());
    // scratch is bounded, whatever the number of columns
    let most = Product { k: MOST_K, rows: 1 << 20, columns: 1 << 20, ..good };
    assert!(most.scratch_bytes(kernel) < 8 << 20, "{}", most.scratch_bytes(kernel));
}

/// The forms of activations that `act::repacked` knows.
#[test]
fn kernels_of_repacked_types_want_what_can_be_made() {
    for kernel in TYPES.into_iter().flat_map(kernels) {
        let sums = matches!(kernel.act.aux, Aux::Sums);
        assert_eq!((kernel.act.values, sums), (Values::Q8, kernel.act.block == 256), "{}", kernel.name());
        assert!(kernel.widest_tile().is_multiple_of(4), "{}", kernel.name());
    }
    assert!(kernel(Isa::Scalar, WeightType::Q4_0).is_none());
}
