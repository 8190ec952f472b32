//! The barrier between the operations of a graph, and inside ours.
//!
//! ggml's barrier spins until the last thread has come. A thread that is not running holds everybody up for a time slice,
//! 3 to 4 ms, while the others spin away the CPU that it waits for. This one spins as long as ggml's where the threads have
//! their CPUs for themselves, and sleeps early where they are seen to lose them (see [`super::pressure`]).
//!
//! A pool has a slot here while `ggml_graph_compute` runs in it: it is taken before the threads start, and given back behind
//! the graph's last barrier, so all threads of a graph decide alike. A barrier of any other pool is ggml's own.

use std::ffi::c_void;
use std::hint::spin_loop;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::time::Instant;

use zen5turbo_host::thread::{sleep_while, wake_all};

use crate::stats;

/// Graphs that can use the barrier at the same time; further ones use ggml's.
const SLOTS: usize = 16;

/// Keeps a counter away from what others write, and from the line that is fetched with it.
#[repr(align(128))]
struct Line<T>(T);

/// The barrier of one pool.
pub struct Slot {
    /// The address of the pool; 0 where there is none.
    pool: AtomicUsize,
    /// Threads of the graph.
    threads: AtomicU32,
    /// Pauses before a thread goes to sleep.
    spin: AtomicU32,
    /// Threads that have come.
    arrived: Line<AtomicU32>,
    /// Barriers passed. It never goes back, also from one graph or pool to the next: a thread that is still on its way out
    /// of a barrier sees that it has been passed.
    passed: Line<AtomicU32>,
    /// Threads that sleep, or are about to.
    sleepers: Line<AtomicU32>,
}

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// Slots below this have been used: what a search has to look at.
static USED: AtomicUsize = AtomicUsize::new(0);

impl Slot {
    const fn new() -> Self {
        Slot {
            pool: AtomicUsize::new(0),
            threads: AtomicU32::new(0),
            spin: AtomicU32::new(0),
            arrived: Line(AtomicU32::new(0)),
            passed: Line(AtomicU32::new(0)),
            sleepers: Line(AtomicU32::new(0)),
        }
    }

    /// Waits until all threads of the graph have come.
    fn wait(&self) {
        let threads = self.threads.load(Relaxed);
        if threads == 1 {
            return;
        }
        let passed = self.passed.0.load(Acquire);
        if self.arrived.0.fetch_add(1, AcqRel) == threads - 1 {
            self.arrived.0.store(0, Relaxed);
            // Ordered before the look at the sleepers: one of both sees the other.
            self.passed.0.fetch_add(1, SeqCst);
            if self.sleepers.0.load(SeqCst) != 0 {
                wake_all(&self.passed.0);
            }
            return;
        }
        for _ in 0..self.spin.load(Relaxed) {
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

/// A slot that belongs to a graph; given back when dropped.
pub struct Taken(&'static Slot);

/// Takes a slot for a graph that exactly `threads` threads of `pool` compute, which sleep after `spin` pauses. `None` when there is none
/// left, or the pool has one: a pool can compute one graph at a time.
///
/// To be called before the threads start.
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
            slot.threads.store(threads, Relaxed);
            slot.spin.store(spin, Relaxed);
            used.fetch_max(i + 1, Relaxed);
            slot.pool.store(pool, Release);
            return Some(Taken(slot));
        }
    }
    None
}

/// No pool has this address.
const CLAIMED: usize = 1;

impl Drop for Taken {
    fn drop(&mut self) {
        // Every thread has come to the graph's last barrier.
        self.0.pool.store(0, Release);
    }
}

/// Waits at the barrier of `pool`; false when it is ggml's own: the same answer for all threads of a graph.
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

/// In a forked child: its graphs have no threads of the parent's. Only stores.
pub fn forget() {
    for slot in &TABLE {
        slot.pool.store(0, Relaxed);
        slot.arrived.0.store(0, Relaxed);
        slot.sleepers.0.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    /// All threads add to a sum between two barriers; every one of them must see all of it behind the second one.
    fn meet(threads: usize, rounds: u64, spin: u32) {
        static POOLS: AtomicUsize = AtomicUsize::new(1 << 20);
        let pool = POOLS.fetch_add(64, Relaxed);
        let taken = take(pool as *mut c_void, threads, spin).expect("a slot");
        assert!(take(pool as *mut c_void, threads, spin).is_none(), "a pool computes one graph at a time");
        let sum = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
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
        for threads in [1, 2, 3, 9, 17] {
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
    fn where_no_slot_is_left_the_barrier_is_ggmls() {
        static FULL: [Slot; 2] = [const { Slot::new() }; 2];
        static USED: AtomicUsize = AtomicUsize::new(0);
        let _first = take_in(&FULL, &USED, 64, 2, 0).expect("a slot");
        let _second = take_in(&FULL, &USED, 128, 2, 0).expect("a slot");
        assert!(take_in(&FULL, &USED, 192, 2, 0).is_none());
        assert!(take_in(&FULL, &USED, 0, 2, 0).is_none());
    }
}
