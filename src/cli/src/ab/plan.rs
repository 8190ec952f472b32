//! What is to be run, in which order, and when there is enough of it.

use std::env;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use zen5turbo_host::Cpu;

use super::args::Args;
use super::arm::{Arm, Role, arms};
use super::machine;
use super::model::Model;
use crate::interleave::order;
use crate::interrupt::stop_at_signals;
use crate::llama_bench::{Group, names_tests, names_threads};
use crate::record::Circumstances;
use crate::statistics::Looks;

/// Prompt of the time to the first token where no prompt length is given.
const FIRST_PROMPT: u32 = 128;

/// A measurement, before it begins.
#[derive(Debug)]
pub struct Plan {
    pub models: Vec<Model>,
    /// `None`: left to the user's llama-bench options.
    pub threads: Vec<Option<u32>>,
    pub groups: Vec<Group>,
    pub arms: Vec<Arm>,
    pub looks: Looks,
    /// The half-width of the interval that is aimed at, 0.01 for +-1 %.
    pub precision: f64,
    /// Drop the model from the page cache before each run, instead of reading it.
    pub cold: bool,
    /// Longest time of one run.
    pub limit: Duration,
    /// More options of llama-bench.
    pub more: Vec<String>,
    pub circumstances: Circumstances,
    /// For files that live as long as the measurement.
    pub scratch: TempDir,
    /// Becomes true at Ctrl-C.
    pub stop: &'static AtomicBool,
    /// What could not be planned as asked.
    pub notes: Vec<String>,
}

impl Plan {
    /// Checks all that can be checked before the first run.
    pub fn new(args: &Args) -> Result<Plan> {
        not_switched_off()?;
        if let Some((remedy, word)) = args.more.iter().find_map(|word| Some((ours(word)?, word))) {
            bail!("found {word} after the --; expected options of llama-bench that ab does not set itself: {remedy}");
        }
        let models = args.model.iter().map(|path| Model::check(path)).collect::<Result<Vec<_>>>()?;
        let arms = arms(args)?;
        let mut notes = Vec::new();
        let groups = groups(args, &arms, &mut notes)?;
        let mut threads: Vec<Option<u32>> = args.threads.iter().copied().map(Some).collect();
        if names_threads(&args.more) {
            ensure!(threads.is_empty(), "--threads and -t after the -- both give thread counts; give one of them");
            threads = vec![None];
        } else if threads.is_empty() {
            let all = thread::available_parallelism().map_or(1, |n| n.get() as u32);
            threads = if all > 1 { vec![Some(1), Some(all)] } else { vec![Some(1)] };
        }
        Ok(Plan {
            models,
            threads,
            groups,
            arms,
            looks: args.pairs.map_or_else(|| Looks::up_to(args.max_pairs), Looks::fixed),
            precision: args.precision / 100.0,
            cold: args.cold,
            limit: Duration::from_secs(args.timeout.max(1)),
            more: args.more.clone(),
            circumstances: Circumstances::now(Cpu::detect().brand, machine::facts()),
            scratch: scratch()?,
            stop: stop_at_signals()?,
            notes,
        })
    }

    /// Stock again: the A/A check, and the arm that it repeats.
    pub fn again(&self) -> Option<(usize, usize)> {
        self.arms.iter().enumerate().find_map(|(i, arm)| match arm.role {
            Role::Again(of) => Some((i, of)),
            _ => None,
        })
    }

    /// The arms of a role, by index.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = usize> + '_ {
        (0..self.arms.len()).filter(move |&i| self.arms[i].role == role)
    }

    /// How the pairs are ordered, in words.
    pub fn order_rule(&self) -> String {
        let names = |pair| -> String {
            order(pair, self.arms.len()).iter().map(|&i| self.arms[i].name.as_str()).collect::<Vec<_>>().join(", ")
        };
        format!(
            "each pair runs every arm once ({}), the next in reverse, then the order moves on by one; before each run the model is {}",
            names(1),
            if self.cold {
                "dropped from the page cache, so that each arm loads its own pages"
            } else {
                "read into the page cache"
            }
        )
    }
}

/// Fails where the environment switches the shim off, so that there is nothing to compare.
pub fn not_switched_off() -> Result<()> {
    ensure!(
        env::var_os("ZEN5TURBO").is_none_or(|v| v != "0"),
        "ZEN5TURBO=0 is set, which switches the shim off in every run; unset it to measure"
    );
    Ok(())
}

/// A folder for files that live as long as a measurement.
pub fn scratch() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("zen5turbo-ab-")
        .tempdir()
        .context("cannot make a folder for temporary files; expected a writable one: name it with TMPDIR=DIR")
}

/// What to do about an option of llama-bench that ab gives itself.
fn ours(word: &str) -> Option<&'static str> {
    match word {
        "-m" | "--model" => Some("give --model before the --"),
        "-hf" | "-hfr" | "--hf-repo" => Some("give a file with --model before the --"),
        "-o" | "--output" => Some("leave it out: ab reads llama-bench's JSON"),
        "--repack" => Some("use an arm with repack=0 or repack=1"),
        _ => None,
    }
}

fn groups(args: &Args, arms: &[Arm], notes: &mut Vec<String>) -> Result<Vec<Group>> {
    let given = |list: &[u32]| list.iter().copied().filter(|&n| n > 0).collect::<Vec<_>>();
    let (pp, tg) = (given(&args.pp), given(&args.tg));
    let first = pp.first().copied().unwrap_or(FIRST_PROMPT);
    let mut groups = Vec::new();
    if !(pp.is_empty() && tg.is_empty()) || names_tests(&args.more) {
        groups.push(Group::Main {
            pp,
            tg,
            depth: args.depth.clone(),
            batch: args.batch_size.clone(),
            ubatch: args.ubatch_size.clone(),
        });
    }
    if !args.batch.is_empty() {
        groups.push(Group::Columns(args.batch.clone()));
    }
    ensure!(!groups.is_empty(), "--pp 0 and --tg 0 without --batch leave nothing to measure; give at least one");
    if !args.no_load {
        if arms.iter().all(|arm| arm.program.no_warmup) {
            groups.push(Group::Load(first));
        } else {
            notes.push("load and first token are not measured: this llama-bench has no --no-warmup".to_owned());
        }
    }
    Ok(groups)
}
