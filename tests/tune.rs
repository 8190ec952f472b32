//! `zen5turbo tune`, and the file that it writes in a real llama.cpp.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zen5turbo_tests::{
    Fixture, Need, Outcome, Program, command, dl_backend_avx2, fake_ggml, has_avx512, llama, root, shim, skip,
    synthetic_q4_k, tiers, work_dir,
};

/// The best tier, without a choice of its width, which would have to be measured.
fn best() -> &'static str {
    match tiers().remove(0).name {
        "avx512vnni" => "avx512",
        other => other,
    }
}

/// `zen5turbo tune`, its file in `dir`.
fn tune(dir: &TempDir) -> Program {
    tune_into(&file(dir))
}

fn tune_into(file: &Path) -> Program {
    Program::new(command()).arg("tune").arg("--lib").arg(shim()).arg("--out").arg(file)
}

/// The same over the stock build, one type.
fn tune_q4_k(dir: &TempDir) -> Program {
    tune(dir).arg("--bin").arg(bin()).args("--types q4_K --kernels").arg(best())
}

fn bin() -> PathBuf {
    llama("llama-bench").with_file_name("")
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("tune.txt")
}

fn text(dir: &TempDir) -> String {
    std::fs::read_to_string(file(dir)).expect("the file was written")
}

/// A tune of one type, made once for the tests that read its file, or put it changed into a file of their own.
fn tuned() -> &'static (TempDir, Outcome) {
    static TUNED: OnceLock<(TempDir, Outcome)> = OnceLock::new();
    TUNED.get_or_init(|| {
        let dir = work_dir();
        let run = tune_q4_k(&dir).run().success();
        (dir, run)
    })
}

/// Generates a token and reads a prompt with Q4_K weights, with the file in `dir`.
fn bench(dir: &TempDir) -> Outcome {
    let program = Program::engaged(llama("llama-bench")).var("ZEN5TURBO_TUNE", file(dir));
    program
        .knob("KERNELS", best())
        .arg("-m")
        .arg(synthetic_q4_k())
        .args("-p 32 -n 2 -t 2 -r 1 --no-warmup")
        .run()
        .success()
}

/// Fails the test unless it ended with status 1 and one line that holds every part.
fn refused(run: Outcome, parts: &[&str]) {
    let run = run.exit(1);
    let line = run.only_line();
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[test]
fn a_written_file_is_used_by_the_shim_in_llama_cpp() {
    let (dir, run) = tuned();
    assert!(run.stdout.contains("q4_K") && run.stdout.contains("choices"), "{run}");
    let written = text(dir);
    let lines: Vec<_> = written.lines().filter(|line| line.starts_with("q4_K ")).collect();
    assert!(
        !lines.is_empty() && lines.iter().all(|line| line.split(' ').count() == 6 && !line.ends_with(" -")),
        "{written}"
    );
    assert!(written.starts_with("zen5turbo-tune 4\n") && written.contains("\nggml 0."), "{written}");

    let used = bench(dir);
    assert_eq!(used.stats().text("/tuning/status"), "used", "{}", used.stats());
    assert_eq!(used.stats().text("/tuning/file"), file(dir).to_str().expect("text"));
    used.stats().assert_healthy();

    let shown = tune(dir).args("--show --kernels").arg(best()).arg("--bin").arg(bin()).run().success();
    assert!(shown.stdout.contains("yes, this CPU and kernel tier, and this build of ggml"), "{shown}");
}

#[test]
fn a_type_of_which_the_file_says_stock_is_left_to_ggml() {
    let dir = work_dir();
    let head: String =
        text(&tuned().0).lines().filter(|line| !line.starts_with("q4_K")).map(|l| format!("{l}\n")).collect();
    std::fs::write(file(&dir), format!("{head}q4_K 1 stock 200 100 -\n")).expect("the file is written");
    let run = bench(&dir);
    let stats = run.stats();
    assert_eq!(stats.text("/tuning/status"), "used", "{stats}");
    assert!(stats.declined("MUL_MAT", Some("q4_K"))["stock_is_faster"] > 0, "{stats}");
    assert!(stats.taken("MUL_MAT", Some("q4_K")) > 0, "the prompt is read here\n{stats}");
    stats.assert_healthy();
}

/// With this line a graph of one column gets one thread, and a prompt as many as the program asks for.
#[test]
fn a_graph_of_one_column_gets_as_many_threads_as_the_file_says() {
    let dir = work_dir();
    let head: String =
        text(&tuned().0).lines().filter(|line| !line.starts_with("threads")).map(|l| format!("{l}\n")).collect();
    std::fs::write(file(&dir), head.replacen("\nmade ", "\nthreads 1\nmade ", 1)).expect("the file is written");
    let shown = tune(&dir).args("--show --kernels").arg(best()).run().success();
    assert!(shown.stdout.contains("threads      at most 1 thread for one column\n"), "{shown}");

    // A fixed number: also beside other load, and on a machine with one CPU.
    let bench = |tests: &str, threads: &str| {
        let program = Program::engaged(llama("llama-bench")).var("ZEN5TURBO_TUNE", file(&dir)).knob("THREADS", threads);
        let program = program.knob("KERNELS", best()).arg("-m").arg(synthetic_q4_k());
        program.args(tests).args("-t 2 -r 1 --no-warmup").run().success()
    };
    let threads = |run: &Outcome| ["asked", "used", "capped"].map(|key| run.stats().number(&format!("/threads/{key}")));
    let both = bench("-p 32 -n 3", "2");
    assert_eq!(both.stats().text("/tuning/status"), "used", "{}", both.stats());
    assert_eq!(both.stats().number("/tuning/threads"), 1, "{}", both.stats());
    assert_eq!(threads(&both), [2, 1, 3], "the three graphs of one column\n{}", both.stats());
    both.stats().assert_healthy();
    let prompt = bench("-p 32 -n 0", "2");
    assert_eq!(threads(&prompt), [2, 2, 0], "{}", prompt.stats());
    let off = bench("-p 0 -n 3", "off");
    assert_eq!(threads(&off), [2, 2, 0], "{}", off.stats());
}

/// Which side of the limit it lies on is known where the measurement is clear; that it was made is always seen.
#[test]
fn the_gain_of_copies_is_measured_and_read_from_the_file() {
    let dir = work_dir();
    let run = tune_q4_k(&dir).arg("--threads").arg("1").run().success();
    let written = text(&dir);
    let measured = written.lines().any(|line| line.starts_with("copies "));
    let why_not = ["no line is written", "was not measured: "].into_iter().find(|why| run.stdout.contains(why));
    assert_eq!(measured, why_not.is_none(), "{run}\n{written}");
    let table = run.stdout.contains("copies on huge pages") && run.stdout.contains("on transparent huge pages, over");
    assert!(table || why_not == Some("was not measured: "), "{run}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "the file for weights is gone");

    let head: String = written.lines().filter(|line| !line.starts_with("copies")).map(|l| format!("{l}\n")).collect();
    for (line, hundredths) in [("copies 1.34\n", Some(134)), ("copies 0.98\n", Some(98)), ("", None)] {
        std::fs::write(file(&dir), head.replacen("\nmade ", &format!("\n{line}made "), 1))
            .expect("the file is written");
        let run = bench(&dir);
        assert_eq!(run.stats().text("/tuning/status"), "used", "{}", run.stats());
        match hundredths {
            Some(n) => {
                assert_eq!(run.stats().number("/tuning/copies_hundredths"), n);
                let pays = format!("\"copies_pay\": {}", n >= 105);
                assert!(run.stats().to_string().contains(&pays), "{pays}\n{}", run.stats());
            }
            None => assert!(!run.stats().to_string().contains("copies_hundredths"), "{}", run.stats()),
        }
    }
}

/// A short tune into `dir` as root of a namespace of mounts, by a script that is given the folder twice and then the command;
/// `None`, and a skipped test, where `mount` cannot be done with the folder.
fn tune_in_namespace(dir: &TempDir, mount: &str, script: &str) -> Option<Program> {
    let may = Command::new("unshare").args(["-rm", "sh", "-c", mount, "sh"]).arg(dir.path()).status();
    if !may.is_ok_and(|status| status.success()) {
        skip(Need::Mount, "no file system can be mounted here");
        return None;
    }
    let program = Program::new("/usr/bin/unshare").args("-rm sh -c").arg(script).arg(dir.path()).arg(dir.path());
    let program = program.arg(command()).args("tune --types q4_K --threads 1 --lib").arg(shim());
    Some(program.arg("--bin").arg(bin()).arg("--out").arg(file(dir)))
}

/// Where every folder for temporary files is memory, nothing is measured, and why is said.
#[test]
#[ignore = "nightly"]
fn a_folder_in_memory_has_no_page_cache_to_measure() {
    let dir = work_dir();
    let mount = "for at in \"$1\" /var/tmp; do mount -t tmpfs none \"$at\" || exit; done";
    let script = format!("{mount}; cd /; shift; \"$@\" && cat \"$0/tune.txt\"");
    let Some(tune) = tune_in_namespace(&dir, mount, &script) else { return };
    let run = tune.var("TMPDIR", dir.path()).run().success();
    assert!(run.stdout.contains("was not measured: no folder can hold a file like a model"), "{run}");
    assert!(run.stdout.contains("zen5turbo-tune 4\n") && !run.stdout.contains("\ncopies "), "{run}");
}

/// Other builds of the same version have other kernels of their own.
#[test]
#[ignore = "nightly"]
fn a_file_of_another_build_is_not_used_and_is_kept() {
    let dir = work_dir();
    let _ = tune(&dir).arg("--ggml").arg(dl_backend_avx2()).args("--types q8_0 --kernels avx2").run().success();
    let other = text(&dir);
    let run = bench(&dir);
    let expected = if tiers().remove(0).name == "avx2" { "tune_other_ggml" } else { "tune_other_tier" };
    assert_eq!(run.stats().text("/tuning/status"), expected, "{}", run.stats());
    let shown = tune(&dir).args("--show --kernels avx2").arg("--bin").arg(bin()).run();
    assert!(shown.stdout.contains("no: it was made for the ggml"), "{shown}");
    let _ = shown.exit(1);

    let _ = tune_q4_k(&dir).run().success();
    let both = text(&dir);
    assert!(both.starts_with(other.trim_end()) && both.matches("\ncpu ").count() == 2, "{both}");
    assert_eq!(bench(&dir).stats().text("/tuning/status"), "used");
}

/// Noise alone decides nothing.
#[test]
#[ignore = "nightly"]
fn our_kernels_against_themselves_make_no_choice() {
    let dir = work_dir();
    let run = tune_q4_k(&dir).arg("--self-check").run().success();
    assert!(run.stdout.contains("themselves: 0 choices (0 ours, 0 stock) of 6 measured"), "{run}");
    assert!(!file(&dir).exists());
}

#[test]
fn what_cannot_be_measured_is_one_line() {
    let dir = work_dir();
    refused(tune(&dir).arg("--bin").arg(dir.path()).run(), &["found no llama-bench", "expected", "--bin DIR"]);
    refused(tune(&dir).arg("--bin").arg("/bin/true").run(), &["found", "expected", "do:"]);
    refused(tune(&dir).arg("--ggml").arg("/nowhere.so").run(), &["/nowhere.so"]);
    let (_symbolic, program) = fake_ggml("", "-Wl,-Bsymbolic");
    let symbolic = program.with_file_name("libggml-cpu.so");
    refused(tune(&dir).arg("--ggml").arg(&symbolic).run(), &["-Bsymbolic", "expected", "rebuild"]);
    let (_fake, program) = fake_ggml("", "");
    refused(tune(&dir).arg("--ggml").arg(program.with_file_name("libggml-cpu.so")).run(), &["libggml-cpu.so", "found"]);
    refused(tune(&dir).arg("--bin").arg(bin()).args("--kernels off").run(), &["kernels off", "expected another"]);
    let none = tune(&dir).arg("--show").run();
    refused(none, &["there is no", "make one with"]);
    assert!(!file(&dir).exists());
}

#[test]
fn a_file_that_cannot_be_kept_or_written_is_one_line_and_untouched() {
    let dir = work_dir();
    std::fs::write(file(&dir), "a shopping list\n").expect("the file is written");
    refused(tune_q4_k(&dir).run(), &["line 1: found `a shopping list`", "would be lost"]);
    refused(tune(&dir).arg("--show").run(), &["line 1: found `a shopping list`"]);
    assert_eq!(text(&dir), "a shopping list\n");
    for place in ["/proc/nowhere/tune.txt", "/dev/full"] {
        refused(tune_into(Path::new(place)).arg("--bin").arg(bin()).run(), &[place, "expected"]);
    }
}

/// A full disk: the file system of a namespace of its own, with room for one page.
#[test]
#[ignore = "nightly"]
fn a_full_disk_leaves_the_file_as_it_was() {
    let dir = work_dir();
    let mount = "mount -t tmpfs -o size=4k,nr_inodes=20 none \"$1\"";
    let script = format!(
        "{mount} && cd / && printf 'zen5turbo-tune 2\\ncpu A\\nggml 1\\ntier avx2\\n' > \"$1/tune.txt\" && shift && \"$@\"; \
         echo \"status $?\"; cat \"$0/tune.txt\"; ls -a \"$0\""
    );
    let Some(tune) = tune_in_namespace(&dir, mount, &script) else { return };
    let run = tune.run().success();
    assert!(run.stdout.contains("status 1\nzen5turbo-tune 2\ncpu A\nggml 1\ntier avx2\n"), "{run}");
    assert!(!run.stdout.contains(".tune-"), "{run}");
    assert!(run.stderr.contains("cannot write") && run.stderr.contains("is untouched"), "{run}");
}

/// The workers of a running tune.
fn children(of: &Child) -> Vec<PathBuf> {
    let list = format!("/proc/{0}/task/{0}/children", of.id());
    let list = std::fs::read_to_string(list).unwrap_or_default();
    list.split_whitespace().map(|pid| Path::new("/proc").join(pid)).collect()
}

fn is_gone(process: &Path) -> bool {
    std::fs::read_to_string(process.join("stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_signal_leaves_no_worker_and_no_file() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let dir = work_dir();
        std::fs::write(file(&dir), "zen5turbo-tune 2\ncpu A\nggml 1\ntier avx2\n").expect("the file is written");
        let before = text(&dir);
        let mut child = Command::new(command())
            .args(["tune", "--lib"])
            .arg(shim())
            .arg("--bin")
            .arg(bin())
            .arg("--out")
            .arg(file(&dir))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir(root())
            .spawn()
            .expect("the command can be started");
        until("two workers", || children(&child).len() == 2);
        let workers = children(&child);
        // SAFETY: a child that is not waited for yet.
        assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
        let status = child.wait().expect("a child");
        if signal == libc::SIGKILL {
            assert_eq!(status.signal(), Some(signal));
        } else {
            assert_eq!(status.code(), Some(130));
        }
        until("the workers are gone", || workers.iter().all(|worker| is_gone(worker)));
        assert_eq!(text(&dir), before);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "no draft is left");
    }
}

/// The width of registers in the file is what `auto` uses on that CPU.
#[test]
fn the_measured_width_is_used() {
    if !has_avx512() {
        return;
    }
    let dir = work_dir();
    let program = Fixture::new("one_product").linked_with_ggml().build(&dir, "one_product");
    let head = text(&tuned().0);
    for (width, isa) in [("512", "avx512vnni"), ("256", "avx512vnni-256")] {
        let tier = format!("\ntier {isa}\nwidth {width}\n");
        std::fs::write(file(&dir), head.replacen("\ntier avx512vnni\n", &tier, 1)).expect("the file is written");
        let run = Program::engaged(&program).var("ZEN5TURBO_TUNE", file(&dir)).run().success();
        assert_eq!(run.stats().text("/isa"), isa);
        assert_eq!(run.stats().text("/tuning/status"), "used");
        let fixed =
            Program::engaged(&program).var("ZEN5TURBO_TUNE", file(&dir)).knob("KERNELS", "avx512").run().success();
        assert_eq!(fixed.stats().text("/isa"), "avx512vnni", "what the user asks for goes before");
    }
}
