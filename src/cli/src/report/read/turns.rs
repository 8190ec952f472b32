//! Programs in turns, by scripts/peers.sh, scripts/decode.sh and by hand: values of one round are divided by each other.

use std::collections::BTreeMap;

use super::super::contents::{At, Contents, Cpu, Memory, Speed, Spread};
use super::super::pairs::{Runs, Test};
use super::Read;
use super::csv::{Row, Table};
use crate::statistics::{CONFIDENCE, median};

/// Measurements with their place and date.
type All = Vec<(At, Test, Runs)>;

/// Values of what has a key.
type Samples<K> = Vec<(K, Vec<f64>)>;

fn runs(all: &mut All, at: At, test: Test) -> &mut Runs {
    let index = all.iter().rposition(|(a, t, _)| *a == at && *t == test).unwrap_or_else(|| {
        all.push((at, test, Runs::default()));
        all.len() - 1
    });
    &mut all[index].2
}

fn compared(all: All) -> Vec<Speed> {
    all.into_iter().filter_map(|(at, test, runs)| runs.compare(at, test, CONFIDENCE)).collect()
}

fn place(row: &Row) -> At {
    let program = row.get("program");
    let version = program.split(", ").find(|part| part.starts_with("zen5turbo ")).unwrap_or_default();
    At {
        date: row.get("date").to_owned(),
        cpu: Cpu::parse(row.get("cpu")),
        version: version.to_owned(),
        file: String::new(),
    }
}

/// An arm's name, with the kernels that were asked for.
fn arm(row: &Row) -> String {
    match (row.get("variant"), row.get("kernels")) {
        (variant, "" | "auto") => variant.to_owned(),
        (variant, kernels) if variant.starts_with("shim") => format!("{variant}, kernels {kernels}"),
        (variant, _) => variant.to_owned(),
    }
}

/// `peers`: stock, the shim and other programs.
pub fn peers(table: &Table) -> Result<Read, String> {
    let (mut bad, mut all) = (Vec::new(), All::new());
    for row in &table.rows {
        let numbers = (row.number::<u32>("threads"), row.number::<u32>("round"), row.number::<f64>("value"));
        let (Some(threads), Some(round), Some(value)) = numbers else {
            bad.push(row.line);
            continue;
        };
        let text = |column: &str| row.get(column).to_owned();
        // A line has the build and the versions of its own program; the date is that of the whole measurement.
        let at = At { version: String::new(), ..place(row) };
        let test = Test {
            model: text("model"),
            kind: text("model_type"),
            test: text("test"),
            threads,
            unit: text("unit"),
            build: String::new(),
        };
        runs(&mut all, at, test).add(&arm(row), round, value);
    }
    let mut speeds = compared(all);
    let version =
        table.rows.iter().map(|row| place(row).version).find(|version| !version.is_empty()).unwrap_or_default();
    let build =
        table.rows.iter().find(|row| row.get("variant").starts_with("stock")).map_or("", |row| row.get("build"));
    for speed in &mut speeds {
        speed.at.version.clone_from(&version);
        build.clone_into(&mut speed.build);
    }
    finish("peers, raw values", Contents { speeds, ..Contents::default() }, table.note(&bad))
}

/// `decode`: generation, and the memory under it. The first repetition of a process moves the weights, and is left out.
pub fn decode(table: &Table) -> Result<Read, String> {
    let (mut bad, mut memory) = (Vec::new(), Vec::new());
    let mut repetitions: Samples<(At, Test, String, u32)> = Vec::new();
    let mut streams: Samples<(At, String, u32)> = Vec::new();
    let mut weights: Samples<(At, Test, String)> = Vec::new();
    for row in &table.rows {
        let numbers = (row.number::<u32>("threads"), row.number::<u32>("round"), row.number::<f64>("value"));
        let (Some(threads), Some(round), Some(value)) = numbers else {
            bad.push(row.line);
            continue;
        };
        let at = place(row);
        if let Some(pages) = row.get("variant").strip_prefix("stream ") {
            add(&mut streams, (at, pages.to_owned(), threads), value / 1e9);
            continue;
        }
        let test = Test {
            model: row.get("model").to_owned(),
            test: "generation".to_owned(),
            threads,
            unit: "tokens/s".to_owned(),
            ..Test::default()
        };
        if row.get("unit") == "bytes/token" {
            add(&mut weights, (at, test, arm(row)), value);
        } else if row.number::<u32>("repetition") != Some(1) {
            add(&mut repetitions, (at, test, arm(row), round), value);
        }
    }
    let mut all = All::new();
    for ((at, test, arm, round), values) in repetitions {
        if let Some(median) = median(&values) {
            runs(&mut all, at, test).add(&arm, round, median);
        }
    }
    let mut speeds = compared(all);
    for ((at, test, name), values) in &weights {
        let same = |speed: &&mut Speed| speed.at == *at && (&speed.model, speed.threads) == (&test.model, test.threads);
        let arms = speeds.iter_mut().filter(same).flat_map(|speed| &mut speed.arms);
        arms.filter(|arm| arm.name == *name).for_each(|arm| arm.bytes_per_token = median(values));
    }
    for ((at, pages, threads), values) in streams {
        memory.extend(Spread::of(&values).map(|rate| Memory { at, pages, threads, rate }));
    }
    finish("decode, raw values", Contents { speeds, memory, ..Contents::default() }, table.note(&bad))
}

fn add<K: PartialEq>(all: &mut Samples<K>, key: K, value: f64) {
    match all.iter_mut().find(|(k, _)| *k == key) {
        Some((_, values)) => values.push(value),
        None => all.push((key, vec![value])),
    }
}

/// Names of the variants in a table without columns.
const VARIANTS: [(&str, &str); 5] =
    [("r0", "stock repack 0"), ("r1", "stock repack 1"), ("z5", "shim"), ("ik", "ik"), ("ikrtr", "ik repack")];

/// A line such as `2026-11-29 19:32:07,Q4_K,pp512,1,r0,0,1192.56`: time, type of all weights, test, threads, variant, round,
/// tokens/s.
struct Line<'a> {
    day: &'a str,
    kind: &'a str,
    test: &'a str,
    threads: u32,
    variant: &'static str,
    round: u32,
    value: f64,
}

impl Line<'_> {
    fn parse(line: &str) -> Option<Line<'_>> {
        let [time, kind, test, threads, variant, round, value] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
        let day = time.get(..10).filter(|day| super::is_day(day) && time.len() == 19)?;
        let (_, variant) = VARIANTS.iter().find(|(short, _)| *short == variant)?;
        let value: f64 = value.parse().ok().filter(|value: &f64| value.is_finite())?;
        Some(Line { day, kind, test, threads: threads.parse().ok()?, variant, round: round.parse().ok()?, value })
    }
}

/// Whether a table without names of columns begins so.
pub fn is_bare(first: &str) -> bool {
    Line::parse(first).is_some()
}

/// llama-bench in turns, a line for each run.
pub fn bare(text: &str) -> Result<Read, String> {
    let (mut broken, mut all) = (Table::default(), All::new());
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let Some(Line { day, kind, test, threads, variant, round, value }) = Line::parse(line) else {
            broken.broken.push(number + 1);
            continue;
        };
        // The same rounds again are another turn.
        let turn = times.entry(format!("{kind} {test} {threads} {variant} {round}")).or_default();
        let pair = *turn * 1000 + round;
        *turn += 1;
        let at = At { date: day.to_owned(), ..At::default() };
        let test = Test {
            model: format!("random weights, {kind}"),
            kind: kind.to_owned(),
            test: test.to_owned(),
            threads,
            unit: "tokens/s".to_owned(),
            build: String::new(),
        };
        runs(&mut all, at, test).add(variant, pair, value);
    }
    finish("llama-bench in turns", Contents { speeds: compared(all), ..Contents::default() }, broken.note(&[]))
}

fn finish(what: &'static str, contents: Contents, note: String) -> Result<Read, String> {
    if contents.speeds.is_empty() && contents.memory.is_empty() {
        return Err("found no round with both stock and another arm; expected at least one: measure again".to_owned());
    }
    Ok(Read { what, contents, note })
}
