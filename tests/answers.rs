//! The distribution of the next token on English text, against stock's.

use std::path::Path;
use std::time::Duration;

use zen5turbo_tests::{Outcome, Program, gemma, llama, need, work_dir};

/// What two paths of stock itself (`--no-repack` against its default) are apart on Gemma 3 270M.
const BETWEEN_PATHS_OF_STOCK: f64 = 0.006;

/// Both figures are means over 2040 tokens, each with a standard error of about 2 %. Paths that are
/// equally far from stock's default differ by up to so many standard errors of the difference.
const STANDARD_ERRORS: f64 = 2.0;

/// English text of the llama.cpp tree, enough for the chunks below.
const TEXT: [&str; 5] = ["CONTRIBUTING.md", "SECURITY.md", "README.md", "docs/build.md", "docs/speculative.md"];

fn perplexity(start: fn(std::path::PathBuf) -> Program, text: &Path, base: &Path, options: &str) -> Outcome {
    start(llama("llama-perplexity"))
        .arg("-m")
        .arg(gemma())
        .arg("-f")
        .arg(text)
        .arg("--kl-divergence-base")
        .arg(base)
        .args("-c 512 -t 2 --chunks 8")
        .args(options)
        .limit(Duration::from_secs(900))
        .run()
        .success()
}

/// A mean and its standard error: `LABEL: 0.005850 ± 0.000127`.
fn figure(run: &Outcome, label: &str) -> (f64, f64) {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = run.stdout.lines().chain(run.stderr.lines()).map(words);
    let found = lines.filter_map(|line| line.strip_prefix(label).map(str::to_owned)).next();
    let numbers = found.as_deref().and_then(|rest| rest.trim_start_matches(':').trim().split_once(" ± "));
    let number = |text: &str| text.trim_end_matches('%').trim().parse().ok();
    let pair = numbers.and_then(|(mean, error)| Some((number(mean)?, number(error)?)));
    pair.unwrap_or_else(|| panic!("no line says {label:?}\n{run}"))
}

#[test]
fn answers_are_as_close_to_stock_as_two_paths_of_stock_are_to_each_other() {
    let dir = work_dir();
    let (text, base) = (dir.path().join("text"), dir.path().join("logits"));
    let parts = TEXT.map(|name| need(Path::new(".deps/llama.cpp/src").join(name), "scripts/setup.sh llama"));
    let words: String = parts.iter().map(|p| std::fs::read_to_string(p).expect("English text")).collect();
    std::fs::write(&text, words).expect("the folder is writable");

    let _ = perplexity(Program::new, &text, &base, "");
    let stock = perplexity(Program::new, &text, &base, "--kl-divergence --no-repack");
    let ours = perplexity(Program::engaged, &text, &base, "--kl-divergence");
    assert!(ours.stats().taken("MUL_MAT", None) > 0, "{}", ours.stats());
    ours.stats().assert_healthy();

    let (stock_mean, stock_error) = figure(&stock, "Mean KLD");
    let (our_mean, our_error) = figure(&ours, "Mean KLD");
    let (same, _) = figure(&ours, "Same top p");
    println!("mean KLD: stock --no-repack {stock_mean}, zen5turbo {our_mean}; same top token {same} %");
    let limit = stock_mean.max(BETWEEN_PATHS_OF_STOCK) + STANDARD_ERRORS * stock_error.hypot(our_error);
    assert!(our_mean <= limit, "mean KLD {our_mean}, the limit is {limit} (stock --no-repack: {stock_mean})");
    assert!(same >= 95.0, "same top token: {same} %");
}
