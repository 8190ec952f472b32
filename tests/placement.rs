//! Threads on CPUs of their own (`ZEN5TURBO_PIN`), and affinities of the program that are left alone. Some of these graphs have
//! more threads than CPUs, which `ZEN5TURBO_THREADS=off` lets them have.
//! NUMA nodes are tested in `numa_guest.rs`.

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Need, Outcome, Program, skip, work_dir};

/// Computes three graphs and tells where its threads were (`fixtures/placed.c`).
struct Placed {
    dir: TempDir,
}

impl Placed {
    fn build() -> Self {
        let dir = work_dir();
        let _ = Fixture::new("placed").linked_with_ggml().build(&dir, "placed");
        Self { dir }
    }

    fn run(&self, args: &str, pin: &str) -> Outcome {
        let run = Program::engaged(self.dir.path().join("placed"))
            .args(args)
            .knob("PIN", pin)
            .knob("THREADS", "off")
            .run()
            .success();
        run.stats().assert_healthy();
        assert_eq!(run.stats().taken("MUL_MAT_ID", Some("q8_0")) % 3, if args.contains("twice") { 2 } else { 0 });
        run
    }
}

/// The CPUs that this process may use.
fn allowed() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("the affinity");
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<usize>().expect("a number");
        cpus.extend(number(first)..=number(last));
    }
    cpus
}

fn list(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// What follows `who: ` in every graph.
fn cpus_of(run: &Outcome, who: &str) -> Vec<String> {
    let prefix = format!("{who}: ");
    run.stdout.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
}

/// Threads of graphs and the calling thread have the affinity of the process.
fn assert_untouched(run: &Outcome, threads: usize) {
    let all = list(&allowed());
    for ith in 0..threads {
        assert_eq!(cpus_of(run, &format!("thread {ith}")), [all.as_str(); 3], "{run}");
    }
    for graph in 0..3 {
        assert_eq!(cpus_of(run, &format!("caller {graph}")), [all.as_str()], "{run}");
    }
}

#[test]
fn by_default_no_thread_is_touched() {
    let placed = Placed::build();
    for (way, pin) in [("3 plain", "auto"), ("3 pool", "auto"), ("2 plain", "off")] {
        let run = placed.run(way, pin);
        assert_untouched(&run, way[..1].parse().expect("a number"));
        assert_eq!(run.stderr, "");
        assert_eq!(run.stats().number("/memory/numa/moved"), 0);
    }
}

#[test]
fn threads_are_where_the_list_says_and_the_caller_gets_its_cpus_back() {
    let placed = Placed::build();
    let mut cpus = allowed();
    cpus.reverse();
    let threads = cpus.len().min(3);
    let reference = placed.run(&format!("{threads} plain"), "off");
    for way in ["plain", "pool"] {
        let run = placed.run(&format!("{threads} {way}"), &list(&cpus));
        for (ith, cpu) in cpus.iter().take(threads).enumerate() {
            assert_eq!(cpus_of(&run, &format!("thread {ith}")), vec![cpu.to_string(); 3], "{run}");
        }
        for graph in 0..3 {
            assert_eq!(cpus_of(&run, &format!("caller {graph}")), [list(&allowed())], "{run}");
        }
        // Threads that stay from graph to graph, as OpenMP's do, keep their place; the caller comes back.
        let moved = run.stats().number("/memory/numa/moved");
        assert!((threads as u64 + 2..=3 * threads as u64).contains(&moved), "{}", run.stats());
        assert_eq!(cpus_of(&run, "results"), cpus_of(&reference, "results"));
        assert_eq!(run.stderr, "");
    }
}

#[test]
fn cores_are_spread_over_the_machine() {
    let placed = Placed::build();
    let run = placed.run("1 plain", "cores");
    let cores = run.stats().number("/memory/numa/seats");
    assert!((1..=allowed().len() as u64).contains(&cores), "{}", run.stats());
    let run = placed.run(&format!("{cores} plain"), "cores");
    let mut used: Vec<_> = (0..cores).map(|ith| cpus_of(&run, &format!("thread {ith}"))[0].clone()).collect();
    used.sort();
    used.dedup();
    assert_eq!(used.len() as u64, cores, "no two threads share a core: {run}");
    let run = placed.run(&format!("{} plain", cores + 1), "cores");
    assert_untouched(&run, cores as usize + 1);
    assert_eq!(run.stats().events("pin_too_many_threads"), 1);
}

#[test]
fn an_affinity_mask_is_respected() {
    let placed = Placed::build();
    let first = allowed()[0].to_string();
    let limited = |pin: &str, threads: &str| {
        let program = placed.dir.path().join("placed");
        let run = Program::engaged("/usr/bin/taskset").args(&format!("-c {first}")).arg(program);
        run.arg(threads).arg("plain").knob("PIN", pin).knob("THREADS", "off").run().success()
    };
    for (pin, reason) in [("auto", None), ("cores", Some("pin_too_many_threads"))] {
        let run = limited(pin, "2");
        assert_eq!(cpus_of(&run, "thread 1"), [first.as_str(); 3], "{run}");
        assert_eq!(run.stderr, "");
        assert_eq!(run.stats().number("/memory/numa/moved"), 0);
        if let Some(reason) = reason {
            assert_eq!(run.stats().events(reason), 1, "once, not for every graph: {}", run.stats());
        }
    }
    let outside = allowed().last().expect("a CPU") + 1;
    let run = limited(&outside.to_string(), "1");
    let line = run.only_line();
    for part in [format!("ZEN5TURBO_PIN={outside} names a CPU"), format!("it may use {first};")] {
        assert!(line.contains(&part), "{line}");
    }
    assert_eq!(run.stats().events("pin_cpu_not_allowed"), 1);
    assert_eq!(cpus_of(&run, "thread 0"), [first.as_str(); 3]);
}

#[test]
fn a_list_that_is_none_is_one_line() {
    let placed = Placed::build();
    for bad in ["0,0", "3-1", "core0", "0-", "100000"] {
        let run = placed.run("2 plain", bad);
        let line = run.only_line();
        assert!(
            line.contains(&format!("ZEN5TURBO_PIN={bad} is not allowed")) && line.contains("default, auto"),
            "{line}"
        );
        assert_untouched(&run, 2);
    }
}

#[test]
fn a_program_that_places_its_threads_is_left_alone() {
    if allowed().len() < 2 {
        return skip(Need::Cpus, "this process may use one CPU only");
    }
    let placed = Placed::build();
    let (first, second) = (allowed()[0], allowed()[1]);
    let pin = list(&[first, second]);

    let run = placed.run(&format!("2 mask {second}"), &pin);
    for ith in 0..2 {
        assert_eq!(cpus_of(&run, &format!("thread {ith}")), vec![second.to_string(); 3], "{run}");
    }
    assert_eq!(run.stats().number("/memory/numa/moved"), 0, "{}", run.stats());

    let run = placed.run(&format!("2 moved {second}"), &pin);
    let threads = [cpus_of(&run, "thread 0"), cpus_of(&run, "thread 1")];
    assert_eq!((threads[0][0].clone(), threads[1][0].clone()), (first.to_string(), second.to_string()), "{run}");
    // Thread 1 gets the CPUs of the process back or, where it is a new one, inherits those of the caller.
    assert_eq!(threads[0][1..], [second.to_string(), second.to_string()], "{run}");
    assert!([second.to_string(), list(&allowed())].contains(&threads[1][2]), "{run}");
    assert_eq!(run.stats().events("pinned_by_program"), 1);
}

#[test]
fn graphs_at_the_same_time_end_pinning() {
    let placed = Placed::build();
    let run = placed.run("2 twice", "cores");
    assert_untouched(&run, 2);
    assert_eq!(run.stats().events("pin_concurrent_graphs"), 1, "{}", run.stats());
}
