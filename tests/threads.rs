//! How many threads compute a graph: never more than there are CPUs for them, whatever pools a program makes (fixtures/pools.c),
//! whatever limits the CPUs, and also when a limit changes. Results are those of one thread, bit by bit.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use zen5turbo_tests::{
    CpuGroup, Fixture, Need, Outcome, Program, Stats, TIME_LIMIT, clean_environment, command, gemma,
    linked_symbolically, llama, need, shim, skip, work_dir,
};

/// Continued alike by stock and by the shim, and with any number of threads, whose sums differ in their order.
const PROMPT: &str = "Monday, Tuesday,";

/// Whole builds of llama.cpp, and the CPU backend of each that any CPU with AVX2 computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Build {
    /// By GCC; its threads are OpenMP's.
    OpenMp,
    /// By Clang, without OpenMP. The barrier between two nodes is compiled into the loop over them.
    Clang,
    /// As Ollama has it: by GCC, without OpenMP, backends that are opened by dlopen.
    Ollama,
}

const BUILDS: [Build; 3] = [Build::OpenMp, Build::Clang, Build::Ollama];

impl Build {
    fn file(self, name: &str) -> PathBuf {
        match self {
            Self::OpenMp => llama(name),
            Self::Clang => need(Path::new(".deps/llama.cpp-clang-o2/bin").join(name), "scripts/setup.sh builds"),
            Self::Ollama => need(Path::new(".deps/llama.cpp-ollama/bin").join(name), "scripts/setup.sh containers"),
        }
    }

    fn backend(self) -> PathBuf {
        self.file(if self == Self::Ollama { "libggml-cpu-haswell.so" } else { "libggml-cpu.so" })
    }

    /// `fixtures/pools.c` with the libraries of this build.
    fn pools(self, dir: &TempDir) -> PathBuf {
        pools_with(&self.backend(), &self.file("libggml-base.so")).build(dir, &format!("pools-{self:?}"))
    }

    /// Threads with which a forked child of a parent with threads can compute: OpenMP's library does not survive a fork.
    fn threads_of_a_child(self) -> &'static str {
        if self == Self::OpenMp { "1" } else { "2" }
    }
}

fn pools_with(backend: &Path, base: &Path) -> Fixture {
    let pools = Fixture::new("pools").ggml_headers().options("-Wl,--no-as-needed").path_option("", backend);
    pools.path_option("", base).path_option("-Wl,-rpath,", &backend.with_file_name("")).options("-lm")
}

/// The CPUs that this process may use.
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: zeros are a valid set, which the call fills.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &raw mut set), 0);
        set
    };
    // SAFETY: no CPU beyond the set is asked for.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// The first two CPUs, for what needs two; where there is one, the test is skipped.
fn two_cpus() -> Option<[usize; 2]> {
    let cpus = allowed_cpus();
    if cpus.len() < 2 {
        skip(Need::Cpus, "this process may use one CPU only");
        return None;
    }
    Some([cpus[0], cpus[1]])
}

/// The program on these CPUs, as `taskset` starts it.
fn on_cpus(program: Program, cpus: &[usize]) -> Program {
    let list = cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    program.started_by("taskset", vec!["-c".into(), list.into()])
}

/// Runs cases of `fixtures/pools.c` on two CPUs: all results are right, and nobody says anything.
fn run(program: Program, cases: &str) -> Outcome {
    let run = program.args(cases).run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""), "{run}");
    run.stats().assert_healthy();
    run
}

fn counts(stats: &Stats) -> (u64, u64) {
    (stats.number("/threads/asked"), stats.number("/threads/used"))
}

#[test]
fn on_one_cpu_one_thread_computes_and_the_text_is_that_of_one_thread() {
    let Some([cpu, _]) = two_cpus() else { return };
    for build in [Build::OpenMp, Build::Clang] {
        let start = |program: Program, threads: &str| {
            let program = program.arg("-m").arg(gemma()).args("-no-cnv --no-warmup --temp 0 --seed 1 -n 8 -t");
            on_cpus(program.arg(threads).arg("-p").arg(PROMPT), &[cpu]).run().success()
        };
        let path = build.file("llama-completion");
        let (stock, ours) = (start(Program::new(&path), "1"), start(Program::engaged(&path), "4"));
        assert!(stock.stdout.contains("Wednesday"), "{stock}");
        assert_eq!(ours.stdout, stock.stdout);
        assert_eq!(ours.shim_lines(), [""; 0]);
        // ggml would say that a plan has more threads than its pool.
        assert!(!ours.stderr.contains("requested more threads"), "{ours}");
        let stats = ours.stats();
        assert_eq!(counts(stats), (4, 1), "{stats}");
        assert_eq!(stats.number("/threads/budget"), 1, "{stats}");
        assert_eq!(stats.text("/threads_limit"), format!("CPUs allowed: {cpu}"));
        stats.assert_healthy();
    }
}

#[test]
fn the_setting_leaves_or_lowers_what_the_program_asks_for() {
    let Some(cpus) = two_cpus() else { return };
    let dir = work_dir();
    for build in BUILDS {
        let program = build.pools(&dir);
        for (setting, used, limit) in [
            ("auto", 2, None),
            ("off", 4, Some("none: ZEN5TURBO_THREADS=off")),
            ("1", 1, Some("ZEN5TURBO_THREADS=1")),
            ("3", 3, Some("ZEN5TURBO_THREADS=3")),
            ("64", 4, Some("ZEN5TURBO_THREADS=64")),
        ] {
            let program = on_cpus(Program::engaged(&program).knob("THREADS", setting), &cpus);
            let run = run(program, "without_pool 4");
            let stats = run.stats();
            assert_eq!(counts(stats), (4, used), "{build:?} {setting} {stats}");
            assert_eq!(stats.number("/threads/capped") > 0, used < 4, "{build:?} {setting} {stats}");
            if let Some(limit) = limit {
                assert_eq!(stats.text("/threads_limit"), limit);
            }
        }
    }
    let program = Build::OpenMp.pools(&dir);
    for (name, value) in
        [("THREADS", "0"), ("THREADS", "-1"), ("THREADS", "513"), ("THREADS", "many"), ("BARRIER", "1")]
    {
        let run = Program::engaged(&program).knob(name, value).args("without_pool 1").run();
        assert!(run.only_line().contains(&format!("ZEN5TURBO_{name}")), "{run}");
    }
}

#[test]
fn pools_of_every_kind_compute_what_one_thread_computes() {
    let Some(cpus) = two_cpus() else { return };
    let dir = work_dir();
    for build in BUILDS {
        let program = build.pools(&dir);
        let of = |cases: &str| run(on_cpus(Program::engaged(&program), &cpus), cases);
        // Threads that wait at ggml's own barrier take their time on a busy machine.
        let rounds = if build == Build::Clang { 50 } else { 200 };
        let cases = "shared_pool 8 changed_plan 8 small_pool 8 aborted 4 parameters 8 by_registry 4 by_backend 8";
        let all = of(&format!("{cases} made_and_freed {rounds}"));
        assert_eq!(all.stats().number("/threads/budget"), 2, "{build:?}");
        assert_eq!(all.stats().events("pool_table_full"), 0, "{build:?}");
        let many = of("many_pools 70");
        assert!(many.stats().events("pool_table_full") > 0, "{build:?} {}", many.stats());
        // A graph without a pool, among twelve at the same time, has one of ours or one of ggml's.
        let _ = of(if build == Build::Ollama { "at_once 12" } else { "at_once 4" });
    }
}

#[test]
fn a_graph_gets_no_more_threads_than_its_pool_was_to_have_or_has_cpus() {
    let Some(cpus) = two_cpus() else { return };
    let dir = work_dir();
    for build in BUILDS {
        let program = build.pools(&dir);
        let masked = run(on_cpus(Program::engaged(&program), &cpus), "one_cpu 8");
        assert_eq!(counts(masked.stats()), (8, 1), "{build:?} {}", masked.stats());
        // Also where there are more CPUs.
        let small = run(on_cpus(Program::engaged(&program).knob("THREADS", "4"), &cpus), "small_pool 8");
        assert_eq!(counts(small.stats()), (8, 2), "{build:?} {}", small.stats());
    }
}

#[test]
fn a_forked_child_computes_with_threads_of_its_own() {
    let Some(cpus) = two_cpus() else { return };
    let dir = work_dir();
    for build in BUILDS {
        let program = on_cpus(Program::engaged(build.pools(&dir)), &cpus);
        let _ = run(program, &format!("forked {}", build.threads_of_a_child()));
    }
}

/// Two graphs of two threads on two CPUs, in each of which one thread works while the other waits.
#[test]
fn threads_that_wait_for_each_other_sleep_where_there_are_more_of_them_than_cpus() {
    let Some(cpus) = two_cpus() else { return };
    let dir = work_dir();
    let program = Build::Ollama.pools(&dir);
    for (setting, sleep) in [("auto", true), ("off", false)] {
        let program = on_cpus(Program::engaged(&program).knob("BARRIER", setting), &cpus);
        let run = run(program, "unequal_work 2");
        assert_eq!(run.stats().number("/threads/sleeps/count") > 0, sleep, "{setting} {}", run.stats());
    }
}

/// Products that are taken and operations that are not, in layers as a language model has them, also with a callback that ends the
/// graph anywhere. The program prints a hash of the results: each number is computed by the same instructions in the same order,
/// whatever the number of threads.
#[test]
fn graphs_of_layers_have_the_same_results_with_any_number_of_threads() {
    let dir = work_dir();
    for build in BUILDS {
        let program = build.pools(&dir);
        // Two CPUs take minutes for more threads that wait at ggml's own barrier, or that are woken one by one.
        let most = match build {
            Build::OpenMp => 8,
            Build::Clang => 2,
            Build::Ollama => 3,
        };
        let mut expected = None;
        for threads in [1, 2, 3, 8].into_iter().filter(|&threads| threads <= most) {
            let program = Program::engaged(&program).knob("THREADS", "off").var("OMP_WAIT_POLICY", "passive");
            let run = program.args(&format!("side_by_side {threads} aborted_anywhere {threads}")).run().success();
            assert!(run.stdout.ends_with("\n0 failures\n"), "{build:?} {threads} {run}");
            assert_eq!(expected.get_or_insert_with(|| run.stdout.clone()), &run.stdout, "{build:?} {threads}");
            // Where the barrier is compiled into the loop over operations, nobody sees it.
            let barriers = run.stats().number("/graphs/many/barriers/between");
            assert_eq!(barriers > 0, build != Build::Clang, "{build:?} {threads} {}", run.stats());
        }
    }
}

/// Copies of the CPU backend and of its base, whose bytes `change` has changed and whose names begin with `name`; their paths.
fn changed(dir: &TempDir, build: Build, change: impl Fn(Vec<u8>) -> Vec<u8>, name: &str) -> [PathBuf; 2] {
    ["cpu", "base"].map(|part| {
        let bytes = fs::read(build.file(&format!("libggml-{part}.so"))).expect("a library");
        let to = dir.path().join(format!("lib{name}-{part}.so.0"));
        fs::write(&to, change(bytes)).expect("the copy can be written");
        to
    })
}

/// `bytes` with `from` replaced by `to`, which is as long.
fn replaced(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    for at in 0..=bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

/// Two copies need two names: the loader takes a library that it has for one of the same name.
#[test]
fn two_copies_of_ggml_in_one_process_make_pools_each_for_itself() {
    let dir = work_dir();
    let renamed = |bytes| {
        let bytes = replaced(bytes, b"libggml-base.so.0\0", b"libggmx-base.so.0\0");
        replaced(bytes, b"libggml-cpu.so.0\0", b"libggmx-cpu.so.0\0")
    };
    let library = |backend: &Path, base: &Path, name: &str| {
        pools_with(backend, base).options("-shared -fPIC -Wl,-Bsymbolic").build(&dir, name)
    };
    let openmp = library(&Build::OpenMp.backend(), &Build::OpenMp.file("libggml-base.so"), "openmp.so");
    let [backend, base] = changed(&dir, Build::Clang, renamed, "ggmx");
    let clang = library(&backend, &base, "clang.so");
    let several = Fixture::new("several").build(&dir, "several");
    for libraries in [vec![&openmp], vec![&clang], vec![&openmp, &clang]] {
        let program = libraries.iter().fold(Program::engaged(&several), |program, library| program.arg(library));
        let run = run(program, "");
        let bound = run.stats().libraries().iter().filter(|(_, status)| *status == "bound").count();
        assert_eq!(bound, libraries.len(), "{}", run.stats());
    }
}

/// A release whose structures are not known: its plans stay as they are, and so must its pools. OpenMP's threads beyond a smaller
/// pool would have no memory there; ggml without OpenMP would complain of each graph.
#[test]
fn pools_of_a_ggml_that_is_not_understood_are_left_alone() {
    let dir = work_dir();
    for (build, cases) in
        [(Build::OpenMp, "shared_pool 4 by_registry 4 by_backend 4"), (Build::Clang, "by_registry 3 by_backend 3")]
    {
        let hidden = |bytes| replaced(bytes, b"\0ggml_graph_n_nodes\0", b"\0ggml_graph_x_nodes\0");
        let [backend, base] = changed(&dir, build, hidden, "ggml");
        let program = pools_with(&backend, &base).build(&dir, "pools");
        let run = Program::engaged(program).args(cases).run().success();
        assert_eq!(run.stdout, "0 failures\n", "{run}");
        assert!(run.only_line().contains("nothing is taken over"), "{run}");
        assert_eq!(run.stats().number("/threads/pools"), 0, "{}", run.stats());
    }
}

/// A backend whose graphs do not come by the shim (`-Bsymbolic`), while the program's pools do.
#[test]
fn pools_of_a_backend_that_calls_itself_are_left_alone() {
    let dir = work_dir();
    let [backend, base] = changed(&dir, Build::OpenMp, |bytes| bytes, "ggml");
    fs::write(&backend, linked_symbolically(fs::read(&backend).expect("a library"))).expect("the copy can be written");
    let program = pools_with(&backend, &base).build(&dir, "pools");
    let run = run(Program::engaged(program), "by_backend 4 by_registry 4");
    assert_eq!(run.stats().number("/threads/pools"), 0, "{}", run.stats());
}

/// llama-server with the shim.
struct Server {
    child: Child,
    port: u16,
    _dir: TempDir,
    log: PathBuf,
}

impl Server {
    /// With these options, in a control group.
    fn start(build: Build, options: &str, group: Option<&CpuGroup>) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a port is free").port();
        let dir = work_dir();
        let log = dir.path().join("log");
        // Enters the group before any thread starts.
        let mut server = Command::new("sh");
        let script = if group.is_some() { "echo $$ >\"$1\"; shift; exec \"$@\"" } else { "shift; exec \"$@\"" };
        server.args(["-c", script, "sh"]).arg(group.map_or_else(PathBuf::new, CpuGroup::entrance));
        server.arg("env").arg(format!("LD_PRELOAD={}", shim().display())).arg(build.file("llama-server"));
        server.arg("-m").arg(gemma()).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        server.args("-c 512 -np 1 --no-warmup".split(' ')).args(options.split(' '));
        clean_environment(&mut server);
        let file = fs::File::create(&log).expect("the folder is writable");
        server.env("ZEN5TURBO_GATE", "off").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        Self { child: server.spawn().expect("sh can be started"), port, _dir: dir, log }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn complete(&self, tokens: u32) -> String {
        let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(TIME_LIMIT)).build().into();
        let url = |path: &str| format!("http://127.0.0.1:{}/{path}", self.port);
        let deadline = Instant::now() + TIME_LIMIT;
        while agent.get(url("health")).call().is_err() {
            assert!(Instant::now() < deadline, "the server does not answer\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let body = json!({"prompt": PROMPT, "n_predict": tokens, "temperature": 0, "seed": 1, "cache_prompt": false});
        let reply = agent.post(url("completion")).send_json(body).and_then(|mut r| r.body_mut().read_json::<Value>());
        let reply = reply.unwrap_or_else(|e| panic!("no completion: {e}\n{}", self.log()));
        reply["content"].as_str().expect("a text").to_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a text")
    }

    /// Looks at the server, which answers one request after the other meanwhile, until it is as it should be. All answers are `expected`.
    fn answers_until(&self, expected: &str, is_so: impl Fn() -> bool) {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let answers = scope.spawn(|| {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) || count == 0 {
                    assert_eq!(self.complete(16), expected);
                    count += 1;
                }
            });
            let deadline = Instant::now() + TIME_LIMIT;
            while !answers.is_finished() && !is_so() {
                assert!(Instant::now() < deadline, "{}", self.top("--json"));
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    fn top(&self, options: &str) -> Outcome {
        Program::new(command()).args("top --interval 0.05").args(options).arg(self.pid()).run().success()
    }

    fn stats(&self) -> Stats {
        zen5turbo_tests::only_program(&self.top("--json"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of threads that compute follows the quota. That more of them compute again is seen at some graphs at least: a
/// busy machine has fewer for those of one column.
#[test]
fn a_quota_that_changes_while_it_generates_changes_the_number_of_threads() {
    let Some(_) = two_cpus() else { return };
    let Some(group) = CpuGroup::new(2) else { return };
    for build in [Build::Ollama, Build::OpenMp] {
        group.set_quota(2).expect("the group is this test's");
        let server = Server::start(build, "-t 2", Some(&group));
        let expected = server.complete(16);
        assert!(expected.contains("Wednesday"), "{expected:?}");
        for cpus in [2, 1, 2] {
            group.set_quota(cpus).expect("the group is this test's");
            server.answers_until(&expected, || {
                let stats = server.stats();
                let quota = stats.text("/threads_limit").starts_with("CPU quota 100000/100000 us of /sys/fs/cgroup/");
                (counts(&stats), stats.number("/threads/budget"), quota) == ((2, cpus), cpus, cpus == 1)
                    || cpus == 2 && (counts(&stats), stats.number("/threads/budget")) == ((2, 2), 2)
            });
        }
        server.stats().assert_healthy();
        assert!(!server.log().contains("requested more threads"), "{}", server.log());
    }
}

#[test]
fn top_says_how_many_threads_compute_and_why() {
    let Some(_) = two_cpus() else { return };
    let cpus = allowed_cpus().len();
    let asked = 4 * cpus;
    let server = Server::start(Build::OpenMp, &format!("-t {asked}"), None);
    let expected = server.complete(16);
    // On a busy machine a graph of one column has fewer threads.
    server.answers_until(&expected, || {
        let top = server.top("--once");
        let said = top.stdout.lines().find(|line| line.contains(&format!("asked {asked}, used {cpus} (CP")));
        said.is_some_and(|line| line.contains("CPUs online") || line.contains("CPUs allowed") || line.contains("quota"))
    });
}
