//! Finds out whether the threads of graphs lose their CPUs to other processes. If they do, they sleep early while they
//! wait for each other, and a graph of one column gets only as many threads as have a CPU.
//!
//! After each graph, the CPU time of the process is compared with the CPU time that its threads could have had. Time
//! that is missing, and that was not spent asleep at the barrier of this library, is time in which another process ran
//! instead.
//!
//! A graph does not count if the process has read from a disk meanwhile, because its threads may have waited for the
//! disk. Otherwise a cold start looks like other processes, and one thread of two computes its first second. (Zen 4,
//! 2026-11-30, cold, 64 tokens of Q4_K, start to exit: 942 ms, now 705;
//! `bench/records/2026-11-30-amd-epyc-memory.md`.)
//!
//! The number of interruptions would say less: a client that reads each token interrupts as often as a compilation, but
//! gives the CPU back after a few microseconds. Threads that always sleep early compute its prompts at a third of the
//! speed (Zen 4, 2026-11-29; `bench/records/2026-11-30-amd-epyc-threads.md`).

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use zen5turbo_host::Usage;

use super::budget::now_ms;
use crate::stats;

/// Pauses before a thread sleeps, while the threads have their CPUs: 26 ms on Zen 4 (25 ns for each pause). This is
/// longer than any wait for a thread that runs.
const QUIET_SPIN: u32 = 1 << 20;

/// Pauses before a thread sleeps, while the threads lose their CPUs: 75 us. (Zen 4, two endless loops on both CPUs, two
/// threads, Gemma 3 270M, 2026-11-30: generation 17 to 28 tokens/s, with ggml's barrier 9 to 20. 300 pauses generate
/// faster and compute prompts no faster: `bench/records/2026-11-30-amd-epyc-threads.md`.)
const BUSY_SPIN: u32 = 3_000;

/// With this much lost time, in thousandths of a CPU, threads begin to sleep early.
const BUSY: usize = 160;
/// Below this much lost time, in thousandths of a CPU, threads stop sleeping early.
const QUIET: usize = 60;

/// With this much lost time, in thousandths of a CPU, one thread less is faster, because the threads wait for each
/// other about 500 times for each token. (Same machine, day and record as for [`BUSY_SPIN`]: two threads 22 to 32
/// tokens/s, one thread 34 to 48.)
const THREAD_LESS: usize = 400;

/// Lost time for each thread, in thousandths of a CPU, that does not count, because every machine has other work.
const NOISE: usize = 10;

/// After this many milliseconds with fewer threads, all threads are tried again.
const TRY_AFTER_MS: u64 = 1000;
/// For how many graphs all threads are tried again.
const TRIES: usize = 3;

/// The time over which the mean of lost time is taken, in milliseconds of graphs.
const MEMORY_MS: f64 = 150.0;

/// The mean of lost time, in thousandths of a CPU.
static LOST: AtomicUsize = AtomicUsize::new(0);
/// By how many threads a graph of one column is reduced; 0 if it gets all.
static LESS: AtomicUsize = AtomicUsize::new(0);
/// When all threads are tried again, in milliseconds of [`now_ms`].
static TRY_AT: AtomicU64 = AtomicU64::new(0);
/// How many graphs have tried all threads since then.
static TRYING: AtomicUsize = AtomicUsize::new(0);
/// Whether threads sleep early.
static EARLY: AtomicUsize = AtomicUsize::new(0);
/// The number of threads of all graphs that run now.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// How many pauses the threads of a graph spin before they sleep. `polls` is false for a pool that the program made
/// without polling, whose threads should not use CPU time while they wait. `budget` is the number of CPUs of the
/// process.
pub fn spin(polls: bool, budget: usize) -> u32 {
    let above = RUNNING.load(Relaxed) > budget;
    if above || !polls || EARLY.load(Relaxed) != 0 { BUSY_SPIN } else { QUIET_SPIN }
}

/// How many threads compute a graph of one column for which there are `threads`: fewer while other processes use the
/// CPUs.
pub fn beside_others(threads: usize) -> usize {
    let less = LESS.load(Relaxed);
    if less == 0 || now_ms() >= TRY_AT.load(Relaxed) { threads } else { threads.saturating_sub(less).max(1) }
}

/// The measurement of a running graph.
pub struct Measure {
    threads: usize,
    /// Whether the graph has one column and all threads.
    whole: bool,
    started: Instant,
    before: Usage,
    slept_us: u64,
}

impl Measure {
    /// Begins to measure a graph of this many threads. `whole`: it has one column, and [`beside_others`] has left it
    /// all threads.
    pub fn start(threads: usize, whole: bool) -> Self {
        RUNNING.fetch_add(threads, Relaxed);
        Self { threads, whole, started: Instant::now(), before: Usage::of_this_process(), slept_us: slept_us() }
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        let others = RUNNING.fetch_sub(self.threads, Relaxed) - self.threads;
        if others > 0 {
            return; // several graphs run, and their CPU times cannot be separated
        }
        let (before, now) = (self.before, Usage::of_this_process());
        if now.read != before.read || now.slow_faults != before.slow_faults {
            return; // the threads may have waited for the disk
        }
        let wall = self.started.elapsed();
        let could = wall * self.threads as u32;
        let slept = Duration::from_micros(slept_us().saturating_sub(self.slept_us));
        let lost = could.saturating_sub(now.cpu.saturating_sub(before.cpu)).saturating_sub(slept);
        if wall.is_zero() {
            return;
        }
        let lately = lately(LOST.load(Relaxed), 1e3 * lost.as_secs_f64() / wall.as_secs_f64(), wall);
        LOST.store(lately, Relaxed);
        stats::counters().threads.lost_mcpu.store(lately as u64, Relaxed);
        let noise = NOISE * self.threads;
        if lately >= BUSY.max(noise) {
            EARLY.store(1, Relaxed);
        } else if lately < QUIET.max(noise / 2) {
            EARLY.store(0, Relaxed);
        }
        if self.whole {
            self.reconsider(lately, noise);
        }
    }
}

impl Measure {
    /// After a graph of one column that had all threads: decides how many threads the next ones get.
    fn reconsider(&self, lost: usize, noise: usize) {
        let trying = LESS.load(Relaxed) > 0;
        if trying && TRYING.fetch_add(1, Relaxed) + 1 < TRIES {
            return;
        }
        TRYING.store(0, Relaxed);
        let less = if lost >= THREAD_LESS.max(noise) { ((lost + 500) / 1000).clamp(1, self.threads - 1) } else { 0 };
        TRY_AT.store(now_ms() + TRY_AFTER_MS, Relaxed);
        LESS.store(less, Relaxed);
    }
}

/// The running mean of lost time after a graph that took `wall`. `before`, `lost` and the result are in thousandths of
/// a CPU. Written without functions of libm, which this library does not need.
fn lately(before: usize, lost: f64, wall: Duration) -> usize {
    let keep = MEMORY_MS / (MEMORY_MS + wall.as_secs_f64() * 1e3);
    (before as f64 * keep + lost * (1.0 - keep) + 0.5) as usize
}

fn slept_us() -> u64 {
    stats::counters().threads.sleeps[1].load(Relaxed)
}

/// In a forked child: no graph runs there. Only stores.
pub fn forget() {
    RUNNING.store(0, Relaxed);
    for state in [&LOST, &EARLY, &LESS, &TRYING] {
        state.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_disturbance_is_forgotten_and_a_long_one_counts() {
        let ms = Duration::from_millis;
        let after_one_token = lately(0, 1000.0, ms(10));
        assert!(after_one_token < BUSY, "{after_one_token}");
        let after_many = (0..10).fold(0, |before, _| lately(before, 1000.0, ms(10)));
        assert!(after_many > THREAD_LESS, "{after_many}");
        let quiet_again = (0..60).fold(after_many, |before, _| lately(before, 10.0, ms(10)));
        assert!(quiet_again < QUIET, "{quiet_again}");
        assert!(lately(0, 500.0, ms(1000)) > THREAD_LESS, "a long prompt counts by itself");
    }

    #[test]
    fn threads_above_the_cpus_sleep_early_and_so_do_those_that_may_not_poll() {
        let _measure = Measure::start(3, false);
        assert_eq!(spin(true, 2), BUSY_SPIN);
        assert_eq!(spin(false, 1000), BUSY_SPIN);
    }
}
