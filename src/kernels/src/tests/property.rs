//! Random products of every kind, shrunk to the smallest that fails.

use super::data::{Rng, block, random_columns, random_matrix, rounding_blocks};
use super::harness::{Case, Expected, bits, rounds_weights, row_bytes};
use super::{every_kernel, scale};
use crate::formats::WeightType;
use crate::isa::DataPath;
use crate::kernel::{Blocking, MAX_TILE, Tiles};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The same cases in every run, nothing written to disk.
fn runner(cases: usize) -> TestRunner {
    let cases = (cases * scale()) as u32;
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[derive(Clone, Debug)]
struct Shape {
    weight: WeightType,
    rows: usize,
    columns: usize,
    blocks: usize,
    gap: usize,
    out_gap: usize,
    panel_bytes: usize,
    prefetch_bytes: usize,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (0..WeightType::ALL.len(), 1usize..70, 1usize..20, 1usize..9);
    let memory = (0usize..40, 0usize..20, 0usize..60_000, 0usize..60_000);
    (sizes, memory, any::<u64>()).prop_map(|((t, rows, columns, blocks), (gap, out_gap, panel, prefetch), seed)| {
        Shape {
            weight: WeightType::ALL[t],
            rows,
            columns,
            blocks,
            gap,
            out_gap,
            panel_bytes: panel,
            prefetch_bytes: prefetch,
            seed,
        }
    })
}

#[test]
fn any_product_agrees_with_the_reference_whole_and_in_pieces() {
    let result = runner(96).run(&shapes(), |s| {
        let rng = &mut Rng(s.seed);
        let k = s.blocks * block(s.weight);
        let stride = row_bytes(s.weight, k) + s.gap;
        let matrix = random_matrix(s.weight, s.rows, k, stride, rng);
        let columns = random_columns(s.columns, k, rng);
        let mut expected = [None, None];
        for kernel in every_kernel().filter(|kernel| kernel.weight == s.weight) {
            let mut case = Case {
                weights: &matrix,
                stride,
                rows: s.rows,
                k,
                columns: &columns,
                blocking: Blocking {
                    panel_bytes: s.panel_bytes,
                    prefetch_bytes: s.prefetch_bytes,
                    ..Blocking::of(DataPath::Full)
                },
                out_stride: s.rows + s.out_gap,
                pieces: None,
            };
            let got = case.run(kernel);
            let expected = expected[usize::from(rounds_weights(kernel))]
                .get_or_insert_with(|| Expected::new(kernel, &matrix, stride, s.rows, &columns));
            expected.check(kernel, &got, s.rows, rounding_blocks(s.weight, k), false);
            case.pieces = Some(s.seed);
            prop_assert_eq!(bits(&got), bits(&case.run(kernel)));
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn tiles_take_every_column_once_and_none_is_too_wide() {
    let result = runner(2000).run(&(1usize..5000, 1usize..=MAX_TILE), |(columns, widest)| {
        let tiles = Tiles::new(columns, widest);
        let widths: Vec<_> = (0..tiles.count).map(|t| tiles.start(t + 1) - tiles.start(t)).collect();
        prop_assert_eq!(tiles.start(0), 0);
        prop_assert_eq!(tiles.start(tiles.count), columns);
        prop_assert_eq!(tiles.count, columns.div_ceil(widest));
        let (min, max) = (*widths.iter().min().unwrap(), *widths.iter().max().unwrap());
        prop_assert!(min >= 1 && max <= widest && max - min <= 1, "{:?}", widths);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}
