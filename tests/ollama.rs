//! The layout of Ollama without Ollama: a server with the shim in its environment starts a llama-server of stripped
//! libraries in a private folder, and reads every line of it. The library is the one that is shipped. `container.rs`
//! does it in containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use zen5turbo_tests::{MILAN, Program, Stats, gemma, llama, llama_dl, need, root, shipped, work_dir};

/// Continued alike by stock and by the shim, whose sums differ in their order.
const PROMPT: &str = "Monday, Tuesday,";

/// What the runner is started with; `-lv 4` makes it tell 225 lines. Without repacked weights, whose buffer stock
/// tells of, the lines are the same.
const OPTIONS: &str = "-c 512 -b 64 -ub 64 -t 2 -np 1 --no-repack --no-warmup -lv 4";

/// A runner with its libraries, as Ollama installs them: apart from each other, and stripped.
struct Installed {
    _dir: TempDir,
    runner: PathBuf,
    libraries: PathBuf,
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
    Installed { _dir: dir, runner, libraries }
}

impl Installed {
    /// The server with this runner, started by `start`.
    fn server(&self, start: impl Fn(PathBuf) -> Program) -> Program {
        start(PathBuf::from("/usr/bin/env"))
            .arg("python3")
            .arg(root().join("tests/fixtures/serve.py"))
            .arg(&self.runner)
            .arg(&self.libraries)
            .arg(gemma())
            .arg(PROMPT)
            .args(OPTIONS)
    }

    /// The server of a container whose environment preloads the shipped library; statistics go to `out`.
    fn with_shim(&self, out: &Path) -> Program {
        self.server(Program::new)
            .var("LD_PRELOAD", shipped())
            .knob("GATE", "off")
            .knob("STATS", &out.join("%p.json").to_string_lossy())
    }
}

/// What the server told of its runner.
#[derive(Debug, PartialEq)]
struct Served {
    answer: String,
    stdout: Vec<String>,
    stderr: Vec<String>,
}

/// Runs a server, which must end well, as must its runner.
fn served(server: Program) -> Served {
    let run = server.run().success();
    assert_eq!(run.stderr, "", "the server itself wrote lines");
    let told: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    assert_eq!(told["status"], 0, "the runner failed\n{run}");
    let lines = |name: &str| {
        let list = told[name].as_array().expect("a list").iter();
        list.map(|line| without_timings(line.as_str().expect("text"))).collect()
    };
    let answer = told["answer"].as_str().unwrap_or_else(|| panic!("no answer\n{run}")).to_owned();
    Served { answer, stdout: lines("stdout"), stderr: lines("stderr") }
}

/// A line without its time stamp, durations, rates and the number of the port.
fn without_timings(line: &str) -> String {
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

/// Fails the test, with the first line that differs, unless no line was lost, added or changed.
fn assert_same(shim: &Served, stock: &Served) {
    for (line, stock) in shim.stderr.iter().zip(&stock.stderr).chain(shim.stdout.iter().zip(&stock.stdout)) {
        assert_eq!(line, stock);
    }
    assert_eq!(shim, stock);
}

/// The statistics in `out`: of the runner, and of no other process.
fn runners_stats(out: &Path) -> Stats {
    let files: Vec<_> =
        fs::read_dir(out).expect("the folder can be read").map(|e| e.expect("an entry").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    Stats::parse(&fs::read_to_string(&files[0]).expect("a file"))
}

fn assert_took_over(stats: &Stats) {
    assert_eq!(stats.text("/program"), "llama-server");
    for ty in ["q4_K", "q5_0", "q6_K", "q8_0"] {
        assert!(stats.taken("MUL_MAT", Some(ty)) > 0, "{ty} was not taken\n{stats}");
    }
    stats.assert_healthy();
}

fn assert_serves_the_same(installed: &Installed) {
    let stock = served(installed.server(Program::new));
    assert!(stock.stderr.len() > 150 && stock.answer.contains("Wednesday"), "{stock:#?}");
    let out = work_dir();
    let shim = served(installed.with_shim(out.path()));
    assert_same(&shim, &stock);
    assert_took_over(&runners_stats(out.path()));
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
    let run = installed.server(Program::new).var("LD_PRELOAD", shipped()).on(MILAN).run().success();
    let told: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    assert_eq!((&told["status"], &told["stdout"], &told["answer"]), (&78.into(), &Value::Array(vec![]), &Value::Null));
    let lines = told["stderr"].as_array().expect("a list");
    // What Ollama shows its user is what follows `error:`.
    let shown = lines[0].as_str().expect("text").split_once("error:").map_or("", |(_, shown)| shown.trim());
    assert!(lines.len() == 1 && shown.starts_with("this CPU is"), "{run}");
    assert!(shown.contains("not an AMD Zen 5") && shown.contains("ZEN5TURBO_GATE=off"), "{run}");
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
        let readme = fs::read_to_string(root().join("README.md")).expect("a text");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for variable in words.filter(|word| word.starts_with("ZEN5TURBO_")) {
            assert!(readme.contains(&format!("| `{variable}` |")), "{name}: {variable}");
        }
    }
}
