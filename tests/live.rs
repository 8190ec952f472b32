//! The live statistics: `zen5turbo top` and `doctor PID` on real processes, and what is left of them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Outcome, Program, Refusal, command, gemma, is_root, llama, shim, work_dir};

/// `fixtures/live.c`, waiting for commands.
struct Live {
    child: Child,
    out: BufReader<ChildStdout>,
    dir: TempDir,
}

impl Live {
    fn start(vars: &[(&str, &str)]) -> Self {
        let dir = work_dir();
        let program = Fixture::new("live").linked_with_ggml().build(&dir, "live");
        let mut command = Command::new(program);
        command.env("ZEN5TURBO_STATS", dir.path().join("%p.json"));
        Self::spawn(command, vars, dir)
    }

    fn spawn(mut command: Command, vars: &[(&str, &str)], dir: TempDir) -> Self {
        command.env("LD_PRELOAD", shim()).env("ZEN5TURBO_GATE", "off").envs(vars.iter().copied());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program can be started");
        let out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, out, dir }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives a command, and returns the number that is said in answer to it.
    fn tell(&mut self, command: &str, answer: &str) -> u32 {
        self.child.stdin.as_mut().expect("stdin is piped").write_all(command.as_bytes()).expect("it reads");
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a pipe can be read");
        line.trim().strip_prefix(answer).and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{line:?}"))
    }

    fn compute(&mut self) {
        assert_eq!(self.tell("c", "computed"), 0);
    }

    /// Ends it as it likes to end; what it wrote.
    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "{status}");
        let file = self.dir.path().join(format!("{}.json", self.pid()));
        serde_json::from_str(&fs::read_to_string(file).expect("statistics were written")).expect("JSON")
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn top(options: &str) -> Program {
    Program::new(command()).arg("top").args(options).args("--interval 0.05")
}

fn top_of(pid: u32) -> Outcome {
    top(&format!("--json {pid}")).run()
}

fn json(run: &Outcome) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"))
}

/// The counters of a process, as `top` reads them.
fn live(pid: u32) -> Value {
    json(&top_of(pid).success())["programs"][0]["statistics"].clone()
}

/// The processes that `top` finds.
fn found() -> Vec<u64> {
    let run = top("--json").run();
    if run.stdout.is_empty() {
        return Vec::new();
    }
    json(&run)["programs"].as_array().expect("a list").iter().map(|p| p["pid"].as_u64().expect("a number")).collect()
}

/// The file that holds the counters of a process.
fn segment(pid: u32) -> Option<PathBuf> {
    let mut links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.map(|entry| entry.expect("an entry").path());
    links.find(|link| fs::read_link(link).is_ok_and(|to| to == Path::new("/memfd:zen5turbo-live (deleted)")))
}

/// What a process counts only itself: where its memory lies now, and how its copies are made.
fn counted(mut statistics: Value) -> Value {
    // In the file only.
    for member in ["blas", "computed", "direct"] {
        statistics.as_object_mut().expect("an object").remove(member);
    }
    let memory = statistics["memory"].as_object_mut().expect("an object");
    memory.remove("numa");
    memory["weights"].as_object_mut().expect("an object").remove("now");
    let copies = memory["copies"].as_object_mut().expect("an object");
    copies.remove("status");
    copies.remove("from");
    statistics
}

#[test]
fn what_is_read_while_it_runs_is_what_the_file_says_at_the_end() {
    let mut program = Live::start(&[]);
    program.compute();
    assert_eq!(live(program.pid())["graphs"]["2-16"]["count"], 1);
    program.compute();
    let seen = live(program.pid());
    assert_eq!(seen["ops"]["MUL_MAT"]["q4_0"]["taken"], 2, "{seen:#}");
    assert_eq!((&seen["graphs"]["2-16"]["count"], &seen["graphs"]["2-16"]["columns"]), (&2.into(), &10.into()));
    assert_eq!(seen["ggml"][0]["status"], "bound");
    let pid = program.pid();
    assert!(found().contains(&pid.into()));
    assert_eq!(counted(seen), counted(program.end()));
    assert!(!found().contains(&pid.into()));
}

/// Runs llama-bench under the shim, and reads its counters until some of them fit `enough`.
fn read_llama(mut command: Command, enough: impl Fn(&Value) -> bool) -> (Live, Value) {
    command.arg("-m").arg(gemma()).args(["-p", "32", "-n", "100000", "-t", "1", "-r", "1", "--no-warmup"]);
    command.stderr(Stdio::null());
    let program = Live::spawn(command, &[], work_dir());
    let deadline = Instant::now() + Duration::from_secs(200);
    loop {
        assert!(Instant::now() < deadline, "the counters of llama-bench never said enough");
        let run = top_of(program.pid());
        if run.stdout.is_empty() {
            assert!(run.stderr.contains("publishes no live statistics"), "not loaded yet, or: {run}");
        } else {
            let whole = json(&run);
            if enough(&whole["programs"][0]) {
                return (program, whole);
            }
        }
    }
}

#[test]
fn llama_cpp_is_seen_generating_and_nothing_is_left_when_it_is_killed() {
    let generating = |program: &Value| {
        let graphs = program["graphs"].as_array().expect("a list");
        graphs.iter().any(|g| g["columns"] == "1" && g["per_second"].as_f64().is_some_and(|rate| rate > 0.0))
    };
    let (mut program, seen) = read_llama(Command::new(llama("llama-bench")), generating);
    let seen = &seen["programs"][0];
    assert_eq!((&seen["program"], &seen["state"]), (&"llama-bench".into(), &"active".into()));
    let statistics = &seen["statistics"];
    let prompt = &statistics["graphs"]["many"];
    assert_eq!(
        (&prompt["count"], &prompt["columns"]),
        (&1.into(), &32.into()),
        "one prompt of 32 tokens\n{statistics:#}"
    );
    let one = &statistics["graphs"]["1"];
    assert_eq!(one["count"], one["columns"]);
    let q8 = &statistics["ops"]["MUL_MAT"]["q8_0"];
    assert!(q8["taken"].as_u64() >= one["count"].as_u64() && q8["kernels"]["1"].is_string(), "{statistics:#}");
    let doctor = Program::new(command()).args("doctor --gate off").arg(program.pid().to_string()).run().success();
    assert!(doctor.stdout.contains("live: taken over: FLASH_ATTN_EXT f16 by"), "{doctor}");
    assert!(doctor.stdout.contains(", MUL_MAT q8_0 by"), "{doctor}");

    let pid = program.pid();
    let text = top(&format!("--once {pid}")).run().success();
    assert!(text.stdout.contains("graphs of one column a second") && text.stdout.contains("MUL_MAT"), "{text}");
    let file = segment(pid).expect("published");
    assert!(file.exists());
    program.child.kill().expect("a child");
    program.child.wait().expect("a child");
    assert!(!file.exists() && !found().contains(&pid.into()));
    assert!(top_of(pid).exit(1).only_line().contains("there is no such process"));
    for folder in ["/dev/shm", "/tmp", "/run"] {
        let left = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("zen5turbo-live")), "{folder}");
    }
}

#[test]
fn a_forked_child_has_its_own_counters_or_none() {
    let mut program = Live::start(&[]);
    program.compute();
    let before = counted(live(program.pid()));
    let idle = program.tell("i", "child");
    assert!(segment(idle).is_none() && !found().contains(&idle.into()));
    let none = top_of(idle).exit(1);
    assert!(none.only_line().contains("publishes no live statistics"), "{none}");
    let computing = program.tell("k", "child");
    let seen = live(computing);
    assert_eq!((&seen["pid"], &seen["ops"]["MUL_MAT"]["q4_0"]["taken"]), (&computing.into(), &1.into()), "{seen:#}");
    assert_eq!(counted(live(program.pid())), before, "the children wrote nothing");
    // Only what a child counted itself is written, to a file of its own.
    let file = |pid: u32| fs::read_to_string(program.dir.path().join(format!("{pid}.json")));
    let childs: Value = serde_json::from_str(&file(computing).expect("written after its graph")).expect("JSON");
    assert_eq!(childs["ops"]["MUL_MAT"]["q4_0"]["taken"], 1, "{childs:#}");
    assert!(file(idle).is_err());
    for child in [idle, computing] {
        // SAFETY: children of a child of this test's, which still runs.
        assert_eq!(unsafe { libc::kill(child as libc::pid_t, libc::SIGKILL) }, 0);
    }
}

#[test]
fn a_forked_child_leaves_the_file_to_its_parent_while_both_run() {
    let dir = work_dir();
    let path = dir.path().join("stats.json");
    let mut program = Live::start(&[("ZEN5TURBO_STATS", path.to_str().expect("UTF-8"))]);
    program.compute();
    let computing = program.tell("k", "child");
    let file: Value = serde_json::from_str(&fs::read_to_string(&path).expect("written after a graph")).expect("JSON");
    assert_eq!(file["pid"], program.pid(), "{file:#}");
    // SAFETY: a child of a child of this test's, which still runs.
    assert_eq!(unsafe { libc::kill(computing as libc::pid_t, libc::SIGKILL) }, 0);
}

#[test]
fn a_program_that_executes_another_one_publishes_anew() {
    let mut program = Live::start(&[]);
    program.compute();
    program.compute();
    program.child.stdin.as_mut().expect("piped").write_all(b"e").expect("it reads");
    program.compute();
    assert_eq!(live(program.pid())["ops"]["MUL_MAT"]["q4_0"]["taken"], 1);
    let pid = program.pid();
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten();
    let ours =
        links.filter(|l| fs::read_link(l.path()).is_ok_and(|to| to.to_string_lossy().contains("zen5turbo-live")));
    assert_eq!(ours.count(), 1);
    let mut program = Live::spawn(
        {
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec cat"]);
            shell
        },
        &[],
        work_dir(),
    );
    assert_eq!(program.tell("1\n", ""), 1);
    assert!(segment(program.pid()).is_none(), "a process that never loads ggml");
}

#[test]
fn a_program_that_closes_its_descriptors_is_read_through_its_memory() {
    let mut program = Live::start(&[]);
    program.compute();
    program.tell("x", "closed");
    assert!(segment(program.pid()).is_none());
    program.compute();
    let run = top_of(program.pid());
    if run.stdout.is_empty() {
        assert!(run.only_line().contains("kernel.yama.ptrace_scope"), "{run}");
        // Root may always.
        assert!(!is_root("only root may read the memory of another process here"), "{run}");
        return;
    }
    assert_eq!(json(&run)["programs"][0]["statistics"]["ops"]["MUL_MAT"]["q4_0"]["taken"], 2);
}

#[test]
fn other_users_cannot_read_it() {
    let mut program = Live::start(&[]);
    program.compute();
    let file = segment(program.pid()).expect("published");
    let metadata = fs::metadata(&file).expect("a file of this user's");
    // SAFETY: no preconditions.
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o600, unsafe { libc::geteuid() }));
    let writing = File::options().write(true).open(&file).expect("a file of this user's");
    assert!(writing.set_len(0).is_err(), "a file that can be cut under a mapping is a signal");
    if !is_root("only root can be another user") {
        return;
    }
    let somebody = Refusal::new().unprivileged();
    let run = top(&format!("--json {}", program.pid())).inside(&somebody).run().exit(1);
    assert!(run.only_line().contains("does not let this user look into the process"), "{run}");
    let run = top("--once").inside(&somebody).run().exit(1);
    assert!(run.only_line().contains("zen5turbo run -- PROGRAM ARGS"), "{run}");
    let _ = Program::new("/bin/cat").arg(&file).inside(&somebody).run().exit(1);
}

#[test]
fn nothing_is_published_when_that_is_not_wanted() {
    for vars in [[("ZEN5TURBO_LIVE", "off")], [("ZEN5TURBO", "0")]] {
        let mut program = Live::start(&vars);
        program.compute();
        assert!(segment(program.pid()).is_none(), "{vars:?}");
        let run = top_of(program.pid()).exit(1);
        assert!(run.only_line().contains("publishes no live statistics"), "{run}");
    }
}

#[test]
fn under_a_filter_that_kills_at_a_memfd_they_are_found_all_the_same() {
    let dir = work_dir();
    let program = Fixture::new("live").linked_with_ggml().build(&dir, "live");
    let refusal = Refusal::new().calls(&["memfd_create:KILL", "fallocate:KILL", "fchmod:KILL"]);
    let mut start = refusal.around(&program);
    start.env("ZEN5TURBO_STATS", dir.path().join("%p.json"));
    let mut program = Live::spawn(start, &[], dir);
    program.compute();
    assert!(segment(program.pid()).is_none(), "that would be a memfd");
    assert!(found().contains(&program.pid().into()));
    assert!(live(program.pid())["ops"]["MUL_MAT"].is_object());
    let doctor = Program::new(command()).arg("doctor").arg(program.pid().to_string()).run();
    assert!(doctor.stdout.contains("live: taken over: MUL_MAT"), "{doctor}");
    let end = program.end();
    assert_eq!((&end["events"]["live_refused"], &end["events"]["seccomp_filter"]), (&Value::Null, &1.into()), "{end}");
}

/// Whatever the kernel refuses, the program computes, and the reason is counted.
#[test]
fn what_is_refused_is_counted_and_changes_nothing() {
    let dir = work_dir();
    let program = Fixture::new("one_product").linked_with_ggml().build(&dir, "one_product");
    // Under a filter it is a file in /dev/shm.
    for rules in [
        vec!["openat:EACCES:arg2&0x400000"], // O_TMPFILE
        vec!["write:ENOSPC:arg2=0x4000"],    // the zeros that make its memory
        vec!["mmap:ENOMEM:arg3=1:arg2=3"],   // MAP_SHARED, to be written
    ] {
        let refusal = Refusal::new().calls(&rules);
        let run = Program::engaged(&program).inside(&refusal).run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("computed\n", ""), "{rules:?}");
        assert_eq!(run.stats().events("live_refused"), 1, "{rules:?} {}", run.stats());
        assert_eq!(run.stats().taken("MUL_MAT", Some("q4_0")), 1);
    }
    // Without one a memfd. A file beyond the first limit would be a signal; the second forbids a high descriptor.
    for limit in ["-f 64", "-n 150"] {
        let script = format!("ulimit {limit}; exec \"$0\"");
        let limited = Program::engaged("/bin/sh").arg("-c").arg(script).arg(&program).run().success();
        assert_eq!(limited.stats().events("live_refused"), 1, "{limit} {}", limited.stats());
    }
    let free = Program::engaged(&program).run().success();
    assert_eq!(free.stats().events("live_refused"), 0);
}

#[test]
fn without_a_program_it_says_what_to_do() {
    let somebody = Refusal::new().unprivileged();
    if is_root("only root can be another user") {
        let run = top("--once").inside(&somebody).run().exit(1);
        assert!(run.only_line().contains("no running program with the shim was found"), "{run}");
    }
    let run = top("--once 4194305").run().exit(1);
    assert!(run.only_line().contains("process 4194305: there is no such process"), "{run}");
    assert!(top("--interval 0").run().exit(2).stderr.contains("expected seconds from"));
}
