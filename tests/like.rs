//! Slices of well-known models: made by `zen5turbo slice` and `ab --like`, and run by a real llama.cpp.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_tests::{Outcome, Program, command, llama, shim, work_dir};

fn bin() -> PathBuf {
    // The build has both; a test says which target is missing.
    llama("llama-quantize").with_file_name("")
}

/// `zen5turbo WORDS`, with the slices in `cache`.
fn zen5turbo(cache: &TempDir, words: &str) -> Outcome {
    Program::new(command()).var("XDG_CACHE_HOME", cache.path()).args(words).arg("--bin").arg(bin()).run()
}

/// The file that `zen5turbo slice` prints.
fn slice(cache: &TempDir, words: &str) -> PathBuf {
    PathBuf::from(zen5turbo(cache, &format!("slice {words}")).success().stdout.trim())
}

/// A prompt and three tokens of the slice.
fn bench(program: Program, model: &Path, words: &str) -> Outcome {
    program.arg("-m").arg(model).args("-t 2 -r 1 --no-warmup").args(words).run().success()
}

#[test]
fn ab_makes_a_slice_once_measures_it_and_says_what_it_cannot_tell() {
    let cache = work_dir();
    let ab = format!("ab --like bge-base:IQ2_M --layers 2 -p 16 -t 1 --pairs 1 --gate off --lib {}", shim().display());
    let outcome = zen5turbo(&cache, &ab).success();
    for part in ["slices/bge-base-iq2_m-2-layers-", "pp16", "2 of the 12 layers of bge-base", "a slice cannot tell"] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome}");
    }
    assert!(!outcome.stdout.contains("tg64"), "no token is generated: {outcome}");
    assert!(outcome.stderr.contains("making"), "{outcome}");

    let again = zen5turbo(&cache, "slice BGE-base:iq2_m --layers 2").success();
    assert!(!again.stderr.contains("making"), "{again}");
    let file = again.stdout.trim();
    assert!(outcome.stdout.contains(file), "{again}");
    let files = std::fs::read_dir(Path::new(file).parent().expect("a folder")).expect("it can be read").count();
    assert_eq!(files, 1, "nothing else is left");
}

#[test]
fn experts_and_latent_attention_are_computed_under_the_shim() {
    let cache = work_dir();
    let model = slice(&cache, "deepseek-v2-lite --layers 2");
    let outcome = bench(Program::engaged(llama("llama-bench")), &model, "-p 32 -n 3");
    assert!(outcome.stdout.contains("deepseek2"), "{outcome}");
    assert!(outcome.stats().taken("MUL_MAT_ID", None) > 0, "{outcome}");
}

/// Each has tensors of its own, of which llama.cpp misses none.
#[test]
#[ignore = "nightly"]
fn the_smallest_slice_of_every_model_runs_in_a_stock_llama_bench() {
    for (name, words) in [
        ("llama-3.1-8b --layers 1", "-p 16 -n 3"),
        ("qwen3-30b-a3b:IQ2_M --layers 1", "-p 16 -n 3"),
        ("qwen3.6-35b-a3b", "-p 16 -n 3"),
        ("gpt-oss-20b --layers 2", "-p 16 -n 3"),
        ("gemma-3-4b --layers 6", "-p 16 -n 3"),
        ("deepseek-v2-lite --layers 2", "-p 16 -n 3"),
        ("glm-4.5-air --layers 2", "-p 16 -n 3"),
        ("bge-base:F16", "-p 16 -n 0 -embd 1"),
        ("qwen3-embedding-0.6b", "-p 16 -n 0 -embd 1"),
    ] {
        // One folder each: together they take gigabytes.
        let cache = work_dir();
        bench(Program::new(llama("llama-bench")), &slice(&cache, name), words);
    }
}
