//! `zen5turbo doctor` on programs that can and cannot be reached, and on processes that run.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use zen5turbo_tests::{
    CONTAINER, Fixture, MILAN, Need, Outcome, Program, Refusal, Waiting, ZEN5, clean_environment, command, dl_backends,
    fake_ggml, gemma, llama, llama_dl, shim, skip, work_dir,
};

/// Asks about a target, on whatever CPU this is.
fn doctor(target: impl AsRef<Path>) -> Outcome {
    Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off").arg(target.as_ref()).run()
}

/// The target is refused, and the verdict names the reason.
fn refused(target: impl AsRef<Path>, reason: &str) -> Outcome {
    let run = doctor(target).exit(1);
    let verdict = run.stdout.lines().last().unwrap_or_default();
    assert!(verdict.starts_with("verdict: will not engage: ") && verdict.contains(reason), "{reason:?} in {run}");
    assert!(run.stdout.contains("expected:") && run.stdout.contains("do:"), "{run}");
    run
}

fn json(target: impl AsRef<Path>) -> Value {
    let program = Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off --json");
    serde_json::from_str(&program.arg(target.as_ref()).run().stdout).expect("JSON")
}

fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let sections = report["sections"].as_array().expect("sections");
    let mut checks = sections.iter().flat_map(|section| section["checks"].as_array().expect("checks"));
    checks.find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id} in {report:#}"))
}

/// Otherwise the other tests would prove nothing.
#[test]
fn a_shared_ggml_with_the_known_structures_will_be_engaged_in() {
    let (_dir, program) = fake_ggml("", "");
    let run = doctor(program).success();
    assert!(run.stdout.ends_with("verdict: will engage\n"), "{run}");
    assert!(run.stdout.contains("structures as known"), "{run}");
    assert_eq!(run.stderr, "");
}

#[test]
fn a_static_program_is_refused() {
    let dir = work_dir();
    let parts = Fixture::new("fake_program").and("fake_ggml_base").and("fake_ggml_cpu").and("fake_ggml_extra");
    let program = parts.ggml_headers().options("-static").build(&dir, "program");
    let _ = refused(program, "statically linked program");
}

#[test]
fn symbols_that_are_bound_inside_the_library_are_refused() {
    let (_dir, program) = fake_ggml("", "-Wl,-Bsymbolic");
    let _ = refused(program, "-Bsymbolic: it looks for ggml_cpu_extra_compute_forward in itself");
    let (_dir, program) = fake_ggml("", "-Wl,-Bsymbolic-functions");
    let _ = refused(program, "called directly");
    let script = work_dir();
    let names = script.path().join("names");
    std::fs::write(&names, "{ global: ggml_graph_compute; ggml_barrier; fake_*; local: *; };").expect("a new file");
    let (_dir, program) = fake_ggml("", &format!("-Wl,--version-script={}", names.display()));
    let _ = refused(program, "hidden visibility");
}

#[test]
fn a_program_that_gains_privileges_is_refused() {
    let (_dir, program) = fake_ggml("", "");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).expect("the file is ours");
    let _ = refused(&program, "set-user-ID");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("the file is ours");
    let _ = doctor(&program).success();
    if !set_capability(&program) {
        return skip(Need::Root, "this user may not give files capabilities (CAP_SETFCAP)");
    }
    let _ = refused(&program, "file capabilities (setcap)");
}

/// CAP_NET_BIND_SERVICE as permitted and effective, as setcap writes it: `struct vfs_cap_data` of
/// linux/capability.h, revision 2. False when it is not permitted.
fn set_capability(file: &Path) -> bool {
    let data: Vec<u8> = [0x0200_0001u32, 1 << 10, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let path = std::ffi::CString::new(file.as_os_str().as_bytes()).expect("a path");
    let name = c"security.capability";
    // SAFETY: two strings that end with zero, and as many bytes as are said.
    unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), data.as_ptr().cast(), data.len(), 0) == 0 }
}

#[test]
fn releases_that_the_shim_does_not_know_are_refused_with_the_difference() {
    for (variant, reason) in [
        ("BEFORE_HOOK", "from before December 2024, or a fork"),
        ("OTHER_SIZE", "ggml_tensor_overhead() is 352, not 368"),
        ("OTHER_OFFSETS", "data and name lie at 320 and 264, not 248 and 256"),
        ("WITHOUT_NODE", "ggml_graph_node is missing"),
    ] {
        let (_dir, program) = fake_ggml(variant, "");
        let _ = refused(program, reason);
    }
}

#[test]
fn stripped_backends_that_are_opened_at_run_time_are_found() {
    let report = json(llama_dl("llama-completion"));
    assert_eq!(report["engages"], true, "{report:#}");
    for backend in dl_backends() {
        let name = backend.file_name().expect("a file").to_string_lossy().into_owned();
        let found = check(&report, &format!("ggml:{name}"));
        assert!(found["found"].as_str().expect("text").contains("opened at run time"), "{found}");
        assert_eq!(check(&report, &format!("abi:{name}"))["status"], "ok");
    }
}

#[test]
fn a_program_that_opens_ggml_in_its_own_way_is_not_known_and_its_backend_is() {
    let (_dir, program) = late();
    let run = doctor(program).exit(1);
    let verdict = run.stdout.lines().last().unwrap_or_default();
    assert!(verdict.starts_with("verdict: not known: ") && verdict.contains("does not load ggml by itself"), "{run}");
    let backend = &dl_backends()[0];
    let _ = doctor(backend).success();
}

#[test]
fn what_is_not_a_program_is_told_what_was_found_and_what_to_do() {
    let _ = refused(shim().with_file_name("libzen5turbo.d"), "is not a program or a library");
    let run = doctor("/no/such/program").exit(1);
    assert!(run.only_line().contains("does not exist") && run.stderr.contains("expected a program"), "{run}");
    assert!(doctor("4194305").exit(1).only_line().contains("there is no process 4194305"));
}

/// Every member that a reader may rely on.
#[test]
fn the_json_has_its_schema() {
    let (_dir, program) = fake_ggml("", "-Wl,-Bsymbolic");
    let report = json(&program);
    assert_eq!((&report["schema"], &report["engages"]), (&1.into(), &false.into()));
    assert!(report["version"].is_string());
    assert!(report["reasons"][0].as_str().expect("text").contains("-Bsymbolic"), "{report:#}");
    let kinds: Vec<&str> =
        report["sections"].as_array().expect("a list").iter().map(|s| s["kind"].as_str().expect("text")).collect();
    assert_eq!(kinds, ["machine", "program"]);
    for section in report["sections"].as_array().expect("a list") {
        assert!(section["subject"].is_string());
        for check in section["checks"].as_array().expect("a list") {
            let status = check["status"].as_str().expect("text");
            assert!(check["id"].is_string() && check["found"].is_string(), "{check}");
            assert!(["ok", "limited", "unknown", "no"].contains(&status), "{check}");
            assert_eq!(status != "ok", check["remedy"].is_string() && check["expected"].is_string(), "{check}");
        }
    }
    for id in [
        "cpu.model",
        "gate",
        "cpu.features",
        "cpu.xcr0",
        "cpu.kernels",
        "cpu.width",
        "shim",
        "topology",
        "smt",
        "cpus.allowed",
        "cpus.threads",
        "memory.thp",
        "memory.thp_defrag",
        "memory.available",
        "memory.cgroup",
        "memory.memlock",
        "memory.max_map_count",
        "seccomp",
        "capabilities",
        "call:mmap",
        "cpu.governor",
        "cpu.boost",
        "kernel.numa_balancing",
        "kernel.mitigations",
    ] {
        let _ = check(&report, id);
    }
}

#[test]
fn proc_and_sys_may_be_those_of_another_machine() {
    let root = work_dir();
    let thp = root.path().join("sys/kernel/mm/transparent_hugepage");
    std::fs::create_dir_all(&thp).expect("a new folder");
    std::fs::write(thp.join("enabled"), "always madvise [never]\n").expect("a new file");
    let program = Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off --json --root");
    let report: Value = serde_json::from_str(&program.arg(root.path()).run().success().stdout).expect("JSON");
    let thp = check(&report, "memory.thp");
    assert_eq!((&thp["status"], &thp["found"]), (&"limited".into(), &"never".into()));
    assert!(thp["remedy"].as_str().expect("text").contains("echo madvise"));
}

#[test]
fn calls_that_a_container_refuses_are_told_where_they_are_needed() {
    let refusal = Refusal::new().unprivileged().calls(&CONTAINER);
    let inside = |root: &Path| {
        let program = Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off --json --root");
        let run = program.arg(root).inside(&refusal).run().success();
        serde_json::from_str::<Value>(&run.stdout).expect("JSON")
    };
    let system = work_dir();
    std::fs::set_permissions(system.path(), PermissionsExt::from_mode(0o755)).expect("the folder is ours");
    for (path, text) in
        [("cpu/online", "0-1"), ("node/online", "0-1"), ("node/node0/cpulist", "0"), ("node/node1/cpulist", "1")]
    {
        let path = system.path().join("sys/devices/system").join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a new folder");
        std::fs::write(path, text).expect("a new file");
    }
    let report = inside(system.path());
    for call in ["call:mbind", "call:move_pages", "call:get_mempolicy"] {
        let found = check(&report, call);
        assert_eq!(found["status"], "limited", "{found}");
        assert!(found["found"].as_str().expect("text").contains("EPERM"), "{found}");
    }
    assert_eq!(check(&report, "call:mmap")["status"], "ok");
    let own = inside(Path::new("/"));
    assert!(check(&own, "seccomp")["found"].as_str().expect("text").starts_with("a filter"));
    assert!(check(&own, "capabilities")["found"].as_str().expect("text").contains("CAP_SYS_NICE no"));
}

#[test]
fn calls_at_which_a_filter_kills_are_told() {
    let calls = ["sched_setaffinity", "setpriority", "memfd_create", "preadv2", "mbind", "set_mempolicy", "move_pages"];
    let rules = calls.map(|call| format!("{call}:KILL"));
    let refusal = rules.iter().fold(Refusal::new(), |refusal, rule| refusal.call(rule));
    let program = Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off --json");
    let run = program.inside(&refusal).run().success();
    let report = serde_json::from_str::<Value>(&run.stdout).expect("JSON");
    for call in calls {
        let found = check(&report, &format!("call:{call}"));
        assert_eq!(found["status"], "limited", "{found}");
        assert!(found["found"].as_str().expect("text").starts_with("killed (signal 31)"), "{found}");
    }
    assert_eq!(check(&report, "call:mmap")["status"], "ok");
    assert_eq!(report["engages"], true, "{run}");
}

#[test]
fn settings_that_are_wrong_or_switch_it_off_are_told() {
    let run = |name: &str, value: &str| {
        Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off").var(name, value).run()
    };
    let wrong = run("ZEN5TURBO_REPACK", "yes").success();
    assert!(wrong.stdout.contains("ZEN5TURBO_REPACK=yes") && wrong.stdout.contains("auto, keep or off"), "{wrong}");
    assert!(run("ZEN5TURBO", "0").exit(1).stdout.contains("the shim is switched off"));
    assert!(run("ZEN5TURBO_KERNELS", "off").exit(1).stdout.contains("nothing is taken over"));
}

#[test]
fn the_verdict_follows_from_cpu_and_gate() {
    let (_dir, program) = fake_ggml("", "");
    let run = |cpu: &str, options: &str| {
        let doctor = Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args(options);
        doctor.arg(&program).on(cpu).run()
    };
    assert!(run(ZEN5, "").success().stdout.ends_with("verdict: will engage\n"));
    assert!(run(MILAN, "").exit(1).stdout.contains("not an AMD Zen 5"));
    for cpu in [ZEN5, MILAN] {
        let run = run(cpu, "--gate passthrough").exit(1);
        assert!(run.stdout.contains("no      gate") && run.stdout.contains("ZEN5TURBO_GATE=passthrough"), "{run}");
    }
}

// ---- processes -------------------------------------------------------------------------------------

/// A program that is not linked with ggml and opens backends with RTLD_LOCAL.
fn late() -> (TempDir, PathBuf) {
    let dir = work_dir();
    let program = Fixture::new("opened_late").ggml_headers().options("-lm").build(&dir, "opened_late");
    (dir, program)
}

#[test]
fn the_hooks_of_a_process_are_followed_to_the_shim() {
    let (_dir, program) = fake_ggml("", "");
    let shim = shim();
    let vars = [("LD_PRELOAD", shim.to_str().expect("UTF-8")), ("ZEN5TURBO_GATE", "off")];
    let process = Waiting::start(&program, &[], &vars);
    let run = doctor(process.pid().to_string()).success();
    assert!(run.stdout.contains("active: libggml-cpu.so calls the shim"), "{run}");
    assert!(run.stdout.contains("setting:ZEN5TURBO_GATE"), "{run}");
    assert!(run.stdout.ends_with("verdict: has engaged\n"), "{run}");
    assert!(run.stdout.contains("live: taken over: MUL_MAT q8_0"), "{run}");
    let report = json(process.pid().to_string());
    let sections = report["sections"].as_array().expect("sections");
    assert!(sections.iter().any(|s| s["statistics"]["ops"]["MUL_MAT"]["q8_0"]["taken"] == 2), "{report:#}");
    let silent = Waiting::start(&program, &[], &[vars[0], vars[1], ("ZEN5TURBO_LIVE", "off")]);
    let run = doctor(silent.pid().to_string()).success();
    assert!(run.stdout.contains("start it with ZEN5TURBO_STATS=FILE"), "{run}");
}

/// A program that asks for four threads on one CPU.
#[test]
fn the_threads_of_a_graph_are_told_with_what_limits_them() {
    let (dir, program) = fake_ggml("", "");
    let shim = shim();
    // Where it runs now.
    // SAFETY: no preconditions.
    let cpu = unsafe { libc::sched_getcpu() }.to_string();
    let stats = dir.path().join("stats.json");
    let vars = [
        ("LD_PRELOAD", shim.to_str().expect("UTF-8")),
        ("ZEN5TURBO_GATE", "off"),
        ("ZEN5TURBO_STATS", stats.to_str().expect("UTF-8")),
        ("FAKE_ODD", "plan.n_threads:4"),
    ];
    let on_one_cpu = ["-c".into(), cpu.clone().into(), program.clone()];
    let process = Waiting::start(Path::new("taskset"), &on_one_cpu, &vars);
    let pid = process.pid().to_string();
    let words = format!("asked 4, used 1 (CPUs allowed: {cpu})");
    assert_eq!(check(&json(&pid), "process.threads")["found"], words.as_str());
    let all = Program::new(command()).args("doctor --all").run();
    let line = format!("  threads     {words}");
    assert!(part(&all.stdout, process.pid()).lines().any(|found| found == line), "{all}");
    let top = Program::new(command()).args("top --once --interval 0.05").arg(&pid).run().success();
    assert!(top.stdout.contains(&format!("threads      {words}\n")), "{top}");
    drop(process);
    let shown = Program::new(command()).arg("stats").arg(&stats).run().success();
    assert!(shown.stdout.contains(&format!("threads      {words}; 2 graphs got fewer than asked\n")), "{shown}");

    let started = Program::new("/usr/bin/taskset").args("-c").arg(&cpu).arg(command());
    let run = started.args("doctor --gate off --lib").arg(shim).run();
    let line = run.stdout.lines().find(|line| line.contains(" cpus.threads "));
    let found = format!("a graph gets at most 1 thread (CPUs allowed: {cpu})");
    assert!(line.is_some_and(|line| line.ends_with(&found)), "{run}");
}

#[test]
fn the_hooks_of_stripped_backends_opened_with_rtld_local_are_followed_too() {
    let (dir, program) = late();
    let shim = shim();
    let stats = dir.path().join("%p.json");
    let vars = [
        ("LD_PRELOAD", shim.to_str().expect("UTF-8")),
        ("ZEN5TURBO_GATE", "off"),
        ("ZEN5TURBO_STATS", stats.to_str().expect("UTF-8")),
    ];
    let process = Waiting::start(&program, &dl_backends(), &vars);
    let run = doctor(process.pid().to_string()).success();
    let hook = run.stdout.lines().find(|line| line.contains("process.hook:ggml_cpu_extra_compute_forward"));
    assert!(hook.is_some_and(|line| line.contains("active: libggml-cpu-")), "{run}");
    // The file was written when the first graph had been computed.
    assert!(dir.path().join(format!("{}.json", process.pid())).is_file(), "{run}");
    assert!(!run.stdout.contains("will be written"), "{run}");
}

#[test]
fn a_process_without_the_shim_or_switched_off_has_not_engaged() {
    let (_dir, program) = fake_ggml("", "");
    let run = doctor(Waiting::start(&program, &[], &[]).pid().to_string()).exit(1);
    assert!(run.stdout.contains("verdict: has not engaged: ") && run.stdout.contains("not loaded"), "{run}");
    assert!(run.stdout.contains("zen5turbo run -- PROGRAM ARGS"), "{run}");
    let shim = shim();
    let vars = [("LD_PRELOAD", shim.to_str().expect("UTF-8")), ("ZEN5TURBO", "0")];
    let run = doctor(Waiting::start(&program, &[], &vars).pid().to_string()).exit(1);
    assert!(run.stdout.contains("ZEN5TURBO=0: the shim is switched off"), "{run}");
}

/// llama-server with Gemma, until the value is dropped.
struct Server(Child);

impl Server {
    fn start(vars: &[(&str, &str)]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let mut command = Command::new(llama("llama-server"));
        clean_environment(&mut command);
        command.arg("-m").arg(gemma()).args(["-c", "256", "-t", "1", "-np", "1", "--port", &port.to_string()]);
        command.envs(vars.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("the program can be started"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of `doctor --all` on one process.
fn part(text: &str, pid: u32) -> String {
    let parts = text.split("process ").find(|part| part.starts_with(&format!("{pid} ")));
    parts.unwrap_or_default().split("\n\n").next().unwrap_or_default().to_owned()
}

#[test]
fn every_process_with_ggml_is_told_with_its_engagement() {
    let shim = shim();
    let preload = ("LD_PRELOAD", shim.to_str().expect("UTF-8"));
    let with = Server::start(&[preload, ("ZEN5TURBO_GATE", "off")]);
    let without = Server::start(&[]);
    let passed = Server::start(&[preload, ("ZEN5TURBO_TEST_CPU", ZEN5), ("ZEN5TURBO_GATE", "passthrough")]);
    let mut shell = Command::new("/bin/cat");
    let mut shell = shell.env(preload.0, preload.1).stdin(Stdio::piped()).spawn().expect("cat can be started");
    let all = |options: &str| Program::new(command()).args("doctor --all").args(options);
    let deadline = Instant::now() + Duration::from_secs(200);
    let run = loop {
        let run = all("").run().exit(1);
        let of = |server: &Server| part(&run.stdout, server.0.id());
        // The models are loaded, and the first graph was computed.
        if of(&with).contains("taken over: FLASH")
            && of(&without).contains("not loaded")
            && of(&passed).contains("live:")
        {
            break run;
        }
        assert!(Instant::now() < deadline, "{run}");
        std::thread::sleep(Duration::from_millis(200));
    };
    let of = |pid: u32| part(&run.stdout, pid);
    let engaged = of(with.0.id());
    assert!(engaged.contains("llama-server: has engaged") && engaged.contains("MUL_MAT q8_0"), "{run}");
    assert!(engaged.contains("libzen5turbo.so is loaded") && !engaged.contains("why not"), "{run}");
    let stock = of(without.0.id());
    assert!(stock.contains("llama-server: has not engaged") && stock.contains("zen5turbo run --"), "{run}");
    let passed = of(passed.0.id());
    assert!(passed.contains("has not engaged") && passed.contains("because of ZEN5TURBO_GATE=passthrough"), "{run}");
    assert!(of(shell.id()).contains("no ggml is loaded"), "{run}");
    assert!(
        run.stdout.lines().last().is_some_and(|line| line.starts_with("verdict: the shim has engaged in ")),
        "{run}"
    );

    let report: Value = serde_json::from_str(&all("--json").run().exit(1).stdout).expect("JSON");
    let subject = format!("{} ", with.0.id());
    let sections = report["sections"].as_array().expect("sections");
    let section = sections.iter().find(|s| s["subject"].as_str().expect("text").starts_with(&subject));
    assert_eq!(section.expect("a section")["statistics"]["pid"], with.0.id(), "{report:#}");
    assert!(report["engages"] == false && report["unreadable"].is_number(), "{report:#}");

    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        let run = all("").inside(&Refusal::new().unprivileged()).run().exit(1);
        let said = if run.stdout.is_empty() { &run.stderr } else { &run.stdout };
        assert!(said.contains("could not be looked into: run this as root"), "{run}");
        assert_eq!(part(said, with.0.id()), "");
    }
    let _ = shell.kill();
    let _ = shell.wait();
}

#[test]
fn where_no_process_has_ggml_one_line_says_so() {
    let root = work_dir();
    std::fs::create_dir_all(root.path().join("proc/1")).expect("a new folder");
    std::fs::write(root.path().join("proc/1/maps"), "").expect("a new file");
    let run = Program::new(command()).args("doctor --all --root").arg(root.path()).run().exit(1);
    assert!(run.only_line().starts_with("no process that loads ggml") && run.stdout.is_empty(), "{run}");
    assert!(Program::new(command()).args("doctor --all 1").run().exit(2).stderr.contains("cannot be used with"));
}
