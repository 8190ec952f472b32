//! Thread pools: the program's own, and pools of this library that replace them.
//!
//! When the program calls `ggml_threadpool_new`, it gets a pool with no more threads than the process has CPUs, unless
//! the threads are OpenMP's. In two cases a graph runs in a pool of this library, with the same parameters:
//!
//! - The number of threads changes later: by a quota, by a cpuset, or for a graph that fewer threads compute as fast.
//! - The program makes no pool, so that ggml would start and end threads for every graph.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::budget;
use crate::config::{Threads, config};
use crate::ggml::abi::{CPlan, PoolParams};
use crate::ggml::checked::object;
use crate::loader::{BoundLibrary, PoolFunctions};
use crate::log::log;
use crate::reason::Reason;
use crate::stats;

/// Pools of a process at most. Further pools stay as the program asks for them.
const POOLS: usize = 64;

/// Pools of this library for graphs without a pool, at most: one for each such graph that runs at the same time.
const MOST_OWN: usize = 8;

/// A pool of the program, with the pool of this library that replaces it; or a pool of this library for graphs without
/// a pool.
struct Entry {
    /// The program's pool; null when there is none.
    programs: *mut c_void,
    /// The parameters of the pool. `n_threads` is the number that the program asked for.
    params: PoolParams,
    /// How many threads the program's pool has.
    made: usize,
    /// The pool of this library; null when there is none.
    ours: *mut c_void,
    /// How many threads the pool of this library has.
    ours_threads: usize,
    /// The pool, of these two, that computed the last graph.
    last: *mut c_void,
    /// Whether a graph runs in one of them.
    busy: bool,
    functions: Option<PoolFunctions>,
}

impl Entry {
    const NONE: Self = Self {
        programs: std::ptr::null_mut(),
        params: PoolParams { cpumask: [0; 512], n_threads: 0, prio: 0, poll: 0, strict_cpu: false, paused: false },
        made: 0,
        ours: std::ptr::null_mut(),
        ours_threads: 0,
        last: std::ptr::null_mut(),
        busy: false,
        functions: None,
    };

    fn is_free(&self) -> bool {
        self.functions.is_none()
    }
}

/// The table of pools and its lock. A forked child unlocks it by a store.
struct Table {
    locked: AtomicBool,
    entries: UnsafeCell<[Entry; POOLS]>,
}

// SAFETY: only the holder of the lock uses the entries.
unsafe impl Sync for Table {}

static TABLE: Table =
    Table { locked: AtomicBool::new(false), entries: UnsafeCell::new([const { Entry::NONE }; POOLS]) };

/// Does `work` with the locked table. `work` must not call back into this module. The lock is held for a search, or
/// while a pool is made, which happens once for every change of the number of threads.
fn with_table<T>(work: impl FnOnce(&mut [Entry; POOLS]) -> T) -> T {
    struct Unlock;
    impl Drop for Unlock {
        fn drop(&mut self) {
            TABLE.locked.store(false, Release);
        }
    }
    while TABLE.locked.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
        std::thread::yield_now();
    }
    let _unlock = Unlock;
    // SAFETY: this thread holds the lock.
    work(unsafe { &mut *TABLE.entries.get() })
}

/// Makes a pool for the program, with no more threads than it can use. `None` when the original must make it.
///
/// # Safety
/// The program gave `params` to the `ggml_threadpool_new` of the ggml to which `functions` belong.
pub unsafe fn make(functions: PoolFunctions, params: *mut PoolParams) -> Option<*mut c_void> {
    // SAFETY: the program gave the parameters, by the contract of this function; `PoolFunctions::find` has compared their
    // places.
    let asked = unsafe { object(params) }?;
    if !functions.graphs_are_seen {
        return None; // a graph would ask for more threads than a smaller pool has
    }
    if !with_table(|entries| entries.iter().any(Entry::is_free)) {
        // The original makes it as large as the program asks. A smaller pool that is not in the table could not be
        // replaced when the process gets more CPUs.
        stats::event(Reason::PoolTableFull);
        return None;
    }
    let mut own = *asked;
    // With OpenMP, a smaller pool would not have fewer threads.
    if !functions.openmp {
        own.n_threads = useful(asked) as c_int;
    }
    // SAFETY: the original is called with the program's parameters and another number of threads.
    let pool = unsafe { (functions.new)(&raw mut own) };
    if pool.is_null() {
        return Some(pool);
    }
    let kept = with_table(|entries| {
        // The program may have freed a pool with this address without a call that reached this library.
        let slot = entries.iter().position(|e| !e.is_free() && e.programs == pool);
        let slot = slot.or_else(|| entries.iter().position(Entry::is_free))?;
        free_ours(&mut entries[slot]);
        let made = usize::try_from(own.n_threads).unwrap_or(0);
        entries[slot] = Entry { programs: pool, params: *asked, made, functions: Some(functions), ..Entry::NONE };
        Some(())
    });
    if kept.is_none() {
        stats::event(Reason::PoolTableFull);
    }
    log!(debug, "a pool of {} threads, {} were asked for", own.n_threads, asked.n_threads);
    Some(pool)
}

/// How many threads of a pool with these parameters can run at the same time.
fn useful(params: &PoolParams) -> usize {
    let asked = budget::count(usize::try_from(params.n_threads).unwrap_or(0)).max(1);
    match (config().threads, params.cpumask.iter().filter(|&&byte| byte != 0).count()) {
        (Threads::Auto, cpus @ 1..) => asked.min(cpus),
        _ => asked,
    }
}

/// Frees a pool of the program, and the pool of this library that replaces it. Returns false for an unknown pool, which
/// the original must free.
///
/// # Safety
/// The program no longer uses the pool.
pub unsafe fn free(pool: *mut c_void) -> bool {
    let functions = with_table(|entries| {
        let entry = entries.iter_mut().find(|e| !e.is_free() && !pool.is_null() && e.programs == pool)?;
        free_ours(entry);
        let functions = entry.functions;
        *entry = Entry::NONE;
        functions
    });
    // SAFETY: this is the function of the ggml that made the pool, and the program no longer uses the pool.
    functions.inspect(|functions| unsafe { (functions.free)(pool) }).is_some()
}

/// Frees the pool of this library in an entry. No graph runs in it: the program begins another graph or frees its pool.
fn free_ours(entry: &mut Entry) {
    if let Some(functions) = entry.functions.filter(|_| !entry.ours.is_null()) {
        // SAFETY: the pool was made by the `new` of this copy of ggml. Only this entry knows it, and no graph runs in
        // it.
        unsafe { (functions.free)(entry.ours) };
        entry.ours = std::ptr::null_mut();
        entry.ours_threads = 0;
    }
}

/// The pool in which a graph runs.
pub struct Lent {
    /// The pool that the program has put into its plan; may be null.
    pub programs: *mut c_void,
    pub address: *mut c_void,
    pub threads: usize,
    /// Whether its threads poll for work.
    pub polls: bool,
    /// Whether its threads are ggml's and not OpenMP's.
    pub has_own_threads: bool,
    /// The entry of the pool in the table.
    entry: usize,
}

impl Drop for Lent {
    fn drop(&mut self) {
        with_table(|entries| entries[self.entry].busy = false);
    }
}

/// Puts a pool of `threads` threads into the plan, or of fewer if the program's pool cannot use as many. `None` when
/// the pools of this ggml are not known, or when ggml starts and ends threads for the graph itself.
///
/// # Safety
/// The conditions of [`super::graph::Graph::start`].
pub unsafe fn lend(caller: &BoundLibrary, plan: &mut CPlan, threads: usize) -> Option<Lent> {
    let functions = caller.pools()?;
    let programs = plan.threadpool;
    let lent = with_table(|entries| {
        let i = if programs.is_null() {
            own_entry(entries, functions, threads)?
        } else {
            // A pool that is not in the table has an unknown size, so it stays in the plan.
            entries.iter().position(|e| !e.is_free() && e.programs == programs)?
        };
        let entry = &mut entries[i];
        // No more threads than the program's pool was asked to have, and no more than it has CPUs.
        let threads = if programs.is_null() { threads } else { threads.min(useful(&entry.params)) };
        if entry.busy {
            return None; // two graphs at the same time in one pool: no known program does that
        }
        let (address, has) = fitting(entry, functions, threads);
        if address.is_null() {
            return None;
        }
        entry.busy = true;
        let polls = entry.params.poll != 0;
        Some(Lent { programs, address, threads: has.min(threads), polls, has_own_threads: !functions.openmp, entry: i })
    })?;
    plan.threadpool = lent.address;
    Some(lent)
}

/// The pool for a graph of `threads` threads, and its size: the program's pool if it has this size, else the pool of
/// this library, which is made if there is none of this size. The other pool is paused, because its threads would poll
/// for work.
fn fitting(entry: &mut Entry, functions: &PoolFunctions, threads: usize) -> (*mut c_void, usize) {
    // With OpenMP, the threads do not belong to the pool: every pool that is large enough can be used.
    let programs_fits = entry.made == threads || functions.openmp && entry.made > threads;
    if !programs_fits && (entry.ours.is_null() || entry.ours_threads != threads) {
        free_ours(entry);
        let mut params = entry.params;
        params.n_threads = threads as c_int;
        params.paused = false;
        // SAFETY: the original is called with the program's parameters and another number of threads.
        entry.ours = unsafe { (functions.new)(&raw mut params) };
        entry.ours_threads = threads;
        stats::counters().threads.pools.fetch_add(1, Relaxed);
    }
    let ours = !programs_fits && !entry.ours.is_null();
    let (used, unused) = if ours { (entry.ours, entry.programs) } else { (entry.programs, entry.ours) };
    if entry.last != used && !unused.is_null() {
        // SAFETY: the pool is one of this ggml. No graph runs in it, because the entry is not busy.
        unsafe { (functions.pause)(unused) };
    }
    entry.last = used;
    (used, if ours { entry.ours_threads } else { entry.made })
}

/// The entry for a graph without a pool: an idle one with a pool of the right size, else another idle one, else a new
/// one.
///
/// `None` when the graph has one thread, with OpenMP (its threads stay from graph to graph), without the barrier of
/// this library, and when too many graphs run at the same time.
fn own_entry(entries: &mut [Entry; POOLS], functions: &PoolFunctions, threads: usize) -> Option<usize> {
    if threads <= 1 || functions.openmp || !config().barrier {
        return None;
    }
    let is_own =
        |e: &Entry| e.functions.is_some_and(|f| e.programs.is_null() && std::ptr::fn_addr_eq(f.new, functions.new));
    let idle = |e: &Entry| is_own(e) && !e.busy;
    let found = entries.iter().position(|e| idle(e) && e.ours_threads == threads);
    if let Some(i) = found.or_else(|| entries.iter().position(idle)) {
        return Some(i);
    }
    if entries.iter().filter(|e| is_own(e)).count() >= MOST_OWN {
        return None;
    }
    let i = entries.iter().position(Entry::is_free)?;
    let mut params = Entry::NONE.params;
    // SAFETY: `PoolFunctions::find` has compared the layout of the parameters.
    unsafe { (functions.init)(&raw mut params, threads as c_int) };
    entries[i] = Entry { params, functions: Some(*functions), ..Entry::NONE };
    Some(i)
}

/// In a forked child: forgets all pools, which have no threads there, and unlocks the table. Only stores.
pub fn forget() {
    TABLE.locked.store(false, Relaxed);
    // SAFETY: the child has only this thread, so nobody else uses the table.
    let entries = unsafe { &mut *TABLE.entries.get() };
    for entry in entries.iter_mut().filter(|e| !e.is_free()) {
        *entry = Entry::NONE;
    }
}
