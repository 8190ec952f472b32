//! What `run --report` prints: what engaged, time and rate of every operation, memory, reasons.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zen5turbo_telemetry::Document;
use zen5turbo_telemetry::document::{Amount, Memory};

use super::child::Ended;
use crate::bandwidth::{self, Bandwidth};
use crate::shim_stats::{self, Threads, or_unknown};
use crate::text;

/// The statistics of every process that used ggml: process number and file.
pub fn files(folder: &Path) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let pid = |path: &Path| path.file_stem().and_then(OsStr::to_str)?.parse().ok();
    let mut files: Vec<(u32, PathBuf)> = entries.filter_map(|path| Some((pid(&path)?, path))).collect();
    files.sort();
    files
}

/// Puts the files where the user asked for them. Without a `%p` the last one stays, as without a report.
pub fn deliver(files: &[(u32, PathBuf)], pattern: &str) {
    for (pid, file) in files {
        let target = pattern.replace("%p", &pid.to_string());
        let copied = fs::read(file).and_then(|bytes| fs::write(&target, bytes));
        if let Err(error) = copied {
            eprintln!("zen5turbo: the statistics cannot be written to {target}: {error}; name a file that can be");
        }
    }
}

/// The report. Measures the machine's bandwidth where there is something to compare with it.
pub fn text(ended: &Ended, files: &[(u32, PathBuf)]) -> String {
    let how = match (ended.status.code(), std::os::unix::process::ExitStatusExt::signal(&ended.status)) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    let mut out = format!("\nzen5turbo report: {how} after {:.2} s\n", ended.wall.as_secs_f64());
    let all: Vec<Document> = files.iter().filter_map(|(_, path)| shim_stats::read(path).ok()).collect();
    if all.is_empty() {
        out += "no statistics: the program did not use ggml, did not come to a normal end, or was not reached;\n\
                `zen5turbo doctor PROGRAM` tells which\n";
        return out;
    }
    let measured = if all.iter().any(|stats| stats.taken() > 0) { bandwidth::measure() } else { None };
    for stats in &all {
        out += &process(stats, ended.wall, measured.as_deref().unwrap_or_default());
    }
    if let Some(measured) = &measured {
        let list: Vec<String> = measured
            .iter()
            .map(|b| format!("{} with {} thread{}", gb(b.rate), b.threads, if b.threads == 1 { "" } else { "s" }))
            .collect();
        out += &format!(
            "bandwidth    {}: streaming reads of {}, measured just now, after the program\n",
            list.join(", "),
            text::bytes(measured[0].bytes as u64)
        );
    }
    out
}

fn gb(rate: f64) -> String {
    format!("{} GB/s", text::number(rate / 1e9))
}

/// One process.
fn process(stats: &Document, wall: Duration, measured: &[Bandwidth]) -> String {
    let about = &stats.about;
    let pid = if about.pid == 0 { String::new() } else { format!(" (process {})", about.pid) };
    let (state, gate) = (or_unknown(&about.state), or_unknown(&about.gate.mode));
    let kernels = or_unknown(if about.isa.is_empty() { &about.tier } else { &about.isa });
    let mut out = text::facts(&[
        ("program", format!("{}{pid}", or_unknown(&about.program))),
        ("engaged", format!("{state}: gate {gate}, kernels {kernels}")),
    ]);
    for copy in &about.ggml {
        out += &format!("ggml         {}: {}\n", copy.path, copy.status);
    }
    if stats.computed == Some(false) {
        out += "computed     nothing: no graph\n";
    }
    if let Some(threads) = Threads::of(stats).line_of_all() {
        out += &text::facts(&[("threads", threads)]);
    }
    if stats.taken() > 0 {
        out += &operations(stats, wall, measured);
    }
    for (op, kind, counts) in stats.operations() {
        for (reason, n) in &counts.declined {
            out += &format!("declined     {op} {kind}: {n} times, {reason}\n");
        }
    }
    out += &memory(&stats.memory);
    for (event, n) in &stats.events {
        out += &format!("event        {event}: {n}\n");
    }
    out
}

fn operations(stats: &Document, wall: Duration, measured: &[Bandwidth]) -> String {
    let most = measured.iter().map(|b| b.rate).fold(0.0, f64::max);
    let mut table = text::table();
    table.set_header([
        "operation",
        "type",
        "calls",
        "time",
        "of the run",
        "weights read",
        "rate",
        "of bandwidth",
        "GMAC/s",
    ]);
    let share = |part: f64, whole: f64| if whole > 0.0 { format!("{:.0} %", 100.0 * part / whole) } else { "-".into() };
    for (op, kind, counts) in stats.operations().filter(|(_, _, counts)| counts.taken > 0) {
        let seconds = counts.ns as f64 / 1e9;
        let rate = if seconds > 0.0 { counts.bytes as f64 / seconds } else { 0.0 };
        table.add_row([
            op.to_owned(),
            kind.to_owned(),
            counts.taken.to_string(),
            format!("{seconds:.3} s"),
            share(seconds, wall.as_secs_f64()),
            text::bytes(counts.bytes),
            gb(rate),
            share(rate, most),
            if counts.ns > 0 { text::number(counts.mac as f64 / counts.ns as f64) } else { "-".into() },
        ]);
    }
    text::right(&mut table, 2..9);
    format!("{table}\n")
}

/// Weights on huge pages, and large buffers.
fn memory(memory: &Memory) -> String {
    let weights = &memory.weights;
    let copied = &weights.copied;
    let total = [weights.cached, copied.thp, copied.huge, copied.giant].into_iter().fold(0, u64::saturating_add);
    let mut out = format!(
        "huge pages   {} of {} that products read ({} mapped): {} in the page cache; copied to {} transparent, {} of 2 MiB, {} of 1 GiB pages; {} given back; {:.2} s\n",
        text::bytes(total),
        text::bytes(weights.wanted),
        text::bytes(weights.mapped),
        text::bytes(weights.cached),
        text::bytes(copied.thp),
        text::bytes(copied.huge),
        text::bytes(copied.giant),
        text::bytes(weights.freed),
        weights.us as f64 / 1e6
    );
    let [Amount { count: thp, bytes: thp_bytes }, Amount { count: huge, bytes: huge_bytes }] =
        [&memory.buffers.thp, &memory.buffers.hugetlb_2m];
    let count = thp.saturating_add(*huge);
    if count > 0 {
        let bytes = text::bytes(thp_bytes.saturating_add(*huge_bytes));
        out += &format!("buffers      {bytes} in {count} large buffers on huge pages\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const STATS: &str = r#"{"pid": 9, "program": "llama-bench", "state": "active", "isa": "avx512vnni",
        "gate": {"mode": "off", "decision": "run"}, "ggml": [{"path": "/x/libggml-cpu.so", "status": "bound"}],
        "ops": {"MUL_MAT": {"q4_K": {"taken": 4, "ns": 500000000, "bytes": 4000000000, "mac": 50000000000,
            "kernels": {}, "declined": {"use_ref": 3}}}},
        "memory": {"weights": {"mapped": 4194304, "wanted": 4194304, "cached": 1048576, "copied": {"thp": 2097152, "2m": 0, "1g": 0},
            "freed": 0, "us": 1500000}, "buffers": {"thp": {"count": 2, "bytes": 1048576}}},
        "threads": {"asked": 4, "used": 1, "budget": 1, "capped": 1}, "threads_limit": "CPUs allowed: 3",
        "events": {"thp_never": 1}}"#;

    #[test]
    fn a_process_is_told_with_shares_rates_pages_and_reasons() {
        let stats = shim_stats::parse(STATS).unwrap();
        let measured = [Bandwidth { threads: 2, rate: 16e9, bytes: 1 }];
        let out = process(&stats, Duration::from_secs(2), &measured);
        for part in [
            "llama-bench (process 9)",
            "active: gate off, kernels avx512vnni",
            "0.500 s",
            "25 %",
            "8.00 GB/s",
            "50 %",
            "100",
            "declined     MUL_MAT q4_K: 3 times, use_ref",
            "huge pages   3.0 MiB of 4.0 MiB that products read (4.0 MiB mapped): 1.0 MiB in the page cache; copied to 2.0 MiB transparent",
            "1.50 s",
            "buffers      1.0 MiB in 2 large buffers",
            "threads      asked 4, used 1 (CPUs allowed: 3); 1 graph got fewer than asked\n",
            "event        thp_never: 1",
        ] {
            assert!(out.contains(part), "{part} in\n{out}");
        }
    }

    #[test]
    fn a_program_without_statistics_is_said_to_have_none() {
        let ended = Ended { status: ExitStatus::from_raw(9), wall: Duration::from_secs(1) };
        let out = text(&ended, &[]);
        assert!(out.contains("ended by signal 9 after 1.00 s") && out.contains("doctor PROGRAM"), "{out}");
    }

    #[test]
    fn files_are_found_by_process_and_delivered_by_pattern() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["12.json", "7.json", "7.json.7.tmp", "other.json"] {
            fs::write(from.path().join(name), name).unwrap();
        }
        let found = files(from.path());
        assert_eq!(found.iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [7, 12]);
        deliver(&found, &format!("{}/s-%p", to.path().display()));
        assert_eq!(fs::read_to_string(to.path().join("s-12")).unwrap(), "12.json");
    }
}
