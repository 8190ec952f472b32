//! `zen5turbo ab`: the user's own llama-bench without and with the shim, side by side.
//!
//! Speed on a shared or boosting machine drifts by more than many gains are worth. So the variants
//! are interleaved: each pair runs every variant once, in an order that rotates from pair to pair,
//! and only values of the same pair are divided by each other.

mod report;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use zen5turbo_host::Cpu;

use crate::engagement::Stats;
use crate::llama_bench::{self, Bench, Group, Test};
use crate::process::{self, Finished};
use crate::reach;
use crate::record::{Circumstances, Csv, Raw};
use crate::shim::{self, Gate, Kernels, Knobs};

/// Measure off/on side by side with your own llama-bench
///
/// Stock runs with --repack 0 and with --repack 1 where its llama-bench can, and the shim is compared
/// with the better of the two. Exit status: 0 measured, 1 error, 3 the shim took
/// nothing over.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder of llama.cpp's programs (with llama-bench), or llama-bench itself
    #[arg(long, value_name = "DIR")]
    bin: PathBuf,
    /// GGUF model; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    model: Vec<PathBuf>,
    /// The shim library, or its folder [default: SHIM_LIB, else beside this command or in ../lib]
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// Prompt lengths; 0 for none
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "512")]
    pp: Vec<u32>,
    /// Generation lengths; 0 for none
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "64")]
    tg: Vec<u32>,
    /// Small batches: columns per product, such as 2,4,8,16 (256 tokens in micro-batches of N)
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: Vec<u32>,
    /// Thread counts [default: 1 and all]
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Vec<u32>,
    /// Interleaved pairs; a claim needs at least 5
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// ZEN5TURBO_GATE of the shim's runs; `off` to measure on a CPU that is not Zen 5
    #[arg(long)]
    gate: Option<Gate>,
    /// ZEN5TURBO_KERNELS of the shim's runs
    #[arg(long)]
    kernels: Option<Kernels>,
    /// Another build's folder for the stock side
    #[arg(long, value_name = "DIR")]
    stock_bin: Option<PathBuf>,
    /// Append every raw value to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write values and summary to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Do not measure load time
    #[arg(long)]
    no_load: bool,
    /// Measure even when the shim takes nothing over (what it costs by being there)
    #[arg(long)]
    allow_idle: bool,
    /// Longest time for one run, seconds
    #[arg(long, value_name = "S", default_value_t = 1800)]
    timeout: u64,
    /// More arguments for llama-bench, on both sides
    #[arg(last = true, value_name = "LLAMA-BENCH ARGS")]
    more: Vec<String>,
}

/// The exit status when the shim took nothing over.
const IDLE: u8 = 3;

/// The shim's variant, in tables and records.
const SHIM: &str = "shim";

/// The kind of the runs that only load; one token may rightly be left to stock.
const LOAD: &str = "load";

/// One way to run llama-bench.
#[derive(Debug)]
struct Variant {
    name: &'static str,
    bench: Bench,
    arguments: Vec<String>,
    /// The library to preload.
    library: Option<PathBuf>,
}

/// One finished run.
#[derive(Debug)]
struct Run {
    model: usize,
    threads: u32,
    variant: &'static str,
    pair: u32,
    values: Vec<(Test, f64)>,
}

/// Everything measured so far.
#[derive(Debug, Default)]
struct Measured {
    runs: Vec<Run>,
    raw: Vec<Raw>,
    /// What the shim did, by model and (for the check that it did anything) kind of group.
    stats: BTreeMap<(usize, &'static str), Stats>,
}

/// Measures and reports.
pub fn run(args: &Args) -> Result<ExitCode> {
    let plan = Plan::new(args)?;
    let mut csv = args.csv.as_deref().map(Csv::open).transpose()?;
    if let Some(path) = &args.json {
        // Find out now, not after the measurement.
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut idle = false;
    let mut measured = Measured::default();
    let progress = Progress::new(&plan);
    for model in 0..plan.models.len() {
        progress.checking(model);
        if let Some(why) = plan.preflight(model)? {
            progress.bar.suspend(|| loud(&why));
            if !args.allow_idle {
                progress.bar.finish_and_clear();
                eprintln!("zen5turbo: not measured; to measure all the same, give --allow-idle");
                return Ok(ExitCode::from(IDLE));
            }
            idle = true;
        }
        measure_model(&plan, model, &mut measured, csv.as_mut(), &progress)?;
    }
    progress.bar.finish_and_clear();

    report::print(&plan, &measured);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report::json(&plan, &measured))?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    for ((model, kind), stats) in &measured.stats {
        if stats.taken() == 0 && *kind != LOAD {
            loud(&format!(
                "THE SHIM TOOK NOTHING OVER in the {kind} runs of {}: its figures are stock's.\n{}",
                plan.model_name(*model),
                stats.summary()
            ));
            idle = true;
        }
    }
    Ok(if idle && !args.allow_idle { ExitCode::from(IDLE) } else { ExitCode::SUCCESS })
}

/// What is to be run.
#[derive(Debug)]
struct Plan<'a> {
    args: &'a Args,
    models: &'a [PathBuf],
    threads: Vec<u32>,
    groups: Vec<Group>,
    variants: Vec<Variant>,
    circumstances: Circumstances,
    limit: Duration,
}

impl<'a> Plan<'a> {
    fn new(args: &'a Args) -> Result<Plan<'a>> {
        for model in &args.model {
            ensure!(
                model.is_file(),
                "the model {} is not a file; expected a GGUF file, name it with --model",
                model.display()
            );
        }
        ensure!(
            env::var_os("ZEN5TURBO").is_none_or(|v| v != "0"),
            "ZEN5TURBO=0 is set, which switches the shim off in every run; unset it to measure"
        );
        let library = shim::locate(args.lib.as_deref())?;
        let bench = Bench::find(&args.bin)?;
        let stock = args.stock_bin.as_deref().map_or_else(|| Ok(bench.clone()), Bench::find)?;
        let mut variants = Vec::new();
        if stock.repack {
            for (name, value) in [("stock repack 0", "0"), ("stock repack 1", "1")] {
                let arguments = vec!["--repack".to_owned(), value.to_owned()];
                variants.push(Variant { name, bench: stock.clone(), arguments, library: None });
            }
        } else {
            variants.push(Variant { name: "stock", bench: stock, arguments: vec![], library: None });
        }
        variants.push(Variant { name: SHIM, bench, arguments: vec![], library: Some(library) });

        let given = |list: &[u32]| list.iter().copied().filter(|&n| n > 0).collect::<Vec<_>>();
        let (pp, tg) = (given(&args.pp), given(&args.tg));
        let mut groups = Vec::new();
        if !(pp.is_empty() && tg.is_empty()) {
            groups.push(Group::Main { pp, tg });
        }
        if !args.batch.is_empty() {
            groups.push(Group::Batch(args.batch.clone()));
        }
        if !args.no_load {
            groups.push(Group::Load);
        }
        ensure!(
            groups.iter().any(|g| *g != Group::Load),
            "--pp 0 and --tg 0 without --batch leave nothing to measure; give at least one"
        );

        let mut threads = args.threads.clone();
        if threads.is_empty() {
            let all = thread::available_parallelism().map_or(1, |n| n.get() as u32);
            threads = if all > 1 { vec![1, all] } else { vec![1] };
        }
        let mut plan = Plan {
            args,
            models: &args.model,
            threads,
            groups,
            variants,
            circumstances: Circumstances::default(),
            limit: Duration::from_secs(args.timeout.max(1)),
        };
        let set: Vec<String> =
            plan.shim_variables(None).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        plan.circumstances = Circumstances::now(Cpu::detect().brand, set.join(" "));
        Ok(plan)
    }

    fn model_name(&self, model: usize) -> String {
        self.models[model].file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The shim's variables in its runs: the user's own, under those of the command line.
    fn shim_variables(&self, stats: Option<&Path>) -> BTreeMap<String, String> {
        let knobs =
            Knobs { gate: self.args.gate, kernels: self.args.kernels, log: None, stats: stats.map(Path::to_owned) };
        let mut set: BTreeMap<String, String> = shim::inherited().into_iter().collect();
        set.remove("SHIM_LIB");
        set.remove("ZEN5TURBO_STATS");
        set.remove("ZEN5TURBO_DEPS"); // of the set-up script, not of the shim
        set.extend(knobs.variables().into_iter().map(|(k, v)| (k.to_owned(), v.to_string_lossy().into_owned())));
        set
    }

    /// Runs one process; a shim run comes with its statistics, if it wrote any.
    fn start(&self, variant: &Variant, model: usize, threads: u32, group: &Group) -> Result<(Finished, Option<Stats>)> {
        let mut arguments = variant.arguments.clone();
        arguments.extend(self.args.more.iter().cloned());
        let mut command = variant.bench.command(&self.models[model], threads, group, &arguments);
        shim::without_shim(&mut command);
        let Some(library) = &variant.library else {
            let words = words(&command);
            let finished = process::run(command, self.limit)?;
            ensure!(
                finished.status.success(),
                "the {} run {}: {words}\n{}",
                variant.name,
                finished.ending(),
                finished.last_words(8)
            );
            return Ok((finished, None));
        };
        let file = StatsFile::new();
        command.env("LD_PRELOAD", library).envs(self.shim_variables(Some(&file.0)));
        let words = words(&command);
        let finished = process::run(command, self.limit)?;
        if !finished.status.success() {
            let hint = if finished.status.code() == Some(zen5turbo_host::gate::EXIT_REFUSED) {
                "\nThis is the gate: give --gate off to measure on this CPU."
            } else {
                ""
            };
            loud(&format!("THE SHIM RUN FAILED: it {}: {words}\n{}{hint}", finished.ending(), finished.last_words(8)));
            bail!("the run with the shim {}", finished.ending());
        }
        // A run without statistics counts as one that took nothing over.
        let stats = Stats::read(&file.0).ok();
        Ok((finished, stats))
    }

    /// A short run of stock and one under the shim before the long ones: `Some(why)` when the shim
    /// took nothing over. Stock goes first: what fails without the shim is not the shim's fault, and
    /// the model is in the page cache before anything is measured.
    fn preflight(&self, model: usize) -> Result<Option<String>> {
        let group = Group::Main { pp: vec![32], tg: vec![2] };
        let short = |variant| self.start(variant, model, self.threads[0], &group);
        if let Some(variant) = self.variants.iter().find(|v| v.library.is_none()) {
            short(variant)?;
        }
        let Some(variant) = self.variants.iter().find(|v| v.library.is_some()) else { return Ok(None) };
        let (_, stats) = short(variant)?;
        let what = match &stats {
            Some(stats) if stats.taken() > 0 => return Ok(None),
            Some(stats) => stats.summary(),
            None => "it wrote no statistics, so it was not loaded or did not come to its end".to_owned(),
        };
        let mut why = format!("THE SHIM TOOK NOTHING OVER on {}: {what}", self.model_name(model));
        match reach::examine(&variant.bench.path) {
            Ok(reach) if !reach.engages() => {
                let copies = reach.copies.iter().filter_map(|c| c.obstacle.as_ref());
                for o in reach.obstacles.iter().chain(copies) {
                    why += &format!("\nfound: {}; expected: {}; do: {}", o.found, o.expected, o.todo);
                }
            }
            Ok(_) => why += "\nggml can be reached in this build; ZEN5TURBO_LOG=debug tells more",
            Err(error) => why += &format!("\n{error:#}"),
        }
        Ok(Some(why))
    }
}

/// All pairs of one model.
fn measure_model(
    plan: &Plan<'_>,
    model: usize,
    measured: &mut Measured,
    mut csv: Option<&mut Csv>,
    progress: &Progress<'_>,
) -> Result<()> {
    for &threads in &plan.threads {
        for pair in 1..=plan.args.pairs {
            for (g, group) in plan.groups.iter().enumerate() {
                for position in 0..plan.variants.len() {
                    let turn = (position + pair as usize - 1) % plan.variants.len();
                    let variant = &plan.variants[turn];
                    progress.at(measured, (model, threads, g), pair, variant.name);
                    let (finished, stats) = plan.start(variant, model, threads, group)?;
                    let entries =
                        llama_bench::parse(&finished.stdout).with_context(|| format!("in the {} run", variant.name))?;
                    let mut values =
                        llama_bench::values(group, &entries).with_context(|| format!("in the {} run", variant.name))?;
                    let kind = match group {
                        Group::Main { .. } => {
                            values.push((Test::Memory, finished.max_rss as f64 / f64::from(1 << 20)));
                            "prompt and generation"
                        }
                        Group::Batch(_) => "batch",
                        Group::Load => {
                            values.push((Test::Load, finished.wall.as_secs_f64()));
                            LOAD
                        }
                    };
                    if variant.library.is_some() {
                        measured.stats.entry((model, kind)).or_default().merge(&stats.unwrap_or_default());
                    }
                    let entry = entries.into_iter().next().unwrap_or_default();
                    for &(test, value) in &values {
                        let raw = Raw {
                            model: plan.model_name(model),
                            model_type: entry.model_type.clone(),
                            test: test.to_string(),
                            threads,
                            variant: variant.name.to_owned(),
                            pair,
                            position: position as u32 + 1,
                            value,
                            unit: test.unit(),
                            wall_s: finished.wall.as_secs_f64(),
                            max_rss: finished.max_rss,
                            llama_build: entry.build_number,
                            llama_commit: entry.build_commit.clone(),
                            binary: variant.bench.path.display().to_string(),
                        };
                        if let Some(csv) = csv.as_deref_mut() {
                            csv.add(&plan.circumstances, &raw)?;
                        }
                        measured.raw.push(raw);
                    }
                    measured.runs.push(Run { model, threads, variant: variant.name, pair, values });
                    progress.done((model, threads, g), finished.wall);
                }
            }
            progress.pair_done(plan, model, threads, pair);
        }
    }
    Ok(())
}

/// A path of its own for one run's statistics; the file goes with it.
struct StatsFile(PathBuf);

impl StatsFile {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("zen5turbo-ab-{}-{n}.json", std::process::id()));
        // One left by an earlier process of this id must not be taken for this run's.
        let _ = fs::remove_file(&path);
        StatsFile(path)
    }
}

impl Drop for StatsFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The command line, for messages.
fn words(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// A message that cannot be overlooked.
fn loud(message: &str) {
    let bar = "!".repeat(78);
    eprintln!("{bar}");
    for line in message.lines() {
        eprintln!("!! {line}");
    }
    eprintln!("{bar}");
}

/// (model, threads, group).
type Key = (usize, u32, usize);

/// The bar on stderr, and the remaining time from what each kind of run took.
struct Progress<'a> {
    bar: ProgressBar,
    plan: &'a Plan<'a>,
    sizes: Vec<f64>,
    took: std::cell::RefCell<BTreeMap<Key, (f64, u32)>>,
}

impl<'a> Progress<'a> {
    fn new(plan: &'a Plan<'a>) -> Self {
        let per_pair = plan.groups.len() * plan.variants.len();
        let total = plan.models.len() * plan.threads.len() * plan.args.pairs as usize * per_pair;
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} runs, {elapsed} gone, {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_secs(1));
        let sizes = plan.models.iter().map(|m| fs::metadata(m).map_or(1.0, |m| m.len() as f64)).collect();
        Progress { bar, plan, sizes, took: Default::default() }
    }

    fn checking(&self, model: usize) {
        let message = format!("checking that the shim engages on {}", self.plan.model_name(model));
        if !std::io::stderr().is_terminal() {
            eprintln!("{message}");
        }
        self.bar.set_message(message);
    }

    fn done(&self, key: Key, wall: Duration) {
        let mut took = self.took.borrow_mut();
        let (sum, n) = took.entry(key).or_default();
        *sum += wall.as_secs_f64();
        *n += 1;
        self.bar.inc(1);
    }

    fn at(&self, measured: &Measured, key: Key, pair: u32, variant: &str) {
        let left = match self.remaining() {
            Some(s) if !measured.runs.is_empty() => format!("about {} left", duration(s)),
            _ => "time left not known yet".to_owned(),
        };
        let threads = key.1;
        self.bar.set_message(format!(
            "{left}: {}, {threads} thread{}, pair {pair}/{}, {variant}",
            self.plan.model_name(key.0),
            if threads == 1 { "" } else { "s" },
            self.plan.args.pairs
        ));
    }

    /// Seconds for the runs that are left: by the mean of their own kind, else of the same group on
    /// another model or thread count, scaled by file size and threads.
    fn remaining(&self) -> Option<f64> {
        let took = self.took.borrow();
        let each = (self.plan.args.pairs as usize * self.plan.variants.len()) as f64;
        let mut sum = 0.0;
        for model in 0..self.plan.models.len() {
            for &threads in &self.plan.threads {
                for group in 0..self.plan.groups.len() {
                    let (mean, done) = match took.get(&(model, threads, group)) {
                        Some(&(seconds, n)) => (seconds / f64::from(n), f64::from(n)),
                        None => {
                            let (key, (seconds, n)) = took
                                .iter()
                                .rev()
                                .find(|((_, _, g), _)| *g == group)
                                .or_else(|| took.iter().next_back())?;
                            let scale =
                                self.sizes[model] / self.sizes[key.0].max(1.0) * f64::from(key.1) / f64::from(threads);
                            (seconds / f64::from(*n) * scale, 0.0)
                        }
                    };
                    sum += mean * (each - done).max(0.0);
                }
            }
        }
        Some(sum)
    }

    /// Where there is no terminal for a bar, a line for each pair.
    fn pair_done(&self, plan: &Plan<'_>, model: usize, threads: u32, pair: u32) {
        if std::io::stderr().is_terminal() {
            return;
        }
        let left = self.remaining().map(duration).unwrap_or_default();
        eprintln!(
            "{}, {threads} thread{}: pair {pair}/{} done, about {left} left",
            plan.model_name(model),
            if threads == 1 { "" } else { "s" },
            plan.args.pairs
        );
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
