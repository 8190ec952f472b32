//! What is shown of one program: rates between two readings of its counters.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use zen5turbo_host::proc::field_kib;
use zen5turbo_telemetry::document::{self, ByName, Document};

use crate::live::{self, Absent};
use crate::root::Root;
use crate::shim_stats::{Barriers, Threads, or_unknown};

/// A process at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    pub at: Instant,
    /// As the statistics file would hold them.
    pub statistics: Document,
    pub usage: Usage,
}

/// What the kernel tells of it at little cost: `/proc/PID/status` and `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Resident bytes.
    pub rss: u64,
    /// Of them, those of no file.
    pub anonymous: u64,
    /// Of them, those of files.
    pub file: u64,
    /// Bytes on reserved huge pages.
    pub reserved_huge: u64,
    /// CPU time so far, seconds.
    pub cpu_seconds: f64,
}

impl Usage {
    fn read(root: &Root, pid: u32) -> Usage {
        let status = root.read(&format!("proc/{pid}/status")).unwrap_or_default();
        let of = |key| field_kib(&status, key).unwrap_or(0);
        // The fields behind the name, which is in parentheses and may hold blanks; utime and stime are the 14th and 15th of all.
        let stat = root.read(&format!("proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).fold(0, u64::saturating_add);
        // SAFETY: asks for a constant of the system.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
        Usage {
            rss: of("VmRSS"),
            anonymous: of("RssAnon"),
            file: of("RssFile"),
            reserved_huge: of("HugetlbPages"),
            cpu_seconds: ticks as f64 / per_second as f64,
        }
    }
}

impl Reading {
    /// Reads the process now.
    ///
    /// # Errors
    /// [`Absent`].
    pub fn of(root: &Root, pid: u32) -> Result<Reading, Absent> {
        let statistics = live::statistics(root, pid)?;
        Ok(Reading { at: Instant::now(), statistics, usage: Usage::read(root, pid) })
    }
}

/// What a fuzzer calls: a frame of two readings of the same statistics.
#[cfg(feature = "fuzzing")]
pub fn fuzz(text: &str) {
    let Ok(statistics) = crate::shim_stats::parse(text) else { return };
    let now = Reading { at: Instant::now(), statistics, usage: Usage::default() };
    let frame = Frame::new(1, &now, Some(&now));
    let _ = (frame.columns_per_second(), frame.generated_per_second(), serde_json::to_string(&frame).unwrap());
}

/// One program. Rates are missing at the first reading.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Frame {
    pub pid: u32,
    pub program: String,
    /// `active`, `passthrough` ...
    pub state: String,
    /// The family of kernels in use.
    pub kernels: String,
    /// What the rates are over.
    pub seconds: Option<f64>,
    pub graphs: Vec<Graphs>,
    /// Bytes of weights that products read, per second of the clock.
    pub weights_per_second: Option<f64>,
    /// The same per second that products ran.
    pub weights_per_product_second: Option<f64>,
    pub operations: Vec<Operation>,
    pub declined: Vec<Declined>,
    pub copies: Copies,
    pub threads: Threads,
    /// Large buffers mapped on huge pages since the start, bytes; also those that were given back.
    pub buffers: u64,
    pub usage: Usage,
    /// CPUs in use, on average.
    pub cpus: Option<f64>,
    pub events: BTreeMap<String, u64>,
}

/// Graphs of one class of columns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Graphs {
    /// `0`, `1`, `2-16` or `many`.
    pub columns: String,
    /// Executions since the start.
    pub count: u64,
    pub per_second: Option<f64>,
    pub columns_per_second: Option<f64>,
    /// Share of the time in which such a graph ran.
    pub share: Option<f64>,
    /// Since the start.
    pub barriers: Option<Barriers>,
}

/// One operation on one weight type that was taken over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operation {
    pub operation: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// By the kernels that computed it.
    pub kernels: Vec<String>,
    /// Since the start.
    pub calls: u64,
    /// Since the start.
    pub seconds: f64,
    pub calls_per_second: Option<f64>,
    /// Share of the time.
    pub share: Option<f64>,
    /// Of weights, per second in it.
    pub bytes_per_second: Option<f64>,
    /// Multiply-accumulates per second in it.
    pub mac_per_second: Option<f64>,
}

/// Calls left to ggml.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Declined {
    pub operation: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub reason: String,
    /// Since the start.
    pub count: u64,
}

/// Weights on huge pages, bytes since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Copies {
    /// In pages that products read.
    pub wanted: u64,
    /// Of them in huge pages of the page cache.
    pub cached: u64,
    /// Of them copied to huge pages.
    pub copied: u64,
    /// Of copies freed.
    pub given_back: u64,
}

impl Copies {
    /// On huge pages of either kind.
    pub fn huge(self) -> u64 {
        self.cached + self.copied
    }

    /// Of what was wanted, from 0 to 1; 0 when nothing was.
    pub fn share(self) -> f64 {
        if self.wanted == 0 { 0.0 } else { (self.huge() as f64 / self.wanted as f64).clamp(0.0, 1.0) }
    }
}

impl Frame {
    /// From this reading, and the rates since an earlier one of the same process.
    pub fn new(pid: u32, now: &Reading, before: Option<&Reading>) -> Frame {
        let stats = &now.statistics;
        // Less than before: it has executed itself anew, or the number belongs to another one.
        let earlier = before.filter(|before| before.statistics.taken() <= stats.taken() && before.at < now.at);
        let seconds = earlier.map(|before| now.at.duration_since(before.at).as_secs_f64());
        let old = earlier.map(|before| &before.statistics);
        let none = document::Operation::default();
        let mut frame = Frame {
            pid,
            program: or_unknown(&stats.about.program).to_owned(),
            state: or_unknown(&stats.about.state).to_owned(),
            kernels: or_unknown(&stats.about.isa).to_owned(),
            seconds,
            graphs: graphs(&stats.graphs, old.map(|old| &old.graphs), seconds),
            copies: copies(&stats.memory.weights),
            buffers: stats.memory.buffers.thp.bytes.saturating_add(stats.memory.buffers.hugetlb_2m.bytes),
            threads: Threads::of(stats),
            usage: now.usage,
            events: stats.events.clone(),
            ..Frame::default()
        };
        let (mut bytes, mut ns) = (0, 0);
        for (name, kind, op) in stats.operations() {
            let old = old.map(|old| old.operation(name, kind).unwrap_or(&none));
            bytes += op.bytes.saturating_sub(old.map_or(op.bytes, |old| old.bytes));
            ns += op.ns.saturating_sub(old.map_or(op.ns, |old| old.ns));
            if op.taken > 0 {
                frame.operations.push(operation(name, kind, op, old.zip(seconds)));
            }
            for (reason, &count) in &op.declined {
                let (operation, kind, reason) = (name.to_owned(), kind.to_owned(), reason.clone());
                frame.declined.push(Declined { operation, kind, reason, count });
            }
        }
        frame.operations.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        frame.declined.sort_by_key(|declined| std::cmp::Reverse(declined.count));
        frame.weights_per_second = seconds.map(|seconds| bytes as f64 / seconds);
        frame.weights_per_product_second = seconds.and(per(bytes as f64, ns as f64 / 1e9));
        let cpu = earlier.map(|before| now.usage.cpu_seconds - before.usage.cpu_seconds);
        frame.cpus = cpu.zip(seconds).and_then(|(cpu, seconds)| per(cpu.max(0.0), seconds));
        frame
    }

    /// Columns of all graphs, per second.
    pub fn columns_per_second(&self) -> Option<f64> {
        self.seconds?;
        self.graphs.iter().map(|graphs| graphs.columns_per_second).sum()
    }

    /// Graphs of one column, per second.
    pub fn generated_per_second(&self) -> Option<f64> {
        self.seconds?;
        Some(self.graphs.iter().find(|graphs| graphs.columns == "1").and_then(|g| g.per_second).unwrap_or(0.0))
    }
}

fn per(amount: f64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then_some(amount / seconds)
}

fn graphs(
    now: &ByName<document::Graphs>,
    before: Option<&ByName<document::Graphs>>,
    seconds: Option<f64>,
) -> Vec<Graphs> {
    let none = document::Graphs::default();
    let mut all: Vec<Graphs> = now
        .iter()
        .map(|(class, now)| {
            let old = before.map(|before| before.get(class).unwrap_or(&none));
            let rate = |of: fn(&document::Graphs) -> u64| {
                let more = of(now).saturating_sub(of(old?));
                per(more as f64, seconds?)
            };
            Graphs {
                columns: class.clone(),
                count: now.count,
                per_second: rate(|graphs| graphs.count),
                columns_per_second: rate(|graphs| graphs.columns),
                share: rate(|graphs| graphs.ns).map(|ns| ns / 1e9),
                barriers: Barriers::of(now),
            }
        })
        .collect();
    all.sort_by_key(|graphs| ["1", "2-16", "many", "0"].iter().position(|class| *class == graphs.columns));
    all
}

fn operation(
    name: &str,
    kind: &str,
    op: &document::Operation,
    since: Option<(&document::Operation, f64)>,
) -> Operation {
    let mut kernels: Vec<String> = op.kernels.values().cloned().collect();
    kernels.sort();
    kernels.dedup();
    let more = since.map(|(old, seconds)| {
        let ns = op.ns.saturating_sub(old.ns) as f64;
        (
            seconds,
            ns / 1e9,
            op.taken.saturating_sub(old.taken),
            op.bytes.saturating_sub(old.bytes),
            op.mac.saturating_sub(old.mac),
        )
    });
    Operation {
        operation: name.to_owned(),
        kind: kind.to_owned(),
        kernels,
        calls: op.taken,
        seconds: op.ns as f64 / 1e9,
        calls_per_second: more.and_then(|(seconds, _, calls, _, _)| per(calls as f64, seconds)),
        share: more.and_then(|(seconds, busy, ..)| per(busy, seconds)),
        bytes_per_second: more.and_then(|(_, busy, _, bytes, _)| per(bytes as f64, busy)),
        mac_per_second: more.and_then(|(_, busy, _, _, mac)| per(mac as f64, busy)),
    }
}

fn copies(weights: &document::Weights) -> Copies {
    let copied = &weights.copied;
    let moved = copied.thp.saturating_add(copied.huge).saturating_add(copied.giant);
    Copies {
        wanted: weights.wanted,
        cached: weights.cached,
        copied: moved.saturating_sub(weights.freed),
        given_back: weights.freed,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;
    use zen5turbo_telemetry::Member;

    /// A program that has run for `seconds`.
    pub fn reading(start: Instant, seconds: u64) -> Reading {
        let n = seconds;
        let statistics = json!({
            "program": "llama-cli", "state": "active", "isa": "avx512vnni",
            "graphs": {"1": {"count": 40 * n, "columns": 40 * n, "ns": n * 800_000_000,
                             "barriers": {"between": 6000 * n, "inside": 400 * n}},
                       "many": {"count": 2, "columns": 1000, "ns": 5}},
            "ops": {"MUL_MAT": {
                "q4_K": {"taken": 100 * n, "ns": n * 500_000_000, "bytes": n * 4_000_000_000, "mac": n * 1_000_000_000,
                         "kernels": {"1": "avx512vnni", "many": "avx512vnni"}, "declined": {"use_ref": 3}},
                "f16": {"declined": {"src0_permuted": 7}}}},
            "memory": {"weights": {"wanted": 8 << 20, "cached": 2 << 20, "copied": {"thp": 3 << 20}, "freed": 1 << 20},
                       "buffers": {"thp": {"count": 1, "bytes": 2 << 20}}},
            "events": {"thp_refused": 1},
            "threads": {"asked": 8, "used": 2, "budget": 2, "capped": 3, "lost_mcpu": 0},
            "threads_limit": "CPU quota 200000/100000 us of /sys/fs/cgroup/a",
        });
        let usage = Usage { rss: 300 << 20, cpu_seconds: 1.5 * n as f64, ..Usage::default() };
        Reading { at: start + Duration::from_secs(seconds), statistics: Document::read(&statistics).unwrap(), usage }
    }

    #[test]
    fn rates_are_between_two_readings() {
        let start = Instant::now();
        let (first, second) = (reading(start, 1), reading(start, 3));
        let frame = Frame::new(7, &second, Some(&first));
        assert_eq!(frame.seconds, Some(2.0));
        assert_eq!(frame.generated_per_second(), Some(40.0));
        assert_eq!(frame.columns_per_second(), Some(40.0), "the prompt was before");
        assert_eq!((frame.graphs[0].columns.as_str(), frame.graphs[0].share), ("1", Some(0.8)));
        assert_eq!((frame.weights_per_second, frame.weights_per_product_second), (Some(4e9), Some(8e9)));
        assert_eq!(frame.cpus, Some(1.5));
        let op = &frame.operations[0];
        assert_eq!((op.kind.as_str(), op.calls, op.share), ("q4_K", 300, Some(0.5)));
        assert_eq!((op.bytes_per_second, op.mac_per_second), (Some(8e9), Some(2e9)));
        assert_eq!(op.kernels, ["avx512vnni"]);
        assert_eq!(frame.operations.len(), 1);
        let declined: Vec<_> = frame.declined.iter().map(|d| (d.kind.as_str(), d.reason.as_str(), d.count)).collect();
        assert_eq!(declined, [("f16", "src0_permuted", 7), ("q4_K", "use_ref", 3)]);
        assert_eq!(frame.copies, Copies { wanted: 8 << 20, cached: 2 << 20, copied: 2 << 20, given_back: 1 << 20 });
        assert_eq!((frame.copies.share(), frame.buffers), (0.5, 2 << 20));
    }

    #[test]
    fn a_first_reading_and_a_process_that_began_anew_have_no_rates() {
        let start = Instant::now();
        let frame = Frame::new(7, &reading(start, 2), None);
        assert_eq!((frame.seconds, frame.generated_per_second(), frame.weights_per_second), (None, None, None));
        assert_eq!(frame.operations[0].share, None);
        let mut later = reading(start, 1);
        later.at = start + Duration::from_secs(5);
        assert_eq!(Frame::new(7, &later, Some(&reading(start, 2))).seconds, None);
    }

    #[test]
    fn statistics_without_anything_are_no_error() {
        let reading = Reading { at: Instant::now(), statistics: Document::default(), usage: Usage::default() };
        let frame = Frame::new(7, &reading, None);
        assert_eq!((frame.program.as_str(), frame.copies.share()), ("?", 0.0));
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::read(&Root::new(std::path::Path::new("/")), std::process::id());
        assert!(usage.rss > 0 && usage.anonymous > 0 && usage.file > 0, "{usage:?}");
    }
}
