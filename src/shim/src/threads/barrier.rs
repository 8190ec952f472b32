//! The barrier at which the threads of a graph wait for each other, between operations and inside operations of this
//! library.
//!
//! At ggml's barrier, threads spin until the last thread has come. If one thread is not running, all wait for a time
//! slice (3 to 4 ms), and the spinning threads use the CPU that it waits for. At this barrier, threads spin long while
//! they have their CPUs for themselves, and sleep early while they lose them (see [`super::pressure`]).
//!
//! Up to eight threads meet at one counter. More threads meet in one group for each last-level cache (a CCX), and the
//! last thread of each group meets the last ones of the others. Otherwise the cache line of the counter would move
//! through all caches of the machine. A thread belongs to the cache in which it ran at the first barrier of the graph.
//! (Untested on machines with more than one CCX.)
//!
//! A pool has a slot here while `ggml_graph_compute` runs in it. The slot is taken before the threads start, and given
//! back after the last barrier of the graph, so all threads of a graph use the same barrier. All other pools use ggml's
//! barrier.

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::spin_loop;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::time::Instant;

use zen5turbo_host::cpuset::{CpuSet, MAX_CPUS};
use zen5turbo_host::thread::{sleep_while, wake_all};
use zen5turbo_host::topology::{SYSFS, Topology};

use super::counting;
use crate::ggml::functions::ggml_barrier;
use crate::stats;

/// Graphs that can use the barrier at the same time. Further graphs use ggml's barrier.
const SLOTS: usize = 16;

/// The most threads that meet at one counter.
const FLAT: u32 = 8;

/// The number of groups. With more last-level caches, several of them share a group.
const GROUPS: usize = 32;

/// A counter in two cache lines of its own, because the CPU fetches lines in pairs.
#[repr(align(128))]
struct Line<T>(T);

/// The barrier of one pool.
pub struct Slot {
    /// The address of the pool; 0 for a free slot.
    pool: AtomicUsize,
    /// The number of threads of the graph.
    threads: AtomicU32,
    /// Pauses before a thread goes to sleep.
    spin: AtomicU32,
    /// The number of the graph. A thread that remembers another number is at its first barrier of this graph.
    graph: AtomicU32,
    /// The meeting of all threads.
    all: Meeting,
    /// The meetings of the threads of each last-level cache.
    groups: [Meeting; GROUPS],
    /// The number of groups that have threads.
    used_groups: AtomicU32,
    /// The number of groups whose threads have all come.
    full_groups: Line<AtomicU32>,
}

/// Threads that meet at one counter.
struct Meeting {
    /// The number of threads that meet here.
    members: AtomicU32,
    /// The number of threads that have come.
    arrived: Line<AtomicU32>,
    /// The number of barriers that were passed. It is never reset, not even for another graph or pool, so that a thread
    /// that is still leaving a barrier sees that it was passed.
    passed: Line<AtomicU32>,
    /// The number of threads that sleep or are about to sleep.
    sleepers: Line<AtomicU32>,
}

impl Meeting {
    const fn new() -> Self {
        Meeting {
            members: AtomicU32::new(0),
            arrived: Line(AtomicU32::new(0)),
            passed: Line(AtomicU32::new(0)),
            sleepers: Line(AtomicU32::new(0)),
        }
    }

    /// Whether the calling thread is the last of the members to come.
    fn arrive(&self) -> bool {
        let last = self.arrived.0.fetch_add(1, AcqRel) == self.members.load(Relaxed) - 1;
        if last {
            self.arrived.0.store(0, Relaxed);
        }
        last
    }

    /// Lets all waiting threads pass.
    fn release(&self) {
        // Sequentially consistent: either this thread sees the sleeper below, or the sleeper sees this addition.
        self.passed.0.fetch_add(1, SeqCst);
        if self.sleepers.0.load(SeqCst) != 0 {
            wake_all(&self.passed.0);
        }
    }

    /// Waits until [`Self::release`] changes `passed`. Spins for `spin` pauses, then sleeps.
    fn wait(&self, passed: u32, spin: u32) {
        for _ in 0..spin {
            if self.passed.0.load(Acquire) != passed {
                return;
            }
            spin_loop();
        }
        self.sleep(passed);
    }

    #[cold]
    fn sleep(&self, passed: u32) {
        let from = Instant::now();
        self.sleepers.0.fetch_add(1, SeqCst);
        while self.passed.0.load(SeqCst) == passed {
            sleep_while(&self.passed.0, passed);
        }
        self.sleepers.0.fetch_sub(1, Relaxed);
        let [count, us] = &stats::counters().threads.sleeps;
        count.fetch_add(1, Relaxed);
        us.fetch_add(from.elapsed().as_micros() as u64, Relaxed);
    }
}

thread_local! {
    /// The slot and the graph in which this thread last met the others, and its group there.
    static SEAT: Cell<(usize, u32, usize)> = const { Cell::new((0, 0, 0)) };
}

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// Slots from this index on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);

impl Slot {
    const fn new() -> Self {
        Slot {
            pool: AtomicUsize::new(0),
            threads: AtomicU32::new(0),
            spin: AtomicU32::new(0),
            graph: AtomicU32::new(0),
            all: Meeting::new(),
            groups: [const { Meeting::new() }; GROUPS],
            used_groups: AtomicU32::new(0),
            full_groups: Line(AtomicU32::new(0)),
        }
    }

    /// Prepares the slot for a graph. All threads of the graph before have passed their last barrier.
    fn begin(&self, threads: u32, spin: u32) {
        self.threads.store(threads, Relaxed);
        self.spin.store(spin, Relaxed);
        self.all.members.store(threads, Relaxed);
        if threads > FLAT {
            self.groups.iter().for_each(|group| group.members.store(0, Relaxed));
        }
        self.graph.fetch_add(1, Relaxed);
    }

    /// Waits until all threads of the graph have come.
    fn wait(&self) {
        let (threads, spin) = (self.threads.load(Relaxed), self.spin.load(Relaxed));
        if threads == 1 {
            return;
        }
        if threads > FLAT {
            let (slot, graph, group) = SEAT.get();
            let now = self.graph.load(Relaxed);
            if (slot, graph) == (std::ptr::from_ref(self).addr(), now) {
                return self.wait_in_group(&self.groups[group], spin);
            }
            let group = group_of_this_cpu();
            SEAT.set((std::ptr::from_ref(self).addr(), now, group));
            self.groups[group].members.fetch_add(1, Relaxed);
        }
        let passed = self.all.passed.0.load(Acquire);
        if self.all.arrive() {
            let used = self.groups.iter().filter(|group| group.members.load(Relaxed) > 0).count();
            self.used_groups.store(used as u32, Relaxed);
            self.all.release();
        } else {
            self.all.wait(passed, spin);
        }
    }

    /// Waits in the group of this thread's cache. The last thread of the last group releases all groups.
    fn wait_in_group(&self, group: &Meeting, spin: u32) {
        let passed = group.passed.0.load(Acquire);
        if group.arrive() && self.full_groups.0.fetch_add(1, AcqRel) + 1 == self.used_groups.load(Relaxed) {
            self.full_groups.0.store(0, Relaxed);
            self.groups.iter().filter(|group| group.members.load(Relaxed) > 0).for_each(Meeting::release);
        } else {
            group.wait(passed, spin);
        }
    }
}

/// The last-level cache of the CPU that this thread runs on, as a number below [`GROUPS`].
fn group_of_this_cpu() -> usize {
    #[cfg(test)]
    if let Some(group) = tests::GROUP.get() {
        return group;
    }
    static GROUP_OF_CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    // SAFETY: sched_getcpu has no preconditions.
    let cpu = unsafe { libc::sched_getcpu() };
    let groups = GROUP_OF_CPUS.get_or_init(|| groups_of_cpus().unwrap_or_default());
    usize::try_from(cpu).ok().and_then(|cpu| groups.get(cpu)).map_or(0, |group| group % GROUPS)
}

/// The number of the last-level cache of each CPU.
fn groups_of_cpus() -> Option<Vec<usize>> {
    let topology = Topology::read(Path::new(SYSFS))?;
    let nodes: Vec<usize> = topology.nodes.iter().map(|node| node.id).collect();
    let cores = topology.spread_cores(&(0..MAX_CPUS).collect(), &nodes);
    let mut caches: Vec<CpuSet> = Vec::new();
    let mut groups = Vec::new();
    for core in cores {
        let at = caches.iter().position(|cache| *cache == core.domain).unwrap_or_else(|| {
            caches.push(core.domain);
            caches.len() - 1
        });
        for cpu in core.cpus.iter() {
            if groups.len() <= cpu {
                groups.resize(cpu + 1, 0);
            }
            groups[cpu] = at;
        }
    }
    Some(groups)
}

/// A slot that belongs to a graph until this is dropped.
pub struct Taken(&'static Slot);

/// Takes a slot for a graph that exactly `threads` threads of `pool` compute. They sleep after `spin` pauses. `None`
/// when no slot is left, or when the pool has one already: a pool computes one graph at a time.
///
/// Called before the threads start.
pub fn take(pool: *mut c_void, threads: usize, spin: u32) -> Option<Taken> {
    take_in(&TABLE, &USED, pool as usize, threads, spin)
}

fn take_in(table: &'static [Slot], used: &AtomicUsize, pool: usize, threads: usize, spin: u32) -> Option<Taken> {
    let threads = u32::try_from(threads).ok().filter(|&n| n > 0)?;
    if pool == 0 || table.iter().any(|slot| slot.pool.load(Relaxed) == pool) {
        return None;
    }
    for (i, slot) in table.iter().enumerate() {
        if slot.pool.compare_exchange(0, CLAIMED, Acquire, Relaxed).is_ok() {
            slot.begin(threads, spin);
            used.fetch_max(i + 1, Relaxed);
            slot.pool.store(pool, Release);
            return Some(Taken(slot));
        }
    }
    None
}

/// Marks a slot that is being prepared. No pool has this address.
const CLAIMED: usize = 1;

impl Drop for Taken {
    fn drop(&mut self) {
        // Every thread has reached the last barrier of the graph.
        self.0.pool.store(0, Release);
    }
}

/// Waits at the barrier of `pool`. Returns false, without waiting, if the pool uses ggml's barrier. The answer is the
/// same for all threads of a graph.
#[inline]
pub fn wait(pool: *mut c_void) -> bool {
    let slots = &TABLE[..USED.load(Relaxed)];
    match slots.iter().find(|slot| slot.pool.load(Acquire) == pool as usize) {
        Some(slot) if !pool.is_null() => {
            slot.wait();
            true
        }
        _ => false,
    }
}

/// Waits until all threads of the graph of `pool` have come here, at the barrier of this library or at `original`,
/// which is ggml's.
///
/// # Safety
/// All threads of the graph call this. ggml gave them `pool`, and `original` is the barrier of that ggml.
#[inline]
pub unsafe fn meet(pool: *mut c_void, original: ggml_barrier) {
    counting::inside();
    if !wait(pool) {
        // SAFETY: the barrier is called with its own pool by all threads of the graph, by the contract of this function.
        unsafe { original(pool) };
    }
}

/// In a forked child: frees all slots, because the child has none of the parent's threads. Only stores.
pub fn forget() {
    for slot in &TABLE {
        slot.pool.store(0, Relaxed);
        slot.full_groups.0.store(0, Relaxed);
        for meeting in slot.groups.iter().chain([&slot.all]) {
            for counter in [&meeting.arrived.0, &meeting.sleepers.0] {
                // A counter that is 0 is not written, so that its page stays shared with the parent.
                if counter.load(Relaxed) != 0 {
                    counter.store(0, Relaxed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    thread_local! {
        /// Replaces, in tests, the number of the cache in which a thread runs.
        pub static GROUP: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// All threads add to a sum before a barrier. After the barrier, each of them must see the whole sum.
    fn meet(threads: usize, rounds: u64, spin: u32) {
        static POOLS: AtomicUsize = AtomicUsize::new(1 << 20);
        let pool = POOLS.fetch_add(64, Relaxed);
        let taken = take(pool as *mut c_void, threads, spin).expect("a slot");
        assert!(take(pool as *mut c_void, threads, spin).is_none(), "a pool computes one graph at a time");
        let sum = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for i in 0..threads {
                let (sum, groups) = (&sum, [1, 3, GROUPS][threads % 3]);
                scope.spawn(move || {
                    GROUP.set(Some(i * i % groups));
                    for round in 1..=rounds {
                        sum.fetch_add(1, Relaxed);
                        assert!(wait(pool as *mut c_void));
                        assert_eq!(sum.load(Relaxed), round * threads as u64);
                        assert!(wait(pool as *mut c_void));
                    }
                });
            }
        });
        drop(taken);
        assert!(!wait(pool as *mut c_void), "behind the graph it is ggml's barrier");
    }

    #[test]
    fn nobody_passes_before_the_last_one_has_come() {
        for threads in [1, 2, 3, 8, 9, 16, 17] {
            meet(threads, 200, 0);
            meet(threads, 200, 100);
        }
        meet(2, 2000, 3000);
    }

    #[test]
    fn several_graphs_have_barriers_of_their_own() {
        std::thread::scope(|scope| {
            for threads in [2, 3, 4] {
                scope.spawn(move || meet(threads, 300, 10));
            }
        });
    }

    #[test]
    fn threads_meet_anew_in_every_graph_of_a_pool() {
        static ONE: [Slot; 1] = [const { Slot::new() }; 1];
        static USED: AtomicUsize = AtomicUsize::new(0);
        for graph in 0..20 {
            let _taken = take_in(&ONE, &USED, 64, 12, 50).expect("a slot");
            std::thread::scope(|scope| {
                for i in 0..12 {
                    scope.spawn(move || {
                        GROUP.set(Some((i + graph) % (1 + graph % 5)));
                        (0..30).for_each(|_| ONE[0].wait());
                    });
                }
            });
        }
    }

    #[test]
    fn every_cpu_has_a_cache() {
        let groups = groups_of_cpus().expect("sysfs");
        assert!(!groups.is_empty() && group_of_this_cpu() < GROUPS);
    }

    #[test]
    fn where_no_slot_is_left_the_barrier_is_ggmls() {
        static FULL: [Slot; 2] = [const { Slot::new() }; 2];
        static USED: AtomicUsize = AtomicUsize::new(0);
        let _first = take_in(&FULL, &USED, 64, 2, 0).expect("a slot");
        let _second = take_in(&FULL, &USED, 128, 2, 0).expect("a slot");
        assert!(take_in(&FULL, &USED, 192, 2, 0).is_none());
        assert!(take_in(&FULL, &USED, 0, 2, 0).is_none());
    }
}
