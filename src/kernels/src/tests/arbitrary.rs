//! The checks of the other files, of inputs that are made of arbitrary bytes. What a fuzzer calls; plain
//! functions that panic at a defect.

use super::attention;
use super::data::{Rng, block, is_float, rounding_blocks};
use super::every_kernel;
use super::guard::{Side, check_copy, guarded};
use super::harness::{Case, Expected, bits, row_bytes};
use super::quantise::{check_all, check_rows, guarded_tile, versions};
use super::reference::kept;
use crate::formats::{Values, WeightType};
use crate::isa::avx2::Avx2;
use crate::isa::{DataPath, Isa};
use crate::kernel::{Blocking, Kernel, MAX_TILE, Tiles};
use half::f16;

/// Bytes of a fuzzer, and when they are used up pseudo-random ones, so that a short input can make a
/// large product.
struct Bytes<'a> {
    given: std::slice::Iter<'a, u8>,
    rest: Rng,
}

impl<'a> Bytes<'a> {
    fn new(data: &'a [u8]) -> Self {
        let seed = data.iter().fold(0u64, |seed, &b| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(b));
        Bytes { given: data.iter(), rest: Rng(seed) }
    }

    fn byte(&mut self) -> u8 {
        self.given.next().copied().unwrap_or_else(|| self.rest.byte())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// In `0..n`, for `n` up to 65536.
    fn below(&mut self, n: usize) -> usize {
        (usize::from(self.byte()) | usize::from(self.byte()) << 8) % n
    }

    fn side(&mut self) -> Side {
        if self.byte() & 1 == 0 { Side::Start } else { Side::End }
    }

    fn kernel(&mut self) -> &'static Kernel {
        let all: Vec<_> = every_kernel().collect();
        all[self.below(all.len())]
    }

    /// Columns of any bits, of numbers of any size, or of small numbers with one odd one.
    fn columns(&mut self, n: usize, k: usize) -> Vec<Vec<f32>> {
        let kind = self.byte();
        let mut column = |_| {
            let size = (f32::from(self.byte() as i8) * if kind & 4 == 0 { 0.05 } else { 1.0 }).exp2();
            let mut x: Vec<f32> = (0..k)
                .map(|_| match kind & 3 {
                    0 => f32::from_bits(self.word()),
                    1 => f32::from(self.byte() as i8) * size,
                    _ => (f32::from(self.byte()) - 127.5) / 128.0 * size,
                })
                .collect();
            if kind & 3 == 3 {
                x[self.below(k)] = f32::from_bits(self.word());
            }
            x
        };
        (0..n).map(&mut column).collect()
    }
}

/// Most multiply-adds of a product: the reference takes about 10 ns for each.
const MOST: usize = 40_000;

/// Weights of any bytes times columns of any bits, on one kernel: nothing outside the buffers is touched, the
/// result is the reference's where that is a number, and whole and in pieces it is the same.
pub fn product(data: &[u8]) {
    let b = &mut Bytes::new(data);
    let kernel = b.kernel();
    let t = kernel.weight;
    let k = if is_float(t) { 1 + b.below(300) } else { (1 + b.below(5)) * block(t) };
    let columns = (1 + b.below(33)).min(MOST / k).max(1);
    let rows = (1 + b.below(40)).min(MOST / (k * columns)).max(1);
    let stride = row_bytes(t, k) + b.below(20);
    let panel_bytes = [20 << 10, 0, 12 << 10, usize::MAX, b.below(60_000)][b.below(5)];
    let blocking =
        Blocking { panel_bytes, prefetch_bytes: [0, 1 << 10, 1 << 20][b.below(3)], ..Blocking::of(DataPath::Full) };
    let (gap, pieces, side) = (b.below(4), u64::from(b.word()), b.side());
    let inputs = b.columns(columns, k);
    let mut weights = vec![0xff; stride * (rows - 1) + row_bytes(t, k)];
    let tame = b.byte() & 1 == 0;
    for row in weights.chunks_mut(stride) {
        row.iter_mut().take(row_bytes(t, k)).for_each(|w| *w = b.byte());
        if tame {
            tame_scales(t, row);
        }
    }
    let mut case =
        Case { weights: &weights, stride, rows, k, columns: &inputs, blocking, out_stride: rows + gap, pieces: None };
    let got = guarded(kernel, &case, side);
    case.pieces = Some(pieces);
    assert_eq!(numbers(&got), numbers(&case.run(kernel)), "{}: whole and in pieces", kernel.name());

    let expected = Expected::of_any_size(kernel, &weights, stride, rows, &inputs);
    for (c, x) in inputs.iter().enumerate() {
        if !is_computable(kernel, x) {
            continue;
        }
        for r in 0..rows {
            let dot = expected.at(r, c);
            if dot.magnitude < 1e34 && !has_huge_scale(t, &weights[r * stride..][..row_bytes(t, k)]) {
                let what = || format!("{}, {rows} rows, k {k}: row {r}, column {c}", kernel.name());
                dot.check(got[c * rows + r], rounding_blocks(t, k), what);
            }
        }
    }
}

/// As bits; what is no number is one such, since nobody promises which.
fn numbers(v: &[f32]) -> Vec<u32> {
    bits(&v.iter().map(|&v| if v.is_nan() { f32::NAN } else { v }).collect::<Vec<_>>())
}

/// Whether all that a kernel keeps of a column is finite, and so small that scales do not overflow even where the
/// codes behind them are zero.
fn is_computable(kernel: &Kernel, column: &[f32]) -> bool {
    column.iter().all(|x| x.abs() < 1e28) && kept(kernel.act, column).iter().all(|x| x.is_finite())
}

/// The scales of all but MXFP4 are of half precision; those reach 2^127.
fn has_huge_scale(t: WeightType, row: &[u8]) -> bool {
    t == WeightType::Mxfp4 && row.chunks_exact(t.block().1).any(|b| b[0] > 150)
}

/// Takes the largest exponents away, so that neither infinities nor what is no number are left.
fn tame_scales(t: WeightType, row: &mut [u8]) {
    for block in row.chunks_exact_mut(t.block().1) {
        for &at in super::data::fields(t).0 {
            block[at + 1] &= 0xbf;
        }
        match t {
            WeightType::Mxfp4 => block[0] &= 0x7f,
            WeightType::Iq1M => block[55] &= 0xbf,
            WeightType::F16 => block[1] &= 0xbf,
            WeightType::Bf16 => block[1] &= 0xbf,
            WeightType::F32 => block[3] &= 0xbf,
            _ => {}
        }
    }
}

/// Columns of any bits into tiles: every version gives the same bits, those of the reference, and touches nothing
/// else.
pub fn quantise(data: &[u8]) {
    let b = &mut Bytes::new(data);
    let kernel = b.kernel();
    let format = kernel.act;
    let is_float = !matches!(format.values, Values::Q8 | Values::Rows(_));
    let k = if is_float { 1 + b.below(100) } else { (1 + b.below(9)) * format.block };
    let (nc, side) = (1 + b.below(MAX_TILE.min(4096 / k).max(1)), b.side());
    let columns = b.columns(nc, k);
    let _ = guarded_tile(kernel.quantize, format, &columns, side);
    if !matches!(format.values, Values::Rows(_)) {
        for (_, f) in versions() {
            let _ = guarded_tile(f, format, &columns, side);
        }
    }
    // Blocks of codes that hold something that is no number have any codes: nobody can compute with them.
    if is_float || columns.iter().flatten().all(|x| x.is_finite()) {
        match format.values {
            Values::Rows(_) => columns.iter().for_each(|x| check_rows(kernel, x)),
            _ => check_all(format, &columns),
        }
    }
}

/// Attention over keys and values of any bytes with masks of any bits, on every instruction set of this CPU: nothing outside the
/// buffers is touched; the definition's result where that is a number.
pub fn attention(data: &[u8]) {
    let b = &mut Bytes::new(data);
    let tiers: Vec<_> = Isa::ALL.into_iter().filter(|isa| isa.available()).collect();
    let isa = tiers[b.below(tiers.len())];
    let rows = |b: &mut Bytes<'_>| {
        let t = WeightType::ALL[b.below(WeightType::ALL.len())];
        (t, if is_float(t) { 1 + b.below(90) } else { (1 + b.below(2)) * block(t) })
    };
    let (key, value) = (rows(b), rows(b));
    let queries = 1 + b.below(20);
    let keys = (1 + b.below(150)).min(MOST / (queries * key.1)).max(1);
    let (gap, tame, side) = (b.below(9), b.byte() & 3 != 0, b.side());
    let matrix = |b: &mut Bytes<'_>, (t, n): (WeightType, usize)| {
        let bytes = row_bytes(t, n);
        let mut all: Vec<u8> = (0..(bytes + gap) * (keys - 1) + bytes).map(|_| b.byte()).collect();
        if tame {
            all.chunks_mut(bytes + gap).for_each(|row| tame_scales(t, &mut row[..bytes]));
        }
        all
    };
    let (key_bytes, value_bytes) = (matrix(b, key), matrix(b, value));
    let mask = |b: &mut Bytes<'_>| match b.byte() & 7 {
        0 | 1 => None,
        2 if !tame => Some(((0..keys).map(|_| f16::from_bits(b.word() as u16)).collect(), f32::from_bits(b.word()))),
        _ => {
            let one = |b: &mut Bytes<'_>| match b.byte() {
                0..100 => f16::NEG_INFINITY,
                n => f16::from_f32(f32::from(n) - 170.0),
            };
            Some(((0..keys).map(|_| one(b)).collect(), (1.0 + f32::from(b.byte())) / 64.0))
        }
    };
    let masks = (0..queries).map(|_| mask(b)).collect();
    let cut = b.below(keys + 1);
    let cuts = if cut == 0 || cut == keys { vec![0, keys] } else { vec![0, cut, keys] };
    let scale = if tame { f32::from(b.byte() as i8) / 1024.0 } else { f32::from_bits(b.word()) };
    let case = attention::Case {
        isa,
        key,
        value,
        keys: key_bytes,
        values: value_bytes,
        gap,
        queries: b.columns(queries, key.1),
        masks,
        sink: (b.byte() & 1 == 0).then(|| f32::from(b.byte() as i8) / 8.0),
        scale,
        cap: if b.byte() & 3 == 0 { 1.0 + f32::from(b.byte()) } else { 0.0 },
        cuts,
        one_order: false,
    };
    // scales of quantised queries are halves
    let small = case.queries.iter().flatten().all(|x| x.abs() < 1e6);
    // weights are in doubt where a score may be off by more
    let most = if tame && small { 0.05 } else { 0.0 };
    let _ = case.check_where_off(most, side);
}

/// The streaming copy, and the cutting of columns into tiles.
pub fn copy(data: &[u8]) {
    let b = &mut Bytes::new(data);
    let (columns, widest) = (b.below(5000) + 1, 1 + b.below(MAX_TILE));
    let tiles = Tiles::new(columns, widest);
    let widths = (0..tiles.count).map(|t| tiles.start(t + 1) - tiles.start(t));
    assert!(widths.clone().all(|w| (1..=widest).contains(&w)) && widths.sum::<usize>() == columns, "{tiles:?}");
    if let Some(avx2) = Avx2::new() {
        let (n, shift, side) = (b.below(5000), b.below(130), b.side());
        let bytes: Vec<u8> = (0..n).map(|_| b.byte()).collect();
        check_copy(avx2, &bytes, shift, side);
    }
}

/// A few of the inputs that a fuzzer would try, in every run of the tests.
#[test]
fn arbitrary_inputs_are_computed_as_the_reference_does() {
    let rng = &mut Rng(21);
    for _ in 0..100 * super::scale() {
        let data: Vec<u8> = (0..rng.below(400)).map(|_| rng.byte()).collect();
        product(&data);
        quantise(&data);
        copy(&data);
        attention(&data);
    }
}
