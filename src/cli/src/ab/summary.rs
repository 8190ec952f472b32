//! From runs to rows: what each test showed in each arm, and what may be said of it.

use serde_json::{Value, json};
use zen5turbo_telemetry::document::Document;

use super::arm::Role;
use super::compare::{self, Compared, compare};
use super::measured::{Measured, Run};
use super::plan::Plan;
use crate::llama_bench::Test;
use crate::shim_stats;
use crate::statistics::{Better, Comparison, Interval, Verdict, median, range};

/// One test of a model on a number of threads.
#[derive(Debug)]
pub struct Row {
    pub model: usize,
    pub test: Test,
    pub threads: u32,
    /// Values by arm, in the order of the pairs; only pairs in which every arm has one.
    pub values: Vec<Vec<f64>>,
    /// The better of stock, an arm.
    pub reference: usize,
    /// Stock again over stock.
    pub noise: Option<Comparison>,
    /// Each arm over the reference; `None` for those that are not compared.
    pub compared: Vec<Option<Comparison>>,
}

/// Rows in the order in which they are shown.
pub type Rows = Vec<Row>;

/// Which direction of a test is good.
fn better(test: Test) -> Better {
    match test {
        Test::Speed(_) => Better::Higher,
        Test::Load | Test::FirstToken(_) | Test::Memory => Better::Lower,
    }
}

/// All rows of a measurement.
pub fn rows(plan: &Plan, measured: &Measured) -> Rows {
    let blocks = (0..plan.models.len()).flat_map(|m| (0..plan.threads.len()).map(move |b| (m, b)));
    let mut rows: Rows = blocks.flat_map(|(m, b)| rows_of_block(plan, measured, m, b)).collect();
    rows.sort_by_key(|row| row.model);
    rows
}

/// The rows of one model and one of the plan's thread counts.
pub fn rows_of_block(plan: &Plan, measured: &Measured, model: usize, block: usize) -> Rows {
    let runs: Vec<&Run> = measured.runs.iter().filter(|r| (r.model, r.block) == (model, block)).collect();
    let mut tests: Vec<(Test, u32)> = Vec::new();
    for reading in runs.iter().flat_map(|run| &run.readings) {
        if !tests.contains(&(reading.test, reading.threads)) {
            tests.push((reading.test, reading.threads));
        }
    }
    // Speeds in llama-bench's order, what belongs to the whole process after them.
    tests.sort_by_key(|(test, _)| !matches!(test, Test::Speed(_)));
    tests.into_iter().filter_map(|(test, threads)| row(plan, &runs, model, test, threads)).collect()
}

fn row(plan: &Plan, runs: &[&Run], model: usize, test: Test, threads: u32) -> Option<Row> {
    let value = |arm: usize, pair: u32| {
        let mine = runs.iter().filter(|run| (run.arm, run.pair) == (arm, pair)).flat_map(|run| &run.readings);
        mine.clone().find(|r| (r.test, r.threads) == (test, threads)).map(|r| r.value)
    };
    let pairs: Vec<u32> =
        (1..=plan.looks.max()).filter(|&pair| (0..plan.arms.len()).all(|arm| value(arm, pair).is_some())).collect();
    let values: Vec<Vec<f64>> =
        (0..plan.arms.len()).map(|arm| pairs.iter().filter_map(|&pair| value(arm, pair)).collect()).collect();

    let roles: Vec<Role> = plan.arms.iter().map(|arm| arm.role).collect();
    let Compared { reference, noise, arms } = compare(&roles, &values, better(test), plan.looks.confidence())?;
    Some(Row { model, test, threads, values, reference, noise, compared: arms })
}

/// What may be said of a comparison, in words.
pub fn words(test: Test, verdict: Verdict) -> &'static str {
    match test {
        Test::Memory => compare::words(verdict, "less memory", "MORE MEMORY"),
        _ => compare::words(verdict, "faster", "SLOWER"),
    }
}

/// Whether a verdict says that there is a difference.
pub fn is_claim(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Better | Verdict::Worse)
}

/// The whole measurement as one JSON value.
pub fn json(plan: &Plan, measured: &Measured) -> Value {
    let name = |arm: usize| plan.arms[arm].name.clone();
    let interval = |i: Option<Interval>| i.map(|i| json!({"low": i.low, "high": i.high, "confidence": i.confidence}));
    let summary: Vec<Value> = rows(plan, measured)
        .iter()
        .map(|row| {
            let arms: serde_json::Map<String, Value> = row
                .values
                .iter()
                .enumerate()
                .map(|(arm, values)| {
                    let (low, high) = range(values).unzip();
                    (name(arm), json!({"median": median(values), "min": low, "max": high, "values": values}))
                })
                .collect();
            let compared: serde_json::Map<String, Value> = row
                .compared
                .iter()
                .enumerate()
                .filter_map(|(arm, c)| Some((arm, c.as_ref()?)))
                .map(|(arm, c)| {
                    let v = json!({
                        "median": c.median,
                        "interval": interval(c.interval),
                        "values": c.ratios,
                        "result": words(row.test, c.verdict),
                        "difference": is_claim(c.verdict),
                    });
                    (name(arm), v)
                })
                .collect();
            json!({
                "model": plan.models[row.model].name(),
                "test": row.test.to_string(),
                "unit": row.test.unit(),
                "threads": row.threads,
                "pairs": row.values[row.reference].len(),
                "arms": arms,
                "reference": name(row.reference),
                "ratios": compared,
                "stock_against_itself": row.noise.as_ref().map(|n| json!({
                    "median": n.median,
                    "interval": interval(n.interval),
                    "values": n.ratios,
                })),
            })
        })
        .collect();
    let memory: Vec<Value> = measured
        .memory
        .iter()
        .map(|((model, arm), (peaks, cached))| {
            json!({"model": plan.models[*model].name(), "arm": name(*arm), "peaks": peaks, "cached_after_bytes": cached})
        })
        .collect();
    let engaged: Vec<Value> = measured
        .stats
        .iter()
        .map(|((model, arm, tests), stats)| {
            let of =
                [("model", json!(plan.models[*model].name())), ("arm", json!(name(*arm))), ("tests", json!(tests))];
            engagement(stats, of)
        })
        .collect();
    json!({
        "circumstances": plan.circumstances,
        "arms": arms_json(plan),
        "pairs_rule": plan.looks.rule(plan.precision),
        "order": plan.order_rule(),
        "summary": summary,
        "memory": memory,
        "quality": measured.quality,
        "engagement": engaged,
        "warnings": measured.warnings,
        "raw": measured.raw,
    })
}

/// What the shim has computed, with what says in which runs, for records.
pub fn engagement<const N: usize>(stats: &Document, of: [(&str, Value); N]) -> Value {
    let mut engagement = json!({
        "shim_version": Some(&stats.about.version).filter(|version| !version.is_empty()),
        "taken": stats.taken(),
        "declined": stats.declined(),
        "summary": shim_stats::summary(stats),
    });
    for (name, value) in of {
        engagement[name] = value;
    }
    engagement
}

/// The arms, for records.
pub fn arms_json(plan: &Plan) -> Value {
    plan.arms
        .iter()
        .map(|arm| {
            json!({
                "name": arm.name,
                "program": arm.program.path,
                "arguments": arm.arguments(),
                "library": arm.library,
                "variables": arm.variables,
            })
        })
        .collect()
}
