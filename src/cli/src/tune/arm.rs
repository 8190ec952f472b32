//! A side of the comparison, seen from here: a worker process and what it answers.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zen5turbo_kernels::formats::WeightType;

use super::products::Layout;
use super::worker::{Answer, Request};
use crate::interrupt::Interrupted;
use crate::process::{self, TICK};
use crate::shim;

/// How long an answer may take: filling half a gigabyte, or one product on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A worker; killed when dropped.
pub struct Arm {
    /// What it is in messages.
    name: &'static str,
    /// Whether the shim is to take its products over.
    ours: bool,
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    stop: &'static AtomicBool,
}

/// How a worker is started.
pub struct Start<'a> {
    pub name: &'static str,
    /// ggml's library with the CPU backend.
    pub backend: &'a Path,
    /// The library to preload.
    pub preload: Option<&'a Path>,
    /// Variables of the shim.
    pub variables: &'a [(&'static str, OsString)],
    /// Whether the shim is to take every product over.
    pub ours: bool,
    pub stop: &'static AtomicBool,
}

impl Arm {
    /// Starts a worker and waits until it has opened ggml; returns that library's build and its score.
    pub fn start(start: &Start<'_>) -> Result<(Arm, String, Option<i32>)> {
        let mut command = Command::new(env::current_exe().context("cannot find this command's own file")?);
        shim::without_shim(&mut command);
        if let Some(library) = start.preload {
            command.env("LD_PRELOAD", library).env("ZEN5TURBO_GATE", "off");
            command.envs(start.variables.iter().map(|(name, value)| (name, value)));
        }
        // Threads spin while they wait, for 6 ms in GNU OpenMP by default, which would be the time of the other
        // side; 1 ms is far more than they wait within a product.
        command.env("GOMP_SPINCOUNT", "50000").env("KMP_BLOCKTIME", "1");
        command.arg("tune-worker").arg(start.backend);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process::tie(&mut command);
        let mut child = command.spawn().context("cannot start a worker")?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(requests), Some(stdout), Some(mut stderr)) = pipes else { bail!("cannot talk to a worker") };
        let (send, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let errors = thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let Start { name, ours, stop, .. } = *start;
        let mut arm = Arm { name, ours, child, requests, answers, errors: Some(errors), stop };
        match arm.answer()? {
            Answer::Opened { identity, score } => Ok((arm, identity, score)),
            Answer::Failed { why } => bail!("{}: {why}", start.backend.display()),
            other => bail!("the worker began with {other:?}"),
        }
    }

    /// Sends a request without waiting for its answer.
    pub fn ask(&mut self, request: &Request) -> Result<()> {
        let line = serde_json::to_string(request)?;
        // One that has died cannot be written to; its end is told when the answer is waited for.
        let _ = writeln!(self.requests, "{line}").and_then(|()| self.requests.flush());
        Ok(())
    }

    /// Waits for a request to be done. The inner error is why it cannot be done here.
    pub fn done(&mut self) -> Result<Result<(), String>> {
        match self.answer()? {
            Answer::Done => Ok(Ok(())),
            Answer::Failed { why } => Ok(Err(why)),
            other => bail!("the {} worker answered {other:?}", self.name),
        }
    }

    /// Has ggml repack the weights, beside the plain ones; whether it can.
    pub fn repack(&mut self) -> Result<bool> {
        if self.ours {
            return Ok(false); // there our kernels stand against our kernels
        }
        self.ask(&Request::Repack)?;
        match self.answer()? {
            Answer::Repacked { any } => Ok(any),
            Answer::Failed { why } => bail!("the {} worker cannot repack weights: {why}", self.name),
            other => bail!("the {} worker answered {other:?}", self.name),
        }
    }

    /// Nanoseconds of a product of `weight` in this layout with `columns` columns.
    pub fn turn(&mut self, weight: WeightType, layout: Layout, columns: usize, ms: u64) -> Result<f64> {
        self.ask(&Request::Turn { layout, columns, ms })?;
        let (ns, products, taken, declined) = match self.answer()? {
            Answer::Took { ns, products, taken, declined } => (ns, products, taken, declined),
            Answer::Failed { why } => bail!("the {} worker failed at {}: {why}", self.name, weight.ggml_name()),
            other => bail!("the {} worker answered {other:?}", self.name),
        };
        let expected = if self.ours { (products, 0) } else { (0, products) };
        ensure!(
            (taken, declined) == expected,
            "found {taken} products of {} taken over by the shim and {declined} left to ggml in the {} worker; \
             expected {} and {}: see what doctor says of this build, and report it if it says nothing",
            weight.ggml_name(),
            self.name,
            expected.0,
            expected.1
        );
        Ok(ns)
    }

    fn answer(&mut self) -> Result<Answer> {
        let start = Instant::now();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            match self.answers.recv_timeout(TICK) {
                Ok(line) => {
                    return serde_json::from_str(&line)
                        .with_context(|| format!("the {} worker printed {line:?} instead of an answer", self.name));
                }
                Err(RecvTimeoutError::Timeout) if start.elapsed() < LIMIT => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the {} worker gave no answer for {} s", self.name, LIMIT.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.obituary()),
            }
        }
    }

    /// Why it is gone.
    fn obituary(&mut self) -> anyhow::Error {
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        let words = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("(nothing on stderr)");
        anyhow::anyhow!("the {} worker ended early ({status}): {last}", self.name)
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
