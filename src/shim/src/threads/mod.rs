//! How many threads compute a graph, in which pool, and how they wait for each other.
//!
//! Programs start as many threads as the *host* has cores, whatever the process may use. ggml's threads spin while they
//! wait for each other, so a thread above the CPUs costs a factor of a hundred. `ggml_graph_compute` is where everything comes
//! together: the number of threads in the plan is lowered there, never raised, so a work buffer that was made for more threads
//! always fits; and the graph is given a pool of exactly that many threads, as those without work would poll for it.

pub mod barrier;
pub mod pools;
mod pressure;

use std::ffi::c_int;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Instant;

use zen5turbo_host::CpuBudget;

use crate::config::{Threads, config};
use crate::ggml::abi::CPlan;
use crate::loader::BoundLibrary;
use crate::log::log;
use crate::stats;
use crate::tuning;
use pools::Lent;

/// How often the budget is read again: quotas and cpusets change while a program runs.
const READ_EVERY_MS: u64 = 1000;

/// CPUs of the budget; 0 before it was read.
static CPUS: AtomicUsize = AtomicUsize::new(0);
/// When it is to be read again, in milliseconds of [`now_ms`].
static NEXT_READ: AtomicU64 = AtomicU64::new(0);
/// What limits it, for the statistics.
static LIMIT: Mutex<String> = Mutex::new(String::new());

/// Milliseconds since this was asked first.
fn now_ms() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// CPUs that this process can keep busy, at most a second old.
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
            stats::live::changed();
        }
        CPUS.store(cpus, Relaxed);
        stats::counters().threads.budget.store(cpus as u64, Relaxed);
    }
    CPUS.load(Relaxed).max(1)
}

/// CPUs of the budget, as they were read last.
fn cpus() -> usize {
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

/// How many threads compute a graph for which the program asked for so many.
pub fn count(asked: usize) -> usize {
    asked.min(most())
}

/// The same for a graph of one column, which more threads than it needs do not make faster, and which the threads of a CPU
/// that others use would hold up. Also whether none was left out because of others.
pub fn count_for_one_column(threads: usize) -> (usize, bool) {
    let needed = threads.min(tuning::threads_of_one_column());
    let threads = match config().threads {
        Threads::Off => return (threads, true),
        Threads::AtMost(_) => needed,
        Threads::Auto => pressure::beside_others(needed),
    };
    (threads, threads == needed)
}

/// A graph that is about to be computed by other threads than the program planned. Its plan is the program's again when
/// this is dropped.
pub struct Graph {
    cplan: *mut CPlan,
    asked: c_int,
    pool: Option<Lent>,
    _barrier: Option<barrier::Taken>,
    _measure: pressure::Measure,
}

impl Graph {
    /// Lets `threads` threads compute the graph of `cplan`, at most as many as it names, and 1 at least. `whole`: it has one
    /// column, and no thread was left out because of others.
    ///
    /// # Safety
    /// `cplan` is what the program gave to the `ggml_graph_compute` of `caller`, whose structures are known, and lives longer.
    pub unsafe fn start(caller: &BoundLibrary, cplan: *mut CPlan, threads: usize, whole: bool) -> Self {
        // SAFETY: by contract.
        let plan = unsafe { &mut *cplan };
        let asked = plan.n_threads;
        // SAFETY: as above.
        let pool = unsafe { pools::lend(caller, plan, threads) };
        // A pool of the program's that could not be replaced may have fewer.
        let threads = pool.as_ref().map_or(threads, |pool| pool.threads.min(threads));
        plan.n_threads = threads as c_int;
        let measure = pressure::Measure::start(threads, whole && threads > 1);
        let barrier =
            pool.as_ref().filter(|pool| threads > 1 && pool.has_own_threads && config().barrier).and_then(|pool| {
                let spin = pressure::spin(pool.polls, cpus());
                barrier::take(pool.address, threads, spin)
            });
        let counters = &stats::counters().threads;
        counters.asked.store(asked as u64, Relaxed);
        counters.used.store(threads as u64, Relaxed);
        if threads < asked as usize {
            counters.capped.fetch_add(1, Relaxed);
        }
        Self { cplan, asked, pool, _barrier: barrier, _measure: measure }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: by the contract of `start`.
        let plan = unsafe { &mut *self.cplan };
        plan.n_threads = self.asked;
        if let Some(pool) = &self.pool {
            plan.threadpool = pool.programs;
        }
    }
}

/// What limits the threads of a graph, in words; empty before that was asked.
pub fn limit() -> String {
    match config().threads {
        Threads::Auto => LIMIT.try_lock().map_or_else(|_| String::new(), |limit| limit.clone()),
        Threads::Off => "none: ZEN5TURBO_THREADS=off".to_owned(),
        Threads::AtMost(n) => format!("ZEN5TURBO_THREADS={n}"),
    }
}

/// In a forked child: no graph runs, and no pool has threads. Only stores.
pub fn forget() {
    barrier::forget();
    pressure::forget();
    pools::forget();
}
