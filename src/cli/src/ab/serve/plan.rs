//! What `ab --serve` does, checked before anything runs.

use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use zen5turbo_host::Cpu;

use super::options::Scenario;
use super::prompts::{Kind, Text};
use crate::ab::args::Args;
use crate::ab::arm::{Arm, Role, arms};
use crate::ab::model::Model;
use crate::ab::plan::{not_switched_off, scratch};
use crate::ab::{compare, machine};
use crate::interleave::order;
use crate::interrupt::stop_at_signals;
use crate::llama_program::Program;
use crate::llama_server::LlamaServer;
use crate::record::Circumstances;
use crate::slice::{self, Gives};
use crate::statistics::{Looks, MIN_PAIRS};

/// Bounds of the 99th percentiles.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub first_token_ms: f64,
    pub between_tokens_ms: f64,
}

/// A measurement of llama-server, before it begins.
#[derive(Debug)]
pub struct Plan {
    pub model: Model,
    pub threads: u32,
    pub arms: Vec<Arm<LlamaServer>>,
    pub scenarios: Vec<Scenario>,
    /// Slots of the server.
    pub clients: u32,
    pub requests: usize,
    pub text: Text,
    pub kind: Kind,
    /// `None`: search for the highest.
    pub rate: Option<f64>,
    pub rate_seconds: f64,
    pub bounds: Bounds,
    /// `None`: a free one for each server.
    pub port: Option<u16>,
    pub looks: Looks,
    /// Longest time of one scenario at one rate, and of a start.
    pub limit: Duration,
    /// More options of llama-server.
    pub more: Vec<String>,
    pub circumstances: Circumstances,
    pub scratch: TempDir,
    /// Becomes true at Ctrl-C.
    pub stop: &'static AtomicBool,
    pub notes: Vec<String>,
}

impl Plan {
    /// Checks all that can be checked before the first server starts.
    pub fn new(args: &mut Args) -> Result<Plan> {
        not_switched_off()?;
        if let Some((remedy, word)) = args.more.iter().find_map(|word| Some((ours(word)?, word))) {
            bail!("found {word} after the --; expected options of llama-server that ab does not set itself: {remedy}");
        }
        let stop = stop_at_signals()?;
        let notes = slice_if_asked(args, stop)?;
        let [model] = &args.model[..] else {
            bail!("found {} models; expected one with --serve: measure one after the other", args.model.len());
        };
        let model = Model::check(model)?;
        let threads = match args.threads[..] {
            [] => thread::available_parallelism().map_or(1, |n| n.get() as u32),
            [threads] => threads,
            _ => bail!(
                "found {} thread counts; expected one with --serve: measure one after the other",
                args.threads.len()
            ),
        };
        let arms = arms::<LlamaServer>(args)?;
        let serve = &args.serve;
        let kind = Kind {
            words: serve.prompt_words,
            shared: serve.shared,
            cancel: serve.cancel,
            tokens: serve.answer_tokens,
            seed: serve.seed,
        };
        let text = Text::find(serve.text.as_deref(), arms[0].program.path())?;
        text.check(&kind)?;
        if let Some(port) = serve.port {
            free(port)?;
        }
        let mut scenarios = serve.scenarios.clone();
        scenarios.sort();
        scenarios.dedup();
        Ok(Plan {
            model,
            threads,
            arms,
            scenarios,
            clients: serve.clients,
            requests: serve.requests as usize,
            text,
            kind,
            rate: serve.rate,
            rate_seconds: serve.rate_seconds,
            bounds: Bounds { first_token_ms: serve.first_token_ms, between_tokens_ms: serve.between_tokens_ms },
            port: serve.port,
            looks: Looks::fixed(args.pairs.unwrap_or(MIN_PAIRS)),
            limit: Duration::from_secs(args.timeout.max(1)),
            more: args.more.clone(),
            circumstances: Circumstances::now(Cpu::detect().brand, machine::facts()),
            scratch: scratch()?,
            stop,
            notes,
        })
    }

    /// A port for the next server.
    pub fn port(&self) -> Result<u16> {
        match self.port {
            Some(port) => free(port).map(|()| port),
            None => {
                let any = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
                Ok(any
                    .context("cannot find a free port of 127.0.0.1; expected a network of this machine's own")?
                    .port())
            }
        }
    }

    /// The roles of the arms.
    pub fn roles(&self) -> Vec<Role> {
        self.arms.iter().map(|arm| arm.role).collect()
    }

    /// How the pairs are ordered, in words.
    pub fn order_rule(&self) -> String {
        let names: Vec<&str> = order(1, self.arms.len()).iter().map(|&arm| self.arms[arm].name.as_str()).collect();
        format!(
            "each pair starts a server of every arm once ({}), the next in reverse, then the order moves on by one",
            names.join(", ")
        )
    }

    /// What is asked, in words.
    pub fn load_rule(&self) -> String {
        let Kind { words: (low, high), shared, cancel, tokens, seed } = &self.kind;
        format!(
            "{} requests with prompts of {low} to {high} words of {} ({:.0} % begin with the same 100 words), {tokens} tokens an answer, {} slots, seed {seed}; in the server scenario {:.0} % of the clients hang up half-way",
            self.requests,
            self.text.name,
            100.0 * shared,
            self.clients,
            100.0 * cancel
        )
    }

    /// Whether arms are compared in this quantity: latencies at rates of their own are not.
    pub fn compares(&self, scenario: Scenario, name: &str) -> bool {
        let searched = scenario == Scenario::Server && self.rate.is_none();
        super::figures::better(name).is_some() && (!searched || name == super::figures::HIGHEST_RATE)
    }
}

/// A verdict on a quantity, in words.
pub fn words(name: &str, verdict: crate::statistics::Verdict) -> &'static str {
    match name {
        super::figures::HIGHEST_RATE => compare::words(verdict, "higher", "LOWER"),
        _ => compare::words(verdict, "faster", "SLOWER"),
    }
}

/// Makes the slice that is asked for the model; what there is to say of it.
fn slice_if_asked(args: &mut Args, stop: &'static AtomicBool) -> Result<Vec<String>> {
    let Some(like) = &args.like else { return Ok(Vec::new()) };
    let slice = slice::find_or_make(like, args.layers, None, args.bin.as_deref(), stop)?;
    ensure!(
        slice.gives != Gives::ImageVectors && slice.gives != Gives::Vectors,
        "{like} generates no text; expected a language model with --serve: `ab --like list` shows which there are"
    );
    args.model = vec![slice.path];
    Ok(slice.notes)
}

fn free(port: u16) -> Result<()> {
    let tried = TcpListener::bind(("127.0.0.1", port)).map(drop);
    tried.with_context(|| {
        format!("found the port {port} in use; expected a free one: end what listens there, name another with --port, or leave --port out")
    })
}

/// What to do about an option of llama-server that ab gives itself.
fn ours(word: &str) -> Option<&'static str> {
    match word.split_once('=').map_or(word, |(word, _)| word) {
        "-m" | "--model" => Some("give --model before the --"),
        "-hf" | "-hfr" | "--hf-repo" => Some("give a file with --model before the --"),
        "--host" => Some("leave it out: the server is asked at 127.0.0.1"),
        "--port" => Some("give --port before the --"),
        "-np" | "--parallel" => Some("give --clients before the --"),
        "-t" | "--threads" => Some("give --threads before the --"),
        "--repack" | "-nr" | "--no-repack" => Some("use an arm with repack=0 or repack=1"),
        "--api-key" | "--api-key-file" | "--api-prefix" | "--ssl-key-file" | "--ssl-cert-file" => {
            Some("leave it out: the server is asked over plain HTTP without a key")
        }
        _ => None,
    }
}
