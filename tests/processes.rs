//! What host programs do to a preloaded library: fork, threads that end, backends that are closed
//! and opened again, being preloaded twice.

use zen5turbo_tests::{Fixture, Program, Stats, reopened, shim, work_dir};

#[test]
fn parent_and_forked_children_compute_and_count_for_themselves() {
    let dir = work_dir();
    let program = Fixture::new("forked").linked_with_ggml().build(&dir, "forked");
    let out = work_dir();
    let run = Program::engaged(program).var("ZEN5TURBO_STATS", out.path().join("%p.json")).run().success();
    assert_eq!(run.stdout, "0 failures\n", "{run}");
    assert_eq!(run.stderr, "");
    let mut taken: Vec<_> = std::fs::read_dir(out.path())
        .expect("the folder can be read")
        .map(|entry| std::fs::read_to_string(entry.expect("an entry").path()).expect("a file"))
        .map(|text| Stats::parse(&text).taken("MUL_MAT", None))
        .collect();
    taken.sort_unstable();
    // Every child computed two products, or none and then writes nothing; the parent more.
    let parent = taken.pop().expect("the parent wrote its statistics");
    // A fork inside a product of another thread may leave that one counted in the child, too.
    assert!(taken.len() == 22 && taken.iter().all(|n| (2..=3).contains(n)) && parent >= 6, "{taken:?} {parent}");
}

#[test]
fn backends_are_closed_and_opened_again_and_threads_end() {
    let dir = work_dir();
    let run = reopened(&dir, Program::engaged, 5).run().success();
    let words: Vec<_> = run.stdout.split_whitespace().collect();
    let computed: u64 = words[1].parse().unwrap_or_else(|_| panic!("{run}"));
    assert!(computed >= 5, "{run}");
    assert_eq!(run.stats().taken("MUL_MAT", Some("q4_0")), 3 * computed, "{}", run.stats());
    run.stats().assert_healthy();
    assert_eq!(run.shim_lines(), [""; 0]);
}

#[test]
fn the_library_may_be_preloaded_twice_and_as_two_copies() {
    let dir = work_dir();
    let program = Fixture::new("one_product").linked_with_ggml().build(&dir, "one_product");
    let copy = dir.path().join("copy.so");
    std::fs::copy(shim(), &copy).expect("the folder is writable");
    for second in [shim(), copy] {
        let both = format!("{}:{}", shim().display(), second.display());
        let run = Program::engaged(&program).arg("2").var("LD_PRELOAD", both).run().success();
        assert_eq!(run.stdout, "computed\n");
        assert_eq!(run.stderr, "");
        run.stats().assert_healthy();
    }
}
