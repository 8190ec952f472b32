//! What the user sees while it runs: a bar on a terminal, else a line for each pair.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The progress of a measurement.
pub struct Progress {
    bar: ProgressBar,
    lines: bool,
    runs_per_block: u64,
    max_pairs: u32,
    /// When the first pair began.
    since: Cell<Option<Instant>>,
    /// Runs before the block that is running.
    before_block: Cell<u64>,
}

impl Progress {
    /// Of `blocks` times at most `max_pairs` pairs, each of which has so many runs.
    pub fn new(runs_per_pair: usize, blocks: usize, max_pairs: u32) -> Self {
        let runs_per_block = runs_per_pair as u64 * u64::from(max_pairs);
        let bar = ProgressBar::new(runs_per_block * blocks as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} runs at most, {elapsed} gone, {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_secs(1));
        Progress {
            bar,
            lines: !std::io::stderr().is_terminal(),
            runs_per_block,
            max_pairs,
            since: Cell::new(None),
            before_block: Cell::new(0),
        }
    }

    /// Ends the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Takes the bar away while `what` writes on stderr.
    pub fn suspend(&self, what: impl FnOnce()) {
        self.bar.suspend(what);
    }

    /// Says what is not a run.
    pub fn say(&self, message: &str) {
        if self.lines {
            eprintln!("{message}");
        }
        self.bar.set_message(message.to_owned());
    }

    pub fn warm_up(&self, model: &str, arm: &str) {
        self.say(&format!("warm-up: {model}, {arm}"));
    }

    pub fn at(&self, model: &str, threads: Option<u32>, pair: u32, arm: &str) {
        if self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
        }
        self.bar.set_message(format!("{}: {model}{}, pair {pair}, {arm}", self.left(), on(threads)));
    }

    pub fn run_done(&self) {
        self.bar.inc(1);
    }

    pub fn pair_done(&self, model: &str, threads: Option<u32>, pair: u32) {
        if self.lines {
            eprintln!("{model}{}: pair {pair} of at most {} done, {}", on(threads), self.max_pairs, self.left());
        }
    }

    /// A block may end before its last pair: its other runs are no longer expected.
    pub fn block_done(&self) {
        let done = self.bar.position() - self.before_block.replace(self.bar.position());
        let skipped = self.runs_per_block.saturating_sub(done);
        self.bar.set_length(self.bar.length().unwrap_or(0).saturating_sub(skipped));
    }

    /// The time left if every pair is needed, by the mean of the runs so far.
    fn left(&self) -> String {
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        match self.since.get() {
            Some(since) if done > 0 => {
                let seconds = since.elapsed().as_secs_f64() / done as f64 * all.saturating_sub(done) as f64;
                format!("at most about {} left", duration(seconds))
            }
            _ => "time left not known yet".to_owned(),
        }
    }
}

fn on(threads: Option<u32>) -> String {
    match threads {
        None => String::new(),
        Some(1) => ", 1 thread".to_owned(),
        Some(n) => format!(", {n} threads"),
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
