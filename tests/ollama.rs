//! The layout of Ollama without Ollama: a server with the shim in its environment starts and kills what Ollama does,
//! llama-server with stripped libraries in a private folder above all, and reads every line. The library is the one that is
//! shipped. `container.rs` does it in containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use zen5turbo_tests::{
    Fixture, MILAN, Program, Stats, dl_backends, gemma, llama, llama_dl, need, root, shipped, work_dir,
};

/// Continued alike by stock and by the shim, whose sums differ in their order.
const PROMPT: &str = "Monday, Tuesday,";

/// What Ollama starts its runners with, and a small context; on CPUs it maps no model. There is no `-t`.
const OPTIONS: &str = "--load-mode none --flash-attn auto -b 512 -ub 512 --log-verbosity 4 -c 512 -np 1 --no-warmup";

/// The stock runner must not repack weights, which the shim's does not: it tells of every buffer.
const STOCK: &str = "--no-repack";

/// A runner with its libraries, as Ollama installs them: apart from each other, and stripped.
struct Installed {
    _dir: TempDir,
    runner: PathBuf,
    libraries: PathBuf,
    /// A program of its own, and its backends.
    engine: (PathBuf, PathBuf),
}

/// The programs and libraries of the folder of `server`. Backends that are opened by dlopen lie beside the
/// program, where ggml looks for them.
fn installed(server: &Path, program_apart: bool) -> Installed {
    let dir = work_dir();
    let libraries = dir.path().join("lib/ollama");
    let runners = if program_apart { dir.path().join("bin") } else { libraries.clone() };
    let runner = runners.join("llama-server");
    for folder in [&libraries, &runners] {
        fs::create_dir_all(folder).expect("the folder is writable");
    }
    fs::copy(server, &runner).expect("the program can be copied");
    let mut strip = Command::new("strip");
    strip.arg("--strip-unneeded").arg(&runner);
    for entry in fs::read_dir(server.with_file_name("")).expect("the folder can be read") {
        let from = entry.expect("an entry").path();
        let name = from.file_name().expect("a name").to_string_lossy().into_owned();
        if name.starts_with("lib") && name.contains(".so") {
            let to = libraries.join(name);
            fs::copy(&from, &to).expect("the library can be copied");
            strip.arg(to);
        }
    }
    assert!(strip.status().expect("strip can be started").success());
    let engine = engine(&dir);
    Installed { _dir: dir, runner, libraries, engine }
}

/// Ollama's own engine of 0.12 to 0.24, see `fixtures/engine.c`, and the folder of its backends.
fn engine(dir: &TempDir) -> (PathBuf, PathBuf) {
    let base = need(".deps/ollama-engine/libggml-base.so.0", "scripts/setup.sh engine");
    let folder = dir.path().join("lib/engine");
    fs::create_dir_all(&folder).expect("the folder is writable");
    for library in dl_backends().into_iter().chain([base.clone()]) {
        fs::copy(&library, folder.join(library.file_name().expect("a name"))).expect("the library can be copied");
    }
    let fixture = Fixture::new("engine").ggml_headers().path_option("", &base.with_file_name("libengine.a"));
    (fixture.options("-lstdc++ -lm").build(dir, "engine"), folder)
}

impl Installed {
    /// The server with this runner, which has `more` options, started by `start`.
    fn server(&self, start: impl Fn(PathBuf) -> Program, more: &str) -> Program {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let llama = |options: Vec<String>| {
            let argv: Vec<_> = [self.runner.to_string_lossy().into_owned()].into_iter().chain(options).collect();
            json!({ "argv": argv, "libraries": self.libraries })
        };
        let model = vec!["-m".to_owned(), gemma().to_string_lossy().into_owned()];
        let (engine, backends) = &self.engine;
        let plan = json!({
            "first": [
                llama(words("--host 127.0.0.1 --port 0 --log-verbosity 4")),
                llama(words("--list-devices")),
                { "argv": [engine, backends, "wait"], "libraries": backends },
            ],
            "runner": llama([model, words(OPTIONS), words(more)].concat()),
            "prompt": PROMPT,
        });
        let server = root().join("tests/fixtures/serve.py");
        start(PathBuf::from("/usr/bin/env")).arg("python3").arg(server).arg(plan.to_string())
    }

    /// The server of a container whose environment preloads the shipped library; statistics go to `out`.
    fn with_shim(&self, out: &Path) -> Program {
        let server = self.server(Program::new, "").var("LD_PRELOAD", shipped()).knob("GATE", "off");
        server.knob("STATS", &out.join("%p.json").to_string_lossy())
    }
}

/// What the server told of a process.
struct Told {
    pid: u64,
    /// Negative: the signal that ended it.
    status: i64,
    lines: Vec<String>,
    answer: Option<String>,
}

/// What the server told.
struct Served {
    pid: u64,
    first: Vec<Told>,
    runners: Vec<Told>,
}

/// Runs a server, which must end well.
fn served(server: Program) -> Served {
    let run = server.run().success();
    assert_eq!(run.stderr, "", "the server itself wrote lines");
    let told: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    let number = |value: &Value| value.as_u64().expect("a number");
    let list = |value: &Value| value.as_array().expect("a list").clone().into_iter();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let processes = |name: &str| {
        list(&told[name])
            .map(|process| Told {
                pid: number(&process["pid"]),
                status: process["status"].as_i64().expect("a number"),
                lines: list(&process["lines"])
                    .map(|line| text(&line))
                    .filter(|line| told_always(line))
                    .map(|line| without_timings(&line))
                    .collect(),
                answer: process["answer"].as_str().map(str::to_owned),
            })
            .collect()
    };
    Served { pid: number(&told["pid"]), first: processes("first"), runners: processes("runners") }
}

/// Not how far a prompt has come, which llama-server tells every few seconds.
fn told_always(line: &str) -> bool {
    !(line.contains("print_timing:") && line.contains("progress ="))
}

/// A line without its time stamp, durations, rates and the number of the port.
fn without_timings(line: &str) -> String {
    // Figures are padded to a width, which large ones exceed.
    let line = line.replace('(', "( ");
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_figure = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let is_timing = |i: usize| {
        let next = |n: usize| words.get(i + n).copied().unwrap_or_default();
        let stamp = i == 0 && words[0].matches('.').count() == 3;
        let duration = next(1).starts_with("ms") || next(1) == "seconds";
        stamp || is_figure(words[i]) && (duration || (next(1), next(2)) == ("tokens", "per"))
    };
    let words = words.iter().enumerate().map(|(i, word)| match word.rsplit_once(':') {
        Some((address, _)) if address.ends_with("127.0.0.1") => address,
        _ if is_timing(i) => "#",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Fails the test, with the first line that differs, unless every process ended alike, and no line was lost, added or changed.
fn assert_same(shim: &Served, stock: &Served) {
    let all = |served: &Served| served.first.iter().chain(&served.runners).map(|t| t.lines.clone()).collect::<Vec<_>>();
    for (shim, stock) in all(shim).iter().zip(&all(stock)) {
        for (line, stock) in shim.iter().zip(stock) {
            assert_eq!(line, stock);
        }
        assert_eq!(shim, stock);
    }
    let ends = |told: &[Told]| told.iter().map(|t| (t.status, t.answer.clone())).collect::<Vec<_>>();
    assert_eq!(ends(&shim.first), ends(&stock.first));
    assert_eq!(ends(&shim.runners), ends(&stock.runners));
}

/// That it is what it should be: killed at their first words, and answers of two runners, also killed.
fn assert_served(stock: &Served) {
    let killed = -i64::from(libc::SIGKILL);
    assert_eq!(stock.first.iter().map(|t| t.status).collect::<Vec<_>>(), [killed, 0, killed]);
    for first in [&stock.first[0], &stock.first[2]] {
        assert!(first.lines.last().is_some_and(|line| line.contains("system_info:")), "{:#?}", first.lines);
    }
    assert_eq!(stock.runners.len(), 2);
    for runner in &stock.runners {
        assert_eq!(runner.status, killed);
        assert!(runner.answer.as_ref().is_some_and(|answer| answer.contains("Wednesday")), "{:?}", runner.answer);
        assert!(runner.lines.len() > 150, "{:#?}", runner.lines);
    }
}

/// The statistics of a process, which was killed: those that the shim wrote while it ran.
fn stats_of(told: &Told, out: &Path) -> Stats {
    let file = out.join(format!("{}.json", told.pid));
    Stats::parse(&fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
}

/// Both runners took products over; the server, which has no ggml, wrote nothing.
fn assert_took_over(shim: &Served, out: &Path) {
    for runner in &shim.runners {
        let stats = stats_of(runner, out);
        assert_eq!(stats.text("/program"), "llama-server");
        for ty in ["q4_K", "q5_0", "q6_K", "q8_0"] {
            assert!(stats.taken("MUL_MAT", Some(ty)) > 0, "{ty} was not taken\n{stats}");
        }
        stats.assert_healthy();
    }
    assert!(!out.join(format!("{}.json", shim.pid)).exists());
}

fn assert_serves_the_same(installed: &Installed) {
    let stock = served(installed.server(Program::new, STOCK));
    assert_served(&stock);
    let out = work_dir();
    let shim = served(installed.with_shim(out.path()));
    assert_same(&shim, &stock);
    assert_took_over(&shim, out.path());
}

/// Ollama 0.12 to 0.24: `ggml_version()` is a null pointer.
#[test]
fn a_program_with_ggml_base_inside_computes_the_same_with_backends_that_tell_no_version() {
    let dir = work_dir();
    let (program, folder) = engine(&dir);
    let stock = Program::new(&program).arg(&folder).run().success();
    assert!(stock.stdout.ends_with("version none\n"), "{stock}");
    let run = Program::engaged(&program).arg(&folder).run().success();
    assert_eq!((&run.stdout, &run.stderr), (&stock.stdout, &stock.stderr));
    let stats = run.stats();
    for ty in ["q8_0", "q4_0"] {
        assert_eq!(stats.taken("MUL_MAT", Some(ty)), 3, "{stats}");
    }
    assert_eq!(stats.events("ggml_version_unknown"), 1, "{stats}");
    stats.assert_healthy();
}

#[test]
fn a_runner_with_a_library_path_of_its_own_answers_and_logs_line_by_line_as_without_the_shim() {
    assert_serves_the_same(&installed(&llama("llama-server"), true));
}

#[test]
fn so_does_one_that_opens_its_backends() {
    assert_serves_the_same(&installed(&llama_dl("llama-server"), false));
}

#[test]
fn a_strict_gate_ends_the_runner_with_one_line_and_leaves_the_server_alone() {
    let installed = installed(&llama("llama-server"), true);
    let told = served(installed.server(Program::new, "").var("LD_PRELOAD", shipped()).on(MILAN));
    assert_eq!((told.first.len(), told.runners.len()), (3, 1));
    for process in told.first.iter().chain(&told.runners) {
        assert_eq!((process.status, &process.answer), (78, &None));
        // What the engine writes before it opens its first backend is its own.
        let ours: Vec<_> = process.lines.iter().filter(|line| line.starts_with("zen5turbo: ")).collect();
        assert!(ours.len() == 1 && ours[0].contains("not an AMD Zen 5"), "{:#?}", process.lines);
        assert_eq!(process.lines.last(), Some(ours[0]));
        // What Ollama shows its user is what follows `error:`.
        let shown = ours[0].split_once("error: ").map_or("", |(_, shown)| shown);
        assert!(shown.starts_with("this CPU is") && shown.contains("ZEN5TURBO_GATE=off"), "{shown}");
    }
    assert_eq!(told.runners[0].lines.len(), 1);
}

/// The texts that users copy name one place for the library and one for the command, and only variables that there are.
#[test]
fn the_files_for_ollama_agree() {
    for name in ["Dockerfile", "compose.yaml", "zen5turbo.conf"] {
        let file = need(Path::new("scripts/ollama").join(name), "git checkout scripts/ollama");
        let text = fs::read_to_string(file).expect("a text");
        let preload = text.lines().find(|line| line.contains("LD_PRELOAD")).expect("it sets LD_PRELOAD");
        assert!(preload.ends_with("/usr/local/lib/libzen5turbo.so"), "{name}: {preload}");
        assert!(text.contains("bin/zen5turbo") && text.contains("/usr/local/bin/"), "{name}: no place for the command");
        let settings = fs::read_to_string(root().join("docs/settings.md")).expect("a text");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for variable in words.filter(|word| word.starts_with("ZEN5TURBO_")) {
            assert!(settings.contains(&format!("| `{variable}` |")), "{name}: {variable}");
        }
    }
}
