//! The phases, one after the other.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use zen5turbo_tests::need;

use crate::answers::{self, Answers};
use crate::client::Client;
use crate::distance::{Distance, Scores};
use crate::load::{Counts, Load};
use crate::log::Seen;
use crate::options::Options;
use crate::report::{Report, Summary};
use crate::server::{PLENTY, Server};
use crate::statistics;
use crate::watch::{Sample, check_growth};

/// English text of the llama.cpp tree, from which prompts are cut.
const TEXT: [&str; 5] = ["CONTRIBUTING.md", "SECURITY.md", "README.md", "docs/build.md", "docs/speculative.md"];

/// Tokens of it that are used beside one context.
const TOKENS: usize = 12_000;

/// Stock's paths that its default is compared with: without repacked weights, and without flash attention, since
/// not every type of weight is repacked.
const PATHS: [(&str, &[&str]); 2] = [("stock-no-repack", &["--no-repack"]), ("stock-no-fa", &["-fa", "off"])];

/// When a squeeze of memory begins and ends within a cycle.
const SQUEEZE: std::ops::Range<Duration> = Duration::from_secs(4)..Duration::from_secs(16);
/// Bytes that a squeeze leaves beside the anonymous memory. This is less than the shim's reserve (a quarter of the
/// limit, at most 128 MiB), so weights are given back; and it is enough for the server to go on.
const LEFT: u64 = 40 << 20;

/// A cycle of this length is long enough for copies of weights to be given back and made again, after a minute's pause.
const LONG: Duration = Duration::from_secs(120);

/// What the servers are compared with.
struct Reference {
    text: Vec<u32>,
    fixed: Vec<Value>,
    stock: Scores,
    own: Distance,
}

/// All of it; the summary, or what was found wrong.
pub fn soak(options: &Options) -> Result<String> {
    let mut report = Report::new(&options.out)?;
    let reference = stock(options, &mut report)?;
    let (first, kernels) = first_run(options, &reference, &mut report)?;
    let arm = (!options.stock).then_some(kernels.as_str());
    let mut soak = Soak {
        options,
        reference: &reference,
        first: &first,
        counts: Counts::default(),
        begin: Instant::now(),
        server: Server::start(options, "soak", arm, &[])?,
        quiet_tasks: 0,
        samples: Vec::new(),
        largest: Distance::default(),
    };
    let (cycles, squeezes) = soak.cycles(&mut report)?;
    check_growth(&soak.samples)?;
    let Soak { counts, server, samples, largest, .. } = soak;
    let (seen, end_seconds, stats) = finish(options, server)?;
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64);
    let summary = Summary {
        seconds: report.elapsed().as_secs(),
        cycles,
        squeezes,
        counts: &counts,
        shifts: seen.shifts,
        first: samples[0],
        last: samples[samples.len() - 1],
        end_seconds,
        stock_distance: reference.own,
        largest_distance: largest,
        isa: stats["isa"].as_str(),
        copied: number("/memory/weights/copied/thp"),
        given_back: Some(number("/events/memory_pressure").unwrap_or(0)),
    };
    let file = options.out.join("summary.json");
    std::fs::write(&file, serde_json::to_string_pretty(&summary)?).context("summary.json")?;
    Ok(summary.to_string())
}

/// Stock's own paths.
fn stock(options: &Options, report: &mut Report) -> Result<Reference> {
    let parts = TEXT.map(|name| need(format!(".deps/llama.cpp/src/{name}"), "scripts/setup.sh llama"));
    let words = parts.iter().map(std::fs::read_to_string).collect::<std::io::Result<String>>().context("the text")?;
    let server = Server::start(options, "stock", None, &[])?;
    let client = Client::new(server.port);
    let mut text = client.tokens(&words)?;
    let least = options.context + 8;
    ensure!(text.len() > least, "{} tokens of text, expected {least}; choose a smaller --context", text.len());
    text.truncate(options.context + TOKENS);
    let stock = Scores::ask(&client, &text, options.context)?;
    drop(client);
    server.stop()?;
    let mut own = Distance::default();
    for (name, arguments) in PATHS {
        let server = Server::start(options, name, None, arguments)?;
        let distance = stock.distance(&Scores::ask(&Client::new(server.port), &text, options.context)?, &text);
        server.stop()?;
        report.line(name, json!({ "distance": distance }))?;
        if distance.mean > own.mean {
            own = distance;
        }
    }
    let fixed = answers::requests(&text, options.context);
    Ok(Reference { text, fixed, stock, own })
}

/// What the shim answered in another process before: the reference of all that follows.
struct FirstRun {
    answers: Answers,
    scores: Scores,
}

/// The first run, and the kernels that it used: what `auto` takes is measured at each start, and with it may change
/// the order of sums.
fn first_run(options: &Options, reference: &Reference, report: &mut Report) -> Result<(FirstRun, String)> {
    let server = Server::start(options, "first", (!options.stock).then_some("auto"), &[])?;
    let client = Client::new(server.port);
    let answers = Answers::ask(&client, &reference.fixed, options.slots)?;
    let scores = Scores::ask(&client, &reference.text, options.context)?;
    let distance = reference.stock.distance(&scores, &reference.text);
    drop(client);
    report.line("first", json!({ "distance": distance }))?;
    distance.check(&reference.own).context("in the first run")?;
    let (_, _, stats) = finish(options, server)?;
    let kernels = match stats["isa"].as_str() {
        Some("avx512vnni") => "avx512",
        Some("avx512vnni-256") => "avx512-256",
        isa => isa.unwrap_or("auto"),
    };
    Ok((FirstRun { answers, scores }, kernels.to_owned()))
}

/// Ends a server on which nothing runs: what it leaves must be complete. Without the shim there are no statistics.
fn finish(options: &Options, server: Server) -> Result<(Seen, f64, Value)> {
    let path = server.stats.clone();
    let (seen, seconds) = server.stop()?;
    ensure!(!seen.torn, "the last line of the server's log has no end");
    ensure!(seen.shim.is_empty(), "the shim wrote to the server's log: {:?}, expected no line", seen.shim);
    let Seen { launched, released, .. } = seen;
    ensure!(launched == released, "the log has {launched} tasks begun and {released} ended, expected the same");
    Ok((seen, seconds, if options.stock { Value::Null } else { statistics::read(&path)? }))
}

/// The server under load.
struct Soak<'a> {
    options: &'a Options,
    reference: &'a Reference,
    first: &'a FirstRun,
    counts: Counts,
    begin: Instant,
    server: Server,
    /// Tasks of the quiet phases.
    quiet_tasks: u64,
    /// One of each quiet phase.
    samples: Vec<Sample>,
    largest: Distance,
}

impl Soak<'_> {
    /// Load and quiet in turn until the time is over: how often, and how often memory was squeezed.
    fn cycles(&mut self, report: &mut Report) -> Result<(u64, u64)> {
        let most = (self.options.duration / 12).clamp(Duration::from_secs(10), Duration::from_secs(600));
        let (mut cycles, mut squeezes, mut quiet_time) = (0, 0, Duration::from_secs(4));
        loop {
            let left = self.options.duration.saturating_sub(report.elapsed()).saturating_sub(quiet_time);
            let last = left < most * 2 + quiet_time;
            let time = if last { left.max(SQUEEZE.end + Duration::from_secs(2)) } else { most };
            let squeeze = (last || time >= LONG) && self.server.group.is_some();
            self.load(cycles, time, squeeze, report)?;
            let begin = Instant::now();
            self.quiet(cycles, report)?;
            quiet_time = begin.elapsed();
            cycles += 1;
            squeezes += u64::from(squeeze);
            if last {
                return Ok((cycles, squeezes));
            }
        }
    }

    fn sample(&self) -> Result<Sample> {
        Sample::take(self.server.pid(), self.begin.elapsed().as_secs_f64())
    }

    fn load(&mut self, cycle: u64, time: Duration, squeeze: bool, report: &mut Report) -> Result<()> {
        let Self { options, reference, first, counts, server, begin, .. } = self;
        let Reference { text, fixed, .. } = reference;
        let load = Load { options, text, fixed, answers: &first.answers, port: server.port, counts };
        let started = Instant::now();
        let mut squeezed = false;
        let result = load.run(cycle, |failed: &AtomicBool| {
            while started.elapsed() < time && !failed.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                server.check_alive()?;
                let sample = Sample::take(server.pid(), begin.elapsed().as_secs_f64())?;
                report.minute(&sample, counts)?;
                let now = squeeze && SQUEEZE.contains(&started.elapsed());
                if now != squeezed {
                    set_limit(server, if now { sample.anonymous_kib * 1024 + LEFT } else { PLENTY })?;
                    squeezed = now;
                }
            }
            Ok(())
        });
        set_limit(server, PLENTY)?;
        // What ends the server makes all clients fail.
        server.check_alive().and(result).with_context(|| format!("in cycle {cycle}, under load"))
    }

    /// Nothing else runs: answers, log-probabilities, memory.
    fn quiet(&mut self, cycle: u64, report: &mut Report) -> Result<()> {
        self.wait_until_idle()?;
        let client = Client::new(self.server.port);
        let before = self.server.seen().launched;
        let answers = Answers::ask(&client, &self.reference.fixed, self.options.slots)?;
        self.first.answers.check(&answers, &format!("after cycle {cycle}"))?;
        let scores = Scores::ask(&client, &self.reference.text, self.options.context)?;
        let distance = self.reference.stock.distance(&scores, &self.reference.text);
        distance.check(&self.reference.own).with_context(|| format!("after cycle {cycle}"))?;
        if distance.mean > self.largest.mean {
            self.largest = distance;
        }
        let changed = self.first.scores.differing(&scores);
        ensure!(
            changed == 0,
            "after cycle {cycle} log-probabilities differ at {changed} positions from those of the first run, expected \
             the same bits"
        );
        drop(client);
        self.wait_for_log()?;
        self.quiet_tasks += self.server.seen().launched - before;
        let sample = self.sample()?;
        self.samples.push(sample);
        let more = json!({ "process": sample, "distance": distance });
        report.line("quiet", more)
    }

    /// The tasks of clients that went away end too, and the log has a line for the begin and the end of each.
    fn wait_until_idle(&self) -> Result<()> {
        self.wait_for_log()?;
        let launched = self.server.seen().launched - self.quiet_tasks;
        let [least, most] = self.counts.tasks();
        ensure!(
            (least..=most).contains(&launched),
            "the log has {launched} tasks of the load, expected {least} to {most}"
        );
        Ok(())
    }

    fn wait_for_log(&self) -> Result<()> {
        let begin = Instant::now();
        let mut calm = 0;
        // Some moments of calm: a line may be under way.
        while calm < 5 {
            let Seen { launched, released, .. } = self.server.seen();
            calm = if launched == released { calm + 1 } else { 0 };
            ensure!(
                begin.elapsed() < Duration::from_secs(120),
                "{launched} tasks have begun and {released} have ended 120 s after the load, expected the same"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn set_limit(server: &Server, bytes: u64) -> Result<()> {
    server.group.as_ref().map_or(Ok(()), |group| group.set_limit(bytes)).context("the limit of the control group")
}
