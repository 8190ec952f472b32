//! A refused system call or a limit is normal: the program runs on and answers the same. Each is refused alone or with
//! its like, which no container does; whole containers are in `container.rs`.

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use zen5turbo_tests::{CONTAINER, Fixture, Need, Program, Refusal, cached, gemma, llama, skip, work_dir};

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

/// What systemd's `SystemCallFilter=~@resources` kills at.
const RESOURCES: [&str; 12] = [
    "sched_setaffinity:KILL",
    "setpriority:KILL",
    "mbind:KILL",
    "set_mempolicy:KILL",
    "set_mempolicy_home_node:KILL",
    "migrate_pages:KILL",
    "move_pages:KILL",
    "sched_setattr:KILL",
    "sched_setparam:KILL",
    "sched_setscheduler:KILL",
    "ioprio_set:KILL",
    "setrlimit:KILL",
];

/// What this program does not call by itself, as a filter that was made from a trace of it kills at.
const OTHERS: [&str; 20] = [
    "memfd_create:KILL",
    "preadv2:KILL",
    "getpriority:KILL",
    "fallocate:KILL",
    "fchmod:KILL",
    "prctl:KILL",
    "clock_nanosleep:KILL",
    "nanosleep:KILL",
    "getdents64:KILL",
    "gettid:KILL",
    "get_mempolicy:KILL",
    "mincore:KILL",
    "mlock:KILL",
    "readahead:KILL",
    "getcpu:KILL",
    "process_madvise:KILL",
    "userfaultfd:KILL",
    "perf_event_open:KILL",
    "ptrace:KILL",
    "process_vm_readv:KILL",
];

/// Generates under filters that kill, from a warm and from a cold page cache: as without any, but for what is left out, and that
/// is counted.
fn survives(filters: &[&[&str]]) {
    let dir = work_dir();
    let model = dir.path().join("model.gguf");
    std::fs::copy(gemma(), &model).expect("the folder is writable");
    let file = std::fs::File::open(&model).expect("our file");
    file.sync_all().expect("a disk"); // dirty pages stay in the cache
    let generation = |start: fn(PathBuf) -> Program| {
        let program = start(llama("llama-completion")).arg("-m").arg(&model);
        program.args("-no-cnv --no-warmup --temp 0 --seed 1 -c 512 -b 64 -ub 64 -t 2 -n 16 -p Berlin")
    };
    let free = generation(Program::engaged).run().success();
    assert!(free.stdout.contains("Berlin"), "{free}");
    for rules in filters {
        let refusal = Refusal::new().calls(rules);
        let stock = generation(Program::new).inside(&refusal).run().success();
        assert!(stock.stdout.contains("Berlin"), "{rules:?} are calls that stock does not make\n{stock}");
        for cold in [false, true] {
            // SAFETY: no memory is accessed.
            assert!(!cold || unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } == 0);
            let is_cold = cold && cached(&model).is_ok_and(|(resident, pages)| resident < pages / 10);
            if cold && !is_cold {
                skip(Need::PageCache, "the file system keeps its files in memory: no model is read ahead");
            }
            let run = generation(Program::engaged).inside(&refusal).run().success();
            assert_eq!(run.stdout, free.stdout, "{rules:?}, cold: {cold}");
            assert_eq!(run.shim_lines(), [""; 0], "{rules:?}");
            let stats = run.stats();
            stats.assert_healthy();
            assert_eq!(stats.taken("MUL_MAT", None), free.stats().taken("MUL_MAT", None), "{rules:?} {stats}");
            assert_eq!((stats.events("seccomp_filter"), stats.events("live_refused")), (1, 0), "{rules:?} {stats}");
            let bytes = stats.number("/memory/prefetch/bytes");
            assert!(if is_cold { bytes > 100 << 20 } else { cold || bytes == 0 }, "{rules:?}, cold: {cold}, {bytes}");
        }
    }
    assert_eq!(free.stats().events("seccomp_filter"), 0, "{}", free.stats());
}

#[test]
fn a_filter_that_kills_at_one_of_the_calls_of_old_ends_nothing() {
    survives(&[&["sched_setaffinity:KILL"], &["setpriority:KILL"], &["memfd_create:KILL"], &["preadv2:KILL"]]);
}

#[test]
fn a_filter_that_kills_at_all_that_this_program_does_not_call_ends_nothing() {
    let all = [RESOURCES.as_slice(), OTHERS.as_slice()].concat();
    survives(&[&RESOURCES, &all]);
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
