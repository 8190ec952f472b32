//! A refused system call or a limit is normal: the program runs on and answers the same. Each is refused alone or with
//! its like, which no container does; whole containers are in `container.rs`.

use zen5turbo_tests::{CONTAINER, Fixture, Program, Refusal, gemma, llama, work_dir};

/// Enough for buffers of 64 columns beside Gemma, 253 MB, in the page cache; not for a second copy of it.
const LITTLE_MEMORY: u64 = 256 << 20;

/// A short generation with Gemma, greedy, on two threads.
fn generation() -> Program {
    Program::engaged(llama("llama-completion"))
        .arg("-m")
        .arg(gemma())
        .args("-no-cnv --no-warmup --temp 0 --seed 1 -c 512 -b 64 -ub 64 -t 2 -n 16 -p Berlin")
}

/// Runs the generation inside `refusal`: it must answer the same, exit well, stay silent, and compute its
/// products here.
fn answers_the_same_inside(refusal: &Refusal) {
    let free = generation().run().success();
    let run = generation().inside(refusal).run().success();
    assert!(run.stdout.contains("Berlin"), "{run}");
    assert_eq!(run.stdout, free.stdout);
    assert_eq!(run.shim_lines(), [""; 0]);
    let stats = run.stats();
    stats.assert_healthy();
    assert_eq!(stats.taken("MUL_MAT", None), free.stats().taken("MUL_MAT", None), "{stats}");
}

#[test]
fn advice_locks_and_placement_that_are_refused_change_nothing() {
    let refusal = Refusal::new().unprivileged().calls(&CONTAINER).calls(&[
        "mlock",
        "mlock2",
        "mremap:ENOMEM",
        "madvise:EINVAL:arg2=14",  // MADV_HUGEPAGE
        "madvise:EINVAL:arg2=15",  // MADV_NOHUGEPAGE
        "madvise:EINVAL:arg2=16",  // MADV_DONTDUMP
        "madvise:EINVAL:arg2>=21", // MADV_PAGEOUT, MADV_POPULATE_*, MADV_COLLAPSE: newer than Linux 5.3
        "userfaultfd",
        "process_madvise",
        "sched_setaffinity",
    ]);
    answers_the_same_inside(&refusal);
}

#[test]
fn no_huge_pages_and_no_fixed_move_change_nothing() {
    let refusal = Refusal::new().calls(&["mmap:ENOMEM:arg3&0x40000", "mremap:ENOMEM:arg3&2"]); // MAP_HUGETLB, MREMAP_FIXED
    answers_the_same_inside(&refusal);
}

#[test]
fn little_memory_for_data_changes_nothing() {
    answers_the_same_inside(&Refusal::new().limit("data", LITTLE_MEMORY));
}

#[test]
fn the_wrapper_refuses_exactly_what_its_rules_name() {
    let dir = work_dir();
    let program = Fixture::new("refused").build(&dir, "refused");
    let refusal = Refusal::new()
        .unprivileged()
        .limit("memlock", 0)
        .call("mremap:ENOMEM:arg3&2:from=2:times=2")
        .call("madvise:EINVAL:arg2=14")
        .call("mmap:ENOSPC:arg3=0x22:arg1>=0x40000")
        .call("move_pages");
    let run = Program::new(program).inside(&refusal).run().success();
    let expected = [
        "mremap fixed ok",
        "mremap fixed ENOMEM",
        "mremap fixed ENOMEM",
        "mremap fixed ok",
        "mremap ok",
        "mlock EPERM",
        "madvise hugepage EINVAL",
        "madvise dontneed ok",
        "mmap large ENOSPC",
        "mmap small ok",
        "move_pages EPERM",
        "root no",
    ];
    assert_eq!(run.stdout.lines().collect::<Vec<_>>(), expected, "{run}");
}
