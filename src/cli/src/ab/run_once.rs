//! One run of llama-bench: the page cache before it, its environment, and what it told.

use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use zen5turbo_telemetry::Document;

use super::arm::Arm;
use super::model::Model;
use super::plan::Plan;
use crate::interrupt::Interrupted;
use crate::llama_bench::{self, Entry, Group, Test};
use crate::process::{self, Finished, Watch};
use crate::shim_stats;
use crate::smaps::Peaks;

/// A value of one test.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub test: Test,
    pub threads: u32,
    pub value: f64,
}

/// A run that has ended well.
#[derive(Debug)]
pub struct Outcome {
    pub readings: Vec<Reading>,
    pub entries: Vec<Entry>,
    pub wall_s: f64,
    /// Largest resident set, bytes.
    pub max_rss: u64,
    /// Bytes of the model in the page cache before the run.
    pub cached_before: Option<u64>,
    /// By kind, if asked for.
    pub memory: Option<Peaks>,
    /// What the shim did; empty when it wrote nothing, `None` in an arm without it.
    pub stats: Option<Document>,
}

/// Runs one group of tests. `sample` asks for memory by kind, which disturbs the timing.
pub fn run(
    plan: &Plan,
    arm: &Arm,
    model: &Model,
    threads: Option<u32>,
    group: &Group,
    sample: bool,
) -> Result<Outcome> {
    if plan.cold {
        model.cool()?;
    } else {
        model.warm(plan.stop)?;
    }
    let cached_before = model.cached();
    let mut more = arm.arguments();
    more.extend(plan.more.iter().cloned());
    let mut command = arm.program.command(&model.path, threads, group, &more);
    let file = plan.scratch.path().join("stats.json");
    // One left by the run before must not be taken for this run's.
    let _ = fs::remove_file(&file);
    arm.dress(&mut command, &file);

    let peaks = Mutex::new(Peaks::default());
    let (finished, words) = supervised(plan, arm, command, sample.then_some(&peaks))?;
    let mut entries = llama_bench::parse(&finished.stdout)
        .with_context(|| format!("the {} run ended well, but its answer is of no use: {words}", arm.name))?;
    for entry in entries.iter_mut().filter(|e| e.threads == 0) {
        entry.threads = threads.unwrap_or(0);
    }
    let mut readings = readings(group, &entries, finished.wall.as_secs_f64())?;
    if let Group::Main { .. } = group {
        let mib = finished.max_rss as f64 / f64::from(1 << 20);
        readings.push(Reading { test: Test::Memory, threads: entries[0].threads, value: mib });
    }
    Ok(Outcome {
        readings,
        entries,
        wall_s: finished.wall.as_secs_f64(),
        max_rss: finished.max_rss,
        cached_before,
        memory: sample.then(|| peaks.into_inner().unwrap_or_default()),
        stats: arm.library.as_ref().map(|_| shim_stats::read(&file).unwrap_or_default()),
    })
}

/// Runs a program of an arm to its end. Errors name the arm, the command line and the program's last
/// words; a signal to this process is [`Interrupted`].
pub fn supervised(
    plan: &Plan,
    arm: &Arm,
    command: Command,
    peaks: Option<&Mutex<Peaks>>,
) -> Result<(Finished, String)> {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    let words = words.join(" ");
    let sample = |pid: u32| {
        if let Some(Ok(mut peaks)) = peaks.map(Mutex::lock) {
            peaks.sample(pid);
        }
    };
    let sample: Option<&(dyn Fn(u32) + Sync)> = if peaks.is_some() { Some(&sample) } else { None };
    let finished = process::run_watched(command, &Watch { limit: plan.limit, stop: Some(plan.stop), sample })?;
    if finished.stopped || plan.stop.load(Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    let refused = finished.status.code() == Some(zen5turbo_host::gate::EXIT_REFUSED) && arm.library.is_some();
    ensure!(
        finished.status.success(),
        "the {} run {}: {words}\n{}{}",
        arm.name,
        finished.ending(),
        finished.last_words(8),
        if refused { "\nThis is the gate: give --gate off to measure on this CPU." } else { "" }
    );
    Ok((finished, words))
}

fn readings(group: &Group, entries: &[Entry], wall: f64) -> Result<Vec<Reading>> {
    let Group::Load(prompt) = *group else {
        return Ok(entries
            .iter()
            .map(|e| Reading { test: Test::Speed(e.speed), threads: e.threads, value: e.avg_ts })
            .collect());
    };
    let mut readings = Vec::new();
    for entry in entries {
        ensure!(
            entry.speed.prompt == prompt,
            "llama-bench gave a result for pp{}; expected pp{prompt}, which alone was asked for",
            entry.speed.prompt
        );
    }
    // Several thread counts in one process share its time, and none of them has a load time.
    if let [entry] = entries {
        let of = |test, value: f64| Reading { test, threads: entry.threads, value };
        readings.push(of(Test::Load, (wall - entry.seconds).max(0.0)));
        readings.push(of(Test::FirstToken(prompt), wall));
    }
    Ok(readings)
}
