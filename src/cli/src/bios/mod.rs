//! `zen5turbo bios`: tuning experiments. A record holds how the machine is set and what it does; a
//! comparison sets what changed in the settings beside what changed in the results, with the noise.

mod compare;
mod html;
mod measure;
mod plot;
mod record;
mod report;
mod settings;
mod store;

pub use record::{Group, Record};
pub use settings::Reading;
pub use store::parse;

#[cfg(feature = "fuzzing")]
pub use fuzzing::{fuzz, fuzz_settings};
#[cfg(feature = "fuzzing")]
pub use store::label;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zen5turbo_host::Cpu;

use crate::ab;
use crate::interrupt::{self, Interrupted};
use crate::root::Root;
use crate::statistics::Better;
use compare::Compared;
use record::{KIND, SCHEMA, Series};
use store::{Store, Stored};

/// Record how the machine is set and what it does, and compare records
///
/// Records are files of one JSON object each, in $XDG_DATA_HOME/zen5turbo/bios (that is, in
/// ~/.local/share/zen5turbo/bios); they are never changed and never sent anywhere.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Record(RecordArgs),
    List(ListArgs),
    Compare(CompareArgs),
}

/// Record settings and results under a label
///
/// Settings: board, BIOS, memory modules (as root), clocks, governor, boost, SMT, nodes, huge pages,
/// mitigations, kernel; clocks of memory and fabric with the module ryzen_smu. What cannot be read is
/// recorded with the reason. Results: streaming read and copy, latencies, clock, int8 multiply-adds, power
/// where RAPL tells it. Exit status: 0 recorded, 1 error, 130 interrupted.
#[derive(clap::Args, Debug)]
pub struct RecordArgs {
    /// What is being tried, such as "EXPO 6000, NPS1"
    #[arg(short, long, value_name = "TEXT", value_parser = store::label)]
    label: String,
    /// Folder of the records [default: $XDG_DATA_HOME/zen5turbo/bios]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Samples of each measurement, taken in rounds; a change needs about 8 to be found [default: what half
    /// a minute holds, 10 to 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=200))]
    rounds: Option<u16>,
    /// Only the settings: measure nothing
    #[arg(long, conflicts_with = "model")]
    settings_only: bool,
    /// Measure `zen5turbo ab` with this GGUF model too
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Print the record instead of a summary
    #[arg(long)]
    json: bool,
    /// Read proc/ and sys/ below this folder
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    /// More arguments for `zen5turbo ab`, such as --gate off --bin DIR; without --pairs it runs 8
    #[arg(last = true, value_name = "AB ARGS", requires = "model")]
    more: Vec<OsString>,
}

/// List the records
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// Folder of the records [default: $XDG_DATA_HOME/zen5turbo/bios]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object: schema, version, records
    #[arg(long)]
    json: bool,
}

/// Compare records with the first one: settings and results
///
/// A change of a result is stated only where the samples support it. Other records of the same label and
/// settings in the folder tell what changes from record to record by itself, and count as noise.
#[derive(clap::Args, Debug)]
pub struct CompareArgs {
    /// Numbers of the list, labels or files
    #[arg(value_name = "RECORD", required = true, num_args = 2..=26)]
    records: Vec<String>,
    /// Folder of the records [default: $XDG_DATA_HOME/zen5turbo/bios]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write a report with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print one JSON object: schema, version, records, settings, results, findings
    #[arg(long)]
    json: bool,
}

/// Records, lists or compares.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Record(args) => record(args),
        Command::List(args) => list(args),
        Command::Compare(args) => compare(args),
    }
}

fn record(args: &RecordArgs) -> Result<ExitCode> {
    let store = Store::at(args.dir.as_deref())?;
    // What would fail at the end fails before the measurement.
    let workload = args.model.as_ref().map(|model| workload(model, &args.more)).transpose()?;
    let draft = store.begin()?;
    let stop = interrupt::stop_at_signals()?;
    let record = match measure(args, workload.as_ref(), stop) {
        Ok(record) => record,
        Err(error) if error.downcast_ref::<Interrupted>().is_some() => {
            drop(draft);
            eprintln!(
                "zen5turbo: interrupted: nothing was recorded; the records in {} are as they were",
                store.folder().display()
            );
            return Ok(ExitCode::from(interrupt::STATUS));
        }
        Err(error) => return Err(error.context("nothing was recorded")),
    };
    let path = draft.finish(&record)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&record)?);
    } else {
        print!("{}", report::record(&record));
        println!("recorded in {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &RecordArgs, workload: Option<&ab::Prepared>, stop: &AtomicBool) -> Result<Record> {
    let (root, start) = (Root::new(&args.root), Instant::now());
    let date = crate::record::now();
    let settings = settings::under_load(&root);
    let measured = if args.settings_only {
        measure::Measured::default()
    } else {
        measure::measure(&root, args.rounds.map(usize::from), stop)?
    };
    let ab = workload.map(ab::Prepared::measure).transpose()?;
    if stop.load(Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    let mut results = measured.results;
    results.extend(ab.iter().flat_map(of_ab));
    Ok(Record {
        kind: KIND.to_owned(),
        schema: SCHEMA,
        label: args.label.clone(),
        date,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        args: crate::record::arguments(),
        cpu: Cpu::detect().brand,
        seconds: start.elapsed().as_secs_f64(),
        settings,
        notes: measured.notes,
        rounds: measured.rounds,
        results,
        unmeasured: measured.unmeasured,
        pairs: measured.pairs,
        ab,
    })
}

/// Pairs of the workload where the user names none: enough for a claim among some forty results.
const PAIRS: &str = "8";

fn workload(model: &std::path::Path, more: &[OsString]) -> Result<ab::Prepared> {
    let mut words: Vec<OsString> = vec!["--model".into(), model.into()];
    let fixed = |word: &OsString| ["--pairs", "--max-pairs"].iter().any(|o| word.to_string_lossy().starts_with(o));
    if !more.iter().any(fixed) {
        words.extend(["--pairs".into(), PAIRS.into()]);
    }
    words.extend(more.iter().cloned());
    ab::Prepared::new(words)
}

/// The values of the workload's arms as results; stock against itself is the noise, which `compare` takes
/// from the samples.
fn of_ab(ab: &Value) -> Vec<Series> {
    let mut results = Vec::new();
    for row in ab["summary"].as_array().into_iter().flatten() {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let threads = row["threads"].as_u64().unwrap_or(0);
        let better = if text("unit") == "tokens/s" { Better::Higher } else { Better::Lower };
        for (arm, values) in row["arms"].as_object().into_iter().flatten().filter(|(arm, _)| *arm != "stock again") {
            results.push(Series {
                group: Group::Ab,
                name: format!("{}, {}, {threads} thr., {arm}", text("model"), text("test")),
                x: threads as f64,
                unit: text("unit").to_owned(),
                better,
                samples: values["values"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect(),
            });
        }
    }
    results
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    let store = Store::at(args.dir.as_deref())?;
    let (records, bad) = store.list()?;
    for line in bad {
        eprintln!("zen5turbo: {line}");
    }
    if args.json {
        let records: Vec<Value> = records
            .iter()
            .map(|Stored { path, record }| {
                json!({"file": path, "label": record.label, "date": record.date, "cpu": record.cpu, "bios": report::bios(record)})
            })
            .collect();
        let object = json!({"schema": 1, "version": env!("CARGO_PKG_VERSION"), "records": records});
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else if records.is_empty() {
        println!("no records in {}; zen5turbo bios record --label TEXT makes one", store.folder().display());
    } else {
        print!("{}", report::list(&records));
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(args: &CompareArgs) -> Result<ExitCode> {
    let store = Store::at(args.dir.as_deref())?;
    let records = args.records.iter().map(|word| store.find(word)).collect::<Result<Vec<_>>>()?;
    // Files that are no records do not matter here: they are not repeats of anything.
    let all = store.list().map(|(all, _)| all).unwrap_or_default();
    let compared = Compared::new(&records, &all);
    if let Some(path) = &args.html {
        fs::write(path, html::render(&compared)?).with_context(|| {
            format!("cannot write the report {}; expected a place with room: name another file", path.display())
        })?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&compare::json(&compared))?);
    } else {
        print!("{}", report::comparison(&compared));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a fuzzer calls.
#[cfg(feature = "fuzzing")]
mod fuzzing {
    use super::*;

    /// The text of a record, compared with itself.
    pub fn fuzz(text: &str) {
        let path = PathBuf::from("record.json");
        let Ok(record) = store::parse(&path, text) else { return };
        let both = [Stored { path: path.clone(), record: record.clone() }, Stored { path, record }];
        let compared = Compared::new(&both, &both);
        let _ = (compare::findings(&compared), compare::warnings(&compared), compare::json(&compared).to_string());
        let _ = (
            html::render(&compared),
            report::comparison(&compared),
            report::record(&both[0].record),
            report::list(&both),
        );
    }

    /// The settings below a root.
    pub fn fuzz_settings(root: &Root) {
        let _ = serde_json::to_string(&settings::read(root)).unwrap();
    }
}
