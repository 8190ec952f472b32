//! Answers beside speed: how far an arm's next-token distributions are from stock's on a text, through
//! llama.cpp's own llama-perplexity.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::arm::{Arm, Role};
use super::plan::Plan;
use super::run_once;

/// Tokens of a chunk; llama-perplexity scores the second half of each.
const CONTEXT: u32 = 512;

/// What llama-perplexity said of an arm: values with their standard errors.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    pub model: usize,
    pub arm: usize,
    pub perplexity: Option<(f64, f64)>,
    /// Mean Kullback-Leibler divergence from stock's distributions; `None` for stock's default itself.
    pub divergence: Option<(f64, f64)>,
    /// How often the most probable token is stock's, percent.
    pub same_top: Option<(f64, f64)>,
}

/// The text, and how much of it.
#[derive(Debug)]
pub struct Text {
    pub path: PathBuf,
    pub chunks: u32,
}

impl Text {
    /// Checks that the text can be read, and that every arm has llama-perplexity beside its llama-bench.
    pub fn check(path: &Path, chunks: u32, arms: &[Arm]) -> Result<Text> {
        let what = || {
            format!("the text {} cannot be read; expected a plain text file: name one with --quality", path.display())
        };
        let file = File::open(path).with_context(what)?;
        ensure!(
            file.metadata().with_context(what)?.is_file(),
            "{} is not a file; expected a plain text file: name one with --quality",
            path.display()
        );
        for arm in arms {
            let program = perplexity(arm);
            ensure!(
                program.is_file(),
                "there is no {}; --quality expected llama-perplexity beside llama-bench: build that target, or leave --quality out",
                program.display()
            );
        }
        Ok(Text { path: path.to_owned(), chunks })
    }

    /// What was computed, for readers.
    pub fn describe(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}, at most {} chunks of {CONTEXT} tokens", self.chunks)
    }
}

fn perplexity(arm: &Arm) -> PathBuf {
    arm.program.path.with_file_name("llama-perplexity")
}

/// Stock's default first, which is what the others are compared with.
pub fn measure(plan: &Plan, text: &Text, model: usize, say: impl Fn(&str)) -> Result<Vec<Quality>> {
    let (_, base) = plan.again().context("there is no arm of stock to compare answers with")?;
    let others = (0..plan.arms.len()).filter(|&arm| arm != base && !matches!(plan.arms[arm].role, Role::Again(_)));
    let logits = plan.scratch.path().join("logits");
    let mut found = Vec::new();
    for a in std::iter::once(base).chain(others) {
        let arm = &plan.arms[a];
        say(&format!("quality: {}, {}", plan.models[model].name(), arm.name));
        let mut command = Command::new(perplexity(arm));
        command.arg("-m").arg(&plan.models[model].path).arg("-f").arg(&text.path);
        command.args(["-c", &CONTEXT.to_string(), "--chunks", &text.chunks.to_string()]);
        if let Some(threads) = plan.threads.iter().max().copied().flatten() {
            command.args(["-t", &threads.to_string()]);
        }
        if arm.repack == Some(false) {
            command.arg("--no-repack");
        }
        command.arg("--kl-divergence-base").arg(&logits);
        if a != base {
            command.arg("--kl-divergence");
        }
        arm.dress(&mut command, &plan.scratch.path().join("quality-stats.json"));
        let (finished, words) = run_once::supervised(plan, arm, command, None)?;
        let mut quality = parse(&format!("{}\n{}", finished.stdout, finished.stderr));
        ensure!(
            quality.perplexity.is_some() && (a == base || quality.divergence.is_some()),
            "llama-perplexity ended well but printed no {}; expected one: {words}",
            if quality.perplexity.is_none() { "perplexity" } else { "KL divergence" }
        );
        (quality.model, quality.arm) = (model, a);
        found.push(quality);
    }
    // Hundreds of megabytes with a large vocabulary.
    let _ = std::fs::remove_file(&logits);
    Ok(found)
}

/// Picks the figures out of llama-perplexity's text.
pub fn parse(text: &str) -> Quality {
    let line = |start: &str| {
        text.lines().find_map(|line| {
            // Log lines begin with their time, and may follow an unended one.
            let (_, rest) = line.split_once(start)?;
            let numbers: Vec<f64> = rest
                .split(|c: char| c.is_whitespace() || c == '%' || c == ':' || c == '=')
                .filter_map(|word| word.parse().ok())
                .collect();
            Some((*numbers.first()?, *numbers.get(1)?))
        })
    };
    Quality {
        perplexity: line("Mean PPL(Q) ").or_else(|| line("Final estimate: PPL")),
        divergence: line("Mean    KLD"),
        same_top: line("Same top p"),
        ..Quality::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_llama_perplexity_prints() {
        let base = parse(
            "[1]12.3,[2]13.4,\n\
             0.11.384.707 I perplexity: 10.81 seconds per pass - ETA 0.11.632.989 I Final estimate: PPL = 21.2461 +/- 1.53180\n",
        );
        assert_eq!(base.perplexity, Some((21.2461, 1.5318)));
        assert_eq!(base.divergence, None);
        let other = parse(
            "====== Perplexity statistics ======\n\
             Mean PPL(Q)                   :  21.259330 ±   1.534210\n\
             Mean PPL(base)                :  21.246100 ±   1.531800\n\
             ====== KL divergence statistics ======\n\
             Mean    KLD:   0.006140 ±   0.000130\n\
             Maximum KLD:   0.2\n\
             Same top p: 96.029 ±  0.432 %\n",
        );
        assert_eq!(other.perplexity, Some((21.25933, 1.53421)));
        assert_eq!(other.divergence, Some((0.00614, 0.00013)));
        assert_eq!(other.same_top, Some((96.029, 0.432)));
        assert_eq!(parse("nothing of use"), Quality::default());
    }
}
