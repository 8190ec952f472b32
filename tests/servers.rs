//! The measurements of llama-server in `bench/`, with settings that take seconds: they end well, so that no request failed, no
//! token was lost, and drafts were accepted as with stock.

use tempfile::TempDir;
use zen5turbo_tests::{Outcome, Program, command, gemma, llama, root, shim, work_dir};

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
