//! Every kind of build of llama.cpp in the table of docs/compatibility.md: a real program with and without the shim.
//!
//! Answers are compared by the distribution of the next token: as far apart as two paths of stock are, or,
//! where nothing is taken over, not at all.

use std::path::{Path, PathBuf};

use zen5turbo_tests::distance::{BETWEEN_PATHS_OF_STOCK, STANDARD_ERRORS, compare_with_stock, divergence};
use zen5turbo_tests::{Fixture, Outcome, Program, Stats, gemma, linked_symbolically, need, smollm2, work_dir};

/// The weight types of Gemma.
const GEMMA_TYPES: [&str; 4] = ["q4_K", "q5_0", "q6_K", "q8_0"];

/// A program of another build of ggml, made by `scripts/setup.sh llama-FLAVOUR`.
fn flavour(name: &str, program: &str) -> PathBuf {
    need(Path::new(".deps").join(format!("llama.cpp-{name}/bin")).join(program), "scripts/setup.sh builds")
}

/// Whether `dir` has the library that a build is known by.
fn assert_linked(program: &Path, library: &str, linked: bool) {
    let run = Program::new("/usr/bin/ldd").arg(program).run().success();
    assert_eq!(run.stdout.contains(library), linked, "{run}");
}

/// The same prompt without and with the shim; every token after the first is computed one by one. All that is
/// printed stays: the text has the length asked for, and nothing is added to stderr.
fn generate(program: &Path) -> Outcome {
    let prompt = "The capital of France is";
    let start = |program: Program| {
        let program = program.arg("-m").arg(gemma());
        program.args("-no-cnv --no-warmup --temp 0 --seed 1 -t 2 -n 24 -p").arg(prompt).run().success()
    };
    let (stock, ours) = (start(Program::new(program)), start(Program::engaged(program)));
    println!("same text: {}", stock.stdout == ours.stdout);
    for run in [&stock, &ours] {
        let text = run.stdout.trim();
        assert!(text.starts_with(prompt) && text.split_whitespace().count() > 12, "{run}");
    }
    assert_eq!(ours.stderr.lines().count(), stock.stderr.lines().count(), "{stock}\n{ours}");
    ours
}

/// llama-perplexity of a flavour, on two chunks.
fn compare(name: &str) -> Outcome {
    compare_with_stock(&flavour(name, "llama-perplexity"), 2, "", |path| Program::engaged(path)).0
}

fn assert_all_taken(stats: &Stats) {
    for ty in GEMMA_TYPES {
        assert!(stats.taken("MUL_MAT", Some(ty)) > 0, "{ty} was not taken\n{stats}");
        assert!(stats.declined("MUL_MAT", Some(ty)).is_empty(), "{ty} was declined\n{stats}");
    }
    stats.assert_healthy();
}

fn assert_engages(name: &str) {
    assert_all_taken(generate(&flavour(name, "llama-completion")).stats());
    assert_all_taken(compare(name).stats());
}

#[test]
fn gcc_o2_stripped_engages() {
    let symbols = Program::new("/usr/bin/nm").arg(flavour("gcc-o2", "libggml-cpu.so")).run();
    assert!(symbols.stdout.is_empty(), "{symbols}");
    assert_engages("gcc-o2");
}

#[test]
fn clang_o2_without_openmp_and_llamafile_engages() {
    assert_linked(&flavour("clang-o2", "libggml-cpu.so"), "libgomp", false);
    let symbols = Program::new("/usr/bin/nm").arg("-D").arg(flavour("clang-o2", "libggml-cpu.so")).run().success();
    assert!(!symbols.stdout.contains("llamafile_sgemm"), "{symbols}");
    assert_engages("clang-o2");
}

/// OpenBLAS would be given the products of a prompt by ggml itself, before the CPU backend sees them; the shim keeps
/// from it those that are computed here. Weights stay plain, since nothing unpacks them.
#[test]
fn a_build_with_openblas_engages_and_blas_keeps_the_rest() {
    assert_linked(&flavour("blas", "libggml-blas.so"), "libopenblas", true);
    let tokens = generate(&flavour("blas", "llama-completion"));
    let prompt = compare("blas");
    for stats in [tokens.stats(), prompt.stats()] {
        assert_all_taken(stats);
        assert_eq!(stats.events("repack_kept_for_blas"), 0, "{stats}");
        assert_eq!(stats.number("/blas/calls"), 0, "{stats}");
    }
    // The tokens of a generation are no products for BLAS; those of a text are, in 18 layers of seven.
    assert!(prompt.stats().number("/blas/refused") > 18 * 6, "{}", prompt.stats());
    let kept = Program::engaged(flavour("blas", "llama-bench")).knob("KERNELS", "off").arg("-m").arg(gemma());
    let kept = kept.args("-p 64 -n 0 -r 1 -t 2 --no-warmup").run().success();
    assert_eq!(kept.stats().number("/blas/refused"), 0, "{kept}");
}

/// What the shim cannot get into is left as it is: weights that only stock's repacked layout makes fast.
#[test]
fn a_backend_that_calls_the_hook_inside_itself_keeps_its_layout() {
    let dir = work_dir();
    let bin = flavour("gcc-o2", "libggml-cpu.so").canonicalize().expect("a library");
    for file in std::fs::read_dir(bin.parent().expect("a folder")).expect("the folder of a build").flatten() {
        std::fs::copy(file.path(), dir.path().join(file.file_name())).expect("room for a copy");
    }
    let library = dir.path().join("libggml-cpu.so.0");
    let bytes = std::fs::read(&library).expect("the CPU backend");
    std::fs::write(&library, linked_symbolically(bytes)).expect("the copy can be written");
    let run = Program::engaged(dir.path().join("llama-completion")).arg("-m").arg(gemma());
    let run = run.args("-v -no-cnv --temp 0 --seed 1 -t 2 -n 8 -p Hello").run().success();
    assert_eq!(run.stats().events("hook_out_of_reach"), 1, "{run}");
    assert_eq!(run.stats().taken("MUL_MAT", None), 0, "{run}");
    assert!(run.stderr.contains("CPU_REPACK"), "{run}");
}

/// A text of 70 words.
const TEXT: &str = "The first railway in the country was opened in the spring of that year, between the harbour and \
    the old market. Three engines had been bought abroad, and each of them pulled four open carriages at the pace of \
    a horse. People came from the villages around to see it. Within ten years the line had been carried on to the \
    mountains, where coal was found, and the town had doubled its size.";

/// Tokens one by one, and the logits of a text, of a program like `fixtures/next_tokens`.
fn next_tokens(program: Program) -> (Outcome, Vec<f32>) {
    let dir = work_dir();
    let file = dir.path().join("logits");
    let run = program.arg(smollm2()).arg(TEXT).arg("24").arg(&file).run().success();
    assert_eq!(run.stdout.lines().count(), 24, "{run}");
    let bytes = std::fs::read(&file).expect("the program wrote its logits");
    (run, bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect())
}

/// Tokens of SmolLM2's vocabulary.
const SMOLLM2_VOCAB: usize = 49152;

/// Runs a program without and with the shim, compares, and returns the second run.
fn compare_tokens(name: &str, program: impl Fn(fn(PathBuf) -> Program) -> Program) -> (Outcome, f64) {
    let (stock, of_stock) = next_tokens(program(Program::new));
    let (ours, of_ours) = next_tokens(program(Program::engaged));
    let (mean, error) = divergence(&of_stock, &of_ours, SMOLLM2_VOCAB);
    println!("{name}: mean KLD {mean:.6} ± {error:.6}, same tokens: {}", stock.stdout == ours.stdout);
    assert!(mean <= BETWEEN_PATHS_OF_STOCK + STANDARD_ERRORS * error, "mean KLD {mean} ± {error}");
    ours.stats().assert_healthy();
    if mean == 0.0 {
        assert_eq!(ours.stdout, stock.stdout, "{ours}");
    }
    assert_eq!(ours.stderr, stock.stderr, "{ours}");
    (ours, mean)
}

/// llama-cpp-python of a version, made by `scripts/setup.sh python`, running `fixtures/next_tokens.py`.
fn python(version: &str, start: fn(PathBuf) -> Program) -> Program {
    let folder = need(Path::new(".deps").join(format!("llama-cpp-python-{version}")), "scripts/setup.sh builds");
    let path = format!("{}:{}", folder.display(), folder.join("site").display());
    start(need(".deps/venv/bin/python", "scripts/setup.sh models"))
        .var("PYTHONPATH", path)
        .arg("-B")
        .arg(need("tests/fixtures/next_tokens.py", "git checkout tests"))
}

#[test]
fn llama_cpp_python_of_2025_engages() {
    let (run, _) = compare_tokens("llama-cpp-python 0.3.9", |start| python("0.3.9", start));
    let stats = run.stats();
    assert!(stats.libraries().iter().any(|(path, _)| path.contains("libggml-cpu")), "{stats}");
    assert!(stats.taken("MUL_MAT", Some("q4_1")) > 0, "{stats}");
    assert!(stats.declined("MUL_MAT", Some("q4_1")).is_empty(), "{stats}");
}

/// Without the operation hook whole products come through `llamafile_sgemm`; what is missing is counted, and said
/// where it is asked for.
#[test]
fn llama_cpp_python_from_before_the_operation_hook_engages_by_its_direct_functions_and_says_so() {
    let (run, _) = compare_tokens("llama-cpp-python 0.3.1", |start| python("0.3.1", start));
    let stats = run.stats();
    assert_eq!(stats.events("no_operation_hook"), 1, "{stats}");
    assert!(stats.libraries().iter().any(|(path, s)| path.contains("libggml") && *s == "no_operation_hook"), "{stats}");
    assert!(stats.taken("MUL_MAT", Some("q4_1")) > 0 && stats.number("/direct/llamafile_sgemm/taken") > 0, "{stats}");
    let (said, _) = next_tokens(python("0.3.1", Program::engaged).knob("LOG", "info"));
    assert!(said.shim_lines().iter().any(|line| line.contains("from before December 2024")), "{said}");
}

#[test]
fn the_llama_cpp_of_the_rust_package_engages() {
    let package = need(".deps/llama-cpp-sys-2", "scripts/setup.sh builds");
    let dir = work_dir();
    let libraries = package.join("bin");
    let program = Fixture::new("next_tokens")
        .path_option("-I", &package.join("include"))
        .path_option("-L", &libraries)
        .path_option("-Wl,-rpath,", &libraries)
        .options("-lllama -lggml -lggml-base -lm")
        .build(&dir, "next_tokens");
    let (run, _) = compare_tokens("llama-cpp-sys-2", |start| start(program.clone()));
    let stats = run.stats();
    assert!(stats.taken("MUL_MAT", Some("q4_1")) > 0, "{stats}");
    assert!(stats.declined("MUL_MAT", Some("q4_1")).is_empty(), "{stats}");
}
