//! Copies of weights beside a mapped model, in real processes: what is copied, what programs do meanwhile, what the kernel refuses.
//!
//! `fixtures/copied.c` waits for what the statistics tell, so nothing here depends on time. Where the kernel gives no transparent huge
//! pages nothing is copied, rightly: the fixture would wait for ever, and a test is skipped instead.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use zen5turbo_tests::{
    FakeRoot, Fixture, MemoryGroup, Need, Outcome, Program, Refusal, cached, copied_fixture, gemma, has_thp, llama,
    skip, work_dir,
};

/// What the matrices of the fixture's model touch: 10 times two pages of 2 MiB. The rest is read by nobody.
const READ: u64 = 10 * (4 << 20);

/// The fixture and its model, made once.
fn fixture() -> &'static (TempDir, PathBuf, PathBuf) {
    static BUILT: OnceLock<(TempDir, PathBuf, PathBuf)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = work_dir();
        let (program, model) = copied_fixture(&dir);
        std::fs::File::open(&model).and_then(|file| file.sync_all()).expect("on disk, so that the cache can let it go");
        (dir, program, model)
    })
}

/// The fixture in one of its modes.
fn copied(mode: &str, arg: &str) -> Program {
    let (_, program, model) = fixture();
    // What the page cache has let go would come back in huge pages, which get no copy.
    let _ = std::fs::read(model).expect("the model can be read");
    // Kernels that are named: what is left to ggml gets no copy.
    Program::engaged(program).knob("KERNELS", "avx2").knob("HUGEPAGES", "thp").arg(mode).arg(model).args(arg)
}

fn passed(run: &Outcome) {
    assert!(run.stdout.ends_with("0 failures\n") && !run.stdout.contains("FAIL"), "{run}");
    assert_eq!(run.stderr, "");
    run.stats().assert_healthy();
}

/// A generation by llama.cpp with Gemma, greedy. One thread, so that copying has a CPU.
fn generation() -> Program {
    let program = Program::engaged(llama("llama-completion")).knob("HUGEPAGES", "thp").arg("-m").arg(gemma());
    program.args("-no-cnv --no-warmup --temp 0 --seed 1 -c 256 -b 64 -ub 64 -t 1 -n 24 -p Berlin")
}

/// Its text with the model mapped as without the library: what every run must say.
fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let run = generation().knob("HUGEPAGES", "off").knob("PREFETCH", "off").run().success();
        assert!(run.stdout.contains("Berlin"), "{run}");
        assert_eq!(run.stats().number("/memory/weights/mapped"), 0);
        run.stdout
    })
}

/// Runs a generation, which must say the same and stay silent.
fn says_the_same(program: Program) -> Outcome {
    let run = program.run().success();
    assert_eq!(run.stdout, text(), "{run}");
    assert_eq!(run.shim_lines(), [""; 0]);
    run.stats().assert_healthy();
    run
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).expect("the file exists").len()
}

/// Whether a process made here may have so high a limit of locked memory; where not, that part of the test is skipped.
fn may_lock(bytes: u64) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    assert_eq!(failed, 0);
    if limit.rlim_max < bytes {
        skip(Need::Memlock, format!("RLIMIT_MEMLOCK is {} bytes here: not tested with {bytes}", limit.rlim_max));
    }
    limit.rlim_max >= bytes
}

// ---- what is copied ----

/// Tests before leave the machine short of memory for some seconds, and nothing is copied then (`memory_budget`).
fn wait_until_memory_is_calm() {
    let pressure = || {
        let text = std::fs::read_to_string(PRESSURE).ok()?;
        text.split_once("some avg10=")?.1.split(' ').next()?.parse::<f32>().ok()
    };
    for _ in 0..60 {
        if pressure().is_none_or(|some| some < 1.0) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

#[test]
fn llama_cpp_reads_copies_of_its_weights_and_says_the_same() {
    wait_until_memory_is_calm();
    // More tokens than elsewhere, so that some of it is done before the end.
    let run = generation().args("-n 120").run().success();
    assert!(run.stdout.starts_with(text().trim_end()), "{run}");
    assert_eq!(run.shim_lines(), [""; 0]);
    let stats = run.stats();
    stats.assert_healthy();
    let [mapped, wanted, cached, thp] =
        ["mapped", "wanted", "cached", "copied/thp"].map(|key| stats.number(&format!("/memory/weights/{key}")));
    println!("{} of {} MiB wanted, {} cached, {} copied", wanted >> 20, mapped >> 20, cached >> 20, thp >> 20);
    assert_eq!(mapped, size(&gemma()).next_multiple_of(4096), "{stats}");
    assert!(0 < wanted && wanted < mapped, "{stats}");
    assert!(cached + thp <= wanted && (cached + thp > 0 || !has_thp()), "{stats}");
}

/// With one NUMA node there is no copy that nobody asked for.
#[test]
fn by_default_nothing_is_copied() {
    let run = says_the_same(generation().knob("HUGEPAGES", "auto").args("-n 24"));
    let stats = run.stats();
    if stats.text("/memory/numa/mode") == "off" {
        assert_eq!(
            ["wanted", "copied/thp"].map(|key| stats.number(&format!("/memory/weights/{key}"))),
            [0; 2],
            "{stats}"
        );
    }
}

#[test]
fn only_what_products_read_is_copied_and_the_program_s_pages_are_let_go() {
    if !has_thp() {
        return;
    }
    let run = copied("copy", "").run().success();
    passed(&run);
    let numbers: Vec<u64> = run.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [mapped_kib, huge_kib] = [numbers[0], numbers[1]];
    let stats = run.stats();
    assert_eq!(stats.number("/memory/weights/wanted"), READ, "{stats}");
    assert_eq!(stats.number("/memory/weights/copied/thp"), READ, "{stats}");
    assert!(stats.number("/memory/weights/mapped") > 2 * READ, "{stats}");
    // All of it, unless physical memory is in pieces; the rest of the process has few.
    assert!(huge_kib > 0, "{run}");
    assert!(mapped_kib * 1024 < stats.number("/memory/weights/mapped") - READ + (1 << 20), "{run}");
}

/// Where kernel and file system can.
#[test]
fn huge_pages_of_the_page_cache_are_left_as_they_are() {
    if !has_thp() {
        return;
    }
    let dir = work_dir();
    let own = dir.path().join("model.gguf");
    std::fs::copy(&fixture().2, &own).expect("there is room for a copy");
    std::fs::File::open(&own).and_then(|file| file.sync_all()).expect("on disk, so that the cache can let it go");
    let run = Program::engaged(&fixture().1)
        .knob("KERNELS", "avx2")
        .knob("HUGEPAGES", "thp")
        .arg("cached")
        .arg(&own)
        .run()
        .success();
    passed(&run);
    if run.stdout.starts_with("0 bytes in huge pages") {
        skip(Need::FileHugePages, "kernel and file system keep no model in huge pages of the page cache");
    }
}

#[test]
fn the_page_cache_is_kept_while_memory_is_plentiful() {
    if !has_thp() {
        return;
    }
    let (_, _, model) = fixture();
    passed(&copied("copy", "").run().success());
    let (resident, pages) = cached(model).expect("a file of ours");
    assert_eq!(resident, pages);
}

#[test]
fn locked_unmapped_and_unmappable_models_stay_right() {
    // Without a mapping the weights are in a buffer of ggml, and no file is copied.
    let run = says_the_same(generation().args("--load-mode none"));
    assert_eq!(run.stats().number("/memory/weights/mapped"), 0);
    let _ = says_the_same(generation().args("--load-mode mmap+mlock"));
    let _ = says_the_same(generation().args("--load-mode mlock"));
}

/// Where the program's locked memory has a limit, what a copy locks could be what the program is refused later.
#[test]
fn what_the_program_has_locked_stays_locked() {
    if !has_thp() {
        return;
    }
    let enough = size(&fixture().2).next_multiple_of(4096);
    for how in ["model", "current", "future"] {
        let run = copied("lock", how).run().success();
        passed(&run);
        println!("{how}: {} {}", run.stdout.lines().next().unwrap_or_default(), run.stats().events("memory_locked"));
        // The limit of a usual user: nothing is locked, and nothing that was not locked hinders the copying.
        let usual = Refusal::new().unprivileged().limit("memlock", 8 << 20);
        let run = copied("lock", how).inside(&usual).run().success();
        passed(&run);
        assert!(run.stdout.starts_with("ENOMEM"), "{run}");
        assert_eq!(run.stats().number("/memory/weights/copied/thp"), READ, "{}", run.stats());
    }
    // Enough for the model, and for no copy beside it.
    if may_lock(enough) {
        let tight = Refusal::new().unprivileged().limit("memlock", enough);
        let run = copied("lock", "first").inside(&tight).run().success();
        passed(&run);
        assert!(run.stdout.starts_with("locked"), "{run}");
        assert_eq!(run.stats().events("memory_locked"), 1, "{}", run.stats());
    }
    for limit in [0, 1 << 20, 8 << 20, 100 << 20].into_iter().filter(|&limit| may_lock(limit)) {
        let refusal = Refusal::new().unprivileged().limit("memlock", limit);
        let _ = says_the_same(generation().args("--load-mode mmap+mlock").inside(&refusal));
    }
}

/// Address space of ours would count against that limit.
#[test]
fn a_program_that_locks_what_it_maps_may_map_as_much_as_without_the_library() {
    let (_, program, model) = fixture();
    let enough = size(model).next_multiple_of(4096) + (4 << 20);
    if !may_lock(enough) {
        return;
    }
    let tight = Refusal::new().unprivileged().limit("memlock", enough);
    let stock = Program::new(program).arg("tight").arg(model).inside(&tight).run().success();
    assert_eq!(stock.stdout, "0 failures\n", "{stock}");
    passed(&copied("tight", "").inside(&tight).run().success());
}

/// Weights of before, read from a copy, would be a wrong answer.
#[test]
fn what_lies_where_a_model_was_is_what_is_computed_with() {
    passed(&copied("replaced", "").run().success());
    passed(&copied("replaced", "").knob("HUGEPAGES", "off").run().success());
}

#[test]
fn a_program_that_closes_what_it_did_not_open_keeps_its_own_files() {
    passed(&copied("closefrom", "").run().success());
}

// ---- what the kernel refuses ----

/// Refused calls, and the reason that is counted, once.
const REFUSED: [(&str, &str); 7] = [
    ("madvise:EINVAL:arg2=14:arg1=0x400000", "thp_refused"),
    ("madvise:ENOMEM:arg2=23", "copy_out_of_memory"),
    // The address space of a copy, and the 4 MiB of a run in it.
    ("mmap:ENOMEM:arg2=0:arg3=0x4022:arg1>=0x4000000:from=2", "copy_out_of_memory"),
    ("mmap:ENOMEM:arg2=3:arg3=0x32:arg1=0x400000", "copy_out_of_memory"),
    ("pread64:EIO:arg2>=0x100000", "file_unreadable"),
    // The address of a mapping; a second descriptor for its file.
    ("mmap:ENOMEM:arg2=0:arg3=0x4022:arg1>=0x1000000", "mapping_not_placed"),
    ("8:EINVAL:arg2=0:arg1>=0x8000000000", "file_not_reopened"), // lseek
];

#[test]
fn a_refusal_is_counted_once_and_not_tried_again() {
    for (rule, reason) in REFUSED {
        let refusal = Refusal::new().call(rule);
        let run = says_the_same(generation().inside(&refusal));
        assert!(run.stats().events(reason) <= 1, "{rule}: {}", run.stats());
        if has_thp() {
            println!("{rule}");
            let run = copied("until", reason).inside(&refusal).run().success();
            passed(&run);
            assert_eq!(run.stats().number("/memory/weights/copied/thp"), 0, "{rule}: {}", run.stats());
        }
    }
}

#[test]
fn an_old_kernel_copies_as_well() {
    // MADV_POPULATE_READ and MADV_POPULATE_WRITE came with Linux 5.14.
    let refusal = Refusal::new().call("madvise:EINVAL:arg2>=22");
    let _ = says_the_same(generation().inside(&refusal));
    if has_thp() {
        passed(&copied("copy", "").inside(&refusal).run().success());
    }
}

#[test]
fn without_transparent_huge_pages_for_the_process_nothing_is_copied() {
    let refusal = Refusal::new().without_thp();
    let run = says_the_same(generation().inside(&refusal));
    assert_eq!(run.stats().number("/memory/weights/copied/thp"), 0, "{}", run.stats());
    let run = copied("until", "thp_off_for_process").inside(&refusal).run().success();
    passed(&run);
    assert_eq!(run.stats().number("/memory/weights/now"), 0);
}

#[test]
fn a_process_with_all_the_mappings_it_may_have_copies_no_more() {
    if !has_thp() {
        return;
    }
    let run = copied("crowded", "").run();
    if run.stdout.contains("too many to be had") {
        return skip(Need::MapCount, "vm.max_map_count is too large here to be reached");
    }
    passed(&run.success());
}

// ---- little memory ----

#[test]
fn a_group_too_small_for_the_copies_gets_what_fits() {
    let Some(group) = MemoryGroup::new(576 << 20) else { return };
    let run = says_the_same(generation().inside(&Refusal::new().in_group(&group)));
    let stats = run.stats();
    let [wanted, thp] = ["wanted", "copied/thp"].map(|key| stats.number(&format!("/memory/weights/{key}")));
    println!("{} of {} MiB copied", thp >> 20, wanted >> 20);
    assert!(thp < wanted, "{stats}");
}

#[test]
fn the_page_cache_goes_where_it_and_the_copies_do_not_fit() {
    if let Some(run) = under_pressure("budget", &[]) {
        assert_eq!(run.stats().events("memory_budget"), 1, "{}", run.stats());
        let copied = run.stats().number("/memory/weights/copied/thp");
        let (resident, pages) = cached(&fixture().2).expect("a file of ours");
        println!("{} of {} MiB copied; {resident} of {pages} pages are in the page cache", copied >> 20, READ >> 20);
        assert!(0 < copied && copied < READ, "{}", run.stats());
        assert!((pages - resident) as u64 >= copied / 4096, "{resident} of {pages} pages are in the page cache");
    }
}

/// What the kernel says of the whole machine, while a program runs. It is in no group of its own then.
fn machine(file: &str, text: &str) -> Option<FakeRoot> {
    Some(FakeRoot::new()?.file("/proc/self/cgroup", "").file(file, text))
}

const PRESSURE: &str = "/proc/pressure/memory";

/// Up to a tenth of the time waiting for memory is normal.
fn waiting(percent: &str) -> String {
    format!("some avg10={percent} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
}

#[test]
fn when_the_machine_is_short_of_memory_copies_are_given_back() {
    let plenty = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n";
    let little = "MemTotal: 16777216 kB\nMemAvailable: 1048576 kB\n"; // no more than the reserve
    let changes = [(PRESSURE, waiting("9.99"), waiting("10.01")), ("/proc/meminfo", plenty.into(), little.into())];
    for (file, before, after) in changes {
        if !Path::new(file).exists() {
            skip(Need::Pressure, format!("not tested with {file}, which this kernel does not have"));
            continue;
        }
        let Some(root) = machine(file, &before).filter(|_| has_thp()) else { return };
        let run = root.around(copied("short", file).arg(after)).run().success();
        passed(&run);
        assert_eq!(run.stats().number("/memory/weights/freed"), READ, "{file}: {}", run.stats());
    }
}

#[test]
fn while_somebody_waits_for_memory_nothing_is_copied() {
    let Some(root) = machine(PRESSURE, &waiting("40.00")).filter(|_| has_thp()) else { return };
    if !Path::new(PRESSURE).exists() {
        return skip(Need::Pressure, "this kernel does not tell the pressure on memory");
    }
    let run = root.around(copied("until", "memory_budget")).run().success();
    passed(&run);
    assert_eq!(run.stats().number("/memory/weights/copied/thp"), 0, "{}", run.stats());
    assert_eq!(run.stats().events("memory_pressure"), 0, "{}", run.stats());
}

/// The fixture in a group that it shrinks itself, with refused calls; `None` where that is impossible.
fn under_pressure(mode: &str, refused: &[&str]) -> Option<Outcome> {
    let group = MemoryGroup::new(2 << 30)?;
    has_thp().then(|| {
        let program = copied(mode, &group.path().display().to_string());
        let run = program.inside(&Refusal::new().in_group(&group).calls(refused)).run().success();
        passed(&run);
        run
    })
}

#[test]
fn when_a_group_shrinks_copies_are_given_back() {
    if let Some(run) = under_pressure("pressure", &[]) {
        assert_eq!(run.stats().number("/memory/weights/freed"), READ, "{}", run.stats());
    }
}

// ---- while weights are copied ----

#[test]
fn children_forked_meanwhile_see_the_same() {
    if has_thp() {
        passed(&copied("fork", "").run().success());
    }
}

/// The program of `fixtures/forked_reading.c`, which reads a model like the fixture's; whether it could read it anew.
fn forked_reading(prepare: impl FnOnce(Program) -> Program) -> (Outcome, bool) {
    let dir = work_dir();
    let program = Fixture::new("forked_reading").linked_with_ggml().build(&dir, "forked_reading");
    // It reads it into huge pages of the page cache, where the other tests would find it.
    let own = dir.path().join("model.gguf");
    std::fs::copy(&fixture().2, &own).expect("there is room for a copy");
    std::fs::File::open(&own).and_then(|file| file.sync_all()).expect("on disk, so that the cache can let it go");
    let run = prepare(Program::engaged(program).arg(&own)).run().success();
    passed(&run);
    let is_read = !run.stdout.starts_with("kept");
    if !is_read {
        skip(Need::PageCache, "the page cache does not let go of files here: nothing was read ahead");
    }
    (run, is_read)
}

#[test]
fn children_forked_while_a_model_is_read_ahead_run_on() {
    let (run, is_read) = forked_reading(|program| program);
    let bytes = run.stats().number("/memory/prefetch/bytes");
    assert!(!is_read || bytes > size(&fixture().2), "{}", run.stats());
}

#[test]
fn children_forked_while_a_model_larger_than_memory_is_read_run_on() {
    let Some(group) = MemoryGroup::new(2 << 30) else { return };
    let inside = Refusal::new().in_group(&group);
    let (run, is_read) = forked_reading(|program| program.arg(group.path()).inside(&inside));
    println!("{}", run.stdout);
    if is_read {
        assert_eq!(run.stats().events("model_larger_than_memory"), 1, "{}", run.stats());
        assert!(run.stats().number("/memory/prefetch/released") > 0, "{}", run.stats());
    }
}

#[test]
fn two_processes_share_a_model() {
    let first = std::thread::spawn(|| says_the_same(generation()).stats().number("/memory/weights/copied/thp"));
    let second = says_the_same(generation()).stats().number("/memory/weights/copied/thp");
    let first = first.join().expect("the other process passed");
    println!("{} and {} MiB copied", first >> 20, second >> 20);
}

/// The exit status of 22 processes each that end at different moments.
#[test]
fn a_process_ends_meanwhile_as_it_would_have() {
    let (_, program, model) = fixture();
    for (how, status) in [("exit", "7"), ("unmap", "7"), ("term", "143")] {
        let script =
            r#"i=0; while [ $i -lt 22 ]; do "$0" "$1" "$2" $((i * i * 60)); printf '%s ' $?; i=$((i + 1)); done"#;
        let run = Program::preloaded("/bin/sh").knob("GATE", "off").knob("HUGEPAGES", "thp").arg("-c").arg(script);
        let run = run.arg(program).arg(how).arg(model).run().success();
        assert_eq!(run.stdout, format!("{status} ").repeat(22), "{how}: {run}");
    }
}

#[test]
fn llama_cpp_is_ended_by_a_signal_as_it_would_have_been() {
    // In the middle of loading, of the first tokens, of the copying.
    let script = r#"for ms in 05 10 20 30 40 60; do "$0" "$@" >/dev/null 2>&1 & sleep 0.$ms; kill -TERM $!; wait $!; echo $?; done"#;
    let run = Program::preloaded("/bin/sh").knob("GATE", "off").knob("HUGEPAGES", "thp").arg("-c").arg(script);
    let run = run.arg(llama("llama-completion"));
    let run = run.arg("-m").arg(gemma()).args("-no-cnv -c 256 -t 1 -n 100000 --ignore-eos -p Berlin").run().success();
    assert_eq!(run.stdout, "143\n".repeat(6), "{run}");
}
