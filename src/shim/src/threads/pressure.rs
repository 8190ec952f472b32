//! Whether the threads of graphs lose their CPUs to others: then they sleep early where they wait for each other, and graphs of
//! one column are computed by as many threads as have a CPU.
//!
//! The CPU time of the process during a graph is compared with what its threads could have had. What is missing and was
//! not slept away at our barrier is time in which they could have run and somebody else did. A graph in which the process read
//! from a disk does not count: its threads may have waited for that. (A cold start looked like other processes: the first second
//! of tokens was computed by one thread of two, 64 tokens of Q4_K 884 ms where all threads take 690; Zen 4, 2026-11-30.) How often threads are
//! interrupted says less: a client that reads each token interrupts as often as a compilation, but gives the CPU back after some
//! microseconds. (Zen 4, 2 CPUs of a virtual machine, 2026-11-29: with the client on the same CPUs, threads that always slept
//! after 30,000 pauses computed prompts of 37 tokens at a third of the speed, as waking a thread takes about a millisecond there.)

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use zen5turbo_host::Usage;

use crate::stats;

/// Pauses before sleep where the threads have their CPUs: 26 ms on Zen 4 (25 ns a pause), longer than any wait for a thread that runs.
const QUIET_SPIN: u32 = 1 << 20;

/// The same where they lose them: 75 us. (Zen 4, two endless loops on both CPUs, two threads, Gemma 3 270M, 2026-11-30, tokens/s in
/// several runs: 300 pauses 29 to 34, 3,000 17 to 28, 30,000 15 to 24, ggml's barrier 9 to 20; prompts 403 to 693, 451 to 667, 186 to 615,
/// 130 to 309. One thread: 34 to 48, prompts 374 to 715.)
const BUSY_SPIN: u32 = 3_000;

/// Lost time, in thousandths of a CPU, from which on threads sleep early, and below which they stop to.
const BUSY: usize = 160;
const QUIET: usize = 60;

/// Lost time, likewise, that costs more than a thread less: the others wait for each other some 500 times a token. (Same machine and
/// day, two threads beside two endless loops: 22 to 32 tokens/s at this barrier, one thread 34 to 48.)
const THREAD_LESS: usize = 400;

/// Of many threads each may lose so much, in thousandths, as every machine has work of its own.
const NOISE: usize = 10;

/// After so many milliseconds with fewer threads all of them are tried again, for so many graphs.
const TRY_AFTER_MS: u64 = 1000;
const TRIES: usize = 3;

/// The last so many milliseconds of graphs count.
const MEMORY_MS: f64 = 150.0;

/// Lost lately, in thousandths of a CPU.
static LOST: AtomicUsize = AtomicUsize::new(0);
/// How many threads a graph of one column gets less; 0 for none.
static LESS: AtomicUsize = AtomicUsize::new(0);
/// When all threads are tried again, milliseconds of [`super::now_ms`], and how many more graphs try.
static TRY_AT: AtomicU64 = AtomicU64::new(0);
static TRYING: AtomicUsize = AtomicUsize::new(0);
/// Whether threads sleep early.
static EARLY: AtomicUsize = AtomicUsize::new(0);
/// Threads of all graphs that run now.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// How many pauses the threads of a graph that is measured spin before they sleep. `polls` is false in a pool that the
/// program made without polling: its threads are not to burn CPU time. `budget` is how many CPUs the process has.
pub fn spin(polls: bool, budget: usize) -> u32 {
    let above = RUNNING.load(Relaxed) > budget;
    if above || !polls || EARLY.load(Relaxed) != 0 { BUSY_SPIN } else { QUIET_SPIN }
}

/// How many threads compute a graph of one column for which there are `threads`: fewer where others have the CPUs.
pub fn beside_others(threads: usize) -> usize {
    let less = LESS.load(Relaxed);
    if less == 0 || super::now_ms() >= TRY_AT.load(Relaxed) { threads } else { threads.saturating_sub(less).max(1) }
}

/// A graph that is measured.
pub struct Measure {
    threads: usize,
    /// It has one column and all threads that there are.
    whole: bool,
    started: Instant,
    before: Usage,
    slept_us: u64,
}

impl Measure {
    /// Begins, for a graph of so many threads. `whole`: it has one column, and [`beside_others`] has left it all threads.
    pub fn start(threads: usize, whole: bool) -> Self {
        RUNNING.fetch_add(threads, Relaxed);
        Self { threads, whole, started: Instant::now(), before: Usage::of_this_process(), slept_us: slept_us() }
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        let others = RUNNING.fetch_sub(self.threads, Relaxed) - self.threads;
        if others > 0 {
            return; // the CPU time is that of several graphs
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
    /// Whether graphs of one column get fewer threads, after one that had all of them.
    fn reconsider(&self, lost: usize, noise: usize) {
        let trying = LESS.load(Relaxed) > 0;
        if trying && TRYING.fetch_add(1, Relaxed) + 1 < TRIES {
            return;
        }
        TRYING.store(0, Relaxed);
        let less = if lost >= THREAD_LESS.max(noise) { ((lost + 500) / 1000).clamp(1, self.threads - 1) } else { 0 };
        TRY_AT.store(super::now_ms() + TRY_AFTER_MS, Relaxed);
        LESS.store(less, Relaxed);
    }
}

/// The running mean of lost time after a graph that took `wall` and lost `lost`, both in thousandths of a CPU. Without functions of
/// libm, which this library does without.
fn lately(before: usize, lost: f64, wall: Duration) -> usize {
    let keep = MEMORY_MS / (MEMORY_MS + wall.as_secs_f64() * 1e3);
    (before as f64 * keep + lost * (1.0 - keep) + 0.5) as usize
}

fn slept_us() -> u64 {
    stats::counters().threads.sleeps[1].load(Relaxed)
}

/// In a forked child no graph runs. Only stores.
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
