//! Core-to-core latency: a cache line that goes back and forth.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use zen5turbo_host::cpuset::{CpuSet, set_affinity};

use crate::together::together;

/// Round trips of a repetition, and repetitions; the best counts.
const TRIPS: u64 = 1000;
const REPETITIONS: usize = 6;

/// A line of its own; two, as prefetchers fetch lines in pairs.
#[repr(align(128))]
struct Line(AtomicU64);

/// Nanoseconds from a store on one of two places to its arrival on the other: half a round trip.
///
/// # Errors
/// A place where a thread may not run.
pub fn latency(places: [&CpuSet; 2]) -> io::Result<f64> {
    let line = Line(AtomicU64::new(0));
    let word = &line.0;
    let passes = together(2, REPETITIONS, |i| {
        set_affinity(places[i])?;
        Ok(move |pass: usize| {
            // Each waits for its own turn, counted on over all repetitions, and gives the next to the other.
            for trip in pass as u64 * TRIPS..(pass as u64 + 1) * TRIPS {
                let mine = 2 * trip + i as u64;
                while word.load(Ordering::Acquire) != mine {}
                word.store(mine + 1, Ordering::Release);
            }
        })
    })?;
    let trip = |wall: f64| wall * 1e9 / (2 * TRIPS) as f64;
    Ok(passes.iter().map(|pass| trip(pass.wall)).fold(f64::MAX, f64::min))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_host::cpuset::affinity;
    use zen5turbo_skip::{Need, skip};

    #[test]
    fn a_line_travels_between_two_cores() {
        let cpus: Vec<usize> = affinity().unwrap().iter().collect();
        let [a, .., b] = cpus[..] else { return skip(Need::Cpus, "this process may use one CPU only") };
        let [a, b] = [a, b].map(|cpu| std::iter::once(cpu).collect::<CpuSet>());
        let ns = latency([&a, &b]).unwrap();
        assert!((1.0..1e7).contains(&ns), "{ns}");
        assert!(latency([&a, &CpuSet::default()]).is_err());
    }
}
