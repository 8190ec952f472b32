//! The measurements of llama-server, with settings that take seconds: they end well, so that no request failed, no token was lost,
//! and drafts were accepted as with stock.

use serde_json::Value;
use tempfile::TempDir;
use zen5turbo_tests::{Outcome, Program, command, gemma, llama, root, shim, smollm2, work_dir};

/// `python3 bench/NAME WORDS`, whose record goes to `out`.
fn bench(out: &TempDir, name: &str, words: &str) -> Outcome {
    let program = Program::new("/usr/bin/env").arg("python3").arg(root().join("bench").join(name)).args(words);
    let program = program.arg("--lib").arg(shim()).arg("--bin").arg(llama("llama-server").with_file_name(""));
    program.arg("--out").arg(out.path()).run().success()
}

/// The lines of the record.
fn record(out: &TempDir) -> Vec<String> {
    let mut files = std::fs::read_dir(out.path()).expect("a folder").flatten().map(|entry| entry.path());
    let file = files.find(|path| path.extension().is_some_and(|e| e == "csv")).expect("a record");
    std::fs::read_to_string(file).expect("it can be read").lines().map(str::to_owned).collect()
}

#[test]
fn drafts_and_eight_clients_are_served_as_by_stock() {
    let out = work_dir();
    let words = "--modes draft,ngram,clients --rounds 1 --prompts 3 --tokens 6 --bytes 120 --version test";
    let outcome = bench(&out, "speculative.py", &format!("{words} --model {}", gemma().display()));
    for part in ["| draft | shim |", "| ngram | shim |", "| clients | shim |", "| clients | stock --no-repack |"] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome}");
    }
    assert_eq!(record(&out).len(), 1 + 3 * 3 * 3, "a line for each request: {outcome}");
}

#[test]
fn three_scenarios_of_a_server_are_measured_by_the_command() {
    let out = work_dir();
    let file = out.path().join("r.json");
    let words = "ab --serve --gate off -t 2 --pairs 1 --requests 4 --answer-tokens 6 --prompt-words 5,20 --clients 2 --rate 8 \
                 --rate-seconds 0.5 --cancel 0.5";
    let program = Program::new(command()).args(words).arg("--model").arg(smollm2()).arg("--lib").arg(shim());
    let outcome =
        program.arg("--bin").arg(llama("llama-server").with_file_name("")).arg("--json").arg(&file).run().success();
    let text = std::fs::read_to_string(&file).expect("it is written");
    let record: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!((&record["kind"], &record["type"]), (&"serve".into(), &"Q4_1".into()), "{outcome}");
    assert!(record["engagement"][0]["taken"].as_u64() > Some(0), "{outcome}");
    for arm in record["arms"].as_array().expect("arms") {
        let of = |scenario: &str, name: &str| arm[scenario][name].as_f64().unwrap_or_else(|| panic!("{name} in {arm}"));
        assert!(of("single_stream", "first_token_ms_p99") > 0.0 && of("single_stream", "between_tokens_ms_p50") > 0.0);
        assert!(of("offline", "tokens_per_s") > 0.0);
        assert_eq!((of("single_stream", "tokens"), of("offline", "tokens")), (24.0, 24.0), "{arm}");
        assert!(
            of("single_stream", "prompt_tokens_cached") > 0.0,
            "half of the prompts have the same beginning: {arm}"
        );
        assert!(of("server", "cancelled") >= 1.0 && of("server", "first_token_ms_p50") > 0.0, "{arm}");
    }
}

#[test]
fn an_image_is_encoded_and_a_text_follows() {
    let out = work_dir();
    let slice = |name: &str, layers: u32| {
        let file = out.path().join(format!("{name}.gguf"));
        let bin = llama("llama-quantize").with_file_name("");
        let program = Program::new(command()).args(&format!("slice {name} --layers {layers}"));
        let _ = program.arg("--out").arg(&file).arg("--bin").arg(bin).run().success();
        file
    };
    let (model, tower) = (slice("gemma-3-4b", 6), slice("gemma-3-4b-vision", 1));
    let words = format!("--model {} --mmproj {} --rounds 1 --tokens 3", model.display(), tower.display());
    let outcome = bench(&out, "images.py", &words);
    assert!(outcome.stdout.contains("| image, s |"), "{outcome}");
    assert!(record(&out).iter().any(|line| line.contains(",shim,") && line.contains(",image,")), "{outcome}");
}
