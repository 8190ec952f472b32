//! What somebody else wrote: environment variables, files of the kernel, model files, the place of the statistics.
//! The program goes on and answers the same; what is wrong is one clear line, or counted by name.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use zen5turbo_config::KNOBS;
use zen5turbo_tests::{
    FakeRoot, Fixture, Outcome, Program, Refusal, command, copied_fixture, gemma, guest_model, has_thp, is_root, llama,
    plain, shim, work_dir,
};

/// Every variable but the gate, whose default ends the program here, and that of BLAS (`blas.rs`); and those of the user's
/// folders.
fn variables() -> impl Iterator<Item = &'static str> {
    let settings = KNOBS.iter().map(|knob| knob.name);
    settings.filter(|name| !["ZEN5TURBO_GATE", "ZEN5TURBO_BLAS"].contains(name)).chain(["XDG_CACHE_HOME", "HOME"])
}

/// As long as the kernel lets a variable be, 128 KiB with its name, with some room.
const LONGEST: usize = (128 << 10) - 100;

fn one_product() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, program) = BUILT.get_or_init(|| {
        let dir = work_dir();
        let program = Fixture::new("one_product").linked_with_ggml().build(&dir, "one_product");
        (dir, program)
    });
    program
}

/// The product is right, and each line on stderr is a clear one of the shim; returns them.
fn computed(run: &Outcome) -> Vec<&str> {
    assert_eq!(run.stdout, "computed\n", "{run}");
    let lines = run.shim_lines();
    assert_eq!(lines.len(), run.stderr.lines().count(), "{run}");
    assert!(lines.iter().all(|line| line.len() < 2100 && !line.contains(char::is_control)), "{run}");
    lines
}

#[test]
fn any_bytes_in_a_variable_are_at_most_one_line() {
    let long = vec![b'9'; LONGEST];
    let values: [&[u8]; 8] = [
        b"\xff\xfe\x80",
        b"-1",
        b"18446744073709551616",
        b" ",
        b"%n%s%p\x1b[2J\n/\t..",
        b"0-99999999999999999999",
        b"cache:-0",
        &long,
    ];
    for value in values {
        let dir = work_dir();
        for name in variables() {
            // A path in our folder, or what would be one in the folder where this runs.
            let place = dir.path().join(OsStr::from_bytes(value));
            let value = if name == "ZEN5TURBO_STATS" { place.as_os_str() } else { OsStr::from_bytes(value) };
            let run = Program::engaged(one_product()).var(name, value).run().success();
            let lines = computed(&run);
            assert!(lines.len() <= 1, "{name}\n{run}");
            let says = ["is not allowed: it must be", "cannot be written: ", "cannot be read: "];
            assert!(
                lines.iter().all(|line| line.contains(name) && says.iter().any(|s| line.contains(s))),
                "{name}\n{run}"
            );
            assert!(!lines.is_empty() || name.contains("HOME") || name == "ZEN5TURBO_STATS", "{name} is silent\n{run}");
        }
        let unknown = [b"ZEN5TURBO_".as_slice(), &value[..value.len().min(40)]].concat();
        if !unknown.contains(&b'=') {
            let run = Program::engaged(one_product()).var_os(OsStr::from_bytes(&unknown), "x").run().success();
            assert!(computed(&run)[0].contains("is not a variable of zen5turbo"), "{run}");
        }
    }
}

#[test]
fn a_calibration_file_that_is_none_is_one_line() {
    let dir = work_dir();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    for file in [pipe.as_path(), Path::new("/dev/zero"), Path::new("/proc/self/mem"), dir.path(), one_product()] {
        let run = Program::engaged(one_product()).var("ZEN5TURBO_TUNE", file).run().success();
        assert_eq!(computed(&run).len(), 1, "{run}");
        let counted = run.stats().events("tune_unreadable") + run.stats().events("tune_bad_file");
        assert_eq!(counted, 1, "{}", run.stats());
    }
}

/// What the shim and `doctor` read of the kernel.
const FILES: [&str; 13] = [
    "/proc/self/maps",
    "/proc/self/status",
    "/proc/self/cgroup",
    "/proc/self/stat",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/sys/vm/max_map_count",
    "/proc/sys/vm/overcommit_memory",
    "/proc/pressure/memory",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/defrag",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/node/online",
];

/// Every file with this text, or with one that has its own form and absurd numbers.
fn everywhere(text: &[u8]) -> Option<FakeRoot> {
    FILES.iter().try_fold(FakeRoot::new()?, |root, path| Some(root.file(path, text)))
}

fn fake_roots() -> Option<Vec<(&'static str, FakeRoot)>> {
    let garbage: Vec<u8> = (0..20_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let folders = ["/sys/devices/system/node", "/sys/devices/system/cpu", "/sys/fs/cgroup", "/sys/kernel/mm"];
    let none = FILES[..9].iter().try_fold(FakeRoot::new()?, |root, path| Some(root.file(path, "")))?;
    let none = folders.iter().fold(none, |root, path| root.empty_folder(path));
    let most = "18446744073709551615";
    let absurd = FakeRoot::new()?
        .file("/proc/meminfo", format!("MemTotal: {most} kB\nMemAvailable: {most} kB\n"))
        .file("/proc/self/cgroup", "0::/../../../../dev\n1:memory:/\n0::/\n")
        .file("/proc/self/status", "Mems_allowed_list:\t0-1023,4294967295\nCpus_allowed_list:\t0-1023\nNSpid:\t0 0\n")
        .file("/proc/self/maps", "ffffffffffffffff-0 r-xp ffffffffffffffff 00:00 0 /libggml-cpu.so\n0-1 r-xp 0 0 0 /\n")
        .file("/proc/sys/vm/max_map_count", format!("{most}\n"))
        .file("/proc/pressure/memory", "some avg10=NaN avg60=inf\nsome avg10=-1e308\n")
        .file("/sys/devices/system/cpu/online", "0-1023\n")
        .file("/sys/devices/system/node/online", "0-63\n")
        .file("/sys/devices/system/node/has_memory", "0-63,1023\n")
        .file("/sys/devices/system/cpu/cpu0/cache/index0/size", format!("{most}G\n"))
        .file("/sys/devices/system/cpu/cpu0/cache/index2/size", "1K\n")
        .file("/sys/kernel/mm/transparent_hugepage/enabled", "[always] [madvise] [never]\n");
    Some(vec![("empty", everywhere(b"")?), ("garbage", everywhere(&garbage)?), ("none", none), ("absurd", absurd)])
}

/// A short generation with Gemma, greedy, on two threads.
fn generation(program: Program) -> Program {
    let program = program.arg("-m").arg(gemma());
    program.args("-no-cnv --no-warmup --temp 0 --seed 1 -c 256 -b 64 -ub 64 -t 2 -tb 2 -n 8 -p Berlin")
}

#[test]
fn a_kernel_that_tells_nothing_or_nonsense_changes_no_answer() {
    let Some(roots) = fake_roots() else { return };
    let free = generation(Program::engaged(llama("llama-completion"))).run().success();
    assert!(free.stdout.contains("Berlin"), "{free}");
    for (what, root) in &roots {
        for numa in if *what == "absurd" { vec!["auto", "shard"] } else { vec!["auto"] } {
            let program = generation(Program::engaged(llama("llama-completion"))).knob("NUMA", numa);
            let run = root.around(program).run().success();
            assert_eq!(run.stdout, free.stdout, "{what}, {numa}\n{run}");
            assert_eq!(run.shim_lines(), [""; 0], "{what}, {numa}\n{run}");
            assert_eq!(run.stats().taken("MUL_MAT", None), free.stats().taken("MUL_MAT", None), "{what}, {numa}");
            run.stats().assert_healthy();
        }
    }
}

#[test]
fn doctor_reports_on_a_kernel_that_tells_nothing_or_nonsense() {
    let Some(roots) = fake_roots() else { return };
    for (what, root) in &roots {
        let doctor = root.around(Program::new(command()).args("doctor --gate off --lib").arg(shim())).run().success();
        assert!(doctor.stdout.contains("\nverdict: will engage"), "{what}\n{doctor}");
        assert_eq!(doctor.stderr, "", "{what}");
    }
}

/// A model that is not what it says: like stock, and without a word of the shim.
fn ends_like_stock(what: &str, model: &Path, code: i32) {
    let run = |program: Program| {
        let program = program.arg("-m").arg(model);
        program.args("-no-cnv --no-warmup --temp 0 --seed 1 -c 64 -b 32 -ub 32 -t 2 -n 4 -p Berlin").run().exit(code)
    };
    let stock = run(Program::new(llama("llama-completion")));
    let shim = run(Program::engaged(llama("llama-completion")));
    // llama.cpp writes its own lines from a thread that does not always come to it before the end.
    assert_eq!((shim.shim_lines().len(), shim.stdout), (0, stock.stdout), "{what}");
}

#[test]
fn truncated_sparse_and_lying_models_end_as_with_stock() {
    let dir = work_dir();
    let whole = fs::read(guest_model()).expect("the model");
    let file = dir.path().join("model.gguf");
    let write = |bytes: &[u8]| fs::write(&file, bytes).expect("the folder is writable");
    for (what, len) in [
        ("empty", 0),
        ("magic", 4),
        ("header", 24),
        ("metadata", 2000),
        ("half", whole.len() / 2),
        ("one byte less", whole.len() - 1),
    ] {
        write(&whole[..len]);
        ends_like_stock(what, &file, 1);
    }
    // GGUF, version, number of tensors, number of keys; then the first key
    for (what, at, value) in
        [("tensors", 8, u64::MAX), ("more tensors", 8, 1000), ("keys", 16, u64::MAX >> 1), ("key", 24, 1 << 40)]
    {
        let mut lie = whole.clone();
        lie[at..at + 8].copy_from_slice(&value.to_le_bytes());
        write(&lie);
        ends_like_stock(what, &file, 1);
    }
    // All weights a hole, and a hole of half a gigabyte behind them: zeros, which is a model.
    write(&whole[..whole.len() / 8]);
    let sparse = File::options().write(true).open(&file).expect("our file");
    sparse.set_len(whole.len() as u64 + (512 << 20)).expect("a file system with holes");
    drop(sparse);
    ends_like_stock("sparse", &file, 0);
}

#[test]
fn a_model_that_is_cut_while_it_is_mapped_harms_no_product_before_the_cut() {
    let dir = work_dir();
    let (program, model) = copied_fixture(&dir);
    if !has_thp() {
        return;
    }
    let run = Program::engaged(&program)
        .knob("KERNELS", "avx2")
        .knob("HUGEPAGES", "thp")
        .arg("cut")
        .arg(&model)
        .run()
        .success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""), "{run}");
    run.stats().assert_healthy();
    assert_eq!(run.stats().events("file_unreadable"), 1, "{}", run.stats());
}

#[test]
fn a_defect_before_the_decision_is_left_to_ggml_in_one_line() {
    let run = Program::engaged(one_product()).knob("TEST_PANIC", "plan").run().success();
    let lines = computed(&run);
    assert!(lines.len() == 1 && lines[0].starts_with("internal error, left to the original ggml"), "{run}");
    assert!(lines[0].contains("asked for by ZEN5TURBO_TEST_PANIC") && lines[0].contains("guard.rs"), "{run}");
    assert_eq!(run.stats().events("internal_error"), 1, "{}", run.stats());
    assert_eq!(run.stats().taken("MUL_MAT", None), 0, "{}", run.stats());
}

/// Other threads compute their parts, so nobody can take it back: no answer at all, rather than a wrong one.
#[test]
fn a_defect_after_the_decision_ends_the_program_in_one_line() {
    let dies = |program: Program, at: &str| {
        let run = program.knob("TEST_PANIC", at).run().killed_by(libc::SIGABRT);
        let lines = run.shim_lines();
        assert_eq!(lines.len(), 1, "{at}\n{run}");
        assert!(lines[0].starts_with("error: internal error in an operation that was begun"), "{run}");
        assert!(lines[0].contains("asked for by ZEN5TURBO_TEST_PANIC"), "{run}");
        run
    };
    for threads in ["1", "2"] {
        for at in ["product", "barrier"] {
            // One thread has nobody to wait for.
            if (at, threads) != ("barrier", "1") {
                let run = dies(Program::engaged(one_product()).arg(threads), at);
                assert_eq!(run.stdout, "", "{run}");
            }
        }
    }
    let run = dies(generation(Program::engaged(llama("llama-completion"))).args("-fa on"), "attention");
    assert!(!run.has_stats(), "{run}");
}

/// The library under test, and the one of cargo's own linker where that is another.
fn builds() -> Vec<PathBuf> {
    let mut both = vec![shim(), plain()];
    both.dedup();
    both
}

#[test]
fn exceptions_and_ends_of_threads_pass_through_the_hooks() {
    let dir = work_dir();
    let program = Fixture::new("unwinding.cc").linked_with_ggml().build(&dir, "unwinding");
    let stock = Program::new(&program).arg(dir.path().join("model.gguf")).run().success();
    assert_eq!(stock.stdout.lines().filter(|line| line.ends_with(": ok")).count(), 5, "{stock}");
    // Each build brings an unwinder of its own, or the system's.
    for library in builds() {
        let program = Program::engaged(&program).with_library(library);
        let run = program.arg(dir.path().join("model.gguf")).run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (stock.stdout.as_str(), ""), "{run}");
        run.stats().assert_healthy();
        assert!(run.stats().taken("MUL_MAT", Some("q4_0")) >= 5, "{}", run.stats());
    }
    for program in [Program::new(&program), Program::engaged(&program)] {
        let run = program.var("CANCEL_FIRST", "1").arg(dir.path().join("model.gguf")).run().success();
        assert_eq!(run.stdout, "a cancelled thread maps and unmaps before it ends: ok\n", "{run}");
    }
}

#[test]
fn a_host_that_closes_the_library_keeps_its_code() {
    let dir = work_dir();
    let program = Fixture::new("closed").build(&dir, "closed");
    for library in builds() {
        let run = Program::new(&program).arg(library).run().success();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(run.stdout, format!("open: {version}\nclosed: {version}\n"), "{run}");
    }
}

/// Computes with statistics to be written at `path`.
fn with_stats(path: &Path) -> Outcome {
    Program::preloaded(one_product()).knob("GATE", "off").var("ZEN5TURBO_STATS", path).run().success()
}

#[test]
fn statistics_go_neither_through_a_link_nor_into_what_cannot_hold_them() {
    let dir = work_dir();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("victim"), "keep").expect("our folder");
    symlink(at("victim"), at("link")).expect("our folder");
    assert_eq!(computed(&with_stats(&at("link"))).len(), 0);
    assert_eq!(fs::read(at("victim")).expect("a file"), b"keep");
    assert!(fs::symlink_metadata(at("link")).expect("a file").is_file());
    symlink("loop", at("loop")).expect("our folder");
    assert_eq!(computed(&with_stats(&at("loop"))).len(), 0, "a link is replaced wherever it leads");

    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo").success());
    let places =
        [at("pipe"), dir.path().to_owned(), at("victim/below"), "/proc/self/nothing".into(), "/dev/full".into()];
    for place in places {
        let run = with_stats(&place);
        let lines = computed(&run);
        assert!(lines.len() == 1 && lines[0].contains("cannot be written: "), "{}\n{run}", place.display());
    }
}

#[test]
fn statistics_that_may_not_be_written_are_one_line() {
    let dir = work_dir();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o555)).expect("our folder");
    let program = Program::preloaded(one_product()).knob("GATE", "off").var("ZEN5TURBO_STATS", dir.path().join("s"));
    let run = program.inside(&Refusal::new().unprivileged()).run().success();
    let lines = computed(&run);
    assert!(lines.len() == 1 && lines[0].contains("Permission denied"), "{run}");
}

/// The loader drops LD_PRELOAD of a set-user-ID program; it can be linked all the same, or named in
/// `/etc/ld.so.preload`. Its environment is its caller's, who must not choose which files it writes.
#[test]
fn a_program_with_more_rights_than_its_caller_is_left_alone() {
    if !is_root("only root can make such a program") {
        return;
    }
    // Where another user can go.
    let dir = tempfile::tempdir().expect("a folder");
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("our folder");
    let fixture = Fixture::new("one_product").linked_with_ggml().options("-Wl,--no-as-needed");
    let program = fixture.path_option("", &shim()).build(&dir, "one_product");
    for (mode, written) in [(0o755, true), (0o4755, false)] {
        fs::set_permissions(&program, PermissionsExt::from_mode(mode)).expect("our file");
        let stats = dir.path().join("stats.json");
        let start = Program::new(&program).knob("GATE", "off").knob("LOG", "debug").var("ZEN5TURBO_STATS", &stats);
        let run = if written {
            start.run().success()
        } else {
            let user = ["--reuid=65534", "--regid=65534", "--clear-groups"].map(Into::into).to_vec();
            start.started_by("setpriv", user).run().success()
        };
        assert_eq!(run.stdout, "computed\n", "{run}");
        assert_eq!(run.stderr.is_empty(), !written, "{run}");
        assert_eq!(stats.exists(), written, "{run}");
        let _ = fs::remove_file(stats);
    }
}
