//! llama.cpp's own test programs under the shim.
//!
//! `test-backend-ops` compares each operation with the reference of the same backend, which the original
//! computes. Matrix products and attention take 14 minutes: all of them run in the nightly run only; `backend_ops` always runs
//! products, and attention with few keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zen5turbo_tests::{Outcome, Program, llama, need, smollm2};

/// All operations but matrix products, fused or not, attention and rotation, which are many or large.
/// (The program knows regular expressions without groups, separated by commas; one must match.)
const QUICK: &str = "^[^MFLR],^M[^U],^MUL$,^MUL_[^M],^F[^L],^FL[^A],^L[^I],^R[^O],^RO[^P]";

fn suite(name: &str) -> PathBuf {
    need(Path::new(".deps/llama.cpp/suites").join(name), "scripts/setup.sh builds")
}

fn run(program: Program) -> Outcome {
    let run = program.limit(Duration::from_secs(3600)).run().success();
    assert_eq!(run.shim_lines(), [""; 0]);
    run.stats().assert_healthy();
    run
}

#[test]
fn every_quick_operation_of_the_cpu_backend() {
    operations(|program| program.arg("-o").arg(QUICK));
}

#[test]
#[ignore = "nightly"]
fn every_operation_of_the_cpu_backend() {
    operations(|program| program);
}

/// Each with its reference, on two threads at a time.
fn operations(choose: impl FnOnce(Program) -> Program) {
    let run = run(choose(Program::engaged(llama("test-backend-ops")).args("test -b CPU -j 2")));
    let passed = run.operations_passed();
    println!("{passed} passed");
    assert!(passed > 5000, "{run}");
}

#[test]
fn quantize_fns() {
    let _ = run(Program::engaged(suite("test-quantize-fns")));
}

#[test]
fn barrier() {
    let _ = run(Program::engaged(suite("test-barrier")));
}

#[test]
fn tiled_mulmat() {
    let _ = run(Program::engaged(suite("test-tiled-mulmat")));
}

/// Several models and contexts in one process, each context in a thread of its own.
#[test]
fn thread_safety() {
    let program = Program::engaged(suite("test-thread-safety")).arg("-m").arg(smollm2());
    let run = run(program.args("-ngl 99 -n 32 -c 256 -ub 32 -np 4 -t 2 -p").arg("The meaning of life is"));
    assert!(run.stats().taken("MUL_MAT", Some("q4_1")) > 0, "{}", run.stats());
}

#[test]
fn state_restore_fragmented() {
    let run = run(Program::engaged(suite("test-state-restore-fragmented")).arg("-m").arg(smollm2()));
    assert!(run.stats().taken("MUL_MAT", Some("q4_1")) > 0, "{}", run.stats());
}
