//! The measurements of a record: every round makes each of them once, so that a drift of the machine is in
//! the samples of all.

mod busy;
mod cores;
mod jobs;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::record::{CorePair, Group, Round, Series, Unmeasured};
use crate::interrupt::Interrupted;
use crate::root::Root;
use crate::statistics::Better;
use busy::Busy;
use jobs::Job;

/// One value of a round.
pub struct Sample {
    group: Group,
    name: String,
    x: f64,
    unit: &'static str,
    value: f64,
}

/// Everything that was measured.
#[derive(Default)]
pub struct Measured {
    pub rounds: Vec<Round>,
    pub results: Vec<Series>,
    pub unmeasured: Vec<Unmeasured>,
    pub pairs: Vec<CorePair>,
    pub notes: Vec<String>,
}

/// How many rounds there are where the user does not say: enough for a change to be found, and then as many
/// as fit in a time in which a machine drifts.
const ROUNDS: std::ops::RangeInclusive<usize> = 10..=30;
const TIME: Duration = Duration::from_secs(30);

/// Measures `rounds` rounds, or as many as [`TIME`] holds. `root` has the energy counters.
///
/// # Errors
/// [`Interrupted`], when `stop` becomes true.
pub fn measure(root: &Root, rounds: Option<usize>, stop: &AtomicBool) -> Result<Measured> {
    let mut measured = Measured::default();
    let places = match cores::Places::of_this_process() {
        Ok(places) => places,
        Err(why) => {
            measured.unmeasured.push(Unmeasured { name: "all".into(), why });
            return Ok(measured);
        }
    };
    let mut jobs = jobs::all(root, &places, &mut measured);
    let most = rounds.unwrap_or(*ROUNDS.end());
    let progress = progress(most * jobs.len());
    let lines = !std::io::IsTerminal::is_terminal(&std::io::stderr());
    let begun = Instant::now();
    for round in 1..=most {
        let (busy, start) = (Busy::now(), Instant::now());
        // Every second round the other way round: what one leaves behind does not always meet the same next.
        let order: Vec<usize> =
            if round % 2 == 1 { (0..jobs.len()).collect() } else { (0..jobs.len()).rev().collect() };
        for job in order {
            if stop.load(Ordering::Relaxed) {
                progress.finish_and_clear();
                return Err(Interrupted.into());
            }
            progress.set_message(format!("round {round}: {}", jobs[job].what));
            one(&mut jobs[job], &mut measured);
            progress.inc(1);
        }
        measured.rounds.push(Round { seconds: start.elapsed().as_secs_f64(), others: busy.others_since() });
        if lines {
            eprintln!(
                "round {round} of {} done",
                if rounds.is_some() { most.to_string() } else { format!("at most {most}") }
            );
        }
        if rounds.is_none() && round >= *ROUNDS.start() && begun.elapsed() >= TIME {
            break;
        }
    }
    progress.finish_and_clear();
    drop(jobs);
    // A result that failed in some round has no sample for it.
    let rounds = measured.rounds.len();
    measured.results.retain(|series| series.samples.len() == rounds);
    measured.results.sort_by(|a, b| a.group.cmp(&b.group).then(a.x.total_cmp(&b.x)).then(a.name.cmp(&b.name)));
    Ok(measured)
}

/// One measurement, whose values go to the series that they belong to.
fn one(job: &mut Job<'_>, measured: &mut Measured) {
    match (job.run)(&mut measured.pairs) {
        Ok(samples) => samples.into_iter().for_each(|sample| add(&mut measured.results, sample)),
        Err(why) => {
            let failed = Unmeasured { name: job.what.clone(), why };
            if !measured.unmeasured.contains(&failed) {
                measured.unmeasured.push(failed);
            }
        }
    }
}

fn add(results: &mut Vec<Series>, sample: Sample) {
    // More digits than any of them is good for, without filling the record with more.
    let value = format!("{:.5e}", sample.value).parse().unwrap_or(sample.value);
    if let Some(series) = results.iter_mut().find(|series| series.name == sample.name) {
        return series.samples.push(value);
    }
    let better = match sample.group {
        Group::Latency | Group::CoreToCore | Group::Power => Better::Lower,
        _ => Better::Higher,
    };
    let Sample { group, name, x, unit, .. } = sample;
    results.push(Series { group, name, x, unit: unit.to_owned(), better, samples: vec![value] });
}

fn progress(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {elapsed} gone, at most about {eta} left, {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
