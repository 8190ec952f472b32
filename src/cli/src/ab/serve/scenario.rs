//! The three scenarios, each against a server that runs.

use anyhow::Result;
use serde_json::{Value, json};

use std::time::Duration;

use super::client::{Answer, End};
use super::figures::{Counts, Figures, HIGHEST_RATE, WITHIN_BOUNDS, above_p99};
use super::load::{self, Late, Loaded, Pace};
use super::options::Scenario;
use super::plan::Plan;
use super::prompts::{Kind, Request};
use super::rate::{Highest, highest, nearest_step, of_step};
use super::schedule::arrivals;
use super::server::Server;

/// The most requests at one rate: each has a thread here.
const MOST: usize = 1000;

/// Faults of a scenario that are told in words.
const TOLD: usize = 5;

/// Groups of prompts: one for each scenario, and one for each step of the rate.
const SINGLE: u64 = 0;
const OFFLINE: u64 = 1;
const FIXED: u64 = 2;
const ALONE: u64 = 3;
const STEPS: i64 = 1000;

/// The load at one rate.
#[derive(Clone, Debug)]
pub struct Probe {
    pub rate: f64,
    pub requests: usize,
    /// Ended early, as too many first tokens were late.
    pub stopped: bool,
    /// Both bounds hold, and no request failed.
    pub within: bool,
    pub figures: Figures,
}

/// What a scenario showed in one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub scenario: Scenario,
    pub figures: Figures,
    pub counts: Counts,
    pub probes: Vec<Probe>,
    /// Requests that failed, in words; not all of many.
    pub faults: Vec<String>,
    pub notes: Vec<String>,
}

impl Outcome {
    fn new(scenario: Scenario) -> Outcome {
        Outcome {
            scenario,
            figures: Figures::default(),
            counts: Counts::default(),
            probes: Vec::new(),
            faults: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn take_in(&mut self, loaded: &Loaded) {
        self.counts.add(&Counts::of(&loaded.answers));
        for (number, answer) in loaded.answers.iter().enumerate() {
            if let End::Failed(why) = &answer.end
                && self.faults.len() < TOLD
            {
                self.faults.push(format!("request {}: {why}", number + 1));
            }
        }
    }

    /// For records.
    pub fn json(&self) -> Value {
        let probe = |probe: &Probe| {
            json!({
                "rate_requests_per_s": probe.rate,
                "requests": probe.requests,
                "within_bounds": probe.within,
                "ended_early": probe.stopped,
                "figures": probe.figures.json(),
            })
        };
        json!({
            "figures": self.figures.json(),
            "counts": self.counts,
            "rates": self.probes.iter().map(probe).collect::<Vec<_>>(),
            "faults": self.faults,
        })
    }
}

/// Runs a scenario. `hint` is the rate at which a search begins; without it, what one client gets.
///
/// # Errors
/// Those of [`load::run`].
pub fn run(plan: &Plan, scenario: Scenario, server: &Server, hint: Option<f64>) -> Result<Outcome> {
    let mut outcome = Outcome::new(scenario);
    match scenario {
        Scenario::SingleStream => {
            let loaded = steady(plan, server, SINGLE, &Pace::OneByOne, scenario, &mut outcome)?;
            outcome.figures.add_latencies(&loaded.answers);
            outcome.figures.add("tokens_per_s", outcome.counts.tokens as f64 / loaded.wall_s);
        }
        Scenario::Offline => {
            let loaded = steady(plan, server, OFFLINE, &Pace::AtOnce, scenario, &mut outcome)?;
            outcome.figures.add_throughput(&outcome.counts, loaded.wall_s);
        }
        Scenario::Server => match plan.rate {
            Some(rate) => {
                let probe = probe(plan, server, rate, FIXED, false, &mut outcome)?;
                outcome.figures.add("rate_requests_per_s", rate);
                append(&mut outcome.figures, &probe.figures);
                outcome.figures.add(WITHIN_BOUNDS, f64::from(u8::from(probe.within)));
                outcome.probes.push(probe);
            }
            None => search(plan, server, hint, &mut outcome)?,
        },
    }
    Ok(outcome)
}

/// The requests of a scenario in which no client hangs up.
fn steady(
    plan: &Plan,
    server: &Server,
    group: u64,
    pace: &Pace,
    scenario: Scenario,
    outcome: &mut Outcome,
) -> Result<Loaded> {
    let kind = Kind { cancel: 0.0, ..plan.kind.clone() };
    let requests = plan.text.requests(&kind, group, plan.requests);
    server.settle()?;
    let loaded = load::run(server, &requests, pace, None, scenario.name())?;
    outcome.take_in(&loaded);
    Ok(loaded)
}

/// What one client gets, requests a second.
fn alone(plan: &Plan, server: &Server) -> Result<f64> {
    let kind = Kind { cancel: 0.0, ..plan.kind.clone() };
    let requests = plan.text.requests(&kind, ALONE, 2);
    let loaded = load::run(server, &requests, &Pace::OneByOne, None, "first requests")?;
    Ok(requests.len() as f64 / loaded.wall_s.max(1e-3))
}

fn search(plan: &Plan, server: &Server, hint: Option<f64>, outcome: &mut Outcome) -> Result<()> {
    let hint = hint.map_or_else(|| alone(plan, server), Ok)?;
    let mut probes = Vec::new();
    let found = highest(nearest_step(hint), |step| {
        let probe = probe(plan, server, of_step(step), (STEPS + i64::from(step)) as u64, true, outcome)?;
        probes.push(probe);
        Ok(probes.last().is_some_and(|probe| probe.within))
    })?;
    outcome.probes = probes;
    let step = match found {
        Highest::None => {
            outcome.notes.push(format!(
                "no rate is within the bounds (first token {} ms, between tokens {} ms): give larger ones, or shorter prompts",
                plan.bounds.first_token_ms, plan.bounds.between_tokens_ms
            ));
            return Ok(());
        }
        Highest::Beyond(step) => {
            outcome.notes.push(format!(
                "all rates up to {:.2} requests/s are within the bounds: too few requests to load the server, give more --requests or longer --rate-seconds",
                of_step(step)
            ));
            return Ok(());
        }
        Highest::Step(step) => step,
    };
    outcome.figures.add(HIGHEST_RATE, of_step(step));
    let at_it = outcome.probes.iter().find(|probe| probe.rate == of_step(step)).map(|probe| probe.figures.clone());
    append(&mut outcome.figures, &at_it.unwrap_or_default());
    Ok(())
}

/// The load at one rate, on idle slots. Where the rate is searched for, it ends as soon as it is too high.
fn probe(
    plan: &Plan,
    server: &Server,
    rate: f64,
    group: u64,
    ends_early: bool,
    outcome: &mut Outcome,
) -> Result<Probe> {
    let n = plan.requests.max((rate * plan.rate_seconds).ceil() as usize).min(MOST.max(plan.requests));
    let requests: Vec<Request> = plan.text.requests(&plan.kind, group, n);
    let pace = Pace::At(arrivals(plan.kind.seed, n, rate));
    let bounds = plan.bounds;
    let late = ends_early.then(|| Late {
        first_token: Duration::from_secs_f64(bounds.first_token_ms / 1000.0),
        too_many: above_p99(n) + 1,
    });
    server.settle()?;
    let loaded = load::run(server, &requests, &pace, late, "server scenario")?;
    outcome.take_in(&loaded);
    let mut figures = Figures::default();
    figures.add_latencies(&loaded.answers);
    let holds = |name: &str, bound: f64| figures.get(name).is_some_and(|value| value <= bound);
    let within = !loaded.stopped
        && loaded.answers.iter().all(is_answered)
        && holds("first_token_ms_p99", bounds.first_token_ms)
        && holds("between_tokens_ms_p99", bounds.between_tokens_ms);
    Ok(Probe { rate, requests: n, stopped: loaded.stopped, within, figures })
}

fn is_answered(answer: &Answer) -> bool {
    matches!(answer.end, End::Whole | End::Cancelled)
}

fn append(figures: &mut Figures, more: &Figures) {
    for name in more.names() {
        if let Some(value) = more.get(name) {
            figures.add(name, value);
        }
    }
}
