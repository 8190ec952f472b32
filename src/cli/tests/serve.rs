//! `zen5turbo ab --serve` as a whole, over a llama-server of known speed.

mod fake;

use std::fs;
use std::net::TcpListener;
use std::ops::Deref;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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
    fn new() -> Self {
        Bench(Folder::new(&["llama-server"]))
    }

    /// Stock, stock again, and a stock that is as fast as `factor` says. Requests take 22 ms in stock.
    fn serve(&self, factor: &str, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
        command.args(["ab", "--serve", "--arms-only", "-t", "1", "--answer-tokens", "4", "--clients", "2"]);
        for (option, value) in
            [("--pairs", "1"), ("--prompt-words", "3,9"), ("--rate-seconds", "0.2"), ("--requests", "6")]
        {
            if !words.contains(option) {
                command.args([option, value]);
            }
        }
        command.arg("--arm").arg(format!("other:shim=off,FAKE_FACTOR={factor}"));
        command.arg("--bin").arg(self.dir()).arg("-m").arg(self.path("m.gguf"));
        command.arg("--jsonl").arg(self.path("r.jsonl")).arg("--json").arg(self.path("r.json"));
        command.args(words.split_whitespace()).stdin(Stdio::null());
        command
    }

    fn json(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("r.json")).unwrap()).unwrap()
    }

    /// How often a server was started.
    fn starts(&self) -> usize {
        fs::read_to_string(self.path("starts")).map_or(0, |text| text.lines().count())
    }
}

fn assert_shows(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// A figure of an arm.
fn figure(json: &Value, arm: &str, scenario: &str, name: &str) -> f64 {
    let arm = json["arms"].as_array().unwrap().iter().find(|of| of["name"] == arm).unwrap();
    arm[scenario][name].as_f64().unwrap_or_else(|| panic!("{name} in {arm}"))
}

#[test]
fn three_scenarios_are_measured_and_a_server_of_a_quarter_of_the_speed_is_found() {
    let bench = Bench::new();
    let out = run(&mut bench.serve("0.25", "--first-token-ms 100 --cancel 0.5"));
    assert!(out.status.success(), "{}{}", stderr(&out), stdout(&out));
    assert_shows(&stderr(&out), &["load: 6 requests with prompts of 3 to 9 words", "seed 1"]);
    let parts = [
        "single stream: one client",
        "offline: 6 requests at once",
        "server: arrivals by chance",
        "lost tokens",
        "A/A",
    ];
    assert_shows(&stdout(&out), &parts);

    let json = bench.json();
    assert_eq!((&json["kind"], &json["version"], &json["type"]), (&"serve".into(), &1.into(), &"fake".into()));
    assert_eq!((&json["threads"], &json["clients"], &json["load"]["seed"]), (&1.into(), &2.into(), &1.into()));
    let of = |arm, scenario, name| figure(&json, arm, scenario, name);
    // Sleeping takes at least its time, and a busy machine makes it longer.
    for (name, p99, ms) in
        [("first_token_ms_p50", "first_token_ms_p99", 10.0), ("between_tokens_ms_p50", "between_tokens_ms_p99", 4.0)]
    {
        let (stock, slow) = (of("stock repack 1", "single_stream", name), of("other", "single_stream", name));
        assert!(stock >= ms && slow >= 4.0 * ms, "{name}: {stock} {slow}");
        assert!(of("other", "single_stream", name) <= of("other", "single_stream", p99));
    }
    let speed = |arm| of(arm, "offline", "tokens_per_s");
    assert!(speed("stock repack 0") > 1.5 * speed("other"), "{} {}", speed("stock repack 0"), speed("other"));
    let rate = |arm| of(arm, "server", "highest_rate_requests_per_s");
    assert!(rate("stock repack 0") > 1.2 * rate("other"), "{} {}", rate("stock repack 0"), rate("other"));
    assert!(of("other", "server", "first_token_ms_p99") <= 100.0);
    assert!(of("other", "server", "cancelled") > 0.0, "half of the clients hang up");
    for scenario in ["single_stream", "offline", "server"] {
        assert_eq!((of("other", scenario, "errors"), of("other", scenario, "lost_tokens")), (0.0, 0.0));
    }
    let results: Vec<&Value> = json["ratios"].as_array().unwrap().iter().map(|ratio| &ratio["result"]).collect();
    assert!(results.iter().all(|result| *result == "too few pairs to say"), "{results:?}");
    // Latencies at rates of their own are not compared.
    let of_server = json["ratios"].as_array().unwrap().iter().filter(|ratio| ratio["scenario"] == "server");
    assert_eq!(of_server.map(|ratio| &ratio["figure"]).collect::<Vec<_>>(), ["highest_rate_requests_per_s"]);
    let lines = fs::read_to_string(bench.path("r.jsonl")).unwrap();
    assert_eq!(lines.lines().filter(|line| line.contains("\"record\":\"run\"")).count(), 4);
    // Three arms of warm-up, and four of the pair: plain and repacked weights are asked for.
    assert_eq!(bench.starts(), 7);
    let starts = fs::read_to_string(bench.path("starts")).unwrap();
    assert_eq!(starts.lines().filter(|line| line.ends_with("--no-repack")).count(), 2, "{starts}");
}

#[test]
fn a_search_alone_begins_at_what_one_client_gets_and_bounds_that_hold_nowhere_are_told() {
    let bench = Bench::new();
    let out = run(&mut bench.serve("0.05", "--scenarios server --first-token-ms 150 --requests 3"));
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(figure(&bench.json(), "stock repack 0", "server", "requests") > 0.0);
    // A first token takes 200 ms in the other arm.
    let told = "other, server, pair 1: no rate is within the bounds (first token 150 ms, between tokens 200 ms)";
    assert_shows(&stdout(&out), &[told, "give larger ones, or shorter prompts"]);
    let rates = |arm: usize| bench.json()["runs"][arm]["scenarios"]["server"]["rates"].as_array().unwrap().len();
    assert!(rates(2) <= 6, "{} rates were tried", rates(2));
}

#[test]
fn arms_are_compared_at_a_rate_that_is_given_and_told_apart_with_six_pairs() {
    let bench = Bench::new();
    let words = "--scenarios server --rate 40 --pairs 6 --cancel 0 --requests 5";
    let out = run(&mut bench.serve("0.2", words));
    assert!(out.status.success(), "{}", stderr(&out));
    let json = bench.json();
    let ratios = json["ratios"].as_array().unwrap();
    let of = |name: &str| ratios.iter().find(|ratio| ratio["figure"] == name).unwrap();
    assert_eq!(of("between_tokens_ms_p50")["result"], "SLOWER", "{}", of("between_tokens_ms_p50"));
    assert!(stdout(&out).contains("server, between tokens, ms, median: other has"), "{}", stdout(&out));
    assert_eq!((ratios.len(), json["pairs"].as_u64()), (6, Some(6)));
    assert_eq!(figure(&json, "other", "server", "rate_requests_per_s"), 40.0);
    // The same requests in every arm.
    let counts = |arm| figure(&json, arm, "server", "prompt_tokens");
    assert_eq!(counts("other"), counts("stock again"));
}

#[test]
fn requests_that_fail_and_tokens_that_are_lost_are_counted_shown_and_an_error() {
    let bench = Bench::new();
    bench.set("every", "7");
    let out = run(&mut bench.serve("1", "--scenarios single-stream"));
    assert_eq!(out.status.code(), Some(1), "{}", stderr(&out));
    assert_shows(&stderr(&out), &["4 of 24 requests failed, and 0 tokens were lost; expected none"]);
    assert_shows(&stdout(&out), &["HTTP status 503, expected 200", "no room", "single stream, pair 1: request"]);
    let json = bench.json();
    let arms = json["arms"].as_array().unwrap();
    let errors: u64 = arms.iter().map(|arm| arm["single_stream"]["errors"].as_u64().unwrap()).sum();
    assert_eq!(errors, 4);

    let bench = Bench::new();
    bench.set("lose", "1");
    let out = run(&mut bench.serve("1", "--scenarios offline"));
    assert_eq!(out.status.code(), Some(1));
    assert_shows(&stderr(&out), &["0 of 24 requests failed, and 24 tokens were lost"]);
}

/// One line that begins with the command's name and has each of `parts`.
fn assert_refused(out: &Output, parts: &[&str]) {
    let text = stderr(out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().filter(|line| !line.starts_with("load: ")).count(), 1, "{text}");
    assert!(text.contains("zen5turbo: "), "{text}");
    assert_shows(&text, parts);
}

#[test]
fn bad_input_is_refused_in_one_line_before_any_server_starts() {
    let bench = Bench::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused = |words: &str, parts: &[&str]| assert_refused(&run(&mut bench.serve("1", words)), parts);
    let parts = [&format!("found the port {port} in use"), "expected a free one", "leave --port out"];
    refused(&format!("--port {port}"), &parts);
    refused("-- --port 8080", &["found --port after the --", "give --port before the --"]);
    refused("-- --parallel=3", &["give --clients before the --"]);
    refused("-m /nonexistent.gguf", &["found 2 models; expected one with --serve"]);
    refused("-t 2", &["found 2 thread counts; expected one with --serve"]);
    refused("--text /nonexistent", &["the text /nonexistent cannot be read", "--text"]);
    refused("--prompt-words 9,90000", &["expected at least 90100", "--prompt-words"]);
    let out = run(Command::new(env!("CARGO_BIN_EXE_zen5turbo"))
        .args(["ab", "--serve", "--arms-only", "--arm", "x:shim=off", "-m", "/nonexistent.gguf", "--bin"])
        .arg(bench.dir()));
    assert_refused(&out, &["/nonexistent.gguf does not exist", "expected a GGUF file", "--model"]);
    let out = run(Command::new(env!("CARGO_BIN_EXE_zen5turbo"))
        .env("PATH", "/nonexistent")
        .args(["ab", "--serve", "-m"])
        .arg(bench.path("m.gguf")));
    assert_refused(&out, &["no llama-server was found in PATH", "--bin DIR"]);
    for (words, part) in [
        ("--rate 0", "expected requests per second above 0, such as 0.5"),
        ("--first-token-ms 0", "expected a number above 0"),
        ("--requests 0", "0 is not in 1..=100000"),
        ("--scenarios single", "invalid value 'single'"),
        ("--html r.html", "cannot be used with"),
        ("--shared 2", "expected a share from 0 to 1"),
    ] {
        let out = run(&mut bench.serve("1", words));
        assert_eq!(out.status.code(), Some(2), "{words}: {}", stderr(&out));
        assert_shows(&stderr(&out), &[part]);
    }
    let out = run(Command::new(env!("CARGO_BIN_EXE_zen5turbo")).args(["ab", "-m", "x", "--rate", "1"]));
    assert_shows(&stderr(&out), &["--serve"]);
    assert_eq!(bench.starts(), 0);
}

#[test]
fn a_server_that_does_not_start_is_told_with_its_last_lines() {
    let bench = Bench::new();
    bench.set("refuse", "");
    let out = run(&mut bench.serve("1", ""));
    assert_eq!(out.status.code(), Some(1));
    let parts = [
        "llama-server of the arm stock repack 0 exited with status 1 before it answered; expected it to load the model",
        "/llama-server -m",
        "error: failed to load model",
    ];
    assert_shows(&stderr(&out), &parts);
    assert_eq!(bench.starts(), 1);
}

#[test]
fn a_server_that_dies_midway_is_told_and_what_was_finished_is_kept() {
    let bench = Bench::new();
    // Three requests of warm-up, then seven for each server: in the second one.
    bench.set("die-at", "14");
    let out = run(&mut bench.serve("1", "--scenarios single-stream"));
    assert_eq!(out.status.code(), Some(1), "{}", stderr(&out));
    let parts = [
        "the measurement ended early; 1 server was measured",
        "llama-server of the arm stock repack 1 was killed by signal 9 in the middle of the single stream; expected it to go on",
        "out of memory",
    ];
    assert_shows(&stderr(&out), &parts);
    assert_eq!(bench.json()["runs"].as_array().unwrap().len(), 1);
}

/// Ctrl-C while the second server does not answer a request; its number, which it wrote itself.
fn interrupted(bench: &Bench, request: &str) -> String {
    bench.set("hang-at", request);
    let mut command = bench.serve("1", "--scenarios single-stream");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out = interrupt(child, &bench.path("pid"), Duration::from_secs(120));
    assert_shows(&stderr(&out), &["interrupted: 1 server was measured"]);
    fs::read_to_string(bench.path("pid")).unwrap()
}

#[test]
fn ctrl_c_ends_the_server_and_keeps_what_was_finished() {
    let pid = interrupted(&Bench::new(), "13");
    assert!(is_gone(&pid), "{pid} still lives");
}

#[test]
fn ctrl_c_ends_a_server_that_a_script_has_started() {
    let bench = Bench::new();
    fs::rename(bench.path("llama-server"), bench.path("real-server")).unwrap();
    bench.set("llama-server", "#!/bin/sh\n\"$(dirname \"$0\")/real-server\" \"$@\"\nexit $?\n");
    let mode = fs::metadata(bench.path("real-server")).unwrap().permissions();
    fs::set_permissions(bench.path("llama-server"), mode).unwrap();
    // The first request of the server.
    let pid = interrupted(&bench, "11");
    // Its parent cannot wait for it any more.
    let begin = Instant::now();
    while !is_gone(&pid) {
        assert!(begin.elapsed() < Duration::from_secs(60), "{pid} still lives");
        std::thread::sleep(Duration::from_millis(20));
    }
}
