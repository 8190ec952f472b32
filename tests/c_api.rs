//! The C API of include/zen5turbo.h, from C.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, MILAN, Outcome, Program, Stats, ZEN5, root, shim, work_dir};

fn linked(fixture: Fixture) -> Fixture {
    let folder = shim().with_file_name("");
    fixture
        .path_option("-I", &root().join("include"))
        .path_option("-L", &folder)
        .path_option("-Wl,-rpath,", &folder)
        .options("-Wl,--no-as-needed -lzen5turbo")
}

fn alone(dir: &TempDir) -> PathBuf {
    linked(Fixture::new("c_api")).build(dir, "alone")
}

/// The shim comes before ggml: the order in which symbols are found.
fn with_ggml(dir: &TempDir) -> PathBuf {
    linked(Fixture::new("c_api").options("-DWITH_GGML")).linked_with_ggml().build(dir, "with_ggml")
}

fn line<'a>(run: &'a Outcome, key: &str) -> &'a str {
    let line = run.stdout.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_else(|| panic!("no line begins with {key:?}\n{run}")).trim()
}

fn statistics(run: &Outcome) -> Stats {
    Stats::parse(run.stdout.lines().last().expect("the statistics are the last line"))
}

#[test]
fn a_program_without_ggml_is_told_that_nothing_was_decided() {
    let dir = work_dir();
    let run = Program::new(alone(&dir)).run().success();
    assert_eq!(line(&run, "version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(line(&run, "state"), "1");
    for key in ["taken", "taken q4_K", "declined f32", "unknown"] {
        assert_eq!(line(&run, &format!("{key} ")), "0");
    }
    assert_eq!(statistics(&run).text("/state"), "waiting");
    assert_eq!(run.stderr, "");
}

#[test]
fn the_kill_switch_can_be_seen() {
    let dir = work_dir();
    let run = Program::new(with_ggml(&dir)).var("ZEN5TURBO", "0").run().success();
    assert_eq!(line(&run, "state"), "0");
    assert_eq!(line(&run, "taken "), "0");
    assert_eq!(statistics(&run).text("/state"), "disabled");
}

fn assert_counted(run: &Outcome) {
    assert_eq!(line(run, "state"), "3");
    assert_eq!(line(run, "before"), "0 0");
    assert_eq!(line(run, "taken "), "2");
    assert_eq!(line(run, "taken q4_K"), "2");
    assert_eq!(line(run, "taken f32"), "0");
    assert_eq!(line(run, "declined f32"), "1");
    assert_eq!(line(run, "unknown"), "0");
    let stats = statistics(run);
    assert_eq!(stats.text("/state"), "active");
    assert_eq!(stats.taken("MUL_MAT", Some("q4_K")), 2);
    assert_eq!(stats.declined("MUL_MAT", Some("f32")).values().sum::<u64>(), 1);
}

#[test]
fn a_program_with_ggml_sees_what_was_taken_when_it_is_linked_with_the_shim() {
    let dir = work_dir();
    assert_counted(&Program::new(with_ggml(&dir)).knob("GATE", "off").run().success());
}

#[test]
fn a_program_with_ggml_sees_what_was_taken_when_the_shim_is_preloaded_as_well() {
    let dir = work_dir();
    assert_counted(&Program::preloaded(with_ggml(&dir)).knob("GATE", "off").run().success());
}

#[test]
fn passthrough_can_be_seen() {
    let dir = work_dir();
    let program = with_ggml(&dir);
    for cpu in [ZEN5, MILAN] {
        let run = Program::new(&program).on(cpu).knob("GATE", "passthrough").run().success();
        assert_eq!((line(&run, "state"), line(&run, "taken ")), ("2", "0"));
    }
}

#[test]
fn the_header_is_valid_in_c99_and_in_cxx() {
    for (language, standard) in [("c", "-std=c99"), ("c++", "-std=c++11")] {
        let mut cc = Command::new("cc");
        cc.args(["-x", language, standard, "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]);
        let result = cc.arg(root().join("include/zen5turbo.h")).output().expect("cc can be started");
        assert!(result.status.success(), "{language}: {}", String::from_utf8_lossy(&result.stderr));
    }
}
