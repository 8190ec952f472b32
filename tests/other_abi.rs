//! Releases of ggml whose structures are not those the shim was written for, played by a fake one.

use zen5turbo_tests::{Outcome, Program, fake_ggml};

fn run(variant: &str) -> Outcome {
    let (_dir, program) = fake_ggml(variant, "");
    Program::engaged(program).run().success()
}

/// The fake one does the work, both times; it is said once and counted.
fn assert_left_alone(run: &Outcome) {
    assert_eq!(run.stdout, "extra calls 2, computed 2, result 32 64 96\n", "{run}");
    let stats = run.stats();
    assert_eq!(stats.taken("MUL_MAT", None), 0, "{stats}");
    assert!(stats.events("abi_mismatch") > 0, "{stats}");
    stats.assert_healthy();
    let line = run.only_line();
    assert!(line.contains("nothing is taken over"), "{line}");
}

/// Otherwise the other tests would prove nothing.
#[test]
fn a_fake_with_the_known_structures_is_taken_over() {
    let run = run("");
    assert_eq!(run.stdout, "extra calls 0, computed 0, result 32 64 96\n", "{run}");
    assert_eq!(run.stats().taken("MUL_MAT", Some("q8_0")), 2);
    assert_eq!(run.stderr, "");
}

#[test]
fn a_tensor_of_another_size_is_left_alone() {
    assert_left_alone(&run("OTHER_SIZE"));
}

#[test]
fn fields_at_other_offsets_are_left_alone() {
    assert_left_alone(&run("OTHER_OFFSETS"));
}

#[test]
fn a_missing_function_is_left_alone() {
    assert_left_alone(&run("WITHOUT_NODE"));
}

/// As in the package @fugood/llama.node: all fields before the name lie as known, and what lies behind it is asked for.
#[test]
fn longer_names_are_taken_over() {
    let run = run("GGML_MAX_NAME=80");
    assert_eq!(run.stdout, "extra calls 0, computed 0, result 32 64 96\n", "{run}");
    assert_eq!(run.stats().taken("MUL_MAT", Some("q8_0")), 2);
    assert_eq!(run.stderr, "");
}

/// The buffer type of repacked weights had another name before June 2025.
#[test]
fn weights_stay_plain_under_both_names_of_the_buffer_type() {
    for name in ["CPU_REPACK", "CPU_AARCH64"] {
        let (_dir, program) = fake_ggml(&format!("REPACK_NAME=\"{name}\""), "");
        let stock = Program::new(&program).arg("host").run().success();
        assert!(stock.stdout.starts_with(&format!("types AMX {name}, ")), "{stock}");
        let run = Program::engaged(&program).arg("host").run().success();
        assert!(run.stdout.starts_with("types AMX, "), "{run}");
    }
}

/// What follows the shorter structure is not zero: read as `use_ref` it would decline.
#[test]
fn use_ref_is_not_read_where_the_release_has_none() {
    let run = run("NO_USE_REF");
    assert_eq!(run.stdout, "extra calls 0, computed 0, result 32 64 96\n", "{run}");
    assert_eq!(run.stats().taken("MUL_MAT", Some("q8_0")), 2);
}

#[test]
fn use_ref_is_honoured_where_the_release_has_it() {
    let run = run("USE_REF");
    assert_eq!(run.stdout, "extra calls 2, computed 2, result 32 64 96\n", "{run}");
    assert_eq!(run.stats().declined("MUL_MAT", Some("q8_0"))["use_ref"], 2, "{}", run.stats());
    assert_eq!(run.stderr, "");
}

/// Releases before December 2024.
#[test]
fn a_release_without_the_hook_works_and_nothing_is_taken() {
    let run = run("BEFORE_HOOK");
    assert_eq!(run.stdout, "extra calls 0, computed 2, result 32 64 96\n", "{run}");
    let stats = run.stats();
    assert_eq!((stats.taken("MUL_MAT", None), stats.events("no_operation_hook")), (0, 1), "{stats}");
    assert!(stats.libraries()[0].1 == "no_operation_hook", "{stats}");
    assert_eq!(run.stderr, "");
    stats.assert_healthy();
}

#[test]
fn the_kill_switch_leaves_every_release_alone() {
    for variant in ["", "OTHER_SIZE", "BEFORE_HOOK"] {
        let (_dir, program) = fake_ggml(variant, "");
        let stock = Program::new(&program).run().success();
        let run = Program::preloaded(&program).var("ZEN5TURBO", "0").run().success();
        assert_eq!((&run.stdout, &run.stderr), (&stock.stdout, &stock.stderr));
    }
}
