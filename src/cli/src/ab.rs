//! `zen5turbo ab`: the user's own llama-bench without and with the shim, side by side.
//!
//! Speed on a shared or boosting machine drifts by more than many gains are worth. So the arms are
//! interleaved: each pair runs every arm once, every second pair in reverse, and only values of the
//! same pair are divided by each other. Stock runs twice in each pair, and what it shows against itself
//! is the least that another arm has to show.

mod arm;
mod html;
mod machine;
mod measure;
pub mod memory;
mod model;
mod one;
mod plan;
mod plot;
mod progress;
mod quality;
mod report;
mod summary;

/// What a fuzzer calls.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use super::model::fuzz as model;

    /// What llama-perplexity prints.
    pub fn quality(text: &str) {
        let _ = super::quality::parse(text);
    }
}

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::interrupt::{self, Interrupted};
use crate::knobs::values;
use crate::record::{Csv, Jsonl};
use measure::{Measured, Records};
use plan::Plan;
use progress::Progress;

pub use plan::order;

/// Measure off/on side by side with your own llama-bench
///
/// Stock runs with --repack 0 and with --repack 1 where its llama-bench can, and every other arm is
/// compared with the better of the two. Stock also runs against itself: a difference is stated only
/// when it lies outside what that shows. Exit status: 0 measured, 1 error, 3 the shim took nothing
/// over, 130 interrupted.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// GGUF model; may be given several times
    #[arg(short, long, value_name = "FILE", required = true)]
    model: Vec<PathBuf>,
    /// Folder of llama.cpp's programs (with llama-bench), or llama-bench itself [default: from PATH]
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// The shim library, or its folder [default: SHIM_LIB, else beside this command or in ../lib]
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// Prompt lengths; 0 for none
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', default_value = "512")]
    pp: Vec<u32>,
    /// Generation lengths; 0 for none
    #[arg(short = 'n', long, value_name = "N,N", value_delimiter = ',', default_value = "64")]
    tg: Vec<u32>,
    /// Tokens in the context before each test [default: 0]
    #[arg(short, long, value_name = "N,N", value_delimiter = ',')]
    depth: Vec<u32>,
    /// Batch sizes of the prompts [default: llama-bench's]
    #[arg(short, long, value_name = "N,N", value_delimiter = ',')]
    batch_size: Vec<u32>,
    /// Micro-batch sizes of the prompts [default: llama-bench's]
    #[arg(short, long, value_name = "N,N", value_delimiter = ',')]
    ubatch_size: Vec<u32>,
    /// Small batches: columns per product, such as 2,4,8,16 (256 tokens in micro-batches of N)
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: Vec<u32>,
    /// Thread counts [default: 1 and all]
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Vec<u32>,
    /// Exactly so many interleaved pairs; a claim needs at least 6 [default: as many as the noise needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: Option<u32>,
    /// The most pairs, when their number is not fixed
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(8..=1000))]
    max_pairs: u32,
    /// Stop when the interval of every speed is within so many percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    precision: f64,
    /// One more arm; ITEM is VAR=VALUE, bin=DIR, lib=FILE, shim=off or repack=0|1. May be given several times
    #[arg(long, value_name = "NAME:ITEM,ITEM")]
    arm: Vec<arm::Spec>,
    /// Leave out the default arm under the shim: only stock and what --arm names
    #[arg(long)]
    arms_only: bool,
    /// ZEN5TURBO_GATE of the shim's runs; `off` to measure on a CPU that is not Zen 5
    #[arg(long, value_parser = values("ZEN5TURBO_GATE"))]
    gate: Option<OsString>,
    /// ZEN5TURBO_KERNELS of the shim's runs
    #[arg(long, value_parser = values("ZEN5TURBO_KERNELS"))]
    kernels: Option<OsString>,
    /// Another build's folder for the stock side
    #[arg(long, value_name = "DIR")]
    stock_bin: Option<PathBuf>,
    /// Drop the model from the page cache before each run [default: read it first]
    #[arg(long)]
    cold: bool,
    /// Compare answers as well: KL divergence, same top token and perplexity on this text
    #[arg(long, value_name = "TEXT")]
    quality: Option<PathBuf>,
    /// Chunks of 512 tokens of the text
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    chunks: u32,
    /// Append a record of every run to this file, as it ends
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// Append every raw value to this file, as it comes
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write values and summary to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Do not measure load time and time to the first token
    #[arg(long)]
    no_load: bool,
    /// Measure even when the shim takes nothing over (what it costs by being there)
    #[arg(long)]
    allow_idle: bool,
    /// Longest time for one run, seconds
    #[arg(long, value_name = "S", default_value_t = 1800)]
    timeout: u64,
    /// More arguments for llama-bench, in every arm
    #[arg(last = true, value_name = "LLAMA-BENCH ARGS")]
    more: Vec<String>,
}

/// The exit status when the shim took nothing over.
const IDLE: u8 = 3;

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value < 100.0 => Ok(value),
        _ => Err("expected a number of percent above 0 and below 100, such as 1".to_owned()),
    }
}

/// Measures and reports. What was finished is reported and recorded also when the rest fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let plan = Plan::new(args)?;
    let text = args.quality.as_deref().map(|path| quality::Text::check(path, args.chunks, &plan.arms)).transpose()?;
    for path in [&args.json, &args.html].into_iter().flatten() {
        // Find out now, not after the measurement.
        fs::OpenOptions::new().append(true).create(true).open(path).with_context(|| cannot_write(path))?;
    }
    let mut records = Records {
        csv: args.csv.as_deref().map(Csv::open).transpose()?,
        jsonl: args.jsonl.as_deref().map(Jsonl::open).transpose()?,
    };
    records.line(&json!({
        "record": "start",
        "measurement": plan.circumstances.date,
        "circumstances": plan.circumstances,
        "arms": summary::arms_json(&plan),
        "pairs_rule": plan.looks.rule(plan.precision),
        "order": plan.order_rule(),
    }))?;

    let mut measured = Measured::default();
    let progress = Progress::new(&plan);
    let done = measure_all(args, &plan, text.as_ref(), &mut measured, &mut records, &progress);
    progress.finish();
    let idle = match done {
        Ok(idle) if measured.runs.is_empty() => return Ok(if idle { ExitCode::from(IDLE) } else { ExitCode::SUCCESS }),
        Ok(idle) => idle,
        Err(error) => return unfinished(args, &plan, text.as_ref(), &mut measured, error),
    };
    print_all(&plan, text.as_ref(), &measured);
    let mut line = summary::json(&plan, &measured);
    // The runs are in the record already.
    if let Some(object) = line.as_object_mut() {
        object.remove("raw");
        object.insert("record".into(), json!("end"));
        object.insert("measurement".into(), json!(plan.circumstances.date));
    }
    let recorded = records.line(&line);
    write_reports(args, &plan, text.as_ref(), &measured)?;
    recorded?;
    Ok(if idle && !args.allow_idle { ExitCode::from(IDLE) } else { ExitCode::SUCCESS })
}

/// A measurement for somebody else's record: checked, and not begun.
pub struct Prepared {
    args: Args,
    plan: Plan,
}

impl Prepared {
    /// From the words of a command line after `ab`.
    pub fn new(words: Vec<OsString>) -> Result<Prepared> {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            args: Args,
        }
        let words = std::iter::once(OsString::from("ab")).chain(words);
        let args = <Alone as clap::Parser>::try_parse_from(words)
            .map_err(|error| anyhow!("the options of ab: {}", error.to_string().lines().next().unwrap_or_default()))?
            .args;
        let plan = Plan::new(&args)?;
        Ok(Prepared { args, plan })
    }

    /// The whole measurement as JSON; nothing is printed but the progress.
    pub fn measure(&self) -> Result<Value> {
        let (mut measured, mut records) = (Measured::default(), Records::default());
        let progress = Progress::new(&self.plan);
        let done = measure_all(&self.args, &self.plan, None, &mut measured, &mut records, &progress);
        progress.finish();
        done?;
        ensure!(!measured.runs.is_empty(), "the workload was not measured, since the shim took nothing over");
        Ok(summary::json(&self.plan, &measured))
    }
}

/// Whether the shim was idle in an arm that has it.
fn measure_all(
    args: &Args,
    plan: &Plan,
    text: Option<&quality::Text>,
    measured: &mut Measured,
    records: &mut Records,
    progress: &Progress,
) -> Result<bool> {
    let mut idle = false;
    for model in 0..plan.models.len() {
        let why = measure::warm_up(plan, model, measured, records, progress)?;
        if !why.is_empty() {
            progress.suspend(|| loud(&why.join("\n")));
            if !args.allow_idle {
                eprintln!("zen5turbo: not measured; to measure all the same, give --allow-idle");
                return Ok(true);
            }
            idle = true;
        }
        if let Some(text) = text {
            let found = quality::measure(plan, text, model, |message| progress.say(message))?;
            for quality in &found {
                records.line(&json!({
                    "record": "quality",
                    "measurement": plan.circumstances.date,
                    "model": plan.models[model].name(),
                    "arm": plan.arms[quality.arm].name,
                    "text": text.describe(),
                    "quality": quality,
                }))?;
            }
            measured.quality.extend(found);
        }
        measure::pairs(plan, model, measured, records, progress)?;
    }
    Ok(idle)
}

/// Reports the pairs that were finished before `error`, then the error.
fn unfinished(
    args: &Args,
    plan: &Plan,
    text: Option<&quality::Text>,
    measured: &mut Measured,
    error: anyhow::Error,
) -> Result<ExitCode> {
    if !summary::rows(plan, measured).is_empty() {
        measured
            .warnings
            .push(format!("the measurement ended early, with fewer pairs than the rule asks for: {error:#}"));
        print_all(plan, text, measured);
        if let Err(error) = write_reports(args, plan, text, measured) {
            eprintln!("zen5turbo: {error:#}");
        }
    }
    let records: Vec<String> =
        [&args.jsonl, &args.csv].into_iter().flatten().map(|path| path.display().to_string()).collect();
    let kept = match (measured.runs.len(), records.is_empty()) {
        (0, _) => "no run was finished".to_owned(),
        (n, true) => format!("{n} runs were finished, and what whole pairs of them show is above"),
        (n, false) => format!("{n} runs were finished and are recorded in {}", records.join(" and ")),
    };
    if error.downcast_ref::<Interrupted>().is_some() {
        eprintln!("zen5turbo: interrupted: {kept}");
        return Ok(ExitCode::from(interrupt::STATUS));
    }
    Err(error.context(format!("the measurement ended early; {kept}")))
}

/// The text, on stdout.
fn print_all(plan: &Plan, text: Option<&quality::Text>, measured: &Measured) {
    print!("{}", report::render(plan, measured, text));
    for finding in report::findings(plan, &summary::rows(plan, measured)) {
        println!("{finding}");
    }
}

/// The files asked for.
fn write_reports(args: &Args, plan: &Plan, text: Option<&quality::Text>, measured: &Measured) -> Result<()> {
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&summary::json(plan, measured))?;
        fs::write(path, json + "\n").with_context(|| cannot_write(path))?;
    }
    if let Some(path) = &args.html {
        let html = html::render(plan, measured, text)?;
        fs::write(path, html).with_context(|| cannot_write(path))?;
    }
    Ok(())
}

fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write the report {}; expected a place with room: free some or name another file (records of --jsonl and --csv are not touched by this)",
        path.display()
    )
}

/// A message that cannot be overlooked.
fn loud(message: &str) {
    let bar = "!".repeat(78);
    eprintln!("{bar}");
    for line in message.lines() {
        eprintln!("!! {line}");
    }
    eprintln!("{bar}");
}
