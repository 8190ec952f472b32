//! What containers and full machines refuse is normal: the program runs on and answers the same.

use zen5turbo_tests::{Fixture, Program, Refusal, work_dir};

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
