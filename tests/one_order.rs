//! `ZEN5TURBO_INVARIANT=1`: the logits of a text have the same bits alone and beside others, with any number of threads,
//! however the prompt is cut. `ZEN5TURBO_KERNELS=exact`: they are stock's.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Outcome, Program, gemma, smollm2, work_dir};

/// More than a hundred tokens, of which the first half is enough where nothing but the way of computing matters.
const TEXT: &str = "The quick brown fox jumps over the lazy dog. A program computes the same answer every time, or so \
    people think; but sums of floating-point numbers depend on the order in which they are added, and the order depends \
    on how many tokens are computed together. Whoever asks a server alone gets one answer, and whoever asks it among \
    others gets another one. Here is a list of cities: London, Paris, Rome, Madrid, Vienna, Prague, Warsaw, Budapest, \
    Athens, Lisbon, Dublin, Oslo, Stockholm, Helsinki, Copenhagen, Brussels, Amsterdam, Bern, Zagreb, Sofia.";

fn fixture(dir: &TempDir) -> PathBuf {
    Fixture::new("batches").linked_with_llama().build(dir, "batches")
}

/// How the logits of a text are computed.
#[derive(Clone, Copy, Debug)]
struct Way {
    threads: u32,
    /// Tokens of a micro-batch.
    ubatch: u32,
    /// Other sequences, computed at the same time.
    others: u32,
    /// Whether all sequences share one cache.
    unified: bool,
    flash: bool,
    /// Whether llama.cpp may repack weights.
    repack: bool,
    /// Tokens after the text.
    generated: u32,
    /// Bytes of the text.
    text: usize,
}

const ALONE: Way =
    Way { threads: 2, ubatch: 512, others: 0, unified: false, flash: true, repack: true, generated: 6, text: 300 };

fn run(program: Program, model: &Path, way: Way) -> Outcome {
    let program = program.arg(model).arg(&TEXT[..way.text]);
    let [unified, flash, repack] = [way.unified, way.flash, way.repack].map(u8::from);
    let Way { threads, ubatch, others, generated, .. } = way;
    program.args(&format!("{threads} {ubatch} {others} {unified} {flash} {repack} {generated}")).run().success()
}

fn invariant(batches: &Path) -> Program {
    Program::engaged(batches).knob("INVARIANT", "1")
}

/// Checks that all ways of computing give the first one's bits, and that nothing was left to ggml.
fn check(model: &Path, ways: &[Way]) {
    let dir = work_dir();
    let batches = fixture(&dir);
    let first = run(invariant(&batches), model, ways[0]);
    for way in &ways[1..] {
        let outcome = run(invariant(&batches), model, *way);
        assert_eq!(outcome.stdout, first.stdout, "{way:?} of {}\n{outcome}", model.display());
        assert_eq!(outcome.stats().events("order_not_kept"), 0, "{way:?}\n{outcome}");
    }
}

#[test]
fn logits_depend_on_nothing_but_the_text() {
    let ways = [
        ALONE,
        Way { threads: 1, ubatch: 64, unified: true, ..ALONE },
        Way { threads: 3, ubatch: 7, ..ALONE },
        Way { threads: 4, others: 8, unified: true, ..ALONE },
        Way { ubatch: 64, others: 8, ..ALONE },
        Way { threads: 1, ubatch: 1, ..ALONE },
    ];
    check(&gemma(), &ways);
    check(&smollm2(), &ways[2..5]);
}

/// Keys and values are matrices of products then, and the length of rows grows with the cache.
#[test]
fn logits_without_flash_attention_depend_on_nothing_but_the_text() {
    let ways = [
        Way { flash: false, ..ALONE },
        Way { flash: false, threads: 1, ubatch: 7, ..ALONE },
        Way { flash: false, ubatch: 64, others: 8, ..ALONE },
    ];
    check(&smollm2(), &ways);
}

/// Otherwise the tests above would show nothing.
#[test]
fn logits_depend_on_the_batch_by_default() {
    let dir = work_dir();
    let batches = fixture(&dir);
    let model = smollm2();
    let alone = Way { text: TEXT.len(), ..ALONE };
    let starts: [fn(&Path) -> Program; 2] = [|path| Program::new(path), |path| Program::engaged(path)];
    for start in starts {
        let whole = run(start(&batches), &model, alone).stdout;
        assert_ne!(run(start(&batches), &model, Way { ubatch: 7, ..alone }).stdout, whole);
        assert_ne!(run(start(&batches), &model, Way { others: 8, ..alone }).stdout, whole);
    }
}

/// The logits of about 256 tokens, of the text and after it, are stock's. Returns them.
fn check_exact(model: &Path, repack: bool) -> String {
    let dir = work_dir();
    let batches = fixture(&dir);
    let way = Way { repack, generated: 120, text: TEXT.len(), ..ALONE };
    let stock = run(Program::new(&batches), model, way);
    let outcome = run(Program::engaged(&batches).knob("KERNELS", "exact"), model, way);
    assert_eq!(outcome.stdout, stock.stdout, "{way:?} of {}\n{outcome}", model.display());
    let declined = outcome.stats().declined("MUL_MAT", None);
    assert!(declined.keys().eq(["kernels_exact"]), "{declined:?}\n{outcome}");
    stock.stdout
}

#[test]
fn exact_kernels_give_stocks_bits() {
    assert!(check_exact(&smollm2(), true).lines().count() > 120);
}

#[test]
#[ignore = "nightly"]
fn exact_kernels_give_the_bits_of_both_paths_of_stock() {
    check_exact(&smollm2(), false);
    let [repacked, plain] = [true, false].map(|repack| check_exact(&gemma(), repack));
    assert_ne!(repacked, plain, "repacked weights are multiplied in another order");
}

/// Otherwise the tests above would show nothing.
#[test]
fn the_fastest_kernels_do_not_give_stocks_bits() {
    let dir = work_dir();
    let batches = fixture(&dir);
    assert_ne!(
        run(Program::engaged(&batches), &smollm2(), ALONE).stdout,
        run(Program::new(&batches), &smollm2(), ALONE).stdout
    );
}
