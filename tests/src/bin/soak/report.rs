//! What is written for those who read it later.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::distance::Distance;
use crate::load::Counts;
use crate::watch::Sample;

/// `report.jsonl`.
pub struct Report {
    file: File,
    begin: Instant,
    /// When a line of the load is due.
    next: Instant,
}

impl Report {
    /// A new one in a folder.
    pub fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let file = File::create(folder.join("report.jsonl")).context("report.jsonl")?;
        let now = Instant::now();
        Ok(Self { file, begin: now, next: now })
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Adds a line: seconds since the start, the phase, and more.
    pub fn line(&mut self, phase: &str, more: Value) -> Result<()> {
        let mut line = json!({ "seconds": self.begin.elapsed().as_secs(), "phase": phase });
        line.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        println!("{line}");
        writeln!(self.file, "{line}").context("report.jsonl")
    }

    /// Adds a line of the load when the last one is a minute old.
    pub fn minute(&mut self, sample: &Sample, counts: &Counts) -> Result<()> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + Duration::from_secs(60);
        self.line("load", json!({ "process": sample, "counts": counts }))
    }
}

/// The whole run; `summary.json`.
#[derive(Serialize)]
pub struct Summary<'a> {
    /// How long it took.
    pub seconds: u64,
    /// Cycles of load and quiet.
    pub cycles: u64,
    /// How often memory was squeezed.
    pub squeezes: u64,
    /// Of the server under load.
    pub counts: &'a Counts,
    /// Context shifts in its log.
    pub shifts: u64,
    /// Its process when it was quiet for the first time.
    pub first: Sample,
    /// Its process when it was quiet for the last time.
    pub last: Sample,
    /// Seconds from SIGTERM to its end.
    pub end_seconds: f64,
    /// Log-probabilities: the distance between stock's own paths.
    pub stock_distance: Distance,
    /// Log-probabilities: the largest distance of all comparisons with stock.
    pub largest_distance: Distance,
    /// The instruction set of the kernels.
    pub isa: Option<&'a str>,
    /// Bytes of weights that were copied.
    pub copied: Option<u64>,
    /// How often copies were given back because memory was short.
    pub given_back: Option<u64>,
}

impl std::fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| std::fmt::Error)?;
        write!(f, "passed: {text}")
    }
}
