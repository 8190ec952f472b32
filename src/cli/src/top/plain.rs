//! One snapshot, as text or as JSON.

use serde_json::{Value, json};
use zen5turbo_telemetry::Document;

use super::frame::Frame;
use super::words;
use crate::bandwidth::Kept;
use crate::text;

/// A program, and its counters as the statistics file would hold them.
pub struct Seen {
    pub frame: Frame,
    pub statistics: Document,
}

/// All programs, as text.
pub fn text(programs: &[Seen], limit: Option<&Kept>) -> String {
    let mut out = String::new();
    for Seen { frame, .. } in programs {
        let seconds = frame.seconds.map(|s| format!(", rates over {s:.1} s")).unwrap_or_default();
        out += &format!(
            "{} (process {}): {}, kernels {}{seconds}\n",
            frame.program, frame.pid, frame.state, frame.kernels
        );
        out += &text::facts(&words::facts(frame, limit));
        if !frame.operations.is_empty() {
            out += &table(&words::OPERATIONS, frame.operations.iter().map(words::operation), 2..8);
        }
        if !frame.declined.is_empty() {
            out += &table(&words::DECLINED, frame.declined.iter().map(words::declined), 2..3);
        }
        out.push('\n');
    }
    out.pop();
    out
}

fn table<const N: usize>(
    header: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
    right: std::ops::Range<usize>,
) -> String {
    let mut table = text::table();
    table.set_header(*header);
    rows.for_each(|row| {
        table.add_row(row);
    });
    text::right(&mut table, right);
    format!("{table}\n")
}

/// All programs, as one JSON object.
pub fn json(programs: &[Seen], limit: Option<&Kept>) -> Value {
    let programs: Vec<Value> = programs
        .iter()
        .map(|seen| {
            let mut program = json!(seen.frame);
            program["statistics"] = json!(seen.statistics);
            program
        })
        .collect();
    json!({"schema": 1, "version": env!("CARGO_PKG_VERSION"), "bandwidth": limit, "programs": programs})
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::reading;
    use super::*;
    use std::time::Instant;

    fn seen() -> Vec<Seen> {
        let start = Instant::now();
        let (first, second) = (reading(start, 1), reading(start, 3));
        vec![Seen { frame: Frame::new(7, &second, Some(&first)), statistics: second.statistics }]
    }

    fn limit() -> Kept {
        serde_json::from_value(json!({"date": "2026-11-21T00:00:00Z", "cpu": "", "cpus": 1, "beside_others": true,
            "rates": [{"threads": 2, "rate": 16e9, "bytes": 1}]}))
        .unwrap()
    }

    #[test]
    fn the_text_has_rates_with_what_they_are_of() {
        let out = text(&seen(), Some(&limit()));
        for part in [
            "llama-cli (process 7): active, kernels avx512vnni, rates over 2.0 s",
            "generating   40.0 graphs of one column a second = tokens/s of one sequence; 80 % of the time; 120 so far",
            "prompts      0.00 graphs of more columns a second",
            "4.00 GB/s read, 8.00 GB/s while products run: 25 % and 50 % of 16.0 GB/s (2 threads, measured 2026-11-21",
            "huge pages   4.0 MiB of 8.0 MiB that products read, 50 %: 2.0 MiB in the page cache, 2.0 MiB copied, 1.0 MiB given back",
            "300.0 MiB resident",
            "threads      asked 8, used 2 (CPU quota 200000/100000 us of /sys/fs/cgroup/a)\n",
            "thp_refused 1",
            "q4_K",
            "src0_permuted",
        ] {
            assert!(out.contains(part), "{part} in\n{out}");
        }
        assert!(text(&seen(), None).contains("not measured: key b, or --bandwidth"));
    }

    #[test]
    fn the_json_has_the_same_and_the_statistics() {
        let out = json(&seen(), Some(&limit()));
        assert_eq!((&out["schema"], &out["bandwidth"]["rates"][0]["threads"]), (&1.into(), &2.into()));
        let program = &out["programs"][0];
        assert_eq!((&program["pid"], &program["operations"][0]["type"]), (&7.into(), &"q4_K".into()));
        assert_eq!(program["weights_per_second"], 4e9);
        assert_eq!((&program["threads"]["asked"], &program["threads"]["used"]), (&8.into(), &2.into()));
        assert_eq!(program["statistics"]["ops"]["MUL_MAT"]["q4_K"]["taken"], 300);
    }
}
