//! llama.cpp's own test programs under the shim, but `test-backend-ops`: see `backend_ops`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zen5turbo_tests::{Outcome, Program, need, smollm2};

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
