//! The threads of a graph that is about to be computed.

use std::ffi::c_int;
use std::sync::atomic::Ordering::Relaxed;

use super::budget::cpus;
use super::pools::{self, Lent};
use super::{barrier, pressure};
use crate::config::{Threads, config};
use crate::ggml::abi::CPlan;
use crate::loader::BoundLibrary;
use crate::{stats, tuning};

/// How many threads compute a graph of one column for which there are `threads`. More threads than it needs do not make
/// it faster, and a thread whose CPU another process uses holds up the others. Also returns whether no thread was left
/// out because of other processes.
pub fn count_for_one_column(threads: usize) -> (usize, bool) {
    let needed = threads.min(tuning::threads_of_one_column());
    let threads = match config().threads {
        Threads::Off => return (threads, true),
        Threads::AtMost(_) => needed,
        Threads::Auto => pressure::beside_others(needed),
    };
    (threads, threads == needed)
}

/// A graph that is computed by other threads than the program has planned. When this is dropped, the program's plan is
/// as it was before.
pub struct Graph {
    cplan: *mut CPlan,
    asked: c_int,
    pool: Option<Lent>,
    _barrier: Option<barrier::Taken>,
    _measure: pressure::Measure,
}

impl Graph {
    /// Lets `threads` threads compute the graph of `cplan`: at least 1, and at most as many as it names. `whole`: the
    /// graph has one column, and no thread was left out because of other processes.
    ///
    /// # Safety
    /// The program gave `cplan` to the `ggml_graph_compute` of `caller`, whose structures are known. `cplan` outlives
    /// this value.
    pub unsafe fn start(caller: &BoundLibrary, cplan: *mut CPlan, threads: usize, whole: bool) -> Self {
        // SAFETY: `cplan` is a plan of the program, by the contract of this function. Nobody else uses it until the
        // graph begins.
        let plan = unsafe { &mut *cplan };
        let asked = plan.n_threads;
        // SAFETY: `plan` is what the program gave to the `ggml_graph_compute` of `caller`, by the contract of this
        // function.
        let pool = unsafe { pools::lend(caller, plan, threads) };
        // The program's own pool may have fewer threads, if it could not be replaced.
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
        // SAFETY: the plan outlives this value, by the contract of `start`. The call that computed its graph has ended.
        let plan = unsafe { &mut *self.cplan };
        plan.n_threads = self.asked;
        if let Some(pool) = &self.pool {
            plan.threadpool = pool.programs;
        }
    }
}
