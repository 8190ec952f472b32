//! The C library's allocation functions: the original's blocks, with advice on the large ones.

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Program, shim, work_dir};

fn with_ggml(dir: &TempDir) -> std::path::PathBuf {
    Fixture::new("heap").linked_with_ggml().build(dir, "heap")
}

fn library(dir: &TempDir, name: &str) -> std::path::PathBuf {
    Fixture::new(name).options("-shared -fPIC -fno-builtin").build(dir, &format!("{name}.so"))
}

#[test]
fn large_mapped_blocks_are_advised_and_nothing_else_changes() {
    let dir = work_dir();
    let run = Program::engaged(with_ggml(&dir)).arg("advised").knob("MALLOC", "1048576").run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""));
    assert!(run.stats().number("/memory/heap/count") >= 14, "{}", run.stats());
}

#[test]
fn without_the_knob_or_without_huge_pages_or_without_ggml_nothing_is_advised() {
    let dir = work_dir();
    let program = with_ggml(&dir);
    for (name, value) in [("MALLOC", "off"), ("HUGEPAGES", "off")] {
        let run = Program::engaged(&program).arg("plain").knob("MALLOC", "1048576").knob(name, value).run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""));
        assert_eq!(run.stats().number("/memory/heap/count"), 0);
    }
    let alone = Fixture::new("heap").build(&dir, "alone");
    for (name, value) in [("MALLOC", "1048576"), ("GATE", "strict")] {
        let run = Program::preloaded(&alone).arg("plain").knob(name, value).run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""));
    }
    let run = Program::preloaded(&program).arg("plain").var("ZEN5TURBO", "0").run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""));
}

/// The loader runs the constructors of libraries that do not need each other in an order of its own;
/// before the shim in one of the two.
#[test]
fn other_constructors_may_allocate_and_copy_before_ours() {
    let dir = work_dir();
    let early = library(&dir, "early");
    let (alone, program) = (Fixture::new("heap").build(&dir, "alone"), with_ggml(&dir));
    for list in [[shim(), early.clone()], [early, shim()]] {
        let list = list.map(|path| path.display().to_string()).join(":");
        let run = Program::preloaded(&alone).var("LD_PRELOAD", &list).run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""));
        let run = Program::engaged(&program).var("LD_PRELOAD", &list).knob("MALLOC", "1048576");
        let run = run.knob("MEMCPY", "65536").arg("advised").run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""));
    }
}

#[test]
fn another_allocator_keeps_its_blocks_to_itself() {
    let dir = work_dir();
    let own = library(&dir, "own_malloc");
    let program = with_ggml(&dir);
    for list in [[shim(), own.clone()], [own, shim()]] {
        let list = list.map(|path| path.display().to_string()).join(":");
        let run = Program::engaged(&program).var("LD_PRELOAD", &list).knob("MALLOC", "1048576").run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""));
        assert_eq!(run.stats().number("/memory/heap/count"), 0);
    }
}

#[test]
fn an_allocator_that_is_not_glibcs_is_named() {
    let dir = work_dir();
    let list = format!("{}:{}", shim().display(), library(&dir, "own_malloc").display());
    let run = Program::engaged(with_ggml(&dir)).var("LD_PRELOAD", list).knob("MALLOC", "auto").run().success();
    assert_eq!(run.stats().events("foreign_allocator"), 1, "{}", run.stats());
}
