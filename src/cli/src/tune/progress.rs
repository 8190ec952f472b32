//! What the user sees while it runs: a bar on a terminal, else a line for each type.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::finding::{Finding, cell};

/// The progress of a measurement.
pub struct Progress {
    bar: ProgressBar,
    lines: bool,
}

impl Progress {
    /// The progress of `cells` types and regimes.
    pub fn new(cells: usize) -> Self {
        let bar = ProgressBar::new(cells as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} gone, about {eta} left: {msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress { bar, lines: !std::io::stderr().is_terminal() }
    }

    /// What is measured now.
    pub fn at(&self, what: &str, regime: &str) {
        self.bar.set_message(format!("{what}, {regime}"));
    }

    /// One of them was measured.
    pub fn done(&self) {
        self.bar.inc(1);
    }

    /// `cells` of them are not measured.
    pub fn skip(&self, cells: usize) {
        self.bar.set_length(self.bar.length().unwrap_or(0).saturating_sub(cells as u64));
    }

    /// A type was measured.
    pub fn type_done(&self, name: &str, findings: &[Finding]) {
        if self.lines {
            let all: Vec<String> = findings.iter().map(cell).collect();
            eprintln!("{name}: {}", all.join(", "));
        }
    }

    /// Ends the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
