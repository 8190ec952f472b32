//! The number of CPUs that the threads of a graph may use.

use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Instant;

use zen5turbo_host::CpuBudget;

use crate::config::{Threads, config};
use crate::log::log;
use crate::stats;

/// The time after which the budget is read again, because quotas and cpusets can change while a program runs.
const READ_EVERY_MS: u64 = 1000;

/// The CPUs of the budget; 0 before it was read.
static CPUS: AtomicUsize = AtomicUsize::new(0);
/// The time of the next read, in milliseconds of [`now_ms`].
static NEXT_READ: AtomicU64 = AtomicU64::new(0);
/// The limit that sets the budget, in words, for the statistics.
static LIMIT: Mutex<String> = Mutex::new(String::new());

/// Milliseconds since the first call.
pub fn now_ms() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// The number of CPUs that this process can keep busy. The answer is at most a second old.
fn budget() -> usize {
    let (now, next) = (now_ms(), NEXT_READ.load(Relaxed));
    let due = now >= next && NEXT_READ.compare_exchange(next, now + READ_EVERY_MS, Relaxed, Relaxed).is_ok();
    if due || CPUS.load(Relaxed) == 0 {
        let CpuBudget { cpus, limit } = CpuBudget::of_this_process();
        let limit = limit.to_string();
        if let Ok(mut last) = LIMIT.try_lock()
            && *last != limit
        {
            log!(info, "threads of a graph: at most {cpus} ({limit})");
            *last = limit;
            stats::names_changed();
        }
        CPUS.store(cpus, Relaxed);
        stats::counters().threads.budget.store(cpus as u64, Relaxed);
    }
    CPUS.load(Relaxed).max(1)
}

/// The CPUs of the budget when it was last read.
pub fn cpus() -> usize {
    match CPUS.load(Relaxed) {
        0 => budget(),
        cpus => cpus,
    }
}

/// The most threads that a graph gets.
fn most() -> usize {
    match config().threads {
        Threads::Auto => budget(),
        Threads::Off => usize::MAX,
        Threads::AtMost(n) => n,
    }
}

/// How many threads compute a graph for which the program asks for `asked` threads.
pub fn count(asked: usize) -> usize {
    asked.min(most())
}

/// The limit of the threads of a graph, in words; empty before the budget was read.
pub fn limit() -> String {
    match config().threads {
        Threads::Auto => LIMIT.try_lock().map_or_else(|_| String::new(), |limit| limit.clone()),
        Threads::Off => "none: ZEN5TURBO_THREADS=off".to_owned(),
        Threads::AtMost(n) => format!("ZEN5TURBO_THREADS={n}"),
    }
}
