//! What the server's process holds, and whether it grows.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// The process at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Since the server was started.
    pub seconds: f64,
    /// Resident set.
    pub rss_kib: u64,
    /// Anonymous part of the resident set (buffers, heap, weights on huge pages).
    pub anonymous_kib: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Mappings (VMAs).
    pub mappings: u64,
    /// Threads.
    pub threads: u64,
}

impl Sample {
    /// Of process `pid`, `seconds` after its start. An error when it is gone.
    pub fn take(pid: u32, seconds: f64) -> Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| fs::read_to_string(proc.join(name)).with_context(|| format!("/proc/{pid}/{name}"));
        let status = read("status")?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|v| v.split_whitespace().next()?.parse().ok()).with_context(|| format!("no {name}"))
        };
        Ok(Self {
            seconds,
            rss_kib: field("VmRSS")?,
            anonymous_kib: field("RssAnon")?,
            descriptors: fs::read_dir(proc.join("fd")).context("descriptors")?.count() as u64,
            mappings: read("maps")?.lines().count() as u64,
            threads: field("Threads")?,
        })
    }
}

/// How much something may grow: at once, since the heap and the weights on huge pages come and go, and per hour.
struct Bound {
    what: &'static str,
    value: fn(&Sample) -> u64,
    once: f64,
    per_hour: f64,
}

/// Chosen so that 24 hours find a leak of 5 MiB, 3 descriptors, 5 mappings or 2 threads an hour. In 30 minutes only
/// `once` matters. (AMD EPYC, Zen 4, 2026-11-21, 30 minutes: see bench/records.)
const BOUNDS: [Bound; 5] = [
    Bound { what: "KiB resident", value: |s| s.rss_kib, once: 24.0 * 1024.0, per_hour: 1024.0 },
    Bound { what: "KiB anonymous", value: |s| s.anonymous_kib, once: 24.0 * 1024.0, per_hour: 1024.0 },
    Bound { what: "file descriptors", value: |s| s.descriptors, once: 8.0, per_hour: 1.0 },
    Bound { what: "mappings", value: |s| s.mappings, once: 24.0, per_hour: 1.0 },
    Bound { what: "threads", value: |s| s.threads, once: 8.0, per_hour: 0.5 },
];

/// The rule: of the samples taken in the second half of the time, the largest value among the later half may be
/// above the largest among the earlier half by no more than `once` + `per_hour` x the hours between their middles.
/// Maxima, since what is given back for a while (weights under pressure) is no growth when it returns. Fewer than
/// four samples in the second half: the first counts as the earlier ones.
pub fn check_growth(samples: &[Sample]) -> Result<()> {
    let Some((first, last)) = samples.first().zip(samples.last()) else { return Ok(()) };
    let middle = (first.seconds + last.seconds) / 2.0;
    let late: Vec<_> = samples.iter().filter(|s| s.seconds >= middle).collect();
    let (earlier, later) = late.split_at(late.len() / 2);
    let [Some(&a), Some(&b)] = [earlier.first(), later.first()] else { return Ok(()) };
    let hours = (b.seconds - a.seconds) / 3600.0;
    for Bound { what, value, once, per_hour } in BOUNDS {
        let [before, after] = [earlier, later].map(|part| part.iter().map(|s| value(s)).max().unwrap_or(0));
        let allowed = once + per_hour * hours;
        ensure!(
            after as f64 <= before as f64 + allowed,
            "{what}: {after} at most in the last quarter of the time, {before} in the quarter before it, expected a \
             growth of at most {allowed:.0}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of samples, one every ten minutes.
    fn day(descriptors: impl Fn(f64) -> u64) -> Vec<Sample> {
        let at = |i: u32| f64::from(i) * 600.0;
        let sample = |seconds| Sample {
            seconds,
            rss_kib: 900_000,
            anonymous_kib: 500_000,
            descriptors: descriptors(seconds / 3600.0),
            mappings: 300,
            threads: 20,
        };
        (0..=144).map(at).map(sample).collect()
    }

    #[test]
    fn a_slow_leak_is_found_and_a_long_warm_up_is_none() {
        assert!(check_growth(&day(|_| 20)).is_ok());
        let error = check_growth(&day(|hours| 20 + (hours * 3.0) as u64)).unwrap_err().to_string();
        assert!(error.starts_with("file descriptors: 92 at most in the last quarter"), "{error}");
        assert!(check_growth(&day(|hours| if hours < 11.0 { (hours * 10.0) as u64 } else { 110 })).is_ok());
        assert!(check_growth(&day(|hours| if (hours as u32).is_multiple_of(2) { 20 } else { 60 })).is_ok());
    }

    #[test]
    fn few_samples_are_compared_as_far_as_they_go() {
        let samples = day(|_| 20);
        assert!((0..5).all(|n| check_growth(&samples[..n]).is_ok()));
        let grown = [samples[0], Sample { threads: 40, ..samples[1] }, Sample { threads: 60, ..samples[2] }];
        assert!(check_growth(&grown).is_err());
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let sample = Sample::take(std::process::id(), 1.0).unwrap();
        assert!(sample.rss_kib >= sample.anonymous_kib && sample.mappings > 5 && sample.threads >= 1);
    }
}
