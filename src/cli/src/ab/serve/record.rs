//! The measurement as one JSON document, which `docs/measuring.md` describes.

use serde_json::{Map, Value, json};

use super::measured::{Measured, Row, Run};
use super::options::Scenario;
use super::plan::{Plan, words};
use crate::ab::arm::Role;
use crate::ab::compare::Compared;
use crate::ab::summary::engagement;
use crate::statistics::{Comparison, Interval, median, range};

/// The version of the document. A change that a reader has to know of makes it another one.
const VERSION: u32 = 1;

/// The whole document.
pub fn document(plan: &Plan, measured: &Measured) -> Value {
    let rows = measured.rows(plan);
    let at = &plan.circumstances;
    let arms: Vec<Value> = (0..plan.arms.len()).map(|arm| arm_json(plan, measured, &rows, arm)).collect();
    let ratios: Vec<Value> = rows.iter().flat_map(|row| ratios(plan, row)).collect();
    let engagement: Vec<Value> =
        measured.stats.iter().map(|(arm, stats)| engagement(stats, [("arm", json!(plan.arms[*arm].name))])).collect();
    json!({
        "kind": "serve",
        "version": VERSION,
        "date": at.date,
        "cpu": at.cpu,
        "kernel": at.kernel,
        "command_version": at.version,
        "arguments": at.args,
        "machine": at.machine.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "model": plan.model.name(),
        "model_bytes": plan.model.size,
        "type": measured.model_type,
        "threads": plan.threads,
        "clients": plan.clients,
        "load": load(plan, measured),
        "pairs": pairs(plan, measured),
        "pairs_rule": plan.looks.rule(0.0),
        "order": plan.order_rule(),
        "arms": arms,
        "ratios": ratios,
        "engagement": engagement,
        "warnings": plan.notes.iter().chain(&measured.warnings).collect::<Vec<_>>(),
        "runs": measured.runs.iter().map(|run| run_json(plan, run)).collect::<Vec<_>>(),
    })
}

/// What is asked of the servers.
pub fn load(plan: &Plan, measured: &Measured) -> Value {
    json!({
        "scenarios": plan.scenarios.iter().map(|scenario| scenario.key()).collect::<Vec<_>>(),
        "requests": plan.requests,
        "answer_tokens": plan.kind.tokens,
        "prompt_words": [plan.kind.words.0, plan.kind.words.1],
        "prompt_tokens": measured.prompt_tokens,
        "context_tokens_per_slot": measured.context,
        "text": plan.text.name,
        "text_bytes": plan.text.bytes(),
        "shared_prefix_share": plan.kind.shared,
        "cancelled_share": plan.kind.cancel,
        "seed": plan.kind.seed,
        "rate_requests_per_s": plan.rate,
        "rate_seconds_at_least": plan.rate_seconds,
        "bound_first_token_ms_p99": plan.bounds.first_token_ms,
        "bound_between_tokens_ms_p99": plan.bounds.between_tokens_ms,
    })
}

/// The arms, for records.
pub fn arm_facts(plan: &Plan, arm: usize) -> Map<String, Value> {
    let arm = &plan.arms[arm];
    let role = match arm.role {
        Role::Stock => "stock",
        Role::Again(_) => "stock again",
        Role::Compared => "compared",
    };
    let facts = json!({
        "name": arm.name,
        "role": role,
        "program": crate::llama_program::Program::path(&arm.program),
        "arguments": arm.arguments(),
        "library": arm.library,
        "variables": arm.variables,
    });
    facts.as_object().cloned().unwrap_or_default()
}

fn arm_json(plan: &Plan, measured: &Measured, rows: &[Row], arm: usize) -> Value {
    let mut object = arm_facts(plan, arm);
    for &scenario in &plan.scenarios {
        object.insert(scenario.key().to_owned(), scenario_json(measured, rows, arm, scenario));
    }
    Value::Object(object)
}

/// Medians over the pairs by the names of the quantities, their spread, and what became of the requests.
fn scenario_json(measured: &Measured, rows: &[Row], arm: usize, scenario: Scenario) -> Value {
    let (mut figures, mut spread) = (Map::new(), Map::new());
    for row in rows.iter().filter(|row| row.scenario == scenario) {
        if let (Some(middle), Some((low, high))) = (median(&row.values[arm]), range(&row.values[arm])) {
            figures.insert(row.name.to_owned(), json!(middle));
            spread.insert(row.name.to_owned(), json!([low, high]));
        }
    }
    figures.insert("spread".to_owned(), Value::Object(spread));
    if let Some(counts) = json!(measured.counts(arm, scenario)).as_object() {
        figures.extend(counts.clone());
    }
    Value::Object(figures)
}

fn ratios(plan: &Plan, row: &Row) -> Vec<Value> {
    let Some(Compared { reference, noise, arms }) = &row.compared else { return Vec::new() };
    let interval = |i: Option<Interval>| i.map(|i| json!({"low": i.low, "high": i.high, "confidence": i.confidence}));
    let against_itself = noise.as_ref().map(|n| json!({"median": n.median, "interval": interval(n.interval)}));
    let one = |(arm, c): (usize, &Comparison)| {
        json!({
            "scenario": row.scenario.key(),
            "figure": row.name,
            "better": super::figures::better(row.name),
            "arm": plan.arms[arm].name,
            "reference": plan.arms[*reference].name,
            "pairs": c.ratios.len(),
            "median": c.median,
            "interval": interval(c.interval),
            "values": c.ratios,
            "result": words(row.name, c.verdict),
            "difference": super::report::is_claim(c.verdict),
            "stock_against_itself": against_itself,
        })
    };
    arms.iter().enumerate().filter_map(|(arm, c)| Some((arm, c.as_ref()?))).map(one).collect()
}

/// Pairs in which every arm has had its server.
fn pairs(plan: &Plan, measured: &Measured) -> usize {
    let of_arm = |arm| measured.runs.iter().filter(|run| run.arm == arm).count();
    (0..plan.arms.len()).map(of_arm).min().unwrap_or(0)
}

/// One server.
pub fn run_json(plan: &Plan, run: &Run) -> Value {
    let outcomes = run.outcomes.iter().map(|outcome| (outcome.scenario.key().to_owned(), outcome.json()));
    json!({
        "arm": plan.arms[run.arm].name,
        "pair": run.pair,
        "position": run.position,
        "scenarios": outcomes.collect::<Map<_, _>>(),
    })
}
