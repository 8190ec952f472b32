//! `zen5turbo ab`: the user's own llama-bench without and with the shim, side by side.
//!
//! Speed on a shared or boosting machine drifts by more than many gains are worth. So the arms are
//! interleaved: each pair runs every arm once, every second pair in reverse, and only values of the
//! same pair are divided by each other. Stock runs twice in each pair, and what it shows against itself
//! is the least that another arm has to show.

mod args;
mod arm;
mod compare;
mod html;
mod machine;
mod measure;
mod measured;
mod model;
mod plan;
mod plot;
mod progress;
mod quality;
mod report;
mod run_once;
mod serve;
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
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::interrupt::{self, Interrupted, stop_at_signals};
use crate::record::{Csv, Jsonl};
use crate::slice::{self, Gives};
use measure::Records;
use measured::Measured;
use plan::Plan;
use progress::Progress;

pub use args::Args;

/// The exit status when the shim took nothing over.
const IDLE: u8 = 3;

/// Measures and reports. What was finished is reported and recorded also when the rest fails.
pub fn run(mut args: Args) -> Result<ExitCode> {
    if args.like.as_deref() == Some(slice::LIST) {
        print!("{}", slice::list());
        return Ok(ExitCode::SUCCESS);
    }
    if args.serve.serve {
        return serve::run(args);
    }
    let plan = match planned(&mut args) {
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("zen5turbo: interrupted: nothing was measured");
            return Ok(ExitCode::from(interrupt::STATUS));
        }
        plan => plan?,
    };
    let args = &args;
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
    let progress = progress(&plan);
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

fn progress(plan: &Plan) -> Progress {
    Progress::new(plan.groups.len() * plan.arms.len(), plan.models.len() * plan.threads.len(), plan.looks.max())
}

/// The plan, for which a slice is made if one is asked for.
fn planned(args: &mut Args) -> Result<Plan> {
    let Some(like) = &args.like else { return Plan::new(args) };
    let slice = slice::find_or_make(like, args.layers, None, args.bin.as_deref(), stop_at_signals()?)?;
    ensure!(
        slice.gives != Gives::ImageVectors,
        "llama-bench cannot encode images; expected a language model: give {} to llama-server with --mmproj",
        slice.path.display()
    );
    args.model = vec![slice.path];
    if slice.gives == Gives::Vectors {
        // All tokens are asked for, and none is generated.
        args.tg = vec![0];
        args.more.extend(["-embd", "1"].map(String::from));
    }
    let mut plan = Plan::new(args)?;
    plan.notes.extend(slice.notes);
    Ok(plan)
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
        let mut args = <Alone as clap::Parser>::try_parse_from(words)
            .map_err(|error| anyhow!("the options of ab: {}", error.to_string().lines().next().unwrap_or_default()))?
            .args;
        ensure!(
            !args.serve.serve,
            "found --serve among the options of ab; expected those of llama-bench: give --serve to zen5turbo ab itself"
        );
        let plan = planned(&mut args)?;
        Ok(Prepared { args, plan })
    }

    /// The whole measurement as JSON; nothing is printed but the progress.
    pub fn measure(&self) -> Result<Value> {
        let (mut measured, mut records) = (Measured::default(), Records::default());
        let progress = progress(&self.plan);
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
