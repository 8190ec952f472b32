//! `ZEN5TURBO_INVARIANT=1`: the logits of a text have the same bits alone and beside others, with any number of threads,
//! however the prompt is cut. `ZEN5TURBO_KERNELS=exact`: they are stock's.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Outcome, Program, gemma, smollm2, work_dir};

/// About two hundred tokens.
const TEXT: &str = "The quick brown fox jumps over the lazy dog. A program computes the same answer every time, or so \
    people think; but sums of floating-point numbers depend on the order in which they are added, and the order depends \
    on how many tokens are computed together. Whoever asks a server alone gets one answer, and whoever asks it among \
    others gets another one. Here is a list of cities: London, Paris, Rome, Madrid, Vienna, Prague, Warsaw, Budapest, \
    Athens, Lisbon, Dublin, Oslo, Stockholm, Helsinki, Copenhagen, Brussels, Amsterdam, Bern, Zagreb, Sofia.";

fn fixture(dir: &TempDir) -> PathBuf {
    Fixture::new("batches").linked_with_llama().build(dir, "batches")
}

/// Threads, tokens of a micro-batch, other sequences, whether all share one cache, whether attention is fused.
#[derive(Clone, Copy, Debug)]
struct Way(u32, u32, u32, bool, bool);

fn run(program: Program, model: &Path, Way(threads, ubatch, others, unified, flash): Way) -> Outcome {
    let program = program.arg(model).arg(TEXT);
    let numbers = format!("{threads} {ubatch} {others} {} {}", u8::from(unified), u8::from(flash));
    program.args(&numbers).run().success()
}

fn invariant(batches: &Path) -> Program {
    Program::engaged(batches).knob("INVARIANT", "1")
}

/// Checks that all ways of computing give the first one's bits, and that nothing was left to ggml.
fn check(model: &Path, ways: &[Way]) {
    let dir = work_dir();
    let batches = fixture(&dir);
    let first = run(invariant(&batches), model, ways[0]);
    for way in ways {
        let outcome = run(invariant(&batches), model, *way);
        assert_eq!(outcome.stdout, first.stdout, "{way:?} of {}\n{outcome}", model.display());
        assert_eq!(outcome.stats().events("order_not_kept"), 0, "{way:?}\n{outcome}");
    }
}

#[test]
fn logits_depend_on_nothing_but_the_text() {
    let ways = [
        Way(2, 512, 0, false, true),
        Way(1, 64, 0, true, true),
        Way(3, 7, 0, false, true),
        Way(4, 512, 8, true, true),
        Way(2, 64, 8, false, true),
        Way(1, 1, 0, false, true),
    ];
    check(&gemma(), &ways);
    check(&smollm2(), &ways[1..5]);
}

/// Keys and values are matrices of products then, and the length of rows grows with the cache.
#[test]
fn logits_without_flash_attention_depend_on_nothing_but_the_text() {
    let ways = [Way(2, 512, 0, false, false), Way(1, 7, 0, false, false), Way(2, 64, 8, false, false)];
    check(&smollm2(), &ways);
}

/// Otherwise the tests above would show nothing.
#[test]
fn logits_depend_on_the_batch_by_default() {
    let dir = work_dir();
    let batches = fixture(&dir);
    let model = smollm2();
    let way = |ubatch, others| Way(2, ubatch, others, false, true);
    let starts: [fn(&Path) -> Program; 2] = [|path| Program::new(path), |path| Program::engaged(path)];
    for start in starts {
        let whole = run(start(&batches), &model, way(512, 0)).stdout;
        assert_ne!(run(start(&batches), &model, way(7, 0)).stdout, whole);
        assert_ne!(run(start(&batches), &model, way(512, 8)).stdout, whole);
    }
}
