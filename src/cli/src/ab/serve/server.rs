//! A llama-server that runs. It ends with its value, however that is left.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zen5turbo_telemetry::Document;

use super::client::{Client, Slots};
use super::plan::Plan;
use crate::interrupt::Interrupted;
use crate::{process, shim_stats};

/// How often a server that starts or ends is looked at.
const TICK: Duration = Duration::from_millis(20);

/// How long it may take after SIGTERM: it ends the graph that it computes.
const END: Duration = Duration::from_secs(60);

/// How long slots may be busy after their clients have hung up.
const SETTLE: Duration = Duration::from_secs(30);

/// Lines of its log that an error shows.
const LAST: usize = 8;

/// A running server.
pub struct Server {
    child: Child,
    /// The arm's name.
    arm: String,
    command: String,
    log: PathBuf,
    stats: Option<PathBuf>,
    stop: &'static AtomicBool,
    limit: Duration,
    pub client: Client,
}

impl Server {
    /// Starts the server of an arm with so many slots of `context` tokens, and waits until it answers.
    pub fn start(plan: &Plan, arm: usize, slots: u32, context: u64) -> Result<Server> {
        plan.model.warm(plan.stop)?;
        let arm = &plan.arms[arm];
        let port = plan.port()?;
        let mut command = arm.program.command(&plan.model.path, port, plan.threads, slots, context);
        command.args(arm.arguments()).args(&plan.more);
        let (log, stats) = (plan.scratch.path().join("server.log"), plan.scratch.path().join("stats.json"));
        // One left by the server before must not be taken for this one's.
        let _ = fs::remove_file(&stats);
        arm.dress(&mut command, &stats);
        let out = File::create(&log)
            .with_context(|| format!("cannot write {}; expected a folder with room", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        process::tie(&mut command);
        let mut words = vec![command.get_program().to_string_lossy().into_owned()];
        words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
        let words = words.join(" ");
        let child = command.spawn().with_context(|| format!("cannot start {words}"))?;
        let server = Server {
            child,
            arm: arm.name.clone(),
            command: words,
            log,
            stats: arm.library.is_some().then_some(stats),
            stop: plan.stop,
            limit: plan.limit,
            client: Client::new(port, plan.limit),
        };
        server.wait_until_loaded()?;
        Ok(server)
    }

    fn wait_until_loaded(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            // Nobody else's answer is taken for this server's, which ends where it cannot listen.
            let healthy = self.client.get("/health").is_ok();
            if let Some(status) = self.ended()? {
                let refused = status.code() == Some(zen5turbo_host::gate::EXIT_REFUSED) && self.stats.is_some();
                let remedy = if refused {
                    "this is the gate: give --gate off to measure on this CPU"
                } else {
                    "its last lines tell why, and the command by itself shows all"
                };
                bail!(
                    "llama-server of the arm {} {} before it answered; expected it to load the model and to listen: {remedy}. {}\n{}",
                    self.arm,
                    ending(status),
                    self.command,
                    self.last_lines()
                );
            }
            if healthy {
                return Ok(());
            }
            self.watch(begin, "start")?;
            thread::sleep(TICK);
        }
    }

    /// Its process number, which is its group's too, and is taken until it is reaped.
    fn pid(&self) -> libc::pid_t {
        self.child.id() as libc::pid_t
    }

    fn ended(&self) -> Result<Option<ExitStatus>> {
        process::ended_without_reaping(self.pid()).context("cannot wait for llama-server")
    }

    /// An error when it has ended, when it is late, or when this command is to end. `what` has run since `begin`.
    pub fn watch(&self, begin: Instant, what: &str) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        if let Some(status) = self.ended()? {
            bail!(
                "llama-server of the arm {} {} in the middle of the {what}; expected it to go on: its last lines tell why, and dmesg tells of too little memory. {}\n{}",
                self.arm,
                ending(status),
                self.command,
                self.last_lines()
            );
        }
        ensure!(
            begin.elapsed() < self.limit,
            "llama-server of the arm {} has not ended the {what} after {} s; expected less: ask for fewer --requests or --answer-tokens, or give a longer --timeout. {}\n{}",
            self.arm,
            self.limit.as_secs(),
            self.command,
            self.last_lines()
        );
        Ok(())
    }

    /// Waits until no slot computes for a client that has hung up.
    pub fn settle(&self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < SETTLE {
            self.watch(begin, "wait for idle slots")?;
            match self.client.slots() {
                Slots::Idle => return Ok(()),
                Slots::Busy => {}
                // It looks once a second whether a client has gone.
                Slots::Unknown => {
                    thread::sleep(Duration::from_millis(1500));
                    return Ok(());
                }
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Ends it, and takes what the shim counted: empty when it wrote nothing, `None` in an arm without it.
    pub fn end(self) -> Result<Option<Document>> {
        let begin = Instant::now();
        // SAFETY: kill has no memory effects; the child, whose id is its group's, is not reaped before `drop`.
        unsafe { libc::kill(-self.pid(), libc::SIGTERM) };
        while self.ended()?.is_none() && begin.elapsed() < END && !self.stop.load(Ordering::Relaxed) {
            thread::sleep(TICK);
        }
        self.kill();
        Ok(self.stats.as_deref().map(|file| shim_stats::read(file).unwrap_or_default()))
    }

    /// Ends it at once, with its children: also those that a script in its place has left. Whoever waits for an answer
    /// gets an error.
    pub fn kill(&self) {
        // SAFETY: kill has no memory effects; the child, whose id is its group's, is not reaped before `drop`.
        unsafe { libc::kill(-self.pid(), libc::SIGKILL) };
    }

    fn last_lines(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(LAST)..].join("\n");
        if last.is_empty() { "(it wrote nothing)".to_owned() } else { last }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
