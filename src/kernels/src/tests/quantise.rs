//! Quantisation of activations: the layout of tiles, the codes, and that all versions agree.

use super::data::{Rng, random_columns};
use super::guard::{Guarded, Side};
use super::reference::{ActBlock, activations, rounded};
use super::{every_kernel, scale};
use crate::act::{QuantizeFn, quantize_avx2, quantize_avx512, quantize_scalar};
use crate::formats::{ActFormat, Aux, Order, ROWS32, RowsRecord, SPACED, Values, rows32_strides};
use crate::isa::Isa;
use crate::kernel::{Kernel, MAX_TILE};

/// The formats of tiles that kernels use.
fn formats() -> Vec<ActFormat> {
    let mut v: Vec<ActFormat> = vec![];
    for kernel in every_kernel() {
        if !matches!(kernel.act.values, Values::Rows(_)) && !v.contains(&kernel.act) {
            v.push(kernel.act);
        }
    }
    v
}

/// All versions that this CPU can run, the scalar one first.
pub fn versions() -> Vec<(Isa, QuantizeFn)> {
    let all: [(Isa, QuantizeFn); 3] =
        [(Isa::Scalar, quantize_scalar), (Isa::Avx2, quantize_avx2), (Isa::Avx512, quantize_avx512)];
    all.into_iter().filter(|(isa, _)| isa.available()).collect()
}

/// The tile that `f` makes of `columns`, with a sentinel after it.
fn tile(f: QuantizeFn, format: ActFormat, columns: &[*const f32], k: usize) -> Vec<u8> {
    let bytes = format.bytes(k, columns.len());
    let mut out = vec![0xa5; bytes + 64];
    // SAFETY: every column has `k` floats, `out` is large enough; callers know the CPU.
    unsafe { f(format, columns.as_ptr(), k, columns.len(), out.as_mut_ptr()) };
    assert!(out[bytes..].iter().all(|&b| b == 0xa5), "{format:?}: written behind the tile");
    out.truncate(bytes);
    out
}

/// A reader of the tile's 32-bit words in the order that the module documentation gives.
struct Words<'a>(std::slice::ChunksExact<'a, u8>);

impl Words<'_> {
    fn next(&mut self) -> u32 {
        u32::from_le_bytes(self.0.next().unwrap().try_into().unwrap())
    }
}

/// The words of `aux` for one block of a tile.
fn aux(format: ActFormat, block: &ActBlock) -> Vec<u32> {
    let pair = |lo: i32, hi: i32| u32::from(lo as u16) | u32::from(hi as u16) << 16;
    let sum = |q: &[i32]| q.iter().sum::<i32>();
    // the elements with k % 4 in {0, 1}, in {2, 3}
    let half = |q: &[i32], h: usize| q.chunks_exact(4).map(|q| q[2 * h] + q[2 * h + 1]).sum::<i32>();
    let mut subs = block.codes.chunks_exact(format.sub);
    match format.aux {
        Aux::None => vec![],
        Aux::Seed(o) => subs.map(|q| (-o * sum(q)) as u32).collect(),
        Aux::SeedPair(o) => subs.map(|q| pair(-o * half(q, 0), -o * half(q, 1))).collect(),
        Aux::Sums if format.block == 32 => subs.map(|q| (block.d * sum(q) as f32).to_bits()).collect(),
        Aux::Sums => {
            let mut v = vec![];
            while let (Some(a), Some(b)) = (subs.next(), subs.next()) {
                v.push(pair(sum(a), sum(b)));
            }
            v
        }
    }
}

/// Panics unless `tile` is what the reference makes of `columns`.
fn check(format: ActFormat, tile: &[u8], columns: &[Vec<f32>]) {
    if format.values != Values::Q8 {
        return check_floats(format, tile, columns);
    }
    let columns: Vec<Vec<ActBlock>> = columns.iter().map(|x| activations(format, x)).collect();
    let mut words = Words(tile.chunks_exact(4));
    for b in 0..columns[0].len() {
        for g in 0..format.block / 4 {
            for (c, x) in columns.iter().enumerate() {
                let got = words.next().to_le_bytes().map(|q| i32::from(q as i8));
                assert_eq!(got, x[b].codes[4 * g..][..4], "{format:?}: column {c}, block {b}, group {g}");
            }
        }
        for i in 0..format.aux_words() {
            for (c, x) in columns.iter().enumerate() {
                assert_eq!(words.next(), aux(format, &x[b])[i], "{format:?}: column {c}, block {b}, aux {i}");
            }
        }
        for (c, x) in columns.iter().enumerate() {
            assert_eq!(words.next(), x[b].d.to_bits(), "{format:?}: column {c}, block {b}, scale");
        }
    }
}

/// The same for the float formats: element by element, zeros to the end of the last record.
fn check_floats(format: ActFormat, tile: &[u8], columns: &[Vec<f32>]) {
    let mut words = Words(tile.chunks_exact(4));
    let step = if format.values == Values::Bf16Pairs { 2 } else { 1 };
    let end = columns[0].len().next_multiple_of(format.block);
    for i in (0..end).step_by(step) {
        for (c, x) in columns.iter().enumerate() {
            let at = |i: usize| x.get(i).map_or(0, |&x| rounded(format.values, x).to_bits());
            let want = if step == 2 { at(i) >> 16 | at(i + 1) } else { at(i) };
            assert_eq!(words.next(), want, "{format:?}: column {c}, element {i}");
        }
    }
    assert!(words.0.next().is_none());
}

/// The scalar version against the reference, the others against it, bit by bit.
pub fn check_all(format: ActFormat, columns: &[Vec<f32>]) {
    let at: Vec<_> = columns.iter().map(|x| x.as_ptr()).collect();
    let k = columns[0].len();
    let want = tile(quantize_scalar, format, &at, k);
    check(format, &want, columns);
    for (isa, f) in versions() {
        assert_eq!(tile(f, format, &at, k), want, "{format:?}, {} columns, {}", columns.len(), isa.name());
    }
}

#[test]
fn random_columns_are_quantised_as_ggml_does() {
    let rng = &mut Rng(10);
    for format in formats() {
        for nc in 1..=MAX_TILE {
            // a single column is done several blocks at a time
            let more: &[usize] = if nc == 1 { &[7, 8, 9, 17] } else { &[] };
            for blocks in (1..=2 + scale()).chain(more.iter().copied()) {
                check_all(format, &random_columns(nc, blocks * format.block, rng));
                if format.values != Values::Q8 {
                    check_all(format, &random_columns(nc, blocks * format.block - rng.below(16), rng));
                }
            }
        }
    }
}

#[test]
fn special_values_are_quantised_as_ggml_does() {
    for format in formats() {
        let n = format.block;
        let column = |f: &dyn Fn(usize) -> f32| (0..n).map(f).collect::<Vec<f32>>();
        let columns = [
            // ties at .5 of both parities and signs: 127 makes the inverse scale exactly 1
            column(&|i| if i == 0 { 127.0 } else { i as f32 % 100.0 - 50.5 }),
            column(&|i| if i == 1 { -127.0 } else { i as f32 % 100.0 - 49.5 }),
            // the largest magnitude last; twice, with either sign first
            column(&|i| if i == n - 1 { -9.0 } else { i as f32 / n as f32 }),
            column(&|i| [3.0, -3.0, 1.0, 0.5][i % 4]),
            column(&|i| [-3.0, 3.0, 1.0, 0.5][i % 4]),
            column(&|i| {
                if i == n / 2 {
                    5.0
                } else if i == n / 2 + 1 {
                    -5.0
                } else {
                    0.0
                }
            }),
            column(&|_| 0.0),
            column(&|i| if i % 2 == 0 { -0.0 } else { 0.0 }),
            // inverse scales that overflow, denormal scales, scales beyond half precision
            column(&|i| f32::from_bits(i as u32)),
            column(&|i| 1e-38 * i as f32 / n as f32),
            column(&|i| 3.0e-37 * (i as f32 - 7.0) / n as f32),
            column(&|i| 4.0e-37 * (i as f32 - 7.0) / n as f32),
            column(&|i| 1e-6 * (i as f32 - 20.0)),
            column(&|i| 1e6 * (i as f32 - 20.0)),
            column(&|i| 1e30 * (i as f32 - 20.0)),
            column(&|i| if i % 3 == 0 { f32::MAX } else { -f32::MAX / 3.0 }),
        ];
        let not_finite = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)];
        if format.values != Values::Q8 {
            check_all(format, &[column(&|i| not_finite[i % 5]), column(&|i| f32::from_bits(0x3f80_7fff + i as u32))]);
        }
        for width in 1..=8 {
            for group in columns.windows(width) {
                check_all(format, group);
            }
        }
        // as blocks of one column
        check_all(format, &[columns.concat()]);
    }
}

#[test]
fn inputs_need_no_alignment() {
    let rng = &mut Rng(11);
    for (format, nc) in formats().into_iter().flat_map(|f| (1..=MAX_TILE).map(move |nc| (f, nc))) {
        let k = 2 * format.block;
        let columns = random_columns(nc, k, rng);
        let aligned: Vec<_> = columns.iter().map(|x| x.as_ptr()).collect();
        for shift in [1, 2, 4, 12] {
            let copies: Vec<Vec<u8>> = columns
                .iter()
                .map(|x| std::iter::repeat_n(0, shift).chain(x.iter().flat_map(|x| x.to_ne_bytes())).collect())
                .collect();
            let at: Vec<_> = copies.iter().map(|x| x[shift..].as_ptr().cast()).collect();
            let want = tile(quantize_scalar, format, &aligned, k);
            for (isa, f) in versions() {
                assert_eq!(want, tile(f, format, &at, k), "{format:?}, {}, {shift}", isa.name());
            }
        }
    }
}

#[test]
fn a_column_does_not_depend_on_its_neighbours() {
    let rng = &mut Rng(12);
    for kernel in every_kernel() {
        let (format, k) = (kernel.act, 2 * kernel.act.block);
        let mut columns = random_columns(8, k, rng);
        columns[2].fill(f32::NAN);
        columns[5][3] = f32::INFINITY;
        let at: Vec<_> = columns.iter().map(|x| x.as_ptr()).collect();
        let together = tile(kernel.quantize, format, &at, k);
        for (c, at) in at.iter().enumerate() {
            let alone = tile(kernel.quantize, format, &[*at], k);
            let words = alone.len() / 4;
            // tiles interleave the columns
            let rows = matches!(format.values, Values::Rows(_));
            let word = |i: usize| if rows { c * words + i } else { 8 * i + c };
            let same = |i: usize| together[4 * word(i)..][..4] == alone[4 * i..][..4];
            assert!((0..words).all(same), "{}: column {c}", kernel.name());
        }
    }
}

#[test]
fn the_first_of_equal_magnitudes_decides_the_sign() {
    let format = ActFormat { block: 256, sub: 32, values: Values::Q8, aux: Aux::Seed(128) };
    let rng = &mut Rng(13);
    for _ in 0..10 * scale() {
        for nc in 1..=MAX_TILE {
            let mut columns = random_columns(nc, 512, rng);
            for x in columns.iter_mut().flat_map(|x| x.chunks_exact_mut(256)) {
                // some with both signs, some with one, some as they are
                for _ in 0..rng.below(5) {
                    x[rng.below(256)] = if rng.next() & 1 == 0 { 40.0 } else { -40.0 };
                }
            }
            check_all(format, &columns);
        }
    }
}

/// The tile that `f` makes where nothing beside columns and tile can be touched.
pub fn guarded_tile(f: QuantizeFn, format: ActFormat, columns: &[Vec<f32>], side: Side) -> Vec<u8> {
    let inputs: Vec<_> = columns.iter().map(|x| Guarded::floats(x, side)).collect();
    let at: Vec<_> = inputs.iter().map(|x| x.ptr().cast_const().cast()).collect();
    let (k, nc) = (columns[0].len(), columns.len());
    let out = Guarded::new(format.bytes(k, nc), 1, side);
    // SAFETY: as many columns, floats and bytes as documented, and no more.
    unsafe { f(format, at.as_ptr(), k, nc, out.ptr()) };
    out.check("the tile");
    out.bytes().to_vec()
}

#[test]
fn nothing_beside_columns_and_tile_is_touched() {
    let rng = &mut Rng(14);
    for format in formats() {
        for nc in 1..=MAX_TILE {
            for blocks in [1, if nc == 1 { 9 } else { 2 }] {
                let k = blocks * format.block;
                let columns = random_columns(nc, k, rng);
                let at: Vec<_> = columns.iter().map(|x| x.as_ptr()).collect();
                let want = tile(quantize_scalar, format, &at, k);
                for side in [Side::Start, Side::End] {
                    for (isa, f) in versions() {
                        let got = guarded_tile(f, format, &columns, side);
                        assert_eq!(got, want, "{format:?}, {nc} columns, {}", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_in_its_block() {
    let odd = [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::NEG_INFINITY];
    let rng = &mut Rng(15);
    for format in formats() {
        let k = 3 * format.block;
        for nc in 1..=MAX_TILE {
            for (i, odd) in odd.into_iter().enumerate() {
                let plain = random_columns(nc, k, rng);
                let mut columns = plain.clone();
                // here and there in the middle block, or all of it
                let block = &mut columns[nc / 2][format.block..2 * format.block];
                match rng.below(3) {
                    0 => block.fill(odd),
                    n => (0..n).for_each(|_| block[rng.below(block.len())] = odd),
                }
                let at = |x: &[Vec<f32>]| x.iter().map(|x| x.as_ptr()).collect::<Vec<_>>();
                for (isa, f) in versions() {
                    let (got, want) = (tile(f, format, &at(&columns), k), tile(f, format, &at(&plain), k));
                    let record = format.record() * nc;
                    for (w, (got, want)) in got.chunks_exact(4).zip(want.chunks_exact(4)).enumerate() {
                        let there = 4 * w / record == 1 && w % nc == nc / 2;
                        assert!(there || got == want, "{format:?}, {nc} columns, {}, {i}: word {w}", isa.name());
                    }
                }
            }
        }
    }
}

/// The order of [`Order`](crate::formats::Order), against the tile of the same column. Other formats have none.
pub fn check_rows(kernel: &Kernel, column: &[f32]) {
    let format = kernel.act;
    let Values::Rows(order) = format.values else { return };
    let want = activations(format, column);
    let got = tile(kernel.quantize, format, &[column.as_ptr()], column.len());
    let (record, stride) = (format.rows(column.len()), rows32_strides(column.len()));
    let mut from = 0;
    for r in 0..column.len().div_ceil(record.k) {
        let rec = &got[from..from + record.bytes];
        from += match (format.block, r % 2) {
            // after the second one of a pair
            (32, 1) => stride(r / 2) - record.bytes,
            _ => record.bytes,
        };
        let code = |e: usize| want.get(e / format.block).map_or(0, |b| b.codes[e % format.block]);
        let places = record.k / 4;
        for place in 0..places {
            let four = place / 64 * 64 + order.four(place % 64);
            let at = record.codes[place / (places / 4)] + 4 * (place % (places / 4));
            for i in 0..4 {
                let e = r * record.k + 4 * four + i;
                assert_eq!(i32::from(rec[at + i] as i8), code(e), "{format:?}: element {e}");
            }
        }
        let blocks: [Option<&ActBlock>; 4] = std::array::from_fn(|i| want.get(4 * r + i));
        if format.block == 256 {
            check_rows256(format, order, record, rec, blocks);
        } else {
            check_rows32(format, rec, blocks);
        }
    }
}

fn float(record: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(record[at..at + 4].try_into().unwrap())
}

/// Scales and sums of a record of four super-blocks.
fn check_rows256(format: ActFormat, order: Order, places: RowsRecord, record: &[u8], blocks: [Option<&ActBlock>; 4]) {
    for (i, block) in blocks.into_iter().enumerate() {
        for at in [places.d + 8 * i, places.d + 8 * i + 4] {
            assert_eq!(float(record, at), block.map_or(0.0, |b| b.d), "{format:?}: scale {i}");
        }
        for s in 0..256 / format.sub {
            let at = places.aux + 64 * (s / 8) + 16 * i + 2 * (s % 8);
            let got = i16::from_le_bytes([record[at], record[at + 1]]);
            let sub = if format.sub == 16 { usize::from(order.pieces()[s]) } else { s };
            let codes = |b: &ActBlock| b.codes.chunks_exact(format.sub).nth(sub).unwrap().iter().sum();
            assert_eq!(-i32::from(got), block.map_or(0, codes), "{format:?}: sum {s} of {i}");
        }
    }
}

/// Scales and what stands beside them, of a record of four blocks of 32.
fn check_rows32(format: ActFormat, record: &[u8], blocks: [Option<&ActBlock>; 4]) {
    let places = ROWS32;
    for lane in 0..16 {
        let block = blocks[lane / 4];
        assert_eq!(float(record, places.d + 4 * lane), block.map_or(0.0, |b| b.d), "{format:?}: lane {lane}");
        let lane_sum = |b: &ActBlock| {
            let own = [lane % 4 * 4, 16 + lane % 4 * 4];
            own.iter().flat_map(|&e| &b.codes[e..e + 4]).sum::<i32>()
        };
        let word = match (block, format.aux) {
            (Some(b), Aux::Seed(offset)) => (-offset * lane_sum(b)) as u32,
            (Some(b), _) if lane % 4 == 0 => aux(format, b)[0],
            _ => 0,
        };
        assert_eq!(float(record, places.aux + 4 * lane).to_bits(), word, "{format:?}: lane {lane}");
    }
}

#[test]
fn activations_of_products_by_rows_are_those_of_a_tile() {
    let rng = &mut Rng(14);
    for kernel in every_kernel() {
        // with gaps and without
        let most = SPACED / kernel.act.block;
        let long = [most - 1, most, most + 1, most + 2, most + 7];
        for blocks in [1, 2, 3, 4, 5, 8, 9].into_iter().chain(long) {
            check_rows(kernel, &random_columns(1, blocks * kernel.act.block, rng)[0]);
        }
    }
}
