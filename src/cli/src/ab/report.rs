//! The tables, claims and JSON of a measurement.

use serde_json::{Value, json};

use super::{LOAD, Measured, Plan, SHIM, Variant};
use crate::engagement::Stats;
use crate::llama_bench::Test;
use crate::statistics::{Better, Comparison, MIN_PAIRS, Verdict, median, range};
use crate::text;

/// One row: a test of a model on a number of threads, with the values of each variant.
struct Row {
    model: usize,
    test: Test,
    threads: u32,
    /// Values by pair, in the plan's order of variants.
    values: Vec<Vec<f64>>,
    comparison: Option<Comparison>,
}

fn better(test: Test) -> Better {
    match test {
        Test::Prompt(_) | Test::Generate(_) | Test::Batch(_) => Better::Higher,
        Test::Load | Test::Memory => Better::Lower,
    }
}

/// The variants to compare with, in the order that [`Comparison::best`] counts.
fn stock<'p>(plan: &'p Plan<'_>) -> impl Iterator<Item = &'p Variant> {
    plan.variants.iter().filter(|v| v.library.is_none())
}

fn rows(plan: &Plan<'_>, measured: &Measured) -> Vec<Row> {
    let mut rows = Vec::new();
    for model in 0..plan.models.len() {
        for test in plan.groups.iter().flat_map(|g| g.tests()) {
            for &threads in &plan.threads {
                let value = |variant: &str, pair: u32| {
                    measured
                        .runs
                        .iter()
                        .filter(|r| (r.model, r.threads, r.variant, r.pair) == (model, threads, variant, pair))
                        .flat_map(|r| &r.values)
                        .find(|(t, _)| *t == test)
                        .map(|&(_, v)| v)
                };
                let pairs = 1..=plan.args.pairs;
                // A run that fails ends the measurement, so every variant has a value in every pair.
                let of = |variant: &str| pairs.clone().filter_map(|p| value(variant, p)).collect::<Vec<f64>>();
                let values = plan.variants.iter().map(|v| of(v.name)).collect();
                let stock: Vec<Vec<f64>> = stock(plan).map(|v| of(v.name)).collect();
                let comparison = Comparison::of_pairs(&of(SHIM), &stock, better(test));
                rows.push(Row { model, test, threads, values, comparison });
            }
        }
    }
    rows
}

/// What may be said of a row, in words.
fn result(test: Test, verdict: Verdict) -> &'static str {
    match (verdict, test) {
        (Verdict::NoDifference, _) => "no measurable difference",
        (Verdict::TooFewPairs, _) => "too few pairs to say",
        (Verdict::Better, Test::Memory) => "less memory",
        (Verdict::Worse, Test::Memory) => "more memory",
        (Verdict::Better, _) => "faster",
        (Verdict::Worse, _) => "SLOWER",
    }
}

/// Prints tables, how to read them, and what the shim did.
pub fn print(plan: &Plan<'_>, measured: &Measured) {
    let rows = rows(plan, measured);
    let at = &plan.circumstances;
    let build = measured.raw.iter().find(|r| r.variant == SHIM);
    println!("{}  {}  Linux {}", at.date, at.cpu, at.kernel);
    for variant in &plan.variants {
        println!("{:<15} {} {}", variant.name, variant.bench.path.display(), variant.arguments.join(" "));
    }
    if let Some(raw) = build {
        println!("{:<15} build {}, commit {}", "llama.cpp", raw.llama_build, raw.llama_commit);
    }
    for (name, value) in plan.shim_variables(None) {
        println!("{:<15} {name}={value}", "shim's setting");
    }
    for model in 0..plan.models.len() {
        let kind = measured.raw.iter().find(|r| r.model == plan.model_name(model));
        println!("\n{} ({})", plan.models[model].display(), kind.map_or("unknown type", |r| r.model_type.as_str()));
        let mut table = text::table();
        let mut header = vec!["test".to_owned(), "threads".to_owned()];
        header.extend(plan.variants.iter().map(|v| v.name.to_owned()));
        header.extend(["shim / better stock", "interval", "result"].map(String::from));
        table.set_header(header);
        for row in rows.iter().filter(|r| r.model == model) {
            let mut cells = vec![format!("{} {}", row.test, row.test.unit()), row.threads.to_string()];
            cells.extend(row.values.iter().map(|v| spread(v)));
            match &row.comparison {
                None => cells.extend(["-", "-", "not measured"].map(String::from)),
                Some(c) => {
                    let best = stock(plan).nth(c.best).map_or("", |v| v.name);
                    cells.push(format!("{:.3} ({})", c.median, best.trim_start_matches("stock ")));
                    cells.push(c.interval.map_or("-".into(), |i| format!("{:.3}..{:.3}", i.low, i.high)));
                    cells.push(result(row.test, c.verdict).to_owned());
                }
            }
            table.add_row(cells);
        }
        println!("{table}");
        for ((_, kind), stats) in measured.stats.iter().filter(|((m, kind), _)| *m == model && *kind != LOAD) {
            println!("{}", engagement(kind, stats));
        }
    }
    println!();
    println!(
        "Each cell: median (min..max). load: a whole process that computes one token. memory: largest resident set."
    );
    println!(
        "Ratio: pair by pair to the better of stock (named; by its median), then the median. For load and memory less is better."
    );
    if let Some(interval) = rows.iter().find_map(|r| r.comparison.as_ref()?.interval) {
        println!("Interval: {}.", interval.method());
    }
    println!("A difference is claimed only when the interval does not hold 1, from {MIN_PAIRS} pairs on.");
}

fn spread(values: &[f64]) -> String {
    match (median(values), range(values)) {
        (Some(m), Some((low, high))) => {
            format!("{} ({}..{})", text::number(m), text::number(low), text::number(high))
        }
        _ => "-".into(),
    }
}

fn engagement(kind: &str, stats: &Stats) -> String {
    format!("engaged in the {kind} runs: {}", stats.summary())
}

/// The whole measurement as one JSON value.
pub fn json(plan: &Plan<'_>, measured: &Measured) -> Value {
    let summary: Vec<Value> = rows(plan, measured)
        .iter()
        .map(|row| {
            let variants: serde_json::Map<String, Value> = plan
                .variants
                .iter()
                .zip(&row.values)
                .map(|(variant, values)| {
                    let (low, high) = range(values).unzip();
                    let v = json!({"median": median(values), "min": low, "max": high, "values": values});
                    (variant.name.to_owned(), v)
                })
                .collect();
            let ratio = row.comparison.as_ref().map(|c| {
                json!({
                    "median": c.median,
                    "values": c.ratios,
                    "stock": stock(plan).nth(c.best).map(|v| v.name),
                    "low": c.interval.map(|i| i.low),
                    "high": c.interval.map(|i| i.high),
                    "coverage": c.interval.map(|i| i.coverage),
                    "method": c.interval.map(|i| i.method()),
                    "result": result(row.test, c.verdict),
                })
            });
            json!({
                "model": plan.model_name(row.model),
                "test": row.test.to_string(),
                "unit": row.test.unit(),
                "threads": row.threads,
                "variants": variants,
                "ratio": ratio,
            })
        })
        .collect();
    let engaged: Vec<Value> = measured
        .stats
        .iter()
        .map(|((model, kind), stats)| {
            json!({
                "model": plan.model_name(*model),
                "runs": kind,
                "shim_version": stats.version,
                "taken": stats.taken(),
                "declined": stats.declined(),
                "summary": stats.summary(),
            })
        })
        .collect();
    json!({
        "circumstances": plan.circumstances,
        "summary": summary,
        "engagement": engaged,
        "raw": measured.raw,
    })
}
