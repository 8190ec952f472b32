//! The measurement itself: the warm-up, then pairs until there are enough.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use zen5turbo_telemetry::Document;

use super::arm::{Arm, Role};
use super::measured::{Measured, Run};
use super::plan::Plan;
use super::progress::Progress;
use super::run_once::{self, Outcome, Reading};
use super::summary::{Rows, rows_of_block};
use crate::interleave::order;
use crate::interposition;
use crate::llama_bench::{Group, Test};
use crate::llama_program::Program;
use crate::record::{Csv, Jsonl, Raw};
use crate::shim_stats;
use crate::statistics::precise_enough;

/// Where values go as they come.
#[derive(Debug, Default)]
pub struct Records {
    pub csv: Option<Csv>,
    pub jsonl: Option<Jsonl>,
}

impl Records {
    /// Appends a line to the JSONL record, if there is one.
    pub fn line(&mut self, record: &Value) -> Result<()> {
        self.jsonl.as_mut().map_or(Ok(()), |file| file.add(record))
    }
}

/// One unmeasured run of each arm, stock first: what fails without the shim is not the shim's fault.
/// Memory is sampled by kind here, where it disturbs nothing. Returns why, for each arm in which the
/// shim took nothing over.
pub fn warm_up(
    plan: &Plan,
    model: usize,
    measured: &mut Measured,
    records: &mut Records,
    progress: &Progress,
) -> Result<Vec<String>> {
    let mut idle = Vec::new();
    let group = &plan.groups[0];
    let threads = plan.threads.iter().max().copied().flatten();
    // The pages that a program loaded it in, huge ones under the shim, would serve all arms; those that reading it
    // here gives are nobody's. With --cold each arm loads its own.
    plan.models[model].cool()?;
    for (a, arm) in plan.arms.iter().enumerate().filter(|(_, arm)| !matches!(arm.role, Role::Again(_))) {
        progress.warm_up(&plan.models[model].name(), &arm.name);
        let outcome = run_once::run(plan, arm, &plan.models[model], threads, group, true)?;
        let cached = plan.models[model].cached();
        measured.memory.insert((model, a), (outcome.memory.unwrap_or_default(), cached));
        let mut line = head("warm-up", plan, model, arm, &outcome);
        line["memory"] = json!(outcome.memory);
        line["cached_after_bytes"] = json!(cached);
        records.line(&line)?;
        if plan.cold && outcome.cached_before.is_some_and(|bytes| bytes > plan.models[model].size / 10) {
            measured.warnings.push(format!(
                "--cold: a part of {} stayed in the page cache when the kernel was asked to drop it (another program may have it mapped)",
                plan.models[model].name()
            ));
        }
        if let Some(stats) = outcome.stats.filter(|stats| stats.taken() == 0) {
            idle.push(why_idle(arm, &plan.models[model].name(), &stats));
        }
    }
    Ok(idle)
}

/// Why the shim took nothing over in a run of this arm.
pub fn why_idle<P: Program>(arm: &Arm<P>, model: &str, stats: &Document) -> String {
    let what = if stats.about.version.is_empty() && stats.ops.is_empty() {
        "it wrote no statistics, so it was not loaded or did not come to its end".to_owned()
    } else {
        shim_stats::summary(stats)
    };
    let mut why = format!("THE SHIM TOOK NOTHING OVER on {model} in the arm {}: {what}", arm.name);
    match interposition::examine(arm.program.path()) {
        Ok(reach) if !reach.engages() => {
            let copies = reach.copies.iter().filter_map(|c| c.obstacle.as_ref());
            for o in reach.obstacles.iter().chain(&reach.unknown).chain(copies) {
                why += &format!("\nfound: {}; expected: {}; do: {}", o.found, o.expected, o.todo);
            }
        }
        Ok(_) => why += "\nggml can be reached in this build; ZEN5TURBO_LOG=debug tells more",
        Err(error) => why += &format!("\n{error:#}"),
    }
    why
}

/// All pairs of one model, for each thread count as many as the looks ask for.
pub fn pairs(
    plan: &Plan,
    model: usize,
    measured: &mut Measured,
    records: &mut Records,
    progress: &Progress,
) -> Result<()> {
    for block in 0..plan.threads.len() {
        for pair in 1..=plan.looks.max() {
            one_pair(plan, (model, block), pair, measured, records, progress)?;
            progress.pair_done(&plan.models[model].name(), plan.threads[block], pair);
            if plan.looks.at(pair) && enough(plan, &rows_of_block(plan, measured, model, block)) {
                break;
            }
        }
        progress.block_done();
    }
    Ok(())
}

/// Whether the interval of every speed, in every arm and in the A/A check, is narrow enough.
fn enough(plan: &Plan, rows: &Rows) -> bool {
    rows.iter().filter(|row| matches!(row.test, Test::Speed(_))).all(|row| {
        row.compared
            .iter()
            .flatten()
            .chain(&row.noise)
            .all(|c| c.interval.is_some_and(|interval| precise_enough(c.median, &interval, plan.precision)))
    })
}

fn one_pair(
    plan: &Plan,
    (model, block): (usize, usize),
    pair: u32,
    measured: &mut Measured,
    records: &mut Records,
    progress: &Progress,
) -> Result<()> {
    for group in &plan.groups {
        for (position, a) in order(pair, plan.arms.len()).into_iter().enumerate() {
            let arm = &plan.arms[a];
            progress.at(&plan.models[model].name(), plan.threads[block], pair, &arm.name);
            let outcome = run_once::run(plan, arm, &plan.models[model], plan.threads[block], group, false)?;
            complete(measured, (model, block), group, &outcome)
                .with_context(|| format!("in the {} run of the {} tests", arm.name, group.name()))?;
            record(plan, (model, a), (pair, position), group, &outcome, measured, records)?;
            let Outcome { readings, stats, .. } = outcome;
            if let Some(stats) = stats {
                shim_stats::merge(measured.stats.entry((model, a, group.name())).or_default(), &stats);
            }
            measured.runs.push(Run { model, block, arm: a, pair, readings });
            progress.run_done();
        }
    }
    Ok(())
}

/// Every run has to bring the tests that the first one of its group brought.
fn complete(measured: &Measured, (model, block): (usize, usize), group: &Group, outcome: &Outcome) -> Result<()> {
    ensure!(
        !outcome.readings.is_empty() || matches!(group, Group::Load(_)),
        "llama-bench gave no result; expected one for each test asked for"
    );
    let Some(first) = measured.runs.iter().find(|run| {
        (run.model, run.block) == (model, block)
            && outcome.readings.iter().any(|r| run.readings.iter().any(|f| (f.test, f.threads) == (r.test, r.threads)))
    }) else {
        return Ok(());
    };
    for expected in &first.readings {
        if !outcome.readings.iter().any(|r| (r.test, r.threads) == (expected.test, expected.threads)) {
            bail!("llama-bench gave no result for {}; expected one, as the runs before it gave", expected.test);
        }
    }
    Ok(())
}

fn head(kind: &str, plan: &Plan, model: usize, arm: &Arm, outcome: &Outcome) -> Value {
    json!({
        "record": kind,
        "measurement": plan.circumstances.date,
        "model": plan.models[model].name(),
        "arm": arm.name,
        "wall_s": outcome.wall_s,
        "max_rss_bytes": outcome.max_rss,
        "cached_before_bytes": outcome.cached_before,
        "llama_bench": outcome.entries.iter().map(|e| &e.fields).collect::<Vec<_>>(),
    })
}

fn record(
    plan: &Plan,
    (model, a): (usize, usize),
    (pair, position): (u32, usize),
    group: &Group,
    outcome: &Outcome,
    measured: &mut Measured,
    records: &mut Records,
) -> Result<()> {
    let arm = &plan.arms[a];
    let position = position as u32 + 1;
    let mut line = head("run", plan, model, arm, outcome);
    line["tests"] = json!(group.name());
    line["pair"] = json!(pair);
    line["position"] = json!(position);
    let value = |r: &Reading| json!({"test": r.test.to_string(), "threads": r.threads, "value": r.value, "unit": r.test.unit()});
    line["values"] = outcome.readings.iter().map(value).collect();
    line["shim_took_over"] = json!(outcome.stats.as_ref().map(Document::taken));
    records.line(&line)?;

    let first = &outcome.entries[0];
    measured.builds.entry(a).or_insert_with(|| (first.build_number, first.build_commit.clone()));
    measured.types.entry(model).or_insert_with(|| first.model_type.clone());
    for reading in &outcome.readings {
        let raw = Raw {
            model: plan.models[model].name(),
            model_type: first.model_type.clone(),
            test: reading.test.to_string(),
            threads: reading.threads,
            variant: arm.name.clone(),
            pair,
            position,
            value: reading.value,
            unit: reading.test.unit(),
            wall_s: outcome.wall_s,
            max_rss: outcome.max_rss,
            llama_build: first.build_number,
            llama_commit: first.build_commit.clone(),
            binary: arm.program.path.display().to_string(),
            environment: arm.environment(),
        };
        if let Some(csv) = &mut records.csv {
            csv.add(&plan.circumstances, &raw)?;
        }
        measured.raw.push(raw);
    }
    Ok(())
}
