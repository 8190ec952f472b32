//! What a program did.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde_json::Value;

use crate::PREFIX;

/// A program that has ended.
pub struct Outcome {
    what: String,
    status: ExitStatus,
    /// What it wrote to its output.
    pub stdout: String,
    /// What it wrote to its error output.
    pub stderr: String,
    stats: Option<Stats>,
    /// Its largest resident set, in KiB.
    pub max_rss_kib: i64,
    /// Bytes that it, and the children it waited for, had read from disks: also by page faults and by reading ahead.
    pub bytes_read: u64,
}

impl Outcome {
    pub(crate) fn new(
        what: String,
        status: ExitStatus,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
        stats: Option<Stats>,
        max_rss_kib: i64,
        bytes_read: u64,
    ) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { what, status, stdout: text(stdout), stderr: text(stderr), stats, max_rss_kib, bytes_read }
    }

    /// The same with statistics that were read elsewhere.
    pub(crate) fn with_stats(self, stats: Option<Stats>) -> Self {
        Self { stats, ..self }
    }

    /// Fails the test unless the program ended with status 0.
    #[must_use]
    pub fn success(self) -> Self {
        self.exit(0)
    }

    /// Fails the test unless the program ended with this status.
    #[must_use]
    pub fn exit(self, code: i32) -> Self {
        assert!(self.status.code() == Some(code), "expected exit status {code}\n{self}");
        self
    }

    /// Fails the test unless the program was ended by this signal.
    #[must_use]
    pub fn killed_by(self, signal: i32) -> Self {
        assert!(self.status.signal() == Some(signal), "expected signal {signal}\n{self}");
        self
    }

    /// How it ended.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// Whether it ended with status 0.
    #[must_use]
    pub fn ended_well(&self) -> bool {
        self.status.success()
    }

    /// How many tests of llama.cpp's test-backend-ops passed; fails the test unless all of them did.
    #[must_use]
    pub fn operations_passed(&self) -> u64 {
        let line = self.stdout.lines().chain(self.stderr.lines()).find(|line| line.contains("tests passed"));
        let numbers = line.and_then(|line| line.trim().split(' ').next()).and_then(|n| n.split_once('/'));
        let (passed, all) = numbers.unwrap_or_else(|| panic!("no line says how many tests passed\n{self}"));
        assert_eq!(passed, all, "{self}");
        passed.parse().unwrap_or_else(|_| panic!("{self}"))
    }

    /// The statistics; fails the test when none were written.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        self.stats.as_ref().unwrap_or_else(|| panic!("no statistics were written\n{self}"))
    }

    /// Whether statistics were written.
    #[must_use]
    pub fn has_stats(&self) -> bool {
        self.stats.is_some()
    }

    /// The lines that the shim wrote to stderr, without their prefix.
    #[must_use]
    pub fn shim_lines(&self) -> Vec<&str> {
        self.stderr.lines().filter_map(|line| line.strip_prefix(PREFIX)).collect()
    }

    /// Fails the test unless stderr is exactly one line of the shim, which it returns.
    #[must_use]
    pub fn only_line(&self) -> &str {
        let lines = self.shim_lines();
        assert!(lines.len() == 1 && self.stderr.lines().count() == 1, "expected one line on stderr\n{self}");
        lines[0]
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        write!(f, "{}\n{end}\nstdout: {}\nstderr: {}", self.what, tail(&self.stdout), tail(&self.stderr))
    }
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// The statistics of one process.
pub struct Stats(Value);

impl Stats {
    /// Reads what the shim wrote; fails the test when it is not JSON.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_else(|e| panic!("the statistics are not JSON: {e}\n{text}")))
    }

    /// A string field, e.g. `/state` or `/gate/decision`.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {pointer}\n{self}"))
    }

    /// A number, e.g. `/memory/numa/moved`.
    #[must_use]
    pub fn number(&self, pointer: &str) -> u64 {
        self.0.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number at {pointer}\n{self}"))
    }

    /// Operations taken over, on one weight type or, with `None`, on all.
    #[must_use]
    pub fn taken(&self, op: &str, ty: Option<&str>) -> u64 {
        self.cells(op, ty).map(|cell| cell["taken"].as_u64().expect("a count")).sum()
    }

    /// Operations left to ggml, by reason, on one weight type or on all.
    #[must_use]
    pub fn declined(&self, op: &str, ty: Option<&str>) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for cell in self.cells(op, ty) {
            for (reason, count) in cell["declined"].as_object().expect("an object") {
                *sums.entry(reason.clone()).or_default() += count.as_u64().expect("a count");
            }
        }
        sums
    }

    /// Operations of this name that are no products and were computed by the library.
    #[must_use]
    pub fn other_taken(&self, op: &str) -> u64 {
        self.0["other_ops"][op]["taken"].as_u64().unwrap_or(0)
    }

    /// Those that were left to ggml for this reason.
    #[must_use]
    pub fn other_declined(&self, op: &str, reason: &str) -> u64 {
        self.0["other_ops"][op]["declined"][reason].as_u64().unwrap_or(0)
    }

    /// Events of the process with this reason.
    #[must_use]
    pub fn events(&self, reason: &str) -> u64 {
        self.0["events"][reason].as_u64().unwrap_or(0)
    }

    /// Fails the test when the shim caught a defect of its own or lost an original.
    pub fn assert_healthy(&self) {
        for reason in ["internal_error", "original_missing", "out_of_memory", "plan_full"] {
            let declined = self.declined("MUL_MAT", None).get(reason).copied().unwrap_or(0);
            assert!(self.events(reason) + declined == 0, "{reason} was counted\n{self}");
        }
    }

    /// Path and status of the copies of ggml that were met.
    #[must_use]
    pub fn libraries(&self) -> Vec<(&str, &str)> {
        let list = self.0["ggml"].as_array().expect("an array");
        list.iter().map(|l| (l["path"].as_str().expect("text"), l["status"].as_str().expect("text"))).collect()
    }

    fn cells(&self, op: &str, ty: Option<&str>) -> impl Iterator<Item = &Value> {
        let types = self.0["ops"][op].as_object();
        types.into_iter().flatten().filter(move |(name, _)| ty.is_none_or(|ty| ty == *name)).map(|(_, cell)| cell)
    }
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "statistics: {:#}", self.0)
    }
}
