//! How far apart two runs of a model are: the KL divergence of the distributions of the next token.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Outcome, Program, gemma, need, work_dir};

/// What two paths of stock itself are apart: `--no-repack` against its default on Gemma 3 270M.
pub const BETWEEN_PATHS_OF_STOCK: f64 = 0.006;

/// Figures that are means have standard errors. Paths that are equally far from stock's default differ by
/// up to so many standard errors of the difference.
pub const STANDARD_ERRORS: f64 = 2.0;

/// A run of llama-perplexity may be so far from stock's default on average, given stock's other path.
fn limit(stock: (f64, f64), ours: (f64, f64)) -> f64 {
    stock.0.max(BETWEEN_PATHS_OF_STOCK) + STANDARD_ERRORS * stock.1.hypot(ours.1)
}

/// Runs `program`, a llama-perplexity, without the shim, without it and with `--no-repack`, and as `start` starts
/// it. Fails the test when the third is further from the first than the second is. `chunks` of 512 tokens are
/// computed, with more `options` in all three. Returns the third, and for how many tokens of a hundred its likeliest one is
/// the first's.
#[must_use]
pub fn compare_with_stock(
    program: &Path,
    chunks: usize,
    options: &str,
    start: impl Fn(&Path) -> Program,
) -> (Outcome, f64) {
    let dir = work_dir();
    let (text, base) = (english(dir.path()), dir.path().join("logits"));
    let with = |program: Program, more: &str| perplexity(program, &text, &base, chunks, &format!("{options} {more}"));
    // A gigabyte of logits, which is not kept.
    let _ = with(Program::new(program), "").run().success();
    let stock = figure(&with(Program::new(program), "--kl-divergence --no-repack").stock(None), "Mean KLD");
    let run = with(start(program), "--kl-divergence").run().success();
    let (ours, same) = (figure(&run, "Mean KLD"), figure(&run, "Same top p").0);
    println!("mean KLD: stock --no-repack {stock:?}, zen5turbo {ours:?}; same top token {same} %");
    assert!(ours.0 <= limit(stock, ours), "mean KLD {ours:?}, stock --no-repack {stock:?}\n{run}");
    run.stats().assert_healthy();
    (run, same)
}

/// English text of the llama.cpp tree, enough for eight chunks of 512 tokens.
const TEXT: [&str; 5] = ["CONTRIBUTING.md", "SECURITY.md", "README.md", "docs/build.md", "docs/speculative.md"];

/// That text in one file of `dir`.
fn english(dir: &Path) -> PathBuf {
    let parts = TEXT.map(|name| need(Path::new(".deps/llama.cpp/src").join(name), "scripts/setup.sh llama"));
    let words: String = parts.iter().map(|p| std::fs::read_to_string(p).expect("English text")).collect();
    let file = dir.join("text");
    std::fs::write(&file, words).expect("the folder is writable");
    file
}

/// `program`, a llama-perplexity, on so many chunks of 512 tokens of `text`: writes the logits to `base` or,
/// with the option `--kl-divergence`, compares its own with those.
fn perplexity(program: Program, text: &Path, base: &Path, chunks: usize, options: &str) -> Program {
    program
        .arg("-m")
        .arg(gemma())
        .arg("-f")
        .arg(text)
        .arg("--kl-divergence-base")
        .arg(base)
        .args(&format!("-c 512 -t 2 --chunks {chunks}"))
        .args(options)
        .limit(Duration::from_secs(900))
}

/// A mean and its standard error that llama-perplexity writes: `LABEL: 0.005850 ± 0.000127`.
fn figure(run: &Outcome, label: &str) -> (f64, f64) {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = run.stdout.lines().chain(run.stderr.lines()).map(words);
    let found = lines.filter_map(|line| line.strip_prefix(label).map(str::to_owned)).next();
    let numbers = found.as_deref().and_then(|rest| rest.trim_start_matches(':').trim().split_once(" ± "));
    let number = |text: &str| text.trim_end_matches('%').trim().parse().ok();
    let pair = numbers.and_then(|(mean, error)| Some((number(mean)?, number(error)?)));
    pair.unwrap_or_else(|| panic!("no line says {label:?}\n{run}"))
}

/// Mean KL divergence of the distributions `ours` from `stock` and its standard error: logits of `vocab`
/// tokens for each position.
#[must_use]
pub fn divergence(stock: &[f32], ours: &[f32], vocab: usize) -> (f64, f64) {
    assert!(stock.len() == ours.len() && !stock.is_empty() && stock.len().is_multiple_of(vocab), "not the same text");
    let each: Vec<f64> = stock.chunks(vocab).zip(ours.chunks(vocab)).map(|(p, q)| one_divergence(p, q)).collect();
    let n = each.len() as f64;
    let mean = each.iter().sum::<f64>() / n;
    let variance = each.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

fn one_divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_total = |logits: &[f32]| {
        let most = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        most + logits.iter().map(|&l| (f64::from(l) - most).exp()).sum::<f64>().ln()
    };
    let (of_p, of_q) = (log_total(p), log_total(q));
    p.iter()
        .zip(q)
        .map(|(&p, &q)| {
            let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
            p.exp() * (p - q)
        })
        .sum()
}
