//! `zen5turbo ab --serve`: the user's own llama-server under load, without and with the shim.
//!
//! The servers of all arms take turns, as the runs of llama-bench do. Each server answers the same requests at the same
//! times: one client, all at once, and arrivals by chance.

mod client;
mod figures;
mod load;
mod measured;
pub(super) mod options;
mod plan;
mod prompts;
mod rate;
mod record;
mod report;
mod scenario;
mod schedule;
mod server;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::args::Args;
use super::arm::Role;
use super::measure::why_idle;
use super::progress::Progress;
use super::{IDLE, cannot_write, loud};
use crate::interleave::order;
use crate::interrupt::{self, Interrupted};
use crate::record::Jsonl;
use crate::shim_stats;
use client::{Answer, Client, End};
use load::Pace;
use measured::{Measured, PromptTokens, Run};
use options::Scenario;
use plan::Plan;
use prompts::{Kind, Request};
use server::Server;

/// Tokens of a slot beside its prompt and its answer.
const SPARE: u64 = 64;

/// Measures and reports. What was finished is reported and recorded also when the rest fails.
pub fn run(mut args: Args) -> Result<ExitCode> {
    let plan = match Plan::new(&mut args) {
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("zen5turbo: interrupted: nothing was measured");
            return Ok(ExitCode::from(interrupt::STATUS));
        }
        plan => plan?,
    };
    if let Some(path) = &args.json {
        // Find out now, not after the measurement.
        fs::OpenOptions::new().append(true).create(true).open(path).with_context(|| cannot_write(path))?;
    }
    let mut records = args.jsonl.as_deref().map(Jsonl::open).transpose()?;
    eprintln!("load: {}", plan.load_rule());
    let mut measured = Measured::default();
    let progress = Progress::new(plan.arms.len(), 1, plan.looks.max());
    let done = measure(&args, &plan, &mut measured, records.as_mut(), &progress);
    progress.finish();
    let idle = match done {
        Ok(idle) if measured.runs.is_empty() => return Ok(if idle { ExitCode::from(IDLE) } else { ExitCode::SUCCESS }),
        Ok(idle) => idle,
        Err(error) => return unfinished(&args, &plan, &mut measured, error),
    };
    show(&plan, &measured);
    write(&args, &plan, &measured)?;
    complain(&plan, &measured)?;
    Ok(if idle && !args.allow_idle { ExitCode::from(IDLE) } else { ExitCode::SUCCESS })
}

/// Whether the shim was idle in an arm that has it.
fn measure(
    args: &Args,
    plan: &Plan,
    measured: &mut Measured,
    mut records: Option<&mut Jsonl>,
    progress: &Progress,
) -> Result<bool> {
    let why = warm_up(plan, measured, progress)?;
    let idle = !why.is_empty();
    if idle {
        progress.suspend(|| loud(&why.join("\n")));
        if !args.allow_idle {
            eprintln!("zen5turbo: not measured; to measure all the same, give --allow-idle");
            return Ok(true);
        }
    }
    let mut add = |record: serde_json::Value| records.as_mut().map_or(Ok(()), |file| file.add(&record));
    add(json!({
        "record": "start",
        "kind": "serve",
        "measurement": plan.circumstances.date,
        "circumstances": plan.circumstances,
        "load": record::load(plan, measured),
        "arms": (0..plan.arms.len()).map(|arm| record::arm_facts(plan, arm)).collect::<Vec<_>>(),
    }))?;
    // Where the last search of an arm ended is where its next one begins.
    let mut hints: Vec<Option<f64>> = vec![None; plan.arms.len()];
    for pair in 1..=plan.looks.max() {
        for (position, arm) in order(pair, plan.arms.len()).into_iter().enumerate() {
            progress.at(&plan.model.name(), Some(plan.threads), pair, &plan.arms[arm].name);
            let run = one_server(plan, measured, (arm, pair, position + 1), &mut hints[arm])
                .with_context(|| format!("in pair {pair}"))?;
            let mut line = record::run_json(plan, &run);
            line["record"] = json!("run");
            line["kind"] = json!("serve");
            line["measurement"] = json!(plan.circumstances.date);
            add(line)?;
            measured.runs.push(run);
            progress.run_done();
        }
        progress.pair_done(&plan.model.name(), Some(plan.threads), pair);
    }
    Ok(idle)
}

/// A server of each arm, stock first: what fails without the shim is not the shim's fault. Counts the tokens of the
/// prompts. Returns why, for each arm in which the shim took nothing over.
fn warm_up(plan: &Plan, measured: &mut Measured, progress: &Progress) -> Result<Vec<String>> {
    let mut idle = Vec::new();
    // The pages that one server loaded the model in would serve all arms.
    plan.model.cool()?;
    let requests = plan.text.requests(&Kind { cancel: 0.0, ..plan.kind.clone() }, 0, plan.requests);
    let longest = requests.iter().map(|request| request.prompt.len()).max().unwrap_or(0) as u64;
    // No tokenizer makes more tokens than bytes. The tokens are counted by the first server.
    measured.context = longest + u64::from(plan.kind.tokens) + SPARE;
    for (a, arm) in plan.arms.iter().enumerate().filter(|(_, arm)| !matches!(arm.role, Role::Again(_))) {
        progress.warm_up(&plan.model.name(), &arm.name);
        let server = Server::start(plan, a, 1, measured.context)?;
        if a == 0 {
            ask_about(&server.client, &requests, plan, measured)?;
        }
        first_tokens(plan, &server)?;
        if let Some(stats) = server.end()?.filter(|stats| stats.taken() == 0) {
            idle.push(why_idle(arm, &plan.model.name(), &stats));
        }
    }
    Ok(idle)
}

/// Asks the server for what the record says of the model, and how long the prompts are.
fn ask_about(client: &Client, requests: &[Request], plan: &Plan, measured: &mut Measured) -> Result<()> {
    let props = client.get("/props").unwrap_or_default();
    measured.model_type = props["model_ftype"].as_str().map(str::to_owned);
    let tokens = requests.iter().map(|request| client.count_tokens(&request.prompt)).collect::<Result<Vec<_>>>();
    let mut tokens = tokens.context("cannot count the tokens of the prompts")?;
    tokens.sort_unstable();
    let most = tokens.last().copied().unwrap_or(0);
    measured.prompt_tokens =
        PromptTokens { least: tokens.first().copied().unwrap_or(0), median: tokens[tokens.len() / 2], most };
    // High rates ask for more requests, whose prompts can be longer than all of these: as long as the most words allow.
    let longest = requests.iter().map(|request| request.prompt.split_whitespace().count()).max().unwrap_or(1).max(1);
    let allowed = f64::from(plan.kind.words.1) + 101.0;
    let factor = 1.25 * (allowed / longest as f64).max(1.0);
    measured.context = (most as f64 * factor) as u64 + u64::from(plan.kind.tokens) + SPARE;
    Ok(())
}

/// The first tokens of a process are no measurement: pages are read, memory is touched for the first time.
fn first_tokens(plan: &Plan, server: &Server) -> Result<()> {
    let mut request = plan.text.requests(&plan.kind, u64::from(u32::MAX), 1).remove(0);
    (request.tokens, request.hang_up_after) = (2, None);
    let loaded = load::run(server, &[request], &Pace::OneByOne, None, "first request")?;
    match &loaded.answers[..] {
        [Answer { end: End::Failed(why), .. }] => {
            bail!("llama-server does not answer its first request: {why}; expected two tokens")
        }
        _ => Ok(()),
    }
}

/// One server of an arm, which goes through all scenarios.
fn one_server(
    plan: &Plan,
    measured: &mut Measured,
    (arm, pair, position): (usize, u32, usize),
    hint: &mut Option<f64>,
) -> Result<Run> {
    let server = Server::start(plan, arm, plan.clients, measured.context)?;
    first_tokens(plan, &server)?;
    let mut outcomes = Vec::new();
    for &scenario in &plan.scenarios {
        let outcome = scenario::run(plan, scenario, &server, *hint)?;
        let found = match scenario {
            // A little below what the server does at most, nobody waits for long.
            Scenario::Offline | Scenario::SingleStream if pair == 1 => {
                let most = outcome.figures.get("tokens_per_s").unwrap_or(1.0) / f64::from(plan.kind.tokens);
                Some(if scenario == Scenario::Offline { 0.8 * most } else { most })
            }
            _ => outcome.figures.get(figures::HIGHEST_RATE),
        };
        *hint = found.or(*hint);
        for text in outcome.notes.iter().chain(&outcome.faults) {
            let text = format!("{}, {}, pair {pair}: {text}", plan.arms[arm].name, scenario.name());
            measured.warnings.push(text);
        }
        outcomes.push(outcome);
    }
    if let Some(stats) = server.end()? {
        shim_stats::merge(measured.stats.entry(arm).or_default(), &stats);
    }
    Ok(Run { arm, pair, position, outcomes })
}

fn show(plan: &Plan, measured: &Measured) {
    print!("{}", report::render(plan, measured));
    for finding in report::findings(plan, &measured.rows(plan)) {
        println!("{finding}");
    }
}

fn write(args: &Args, plan: &Plan, measured: &Measured) -> Result<()> {
    let Some(path) = &args.json else { return Ok(()) };
    let json = serde_json::to_string_pretty(&record::document(plan, measured))?;
    fs::write(path, json + "\n").with_context(|| cannot_write(path))
}

/// Fails where requests failed or tokens were lost, after all is shown.
fn complain(plan: &Plan, measured: &Measured) -> Result<()> {
    let (mut errors, mut lost, mut requests) = (0, 0, 0);
    for (arm, &scenario) in (0..plan.arms.len()).flat_map(|arm| plan.scenarios.iter().map(move |s| (arm, s))) {
        let counts = measured.counts(arm, scenario);
        (errors, lost, requests) = (errors + counts.errors, lost + counts.lost_tokens, requests + counts.requests);
    }
    ensure!(
        errors + lost == 0,
        "{errors} of {requests} requests failed, and {lost} tokens were lost; expected none: the notes above say which, and the tables in which arms"
    );
    Ok(())
}

/// Reports the pairs that were finished before `error`, then the error.
fn unfinished(args: &Args, plan: &Plan, measured: &mut Measured, error: anyhow::Error) -> Result<ExitCode> {
    let finished = measured.runs.len();
    if finished > 0 {
        measured.warnings.push(format!("the measurement ended early, with fewer pairs than were asked for: {error:#}"));
        show(plan, measured);
        if let Err(error) = write(args, plan, measured) {
            eprintln!("zen5turbo: {error:#}");
        }
    }
    let kept = if finished == 0 {
        "nothing was measured".to_owned()
    } else {
        format!("{} measured, and what whole pairs show is above", servers(finished))
    };
    if error.downcast_ref::<Interrupted>().is_some() {
        eprintln!("zen5turbo: interrupted: {kept}");
        return Ok(ExitCode::from(interrupt::STATUS));
    }
    if finished == 0 { Err(error) } else { Err(error.context(format!("the measurement ended early; {kept}"))) }
}

fn servers(n: usize) -> String {
    if n == 1 { "1 server was".to_owned() } else { format!("{n} servers were") }
}
