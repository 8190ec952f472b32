//! `zen5turbo run`, and what else the command prints.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use zen5turbo_tests::{Fixture, MILAN, Outcome, Program, Stats, ZEN5, command, fake_ggml, shim, work_dir};

/// `zen5turbo run OPTIONS -- PROGRAM`, with the gate open.
fn run(options: &str, program: impl AsRef<Path>) -> Program {
    run_gated("off", options, program)
}

fn run_gated(gate: &str, options: &str, program: impl AsRef<Path>) -> Program {
    Program::new(command())
        .arg("run")
        .arg("--lib")
        .arg(shim())
        .args("--gate")
        .arg(gate)
        .args(options)
        .arg("--")
        .arg(program.as_ref())
}

fn shell(options: &str, script: &str) -> Program {
    run(options, "sh").arg("-c").arg(script)
}

/// The two ways: becoming the program, and waiting for it.
const WAYS: [&str; 2] = ["", "--report"];

#[test]
fn exit_status_and_output_are_the_programs() {
    for way in WAYS {
        let outcome = shell(way, "echo out; echo err >&2; exit 7").run().exit(7);
        assert_eq!(outcome.stdout, "out\n", "{outcome}");
        assert!(outcome.stderr.contains("err\n"), "{outcome}");
    }
}

#[test]
fn a_program_that_a_signal_ends_ends_the_command_alike() {
    for way in WAYS {
        for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV] {
            let outcome = shell(way, &format!("kill -{signal} $$")).run();
            assert!(outcome.to_string().contains(&format!("killed by signal {signal}")), "{way} {outcome}");
        }
    }
}

/// Started with `--report`, and told that it is ready by its first line.
fn ready(script: &str) -> (Child, String) {
    let mut command = Command::new(command());
    command.args(["run", "--report", "--gate", "off", "--lib"]).arg(shim()).args(["--", "sh", "-c", script]);
    // SAFETY: system calls only. Under nohup, and in the background of a script, signals are ignored, which a child
    // inherits and a shell cannot trap.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        })
    };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the command can be started");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a pipe can be read");
    (child, line)
}

fn kill(child: &Child, signal: i32) {
    // SAFETY: a child that is not waited for yet.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
}

#[test]
fn signals_reach_the_program() {
    for (signal, name) in
        [(libc::SIGTERM, "TERM"), (libc::SIGINT, "INT"), (libc::SIGUSR1, "USR1"), (libc::SIGHUP, "HUP")]
    {
        let (mut child, _) = ready(&format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.02; done"));
        kill(&child, signal);
        assert_eq!(child.wait().expect("a child").code(), Some(9), "{name}");
    }
    let (mut child, _) = ready("echo ready; while :; do sleep 0.02; done");
    kill(&child, libc::SIGTERM);
    assert_eq!(child.wait().expect("a child").signal(), Some(libc::SIGTERM));
}

#[test]
fn a_command_that_is_killed_leaves_no_program_behind() {
    let (mut child, line) = ready("echo $$; while :; do sleep 0.02; done");
    let program = Path::new("/proc").join(line.trim());
    assert!(program.exists());
    kill(&child, libc::SIGKILL);
    let _ = child.wait();
    let deadline = Instant::now() + Duration::from_secs(60);
    let gone = || std::fs::read_to_string(program.join("stat")).is_ok_and(|s| s.contains(") Z ")) || !program.exists();
    while !gone() {
        assert!(Instant::now() < deadline, "{} is still there", program.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_knob_reaches_the_program() {
    let options = "--kernels avx2 --repack keep --prefetch pages --hugepages thp --malloc auto --memcpy 1048576 \
                   --numa local --pin cores --log info --stats /dev/null --live off --tune off";
    let outcome = run(options, "env").run().success();
    for expected in [
        "GATE=off",
        "KERNELS=avx2",
        "REPACK=keep",
        "PREFETCH=pages",
        "HUGEPAGES=thp",
        "MALLOC=auto",
        "MEMCPY=1048576",
        "NUMA=local",
        "PIN=cores",
        "LOG=info",
        "STATS=/dev/null",
        "LIVE=off",
        "TUNE=off",
    ] {
        assert!(outcome.stdout.lines().any(|line| line == format!("ZEN5TURBO_{expected}")), "{expected} in {outcome}");
    }
    assert!(outcome.stdout.contains(&format!("LD_PRELOAD={}", shim().display())), "{outcome}");
    let bad = run("--pin 0,0", "true").run().exit(2);
    assert!(bad.stderr.contains("a list of different CPUs"), "{bad}");
}

#[test]
fn a_program_that_cannot_be_started_has_the_status_of_a_shell() {
    for way in WAYS {
        let outcome = run(way, "/no/such/program").run().exit(127);
        assert!(outcome.only_line().contains("was not found"), "{outcome}");
        let outcome = run(way, "/etc/passwd").run().exit(126);
        assert!(outcome.stderr.contains("cannot start /etc/passwd"), "{outcome}");
    }
}

/// The refusal says found, expected and what to do, and nothing has run.
fn refused(outcome: Outcome, reason: &str) {
    let outcome = outcome.exit(78);
    assert_eq!(outcome.stdout, "", "{outcome}");
    for part in ["was not started", "found:", "expected:", "do:", "--anyway", reason] {
        assert!(outcome.stderr.contains(part), "{part} in {outcome}");
    }
}

#[test]
fn a_program_that_cannot_be_reached_is_refused_and_started_anyway_when_asked() {
    let dir = work_dir();
    let parts = Fixture::new("fake_program").and("fake_ggml_base").and("fake_ggml_cpu").and("fake_ggml_extra");
    let program = parts.ggml_headers().options("-static").build(&dir, "program");
    for way in WAYS {
        refused(run(way, &program).run(), "statically linked");
        let outcome = run(&format!("{way} --anyway"), &program).run().success();
        assert!(outcome.stdout.starts_with("extra calls 2, computed 2"), "{outcome}");
        assert!(outcome.stderr.contains("is started all the same"), "{outcome}");
    }
    let (_dir, program) = fake_ggml("OTHER_SIZE", "");
    refused(run("", program).run(), "ggml_tensor_overhead() is 352");
}

#[test]
fn a_cpu_that_the_gate_refuses_is_refused_before_the_program_starts() {
    let strict = |cpu: &str, options: &str| {
        Program::new(command()).arg("run").arg("--lib").arg(shim()).args(options).on(cpu).run()
    };
    refused(strict(MILAN, "-- echo started"), "not an AMD Zen 5");
    assert_eq!(strict(MILAN, "--anyway -- echo started").success().stdout, "started\n");
    assert_eq!(strict(ZEN5, "-- echo started").success().stdout, "started\n");
}

#[test]
fn what_was_switched_off_on_purpose_is_said_and_runs() {
    let (_dir, program) = fake_ggml("", "");
    let outcome = run("", &program).var("ZEN5TURBO", "0").run().success();
    assert!(outcome.only_line().contains("ZEN5TURBO=0"), "{outcome}");
    let outcome = run("--kernels off", &program).run().success();
    assert!(outcome.stdout.starts_with("extra calls 2, computed 2"), "{outcome}");
    assert!(outcome.stderr.contains("takes nothing over"), "{outcome}");
    for cpu in [ZEN5, MILAN] {
        let outcome = run_gated("passthrough", "", &program).on(cpu).run().success();
        assert!(outcome.stdout.starts_with("extra calls 2, computed 2"), "{outcome}");
        assert!(outcome.stderr.contains("ZEN5TURBO_GATE=passthrough is set: the shim takes nothing over"), "{outcome}");
    }
}

#[test]
fn a_missing_library_is_named_with_the_places_that_were_searched() {
    let outcome = Program::new(command()).args("run --gate off --lib /nowhere.so -- true").run().exit(78);
    assert!(outcome.only_line().contains("--lib names /nowhere.so"), "{outcome}");
}

#[test]
fn the_report_tells_what_engaged_and_the_statistics_go_where_they_were_asked_for() {
    let (dir, program) = fake_ggml("", "");
    let file = dir.path().join("%p.json");
    let outcome = Program::new(command())
        .arg("run")
        .arg("--lib")
        .arg(shim())
        .args("--gate off --report --stats")
        .arg(&file)
        .arg("--")
        .arg(&program)
        .run()
        .success();
    assert_eq!(outcome.stdout, "extra calls 0, computed 0, result 32 64 96\n", "{outcome}");
    for part in [
        "zen5turbo report: exit status 0 after",
        "active: gate off",
        "libggml-cpu.so: bound",
        "MUL_MAT",
        "q8_0",
        "huge pages",
        "GB/s with 1 thread",
        "measured just now, after the program",
    ] {
        assert!(outcome.stderr.contains(part), "{part} in {outcome}");
    }
    let files: Vec<_> = std::fs::read_dir(dir.path())
        .expect("the folder can be read")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let stats = Stats::parse(&std::fs::read_to_string(&files[0]).expect("a file"));
    assert_eq!(stats.taken("MUL_MAT", Some("q8_0")), 2);
}

#[test]
fn a_report_on_a_program_without_ggml_says_so() {
    let outcome = run("--report", "true").run().success();
    assert!(outcome.stderr.contains("no statistics: the program did not use ggml"), "{outcome}");
}

#[test]
fn man_pages_and_completions_come_from_the_definitions() {
    let page = Program::new(command()).arg("man").run().success();
    assert!(page.stdout.contains(".TH zen5turbo 1") && page.stdout.contains("doctor"), "{page}");
    let dir = work_dir();
    let _ = Program::new(command()).args("man --out").arg(dir.path()).run().success();
    let run_page = std::fs::read_to_string(dir.path().join("zen5turbo-run.1")).expect("a page for run");
    assert!(run_page.contains("hugepages") && run_page.contains("Exit status"), "{run_page}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Program::new(command()).args("completions").arg(shell).run().success();
        assert!(script.stdout.contains("hugepages") && script.stdout.contains("doctor"), "{script}");
        if shell == "bash" {
            let file = dir.path().join("completions");
            std::fs::write(&file, &script.stdout).expect("a new file");
            let _ = Program::new("bash").arg("-n").arg(&file).run().success();
        }
    }
    let bad = Program::new(command()).args("completions cmd").run().exit(2);
    assert!(bad.stderr.contains("possible values: bash"), "{bad}");
}
