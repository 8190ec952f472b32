//! How fast weights are copied: without a pause while a CPU is free, and in short steps with long rests while graphs
//! compute on all CPUs.
//!
//! The threads of a graph wait for each other at every operation. So when the copier takes time from one of them, all
//! of them lose that time. Niceness does not prevent this: it only limits the copier's share of one CPU
//! (`zen5turbo_host::thread`).

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use zen5turbo_host::CpuBudget;

/// The rest after a step, as a multiple of the step's time. A graph loses a tenth of its speed at most, while the
/// copying takes ten times as long as it would without rests.
///
/// Zen 4, 2 CPUs, 2026-11-21, Q4_K, tokens/s of the first 64 tokens: without a rest 74 to 80, with this one 96 to 109.
/// Shorter rests are as good on a quiet machine, and cost a quarter of the speed for 9 s on one whose host has to find
/// the memory first (`bench/records/2026-11-21-amd-epyc-background.md`).
const REST: u32 = 9;

/// The number of threads of all graphs that run now.
static COMPUTING: AtomicUsize = AtomicUsize::new(0);

/// A graph that runs with this many threads. It ends when this is dropped.
pub struct Computing(usize);

impl Computing {
    /// A graph of `threads` threads begins.
    pub fn start(threads: usize) -> Self {
        COMPUTING.fetch_add(threads, Relaxed);
        Self(threads)
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        COMPUTING.fetch_sub(self.0, Relaxed);
    }
}

/// The pace of a background thread.
pub struct Pace {
    /// CPUs that this process may use at the same time: their number, or the CPU quota of its control group. When
    /// graphs use all of these, a step takes its time from a graph, even if a CPU of the machine is idle.
    cpus: usize,
    rested: Cell<Duration>,
}

impl Pace {
    /// The pace of the calling thread, which may run on all CPUs of the process.
    pub fn new() -> Self {
        Self { cpus: CpuBudget::of_this_process().cpus, rested: Cell::default() }
    }

    /// Does a step of a few milliseconds at most. If the step took a CPU from a graph, waits afterwards with `rest`.
    pub fn step<T>(&self, work: impl FnOnce() -> T, rest: impl FnOnce(Duration)) -> T {
        let started = Instant::now();
        let before = self.all_cpus_compute();
        let done = work();
        if before || self.all_cpus_compute() {
            let worked = started.elapsed();
            let from = Instant::now();
            rest(worked * REST);
            self.rested.set(self.rested.get() + from.elapsed());
        }
        done
    }

    fn all_cpus_compute(&self) -> bool {
        COMPUTING.load(Relaxed) >= self.cpus
    }

    /// The time spent resting since the last call of this.
    pub fn take_rested(&self) -> Duration {
        self.rested.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_only_after_a_step_that_took_a_cpu_from_a_graph() {
        let pace = Pace { cpus: usize::MAX / 2, rested: Cell::default() };
        let asked = Cell::new(Duration::ZERO);
        let step = || pace.step(|| std::thread::sleep(Duration::from_millis(1)), |time| asked.set(time));
        step();
        assert_eq!(asked.take(), Duration::ZERO, "nobody computes");
        let some = Computing::start(1);
        step();
        assert_eq!(asked.take(), Duration::ZERO, "a CPU is left");
        let more = Computing::start(usize::MAX / 2 - 1);
        step();
        assert!(asked.take() >= Duration::from_millis(1) * REST);
        drop((some, more));
        step();
        assert_eq!(asked.take(), Duration::ZERO, "the graphs have ended");
        assert!(pace.take_rested() > Duration::ZERO);
        assert_eq!(pace.take_rested(), Duration::ZERO);
    }
}
