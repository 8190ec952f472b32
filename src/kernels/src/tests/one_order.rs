//! Kernels that add in one order: the bits of a result are the same however many columns are computed together, however the
//! matrix is cut, if rows are not cut.

use super::attention::{CACHE_TYPES, Case as AttentionCase, random, tiers};
use super::data::{Rng, block, random_columns, random_matrix};
use super::guard::Side;
use super::harness::{Case, bits, row_bytes};
use crate::formats::WeightType;
use crate::isa::{DataPath, Isa};
use crate::kernel::{Blocking, Kernel};
use crate::registry::{in_one_order, kernel_on, keys_in_one_order};
use half::f16;

const ROWS: usize = 37;
const COLUMNS: usize = 34;

/// One column, tiles that are not whole, as many as a method takes at most and one more, all.
const TOGETHER: [usize; 8] = [2, 3, 5, 8, 9, 13, 17, COLUMNS];

const BLOCKINGS: [Blocking; 3] = [
    Blocking::MEASURED.in_one_piece(),
    Blocking { prefetch_bytes: 0, ..Blocking::MEASURED.in_one_piece() },
    Blocking::of(DataPath::Split).in_one_piece(),
];

/// Several chunks of a panel, and a length of its own for float types.
fn lengths(t: WeightType) -> [usize; 2] {
    let b = block(t);
    if b == 1 { [20, 1031] } else { [b, 1024 + b] }
}

type Choose = fn(DataPath, Isa, WeightType, (usize, usize)) -> Option<&'static Kernel>;

/// The first result of a type that differs from that of one column alone.
fn difference(choose: Choose, path: DataPath, isa: Isa, t: WeightType) -> Option<String> {
    for k in lengths(t) {
        let rng = &mut Rng(k as u64);
        let stride = row_bytes(t, k);
        let (matrix, inputs) = (random_matrix(t, ROWS, k, stride, rng), random_columns(COLUMNS, k, rng));
        let run = |columns: &[Vec<f32>], (first, rows): (usize, usize), blocking: Blocking, pieces: Option<u64>| {
            let weights = &matrix[first * stride..];
            let case = Case { weights, stride, rows, k, columns, blocking, out_stride: rows, pieces };
            bits(&case.run(choose(path, isa, t, (k, columns.len())).expect("a kernel")))
        };
        let alone: Vec<_> = inputs.chunks(1).map(|column| run(column, (0, ROWS), BLOCKINGS[0], None)).collect();
        for (i, n) in TOGETHER.into_iter().enumerate() {
            let (first, rows) = [(0, ROWS), (16, 17), (32, 5), (0, 7)][i % 4];
            let pieces = (i % 2 == 1).then_some(i as u64);
            for (j, columns) in inputs.chunks_exact(n).enumerate() {
                let got = run(columns, (first, rows), BLOCKINGS[(i + j) % 3], pieces);
                for (c, got) in got.chunks(rows).enumerate() {
                    if got != &alone[j * n + c][first..first + rows] {
                        return Some(format!("{isa:?} {path:?} {t:?}, {k} elements, {n} columns: column {c}"));
                    }
                }
            }
        }
    }
    None
}

fn all(choose: Choose) -> Vec<String> {
    let mut found = vec![];
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for path in [DataPath::Split, DataPath::Full] {
            found.extend(WeightType::ALL.into_iter().filter_map(|t| difference(choose, path, isa, t)));
        }
    }
    found
}

#[test]
fn the_bits_of_a_result_do_not_depend_on_the_columns_beside_it() {
    for choose in [in_one_order as Choose, keys_in_one_order] {
        let found = all(choose);
        assert!(found.is_empty(), "{found:#?}");
    }
}

/// Otherwise the test above would show nothing.
#[test]
fn the_fastest_kernels_add_in_several_orders() {
    if Isa::Avx512.available() {
        assert!(difference(kernel_on, DataPath::Split, Isa::Avx512, WeightType::Q4K).is_some());
    }
    assert!(difference(kernel_on, DataPath::Split, Isa::Scalar, WeightType::F16).is_some());
}

/// Queries that see some of the keys, not the same ones; the keys that nobody sees lie between.
fn attention(isa: Isa, t: WeightType, queries: usize, one_order: bool, rng: &mut Rng) -> AttentionCase {
    const KEYS: usize = 333;
    let mut case = random(isa, (t, 64), (t, 64), [queries, KEYS, 0], rng);
    let shown: Vec<bool> = (0..KEYS).map(|_| rng.below(4) > 0).collect();
    for (q, mask) in case.masks.iter_mut().enumerate() {
        let (from, to) = (q * 3 % 50, KEYS - q % 90);
        let of = |key| if shown[key] && (from..to).contains(&key) { f16::ZERO } else { f16::NEG_INFINITY };
        *mask = Some(((0..KEYS).map(of).collect(), 1.0));
    }
    // some scores are far above those before
    (case.scale, case.sink, case.one_order) = (2.0, queries.is_multiple_of(2).then_some(0.5), one_order);
    case.cuts = if one_order { vec![0, 1, 130, KEYS] } else { vec![0, KEYS] };
    case
}

/// Query `q` alone, with the keys that it sees, one behind the other.
fn alone(case: &AttentionCase, q: usize) -> AttentionCase {
    let mask = &case.masks[q].as_ref().expect("a mask").0;
    let seen = |rows: &[u8]| -> Vec<u8> {
        let rows = rows.chunks_exact(rows.len() / mask.len()).zip(mask);
        rows.filter(|&(_, &m)| m == f16::ZERO).flat_map(|(row, _)| row.to_vec()).collect()
    };
    let count = mask.iter().filter(|&&m| m == f16::ZERO).count();
    AttentionCase {
        keys: seen(&case.keys),
        values: seen(&case.values),
        queries: vec![case.queries[q].clone()],
        masks: vec![None],
        cuts: vec![0, count],
        ..case.clone()
    }
}

/// Whether each query has the bits that it has alone.
fn is_independent(case: &AttentionCase) -> bool {
    let run = |case: &AttentionCase| bits(&case.run(&case.attention().expect("kernels"), Side::End));
    run(case).chunks(64).enumerate().all(|(q, together)| run(&alone(case, q)) == together)
}

#[test]
fn attention_of_a_query_depends_on_the_keys_that_it_sees_alone() {
    let rng = &mut Rng(36);
    for isa in tiers() {
        for t in CACHE_TYPES {
            for queries in [1, 2, 9, 18, 66] {
                if isa == Isa::Scalar && (queries > 2 || !matches!(t, WeightType::F16 | WeightType::F32)) {
                    continue;
                }
                assert!(is_independent(&attention(isa, t, queries, true, rng)), "{isa:?} {t:?} {queries}");
            }
        }
        let f16 = WeightType::F16;
        assert!(!is_independent(&attention(isa, f16, 2, false, rng)), "otherwise this shows nothing");
    }
}
