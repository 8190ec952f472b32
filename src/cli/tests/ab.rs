//! `zen5turbo ab` as a whole, over a llama-bench of known speed and noise.

mod fake;

use std::fs;
use std::ops::Deref;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fake::{Folder, interrupt, is_gone, run, stderr, stdout};
use serde_json::Value;

/// A folder with the fake programs.
struct Bench(Folder);

impl Deref for Bench {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.0
    }
}

impl Bench {
    fn new(seed: u32) -> Self {
        let folder = Folder::new(&["llama-bench", "llama-perplexity"]);
        folder.set("seed", &seed.to_string());
        Bench(folder)
    }

    /// `zen5turbo ab` of stock, and of an arm without the shim in the environment `arm`.
    fn ab(&self, arm: &str, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
        command.args(["ab", "--threads", "1", "--no-load", "--arms-only"]);
        command.arg("--bin").arg(self.dir()).arg("-m").arg(self.path("m.gguf"));
        command.arg("--arm").arg(format!("other:shim=off{arm}"));
        command.arg("--jsonl").arg(self.path("r.jsonl"));
        command.args(words.split_whitespace()).stdin(Stdio::null());
        command
    }

    fn json(&self, arm: &str, words: &str) -> Value {
        let out = run(self.ab(arm, words).arg("--json").arg(self.path("r.json")));
        assert!(out.status.success(), "{}", stderr(&out));
        serde_json::from_str(&fs::read_to_string(self.path("r.json")).unwrap()).unwrap()
    }

    /// The JSONL record, of which every line must be whole.
    fn records(&self, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path("r.jsonl")).unwrap();
        assert!(text.ends_with('\n'), "{text}");
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|record| record["record"] == kind).collect()
    }
}

/// The results of the speed tests of an answer.
fn results(json: &Value) -> Vec<(String, String)> {
    let rows = json["summary"].as_array().unwrap().iter().filter(|row| row["unit"] == "tokens/s");
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    rows.map(|row| (text(&row["test"]), text(&row["ratios"]["other"]["result"]))).collect()
}

#[test]
fn a_build_against_itself_shows_no_difference_in_19_of_20_measurements() {
    let claims: Vec<u32> = (1..=20)
        .filter(|&seed| {
            let json = Bench::new(seed).json("", "");
            let rows = json["summary"].as_array().unwrap();
            assert_eq!(rows.len(), 3, "pp512, tg64, memory");
            rows.iter().any(|row| row["ratios"]["other"]["difference"] == true)
        })
        .collect();
    assert!(claims.len() <= 1, "seeds {claims:?}");
}

#[test]
fn a_slowdown_of_5_percent_is_found_and_named() {
    for seed in 1..=5 {
        let json = Bench::new(seed).json(",FAKE_FACTOR=0.95", "");
        for (test, result) in results(&json) {
            assert_eq!(result, "SLOWER", "seed {seed}, {test}: {}", json["summary"]);
        }
    }
}

#[test]
fn pairs_are_interleaved_recorded_one_by_one_and_no_more_than_asked_for() {
    let bench = Bench::new(3);
    bench.json("", "--pairs 4");
    let runs = bench.records("run");
    let arms: Vec<&str> = runs.iter().map(|run| run["arm"].as_str().unwrap()).collect();
    let first = ["stock", "other", "stock again", "stock again", "other", "stock"];
    let then = ["other", "stock again", "stock", "stock", "stock again", "other"];
    assert_eq!(arms, [first, then].concat());
    assert_eq!(runs[0]["llama_bench"][0]["model_type"], "fake", "llama-bench's own fields are kept");
    assert_eq!(runs[0]["values"][0]["test"], "pp512");
    assert_eq!((bench.records("start").len(), bench.records("end").len()), (1, 1));
    assert_eq!(bench.records("end")[0]["summary"][0]["ratios"]["other"]["result"], "too few pairs to say");
    bench.json("", "--pairs 2");
    assert_eq!(bench.records("run").len(), 12 + 6, "a second measurement is appended");
}

#[test]
fn llama_bench_is_found_in_path_and_gets_the_options_after_the_dashes() {
    let bench = Bench::new(1);
    let path = format!("{}:{}", bench.dir().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
    command.env("PATH", path).args(["ab", "--pairs", "1", "--arms-only", "--arm", "x:shim=off", "-m"]);
    command.arg(bench.path("m.gguf")).args(["-t", "1", "--", "-p", "33", "-n", "0"]);
    let out = run(&mut command);
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(stdout(&out).contains("pp33 tokens/s") && !stdout(&out).contains("tg64"), "{}", stdout(&out));
    assert!(stdout(&out).contains("first token (pp512)"), "{}", stdout(&out));
}

#[test]
fn answers_are_compared_with_those_of_stock() {
    let bench = Bench::new(1);
    bench.set("text", "some words");
    let text = bench.path("text").display().to_string();
    let json = bench.json("", &format!("--pairs 1 --quality {text}"));
    assert_eq!(json["quality"][0]["perplexity"][0], 21.2461);
    assert_eq!(json["quality"][1]["divergence"][0], 0.00614);
    assert_eq!(bench.records("quality").len(), 2);
    fs::remove_file(bench.path("llama-perplexity")).unwrap();
    let out = run(&mut bench.ab("", &format!("--quality {text}")));
    assert!(stderr(&out).contains("expected llama-perplexity beside llama-bench"), "{}", stderr(&out));
}

/// One line that begins with the command's name and has each of `parts`.
fn assert_refused(out: &Output, parts: &[&str]) {
    let text = stderr(out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("zen5turbo: ") && parts.iter().all(|part| text.contains(part)), "{parts:?} in {text}");
}

#[test]
fn bad_input_is_refused_in_one_line_before_anything_runs() {
    let bench = Bench::new(1);
    let with_model = |model: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
        run(command.arg("ab").arg("--bin").arg(bench.dir()).args(["-m", model]))
    };
    assert_refused(&with_model("/nonexistent.gguf"), &["does not exist", "expected a GGUF file", "--model"]);
    assert_refused(&with_model("/proc/self/mem"), &["cannot be read", "expected a GGUF file"]);
    assert_refused(&with_model("/"), &["is a folder", "expected a GGUF file"]);
    bench.set("text.gguf", "once upon a time");
    let text = bench.path("text.gguf");
    assert_refused(&with_model(text.to_str().unwrap()), &["found \"once\"", "expected \"GGUF\"", "convert"]);

    let out = run(&mut bench.ab("", "-- -o csv"));
    assert_refused(&out, &["found -o after the --", "leave it out"]);
    let out = run(bench.ab("", "").args(["--arm", "other:shim=off"]));
    assert_refused(&out, &["two arms have the name \"other\""]);
    let out = run(&mut bench.ab(",bin=/nonexistent", ""));
    assert_refused(&out, &["in the arm other", "no llama-bench at /nonexistent", "--bin"]);
    let out = run(Command::new(env!("CARGO_BIN_EXE_zen5turbo"))
        .env("PATH", "/nonexistent")
        .args(["ab", "-m"])
        .arg(bench.path("m.gguf")));
    assert_refused(&out, &["no llama-bench was found in PATH", "--bin DIR"]);
    assert!(!bench.path("runs").exists(), "nothing has run");
}

#[test]
fn a_slice_that_cannot_be_made_is_refused_in_one_line_and_the_list_is_printed() {
    let bench = Bench::new(1);
    let like = |words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
        command.env("PATH", "/nonexistent").env("XDG_CACHE_HOME", bench.dir());
        run(command.arg("ab").arg("--bin").arg(bench.dir()).args(words.split_whitespace()))
    };
    assert_refused(&like("--like llama-4"), &["no model \"llama-4\"", "expected one of: llama-3.1-8b"]);
    assert_refused(&like("--like gpt-oss-20b --layers 3"), &["cannot have 3 layers", "a multiple of 2"]);
    assert_refused(&like("--like bge-base:Q8-0"), &["found \"Q8-0\" as the mix", "such as bge-base:Q8_0"]);
    assert_refused(&like("--like bge-base"), &["found no llama-quantize in", "nor in PATH", "--bin DIR"]);
    // One that fails.
    fs::copy("/bin/false", bench.path("llama-quantize")).unwrap();
    let failed = like("--like bge-base --layers 1");
    assert!(stderr(&failed).contains("exited with status 1 on the mix Q8_0"), "{}", stderr(&failed));
    let left: Vec<_> = fs::read_dir(bench.path("zen5turbo/slices")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let list = like("--like list");
    assert!(list.status.success() && stdout(&list).contains("qwen3-embedding-0.6b"), "{}", stdout(&list));
    assert_eq!(like("--like bge-base -m m.gguf").status.code(), Some(2), "a model or a slice");
    assert!(!bench.path("runs").exists(), "nothing has run");
}

#[test]
fn a_llama_bench_that_fails_half_way_leaves_what_was_finished() {
    let bench = Bench::new(1);
    // 2 runs of warm-up, 3 for each pair: the second pair's last run fails.
    bench.set("fail-at", "8");
    let out = run(bench.ab("", "--pairs 9").arg("--html").arg(bench.path("r.html")));
    assert_eq!(out.status.code(), Some(1));
    for part in
        ["ended early; 5 runs were finished and are recorded in", "exited with status 1", "failed to load model"]
    {
        assert!(stderr(&out).contains(part), "{part} in {}", stderr(&out));
    }
    assert_eq!((bench.records("run").len(), bench.records("end").len()), (5, 0));
    assert!(stdout(&out).contains("too few pairs to say"), "the finished pair is shown: {}", stdout(&out));
    let html = fs::read_to_string(bench.path("r.html")).unwrap();
    assert!(html.ends_with("</html>") && html.contains("the measurement ended early"));
}

#[test]
fn ctrl_c_ends_the_children_and_keeps_the_records() {
    let bench = Bench::new(1);
    bench.set("hang-at", "7");
    let child = bench.ab("", "--pairs 9").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out = interrupt(child, &bench.path("pids"), Duration::from_secs(300));
    assert!(stderr(&out).contains("interrupted: 4 runs were finished and are recorded in"), "{}", stderr(&out));
    assert_eq!(bench.records("run").len(), 4);
    for pid in fs::read_to_string(bench.path("pids")).unwrap().split_whitespace() {
        assert!(is_gone(pid), "{pid} still lives");
    }
}

#[test]
fn a_full_disk_costs_the_report_but_not_the_records() {
    let bench = Bench::new(1);
    let out = run(&mut bench.ab("", "--pairs 1 --html /dev/full"));
    assert_eq!(out.status.code(), Some(1));
    for part in ["cannot write the report /dev/full", "expected a place with room", "No space left"] {
        assert!(stderr(&out).contains(part), "{part} in {}", stderr(&out));
    }
    assert!(stdout(&out).contains("pp512"), "the table is there");
    assert_eq!((bench.records("run").len(), bench.records("end").len()), (3, 1));

    let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
    command.args(["ab", "--arms-only", "--arm", "x:shim=off", "--jsonl", "/dev/full", "--bin"]);
    command.arg(bench.dir()).arg("-m").arg(bench.path("m.gguf"));
    assert_refused(&run(&mut command), &["cannot write the JSONL record /dev/full", "expected a place with room"]);
}

#[test]
fn the_html_report_is_whole_and_needs_nothing_else() {
    let bench = Bench::new(1);
    bench.set("text", "some words");
    let text = bench.path("text").display().to_string();
    let words = format!("--pairs 6 --quality {text} --arm <b>&:shim=off,FAKE_FACTOR=1.2");
    let out = run(bench.ab("", &words).arg("--html").arg(bench.path("r.html")));
    assert!(out.status.success(), "{}", stderr(&out));
    let html = fs::read_to_string(bench.path("r.html")).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"));
    for outside in ["href=", "src=", "@import", "url(", "<script"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.replace("http://www.w3.org/2000/svg", "").find("http").is_none());
    assert!(html.contains("prefers-color-scheme: dark") && html.contains("color-scheme: light dark"));
    // One plot of the ratios, one for each of pp512, tg64 and memory.
    assert_eq!((html.matches("<svg ").count(), html.matches("</svg>").count()), (4, 4));
    let fixed = html.split(['"', ';']).filter(|part| part.starts_with('#')).count();
    assert_eq!(fixed, 0, "no plot has a colour of its own");
    assert!(html.contains("&lt;b&gt;&amp;") && !html.contains("<b>&"), "names are text, not HTML");
    for tag in ["div", "table", "tr", "td", "th", "figure", "ul", "li", "span", "p", "svg", "h2", "h3"] {
        let open = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "<{tag}>");
    }
    for heading in
        ["What these runs support", "Every value, by pair", "Memory at its peak", "Answers", "Arms", "Machine"]
    {
        assert!(html.contains(heading), "{heading}");
    }
}

#[test]
fn a_report_says_of_each_record_what_ab_said() {
    let bench = Bench::new(9);
    let csv = bench.path("r.csv").display().to_string();
    let json = bench.json(",FAKE_FACTOR=1.4", &format!("--csv {csv}"));
    for record in ["r.json", "r.jsonl", "r.csv"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
        let out = run(command.arg("report").arg(bench.path(record)).args(["--format", "markdown"]));
        let page = stdout(&out);
        for row in json["summary"].as_array().unwrap() {
            let (ratio, number) = (&row["ratios"]["other"], |value: &Value| value.as_f64().unwrap());
            let (low, high) = (number(&ratio["interval"]["low"]), number(&ratio["interval"]["high"]));
            let ratio = format!("other | {:.2} ({low:.2}..{high:.2}) |", number(&ratio["median"]));
            let start = format!("| m.gguf | {} | 1 | {ratio}", row["test"].as_str().unwrap());
            let line =
                page.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{start} in {page}"));
            assert_eq!(line.contains("**faster**"), row["unit"] == "tokens/s", "{record}: {line}");
        }
    }
}
