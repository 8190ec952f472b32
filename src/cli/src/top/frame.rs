//! What is shown of one program: rates between two readings of its counters.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use zen5turbo_host::proc::field_kib;
use zen5turbo_telemetry::document::member;

use crate::engagement::{Barriers, Op, Stats, Threads};
use crate::live::{self, Absent};
use crate::root::Root;

/// A process at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    pub at: Instant,
    /// As the statistics file would hold them.
    pub statistics: Value,
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
    let Ok(statistics) = serde_json::from_str(text) else { return };
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
        let stats = Stats::parse(&now.statistics.to_string()).unwrap_or_default();
        let earlier = before.map(|b| (b, Stats::parse(&b.statistics.to_string()).unwrap_or_default()));
        // Less than before: it has executed itself anew, or the number belongs to another one.
        let earlier = earlier.filter(|(b, old)| old.taken() <= stats.taken() && b.at < now.at);
        let seconds = earlier.as_ref().map(|(before, _)| now.at.duration_since(before.at).as_secs_f64());
        let since = |key: &(String, String)| Some(earlier.as_ref()?.1.ops.get(key).cloned().unwrap_or_default());
        let mut frame = Frame {
            pid,
            program: stats.program.clone().unwrap_or_else(|| "?".into()),
            state: word(&now.statistics[member::STATE]),
            kernels: word(&now.statistics[member::ISA]),
            seconds,
            graphs: graphs(&now.statistics, earlier.as_ref().map(|(b, _)| &b.statistics), seconds),
            copies: copies(&now.statistics[member::MEMORY][member::WEIGHTS]),
            buffers: [member::THP, member::HUGETLB]
                .map(|kind| &now.statistics[member::MEMORY][member::BUFFERS][kind][member::BYTES])
                .map(count)
                .iter()
                .sum(),
            threads: stats.threads.clone(),
            usage: now.usage,
            events: stats.events.clone(),
            ..Frame::default()
        };
        let (mut bytes, mut ns) = (0, 0);
        for (key, op) in &stats.ops {
            let old = since(key);
            bytes += op.bytes.saturating_sub(old.as_ref().map_or(op.bytes, |old| old.bytes));
            ns += op.ns.saturating_sub(old.as_ref().map_or(op.ns, |old| old.ns));
            if op.taken > 0 {
                frame.operations.push(operation(key, op, old.zip(seconds)));
            }
            for (reason, &count) in &op.declined {
                let (operation, kind, reason) = (key.0.clone(), key.1.clone(), reason.clone());
                frame.declined.push(Declined { operation, kind, reason, count });
            }
        }
        frame.operations.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        frame.declined.sort_by_key(|declined| std::cmp::Reverse(declined.count));
        frame.weights_per_second = seconds.map(|seconds| bytes as f64 / seconds);
        frame.weights_per_product_second = seconds.and(per(bytes as f64, ns as f64 / 1e9));
        let cpu = earlier.as_ref().map(|(before, _)| now.usage.cpu_seconds - before.usage.cpu_seconds);
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

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or("?").to_owned()
}

fn graphs(now: &Value, before: Option<&Value>, seconds: Option<f64>) -> Vec<Graphs> {
    let classes = now[member::GRAPHS].as_object().into_iter().flatten();
    let mut all: Vec<Graphs> = classes
        .map(|(class, value)| {
            let more = |key: &str| {
                let old = count(&before?[member::GRAPHS][class][key]);
                Some(count(&value[key]).saturating_sub(old) as f64)
            };
            let rate = |key: &str| more(key).zip(seconds).and_then(|(n, seconds)| per(n, seconds));
            Graphs {
                columns: class.clone(),
                count: count(&value[member::COUNT]),
                per_second: rate(member::COUNT),
                columns_per_second: rate(member::COLUMNS),
                share: rate(member::NS).map(|ns| ns / 1e9),
                barriers: Barriers::of(value),
            }
        })
        .collect();
    all.sort_by_key(|graphs| ["1", "2-16", "many", "0"].iter().position(|class| *class == graphs.columns));
    all
}

fn operation((operation, kind): &(String, String), op: &Op, since: Option<(Op, f64)>) -> Operation {
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
        operation: operation.clone(),
        kind: kind.clone(),
        kernels,
        calls: op.taken,
        seconds: op.ns as f64 / 1e9,
        calls_per_second: more.and_then(|(seconds, _, calls, _, _)| per(calls as f64, seconds)),
        share: more.and_then(|(seconds, busy, ..)| per(busy, seconds)),
        bytes_per_second: more.and_then(|(_, busy, _, bytes, _)| per(bytes as f64, busy)),
        mac_per_second: more.and_then(|(_, busy, _, _, mac)| per(mac as f64, busy)),
    }
}

fn copies(weights: &Value) -> Copies {
    let moved: u64 =
        [member::THP, member::HUGE, member::GIANT].map(|kind| count(&weights[member::COPIED][kind])).iter().sum();
    let given_back = count(&weights[member::FREED]);
    Copies {
        wanted: count(&weights[member::WANTED]),
        cached: count(&weights[member::CACHED]),
        copied: moved.saturating_sub(given_back),
        given_back,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    /// A program that has run for `seconds`.
    pub fn reading(start: Instant, seconds: u64) -> Reading {
        let n = seconds;
        let statistics = json!({
            "program": "llama-cli", "state": "active", "isa": "avx512vnni",
            "graphs": {"1": {"count": 40 * n, "columns": 40 * n, "ns": n * 800_000_000,
                             "barriers": {"between": 6000 * n, "skipped": 1000 * n, "inside": 400 * n}},
                       "many": {"count": 2, "columns": 1000, "ns": 5}},
            "ops": {"MUL_MAT": {
                "q4_K": {"taken": 100 * n, "ns": n * 500_000_000, "bytes": n * 4_000_000_000, "mac": n * 1_000_000_000,
                         "kernels": {"1": "avx512vnni", "many": "avx512vnni"}, "declined": {"use_ref": 3}},
                "f16": {"declined": {"src0_view": 7}}}},
            "memory": {"weights": {"wanted": 8 << 20, "cached": 2 << 20, "copied": {"thp": 3 << 20}, "freed": 1 << 20},
                       "buffers": {"thp": {"count": 1, "bytes": 2 << 20}}},
            "events": {"thp_refused": 1},
            "threads": {"asked": 8, "used": 2, "budget": 2, "capped": 3, "lost_mcpu": 0},
            "threads_limit": "CPU quota 200000/100000 us of /sys/fs/cgroup/a",
        });
        let usage = Usage { rss: 300 << 20, cpu_seconds: 1.5 * n as f64, ..Usage::default() };
        Reading { at: start + Duration::from_secs(seconds), statistics, usage }
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
        assert_eq!(declined, [("f16", "src0_view", 7), ("q4_K", "use_ref", 3)]);
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
        let reading = Reading { at: Instant::now(), statistics: json!({}), usage: Usage::default() };
        let frame = Frame::new(7, &reading, None);
        assert_eq!((frame.program.as_str(), frame.copies.share()), ("?", 0.0));
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::read(&Root::new(std::path::Path::new("/")), std::process::id());
        assert!(usage.rss > 0 && usage.anonymous > 0 && usage.file > 0, "{usage:?}");
    }
}
