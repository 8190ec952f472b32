//! One side of the comparison: a process that computes products in ggml on request.
//!
//! It is this command itself, started with or without the shim taking products over, so that what is
//! measured is what happens in a program: the hook, ggml's graph, its threads.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use zen5turbo_kernels::formats::WeightType;

use super::ggml::{Counters, Ggml};
use super::products::{Layout, Products};

/// The command that measures start.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The library with the CPU backend
    file: PathBuf,
}

/// A request, one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make threads and memory: `threads`, bytes of weights, in a file in the folder `file` if that is named.
    Begin { threads: usize, bytes: usize, file: Option<PathBuf> },
    /// Compute with `threads` threads from now on.
    Threads { threads: usize },
    /// Fill the memory with weights of this type.
    Weights { name: String },
    /// Copy the weights into ggml's repacked layout, where it has one for them.
    Repack,
    /// Compute products with `columns` columns for `ms` milliseconds.
    Turn { layout: Layout, columns: usize, ms: u64 },
}

/// What it answers, one line of JSON each; the first comes unasked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The library was opened: its build, and how well it suits the CPU where there are several.
    Opened { identity: String, score: Option<i32> },
    /// Done.
    Done,
    /// Whether there are repacked weights now.
    Repacked { any: bool },
    /// Nanoseconds for a product; products in all, those of them that the shim took over and that it left.
    Took { ns: f64, products: u64, taken: u64, declined: u64 },
    /// It cannot be done.
    Failed { why: String },
}

/// Answers until the end of its input.
pub fn run(args: &Args) -> Result<ExitCode> {
    match serve(&args.file) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            answer(&Answer::Failed { why: format!("{error:#}") })?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn serve(file: &Path) -> Result<()> {
    let ggml = Ggml::open(file)?;
    answer(&Answer::Opened { identity: ggml.identity(), score: ggml.score() })?;
    let counters = Counters::find();
    let mut opened = Some(ggml);
    let mut products: Option<(Products, WeightType)> = None;
    for line in io::stdin().lock().lines() {
        let request = serde_json::from_str(&line?).context("found a request that is none")?;
        let result = match (request, &mut products) {
            (Request::Begin { threads, bytes, file }, None) => {
                let ggml = opened.take().context("begun twice")?;
                products = Some((Products::new(ggml, threads, bytes, file.as_deref())?, WeightType::F32));
                Ok(Answer::Done)
            }
            (Request::Threads { threads }, Some((products, _))) => products.set_threads(threads).map(|()| Answer::Done),
            (Request::Weights { name }, Some((products, current))) => {
                *current = WeightType::from_ggml_name(&name).with_context(|| format!("no type {name}"))?;
                products.fill(*current).map(|()| Answer::Done)
            }
            (Request::Repack, Some((products, _))) => products.repack().map(|any| Answer::Repacked { any }),
            (Request::Turn { layout, columns, ms }, Some((products, weight))) => {
                let counted = || counters.as_ref().map_or((0, 0), |counters| counters.of(*weight));
                let before = counted();
                products.turn(layout, columns, Duration::from_millis(ms)).map(|turn| {
                    let after = counted();
                    let (taken, declined) = (after.0 - before.0, after.1 - before.1);
                    Answer::Took { ns: turn.ns, products: turn.products, taken, declined }
                })
            }
            (request, _) => bail!("found {request:?} out of turn"),
        };
        answer(&result.unwrap_or_else(|error| Answer::Failed { why: format!("{error:#}") }))?;
    }
    Ok(())
}

fn answer(answer: &Answer) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    out.flush()?;
    Ok(())
}
