//! Counts the barriers of a graph, and lets threads pass the barrier behind an operation for which nothing was left to
//! do (see [`crate::graph`]: products that are computed together).
//!
//! Behind such an operation nobody has anything to wait for: all threads have waited before it, and none of them has done
//! anything since. That holds whatever follows. So a barrier is passed only if this thread has seen the barrier before the
//! operation, and if that came right behind the operation that the plan expects.
//!
//! Which barrier ends an operation is not assumed. In the first graphs that a copy of ggml computes, all threads wait, and
//! each one watches: between an operation that the hook has computed and the next one of the graph, exactly one barrier
//! must come. It does not come in a ggml whose barrier is compiled into its loop over operations, so nothing is passed there.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_telemetry::live;

use crate::ggml::abi::Tensor;

/// The barriers of a graph.
pub type Barriers = live::Barriers<u64>;

/// What the threads of a graph do at the barrier behind an operation for which nothing was left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ends {
    /// They wait.
    #[default]
    Wait,
    /// They wait, and watch whether one barrier comes.
    Watch,
    /// They go on.
    Pass,
}

/// The operations before and after one for which nothing was left to do, views not counted. Null where there is none.
#[derive(Clone, Copy, Debug)]
pub struct Between {
    pub before: *const Tensor,
    pub after: *const Tensor,
}

impl Between {
    /// No operations.
    pub const NONE: Self = Self { before: ptr::null(), after: ptr::null() };
}

/// What this thread does at the next barrier.
#[derive(Clone, Copy)]
enum Next {
    Wait,
    Pass,
    /// Waits; after one barrier, this operation must come.
    Watch(*const Tensor),
}

/// Where a thread is in its graph.
struct Thread {
    /// Whether this is the first thread of a graph, which counts for all.
    first: Cell<bool>,
    counts: Cell<Barriers>,
    /// The last operation that came.
    last: Cell<*const Tensor>,
    /// Whether all threads have done since then what they had to do: a barrier has come.
    settled: Cell<bool>,
    next: Cell<Next>,
    /// Barriers since `next` was set.
    barriers: Cell<u32>,
    /// The graph that is watched, how often one barrier came in it, and whether it ever was not so.
    graph: Cell<u64>,
    found: Cell<u64>,
    odd: Cell<bool>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            first: Cell::new(false),
            counts: Cell::new(Barriers { between: 0, skipped: 0, inside: 0 }),
            last: Cell::new(ptr::null()),
            settled: Cell::new(false),
            next: Cell::new(Next::Wait),
            barriers: Cell::new(0),
            graph: Cell::new(0),
            found: Cell::new(0),
            odd: Cell::new(false),
        }
    };
}

/// Counts the barriers of a graph that the calling thread starts, so it is the first thread of that graph.
pub struct Counting {
    /// False for a graph that an operation of another graph computes. It is not counted, and the count of the other
    /// graph goes on after it.
    counts: bool,
}

impl Counting {
    /// Begins to count.
    pub fn start() -> Self {
        THREAD.with(|thread| {
            let counts = !thread.first.replace(true);
            if counts {
                thread.counts.set(Barriers::default());
            }
            Self { counts }
        })
    }

    /// What was counted since the start.
    pub fn end(&self) -> Barriers {
        if self.counts { THREAD.with(|thread| thread.counts.get()) } else { Barriers::default() }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if self.counts {
            THREAD.with(|thread| thread.first.set(false));
        }
    }
}

/// How this thread has come to an operation.
#[derive(Clone, Copy)]
pub struct Arrival {
    /// The operation before.
    before: *const Tensor,
    settled: bool,
}

/// Whether a barrier that was to be passed has not come: no barrier is passed any more.
static ODD: AtomicBool = AtomicBool::new(false);

/// See [`ODD`].
pub fn are_odd() -> bool {
    ODD.load(Relaxed)
}

/// This thread begins an operation, or operations that ggml has fused: the first and the last of them. `None` when a
/// barrier that this thread was to pass has not come, which cannot be.
#[inline]
pub fn arrive(first: *const Tensor, last: *const Tensor) -> Option<Arrival> {
    THREAD.with(|thread| {
        let next = thread.next.replace(Next::Wait);
        if let Next::Watch(expected) = next {
            if expected == first && thread.barriers.get() == 1 {
                thread.found.set(thread.found.get() + 1);
            } else {
                thread.odd.set(true);
            }
        }
        let arrival = Arrival { before: thread.last.replace(last), settled: thread.settled.replace(false) };
        if matches!(next, Next::Pass) {
            ODD.store(true, Relaxed);
            return None;
        }
        Some(arrival)
    })
}

/// Nothing was left to do for the operation of this arrival. `graph` is the number of the graph. Returns how often one
/// barrier came behind such an operation of it, if it was always one.
#[inline]
pub fn leave(arrival: Arrival, between: Between, ends: Ends, graph: u64) -> Option<u64> {
    THREAD.with(|thread| {
        if thread.graph.replace(graph) != graph {
            thread.found.set(0);
            thread.odd.set(false);
        }
        // Behind the last operation of a graph, ggml has other reasons to wait.
        if arrival.settled && arrival.before == between.before && !between.after.is_null() {
            thread.barriers.set(0);
            thread.next.set(match ends {
                Ends::Wait => Next::Wait,
                Ends::Watch => Next::Watch(between.after),
                Ends::Pass => Next::Pass,
            });
        }
        (!thread.odd.get()).then(|| thread.found.get())
    })
}

/// ggml has called a barrier on this thread. Returns whether the thread goes on without waiting. The answer is the same
/// for all threads of a graph.
#[inline]
pub fn passes() -> bool {
    THREAD.with(|thread| {
        let pass = matches!(thread.next.get(), Next::Pass);
        if pass {
            thread.next.set(Next::Wait);
        }
        thread.barriers.set(thread.barriers.get().saturating_add(1));
        thread.settled.set(true);
        if thread.first.get() {
            let mut counts = thread.counts.get();
            *(if pass { &mut counts.skipped } else { &mut counts.between }) += 1;
            thread.counts.set(counts);
        }
        pass
    })
}

/// The threads meet inside an operation of this library.
#[inline]
pub fn inside() {
    THREAD.with(|thread| {
        let counts = thread.counts.get();
        thread.counts.set(Barriers { inside: counts.inside + 1, ..counts });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(number: usize) -> *const Tensor {
        ptr::without_provenance(number * 336)
    }

    fn computed(number: usize) {
        assert!(arrive(op(number), op(number)).is_some());
        assert!(!passes());
    }

    /// Nothing is left to do for operation 2, after operation 1.
    fn done(ends: Ends, graph: u64) -> Option<u64> {
        let arrival = arrive(op(2), op(2)).expect("no barrier is missing");
        leave(arrival, Between { before: op(1), after: op(3) }, ends, graph)
    }

    #[test]
    fn the_barrier_behind_an_operation_is_passed_once_when_the_one_before_was_seen() {
        let counting = Counting::start();
        computed(1);
        done(Ends::Pass, 1);
        assert!(passes());
        assert!(!passes());
        computed(3);
        assert_eq!(counting.end(), Barriers { between: 3, skipped: 1, inside: 0 });
        // The barrier before is missing, or another operation was before.
        arrive(op(1), op(1));
        done(Ends::Pass, 1);
        assert!(!passes());
        computed(4);
        done(Ends::Pass, 1);
        assert!(!passes());
        // Two in a row.
        computed(1);
        done(Ends::Pass, 1);
        assert!(passes());
        let again = arrive(op(5), op(5)).expect("no barrier is missing");
        leave(again, Between { before: op(2), after: op(3) }, Ends::Pass, 1);
        assert!(passes());
        // The last one of a graph.
        computed(1);
        let last = arrive(op(2), op(2)).expect("no barrier is missing");
        leave(last, Between { before: op(1), after: ptr::null() }, Ends::Pass, 1);
        assert!(!passes());
        // Fused ones.
        arrive(op(6), op(1));
        assert!(!passes());
        done(Ends::Pass, 1);
        assert!(passes());
    }

    #[test]
    fn a_barrier_that_was_to_be_passed_and_does_not_come_is_told() {
        computed(1);
        done(Ends::Pass, 2);
        assert!(arrive(op(3), op(3)).is_none());
        assert!(!passes() && are_odd());
    }

    #[test]
    fn a_graph_is_as_expected_where_one_barrier_comes_behind_each_such_operation() {
        let watched = |graph: u64, after: &dyn Fn()| {
            computed(1);
            assert_eq!(done(Ends::Watch, graph), Some(0), "another graph");
            after();
            computed(1);
            done(Ends::Watch, graph)
        };
        let barrier = || assert!(!passes());
        assert_eq!(watched(11, &|| (barrier(), computed(3)).1), Some(1));
        assert_eq!(watched(12, &|| computed(3)), None, "one that is compiled into the loop");
        assert_eq!(watched(13, &|| (barrier(), barrier(), computed(3)).2), None, "an operation without the hook");
        assert_eq!(watched(14, &|| (barrier(), computed(4)).1), None, "another operation");
        assert_eq!(watched(15, &barrier), None, "another graph, which begins with another operation");
    }

    #[test]
    fn other_threads_pass_but_do_not_count() {
        computed(1);
        done(Ends::Pass, 3);
        assert!(passes());
        assert_eq!(Counting::start().end(), Barriers::default());
    }

    #[test]
    fn a_graph_inside_another_one_is_not_counted() {
        let outer = Counting::start();
        computed(1);
        let inner = Counting::start();
        assert_eq!(inner.end(), Barriers::default());
        drop(inner);
        computed(2);
        inside();
        assert_eq!(outer.end(), Barriers { between: 2, skipped: 0, inside: 1 });
    }
}
