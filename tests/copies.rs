//! memcpy, memmove and their checked forms: the same bytes at every size, overlap and stage of a process.

use std::path::PathBuf;

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Outcome, Program, work_dir};

const OPTIONS: &str = "-fno-builtin -Wno-builtin-declaration-mismatch";

fn with_ggml(dir: &TempDir) -> PathBuf {
    Fixture::new("copies").options(OPTIONS).linked_with_ggml().build(dir, "copies")
}

/// The only thing that the program may write to stderr is what glibc says of the two overflows.
fn passed(run: &Outcome) {
    assert_eq!(run.stdout, "0 failures\n", "{run}");
    assert!(run.stderr.lines().all(|line| line.contains("buffer overflow detected")), "{run}");
    assert_eq!(run.stderr.lines().count(), 2, "{run}");
}

#[test]
fn streamed_copies_are_those_of_libc() {
    let dir = work_dir();
    let run = Program::engaged(with_ggml(&dir)).arg("65536").knob("MEMCPY", "65536").run().success();
    passed(&run);
    assert_eq!(run.stats().text("/memory/copies/status"), "streaming");
    assert!(run.stats().number("/memory/copies/streamed/count") > 100, "{}", run.stats());
}

#[test]
fn left_to_libc_nothing_is_counted() {
    let dir = work_dir();
    let run = Program::engaged(with_ggml(&dir)).arg("65536").knob("MEMCPY", "off").run().success();
    passed(&run);
    assert_eq!(run.stats().text("/memory/copies/status"), "libc");
    assert_eq!(run.stats().number("/memory/copies/streamed/count"), 0);
    let alone = Fixture::new("copies").options(OPTIONS).build(&dir, "alone");
    passed(&Program::preloaded(alone).arg("65536").knob("MEMCPY", "65536").run().success());
}

/// The bytes are right while it is measured, the answer is kept, and the next process has it from the start.
#[test]
fn the_measurement_is_made_once_and_remembered() {
    let (dir, cache) = (work_dir(), work_dir());
    let program = with_ggml(&dir);
    let run = |from: &str, rounds: &str| {
        let program = Program::engaged(&program).arg(from).arg(rounds).knob("MEMCPY", "auto");
        program.var("XDG_CACHE_HOME", cache.path()).run().success()
    };
    let file = cache.path().join("zen5turbo/copies.txt");
    // Without a large copy there is nothing to measure and nothing to keep.
    let first = run("65536", "0");
    passed(&first);
    let from = first.stats().number("/memory/copies/from");
    assert_eq!(first.stats().text("/memory/copies/status"), "measuring");
    assert!(from >= 8 << 20 && !file.exists());

    let second = run(&from.to_string(), "20");
    passed(&second);
    assert!(second.stats().number("/memory/copies/measured") > 0, "{}", second.stats());
    let answer = std::fs::read_to_string(&file).expect("the answer was kept");
    let streaming = answer.ends_with("streaming yes\n");
    assert!(streaming || answer.ends_with("streaming no\n"), "{answer}");
    let status = if streaming { "streaming" } else { "libc" };
    assert_eq!(second.stats().text("/memory/copies/status"), status);

    let third = run("65536", "0");
    passed(&third);
    assert_eq!(third.stats().text("/memory/copies/status"), status);
    assert_eq!(third.stats().number("/memory/copies/measured"), 0);

    std::fs::write(&file, "of another machine\n").expect("the file is writable");
    let fourth = run("65536", "0");
    passed(&fourth);
    assert_eq!(fourth.stats().events("copy_file_unusable"), 1);
    assert_eq!(fourth.stats().text("/memory/copies/status"), "measuring");
}
