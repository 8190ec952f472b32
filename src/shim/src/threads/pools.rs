//! Thread pools: those that the program makes, and those of ours that take their place.
//!
//! `ggml_threadpool_new` makes a pool with no more threads than the process has CPUs, unless they are OpenMP's. Where the number
//! of threads changes afterwards (a quota, a cpuset, a graph that few threads compute as fast), or where the program makes no
//! pool and ggml would start and end threads for every graph, the graph runs in a pool of ours with the same parameters.

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

/// Pools of a process; the threads of further ones are not looked after.
const POOLS: usize = 64;

/// Pools of ours for graphs without one: as many as such graphs run at once.
const MOST_OWN: usize = 8;

/// A pool that was given to the program, or one of ours for graphs without one.
struct Entry {
    /// The program's pool; null for one of ours, and where there is none.
    programs: *mut c_void,
    /// What it was asked for with, or would have been: `n_threads` is what the program wanted.
    params: PoolParams,
    /// How many threads it has.
    made: usize,
    /// A pool of ours, and how many threads it has; null where there is none.
    ours: *mut c_void,
    ours_threads: usize,
    /// The one of both that computed the last graph.
    last: *mut c_void,
    /// A graph runs in it.
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

/// The table and its lock, which a forked child opens by a store.
struct Table {
    locked: AtomicBool,
    entries: UnsafeCell<[Entry; POOLS]>,
}

// SAFETY: the entries are used by the holder of the lock alone.
unsafe impl Sync for Table {}

static TABLE: Table =
    Table { locked: AtomicBool::new(false), entries: UnsafeCell::new([const { Entry::NONE }; POOLS]) };

/// Does `work` with the table. Nothing in it calls back into this module. It is held for a search, or while a pool is
/// made, once for every change of the number of threads.
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
    // SAFETY: the lock is held.
    work(unsafe { &mut *TABLE.entries.get() })
}

/// Makes a pool for the program, with no more threads than it can use. `None` when the original is to make it.
///
/// # Safety
/// `params` is what the program gave to the `ggml_threadpool_new` of the ggml that `functions` belong to.
pub unsafe fn make(functions: PoolFunctions, params: *mut PoolParams) -> Option<*mut c_void> {
    // SAFETY: the program gave the parameters, by the contract of this function; `PoolFunctions::find` has compared their
    // places.
    let asked = unsafe { object(params) }?;
    if !functions.graphs_are_seen {
        return None; // a graph would ask for more threads than a smaller pool has
    }
    if !with_table(|entries| entries.iter().any(Entry::is_free)) {
        // As large as the program wants it: one that is not known here can not be replaced when there are more CPUs.
        stats::event(Reason::PoolTableFull);
        return None;
    }
    let mut own = *asked;
    // A pool of OpenMP's has no threads that a smaller one would save.
    if !functions.openmp {
        own.n_threads = useful(asked) as c_int;
    }
    // SAFETY: the original, with parameters like the program's.
    let pool = unsafe { (functions.new)(&raw mut own) };
    if pool.is_null() {
        return Some(pool);
    }
    let kept = with_table(|entries| {
        // A pool that was freed past us may have had the same address.
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

/// Threads of a pool with these parameters that can run at the same time.
fn useful(params: &PoolParams) -> usize {
    let asked = budget::count(usize::try_from(params.n_threads).unwrap_or(0)).max(1);
    match (config().threads, params.cpumask.iter().filter(|&&byte| byte != 0).count()) {
        (Threads::Auto, cpus @ 1..) => asked.min(cpus),
        _ => asked,
    }
}

/// Frees a pool of the program's, and ours beside it; false when it is not known here and the original is to free it.
///
/// # Safety
/// The program has done with the pool.
pub unsafe fn free(pool: *mut c_void) -> bool {
    let functions = with_table(|entries| {
        let entry = entries.iter_mut().find(|e| !e.is_free() && !pool.is_null() && e.programs == pool)?;
        free_ours(entry);
        let functions = entry.functions;
        *entry = Entry::NONE;
        functions
    });
    // SAFETY: the function of the ggml that made it.
    functions.inspect(|functions| unsafe { (functions.free)(pool) }).is_some()
}

/// Frees the pool of ours in an entry. No graph runs in it: the program has begun another one, or has freed its own.
fn free_ours(entry: &mut Entry) {
    if let Some(functions) = entry.functions.filter(|_| !entry.ours.is_null()) {
        // SAFETY: the pool was made by the `new` of this copy of ggml. Only this entry knows it, and no graph runs in
        // it.
        unsafe { (functions.free)(entry.ours) };
        entry.ours = std::ptr::null_mut();
        entry.ours_threads = 0;
    }
}

/// The pool of a graph.
pub struct Lent {
    /// What the program put into its plan.
    pub programs: *mut c_void,
    pub address: *mut c_void,
    pub threads: usize,
    /// Its threads poll for work.
    pub polls: bool,
    /// They are ggml's, not those of OpenMP.
    pub has_own_threads: bool,
    /// The entry that is in use.
    entry: usize,
}

impl Drop for Lent {
    fn drop(&mut self) {
        with_table(|entries| entries[self.entry].busy = false);
    }
}

/// Puts a pool of exactly `threads` threads into the plan, or of as many as the program's pool can use. `None` when nothing is
/// known of pools there, or ggml is to start and end threads as ever.
///
/// # Safety
/// As for [`super::graph::Graph::start`].
pub unsafe fn lend(caller: &BoundLibrary, plan: &mut CPlan, threads: usize) -> Option<Lent> {
    let functions = caller.pools()?;
    let programs = plan.threadpool;
    let lent = with_table(|entries| {
        let i = if programs.is_null() {
            own_entry(entries, functions, threads)?
        } else {
            // One that was made past us has a size that nothing tells: it stays as it is.
            entries.iter().position(|e| !e.is_free() && e.programs == programs)?
        };
        let entry = &mut entries[i];
        // No more threads than the program's pool was to have, or than it has CPUs.
        let threads = if programs.is_null() { threads } else { threads.min(useful(&entry.params)) };
        if entry.busy {
            return None; // graphs at the same time in one pool: no program of ours does that
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

/// The program's pool if it has as many threads as the graph, else ours, which is made when there is none of that size. The threads of
/// the one that is not used would poll for work that does not come: they are sent to sleep.
fn fitting(entry: &mut Entry, functions: &PoolFunctions, threads: usize) -> (*mut c_void, usize) {
    // OpenMP's threads come with the graph: any pool that is large enough will do.
    let programs_fits = entry.made == threads || functions.openmp && entry.made > threads;
    if !programs_fits && (entry.ours.is_null() || entry.ours_threads != threads) {
        free_ours(entry);
        let mut params = entry.params;
        params.n_threads = threads as c_int;
        params.paused = false;
        // SAFETY: the original with the program's parameters, but for the number.
        entry.ours = unsafe { (functions.new)(&raw mut params) };
        entry.ours_threads = threads;
        stats::counters().threads.pools.fetch_add(1, Relaxed);
    }
    let ours = !programs_fits && !entry.ours.is_null();
    let (used, unused) = if ours { (entry.ours, entry.programs) } else { (entry.programs, entry.ours) };
    if entry.last != used && !unused.is_null() {
        // SAFETY: a pool of this ggml in which no graph runs.
        unsafe { (functions.pause)(unused) };
    }
    entry.last = used;
    (used, if ours { entry.ours_threads } else { entry.made })
}

/// An entry of ours for a graph without a pool: one that has the right size, else another, else a new one. `None` for one thread,
/// for OpenMP, whose threads stay anyway, without our barrier, and where too many graphs run at once.
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
    // SAFETY: the structure was compared.
    unsafe { (functions.init)(&raw mut params, threads as c_int) };
    entries[i] = Entry { params, functions: Some(*functions), ..Entry::NONE };
    Some(i)
}

/// In a forked child: no pool has threads, and nobody holds the lock. Only stores.
pub fn forget() {
    TABLE.locked.store(false, Relaxed);
    // SAFETY: the child has one thread.
    let entries = unsafe { &mut *TABLE.entries.get() };
    for entry in entries.iter_mut().filter(|e| !e.is_free()) {
        *entry = Entry::NONE;
    }
}
