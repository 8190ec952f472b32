//! Tells the barriers that end an operation from those inside operations, counts both, and lets threads pass the ones
//! that the plan of a graph found needless.
//!
//! ggml calls `ggml_barrier` after nearly every operation, and some operations call it themselves. When this library
//! has computed an operation, the next barrier of that thread ends it. The return address of that call is where ggml's
//! loop over operations calls the barrier: other calls from there end operations too.
//!
//! A barrier is passed without waiting only in a graph like one that was watched before. The first thread of a watched
//! graph has seen that ggml called exactly one barrier between the two operations, and computed no other operation
//! between them. So nothing is assumed about how a release of ggml walks through a graph, which operations it fuses,
//! and whether it computes views.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_telemetry::live;

use crate::ggml::abi::Tensor;

/// The barriers of a graph.
pub type Barriers = live::Barriers<u64>;

/// What follows an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// All threads wait for each other.
    Wait,
    /// The threads go on with this operation without waiting.
    Pass(*const Tensor),
    /// All threads wait for each other. The first one watches whether this operation is really the next one.
    Watch(*const Tensor),
}

/// Places in a graph from which barriers are called, at most; calls from further places count as inside.
const PLACES: usize = 12;

/// The addresses behind calls of a barrier that ends an operation. A copy of ggml has one or two of them.
static NODE_ENDS: [AtomicUsize; 16] = [const { AtomicUsize::new(0) }; 16];

/// Calls of a barrier from one place.
#[derive(Clone, Copy)]
struct Place {
    /// The return address.
    from: usize,
    calls: u64,
    /// An operation that this library has computed ended here.
    ends: bool,
}

/// Where a thread is in its graph.
struct Thread {
    /// What follows the operation of this thread, until the next barrier. Unless it is `Wait`, that barrier ends the
    /// operation.
    after: Cell<After>,
    /// Whether this library has computed the operation, until the barrier that ends it.
    computed: Cell<bool>,
    /// Whether this is the first thread of a graph, which counts for all.
    first: Cell<bool>,
    places: [Cell<Place>; PLACES],
    skipped: Cell<u64>,
    /// Barriers inside operations of this library, and calls for which no place was left.
    inside: Cell<u64>,
    /// The operation that must come next; null when none is expected.
    expected: Cell<*const Tensor>,
    /// Barriers since the operation before.
    passed: Cell<u32>,
    /// How many operations came as expected.
    met: Cell<usize>,
    /// Whether anything else came.
    odd: Cell<bool>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            after: Cell::new(After::Wait),
            computed: Cell::new(false),
            first: Cell::new(false),
            places: [const { Cell::new(Place { from: 0, calls: 0, ends: false }) }; PLACES],
            skipped: Cell::new(0),
            inside: Cell::new(0),
            expected: Cell::new(ptr::null()),
            passed: Cell::new(0),
            met: Cell::new(0),
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

/// What the first thread of a graph has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub barriers: Barriers,
    /// How many operations came as the plan expected; `None` if anything else came.
    pub met: Option<usize>,
}

impl Counting {
    /// Begins to count.
    pub fn start() -> Self {
        THREAD.with(|thread| {
            let counts = !thread.first.replace(true);
            if counts {
                thread.clear();
            }
            Self { counts }
        })
    }

    /// What was seen since the start.
    pub fn end(&self) -> Seen {
        if self.counts { THREAD.with(Thread::seen) } else { Seen::default() }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if self.counts {
            THREAD.with(|thread| thread.first.set(false));
        }
    }
}

/// This thread begins an operation of ggml's list.
#[inline]
pub fn arrive(op: *const Tensor) {
    THREAD.with(|thread| {
        thread.after.set(After::Wait);
        thread.computed.set(false);
        let expected = thread.expected.replace(ptr::null());
        if expected.is_null() {
            return;
        }
        if expected == op && thread.passed.get() == 1 {
            thread.met.set(thread.met.get() + 1);
        } else {
            thread.odd.set(true);
        }
    });
}

/// This library has computed this thread's part of the operation, or leaves it to ggml.
#[inline]
pub fn leave(after: After, computed: bool) {
    THREAD.with(|thread| {
        thread.after.set(after);
        thread.computed.set(computed);
        if let After::Pass(next) | After::Watch(next) = after
            && thread.first.get()
        {
            thread.expected.set(next);
            thread.passed.set(0);
        }
    });
}

/// ggml has called a barrier on this thread, and continues at `from` after it. Returns whether the thread goes on
/// without waiting. The answer is the same for all threads of a graph.
#[inline]
pub fn passes(from: usize) -> bool {
    THREAD.with(|thread| {
        let pass = matches!(thread.after.replace(After::Wait), After::Pass(_));
        let ends = thread.computed.replace(false);
        if thread.first.get() {
            thread.count(from, ends, pass);
        }
        pass
    })
}

/// The threads meet inside an operation of this library.
#[inline]
pub fn inside() {
    THREAD.with(|thread| thread.inside.set(thread.inside.get() + 1));
}

impl Thread {
    fn clear(&self) {
        for place in &self.places {
            place.set(Place { from: 0, calls: 0, ends: false });
        }
        self.skipped.set(0);
        self.inside.set(0);
        self.expected.set(ptr::null());
        self.met.set(0);
        self.odd.set(false);
    }

    fn count(&self, from: usize, ends: bool, pass: bool) {
        self.passed.set(self.passed.get() + 1);
        if pass {
            self.skipped.set(self.skipped.get() + 1);
            return;
        }
        for place in &self.places {
            let Place { from: at, calls, ends: ended } = place.get();
            if at == from || calls == 0 {
                place.set(Place { from, calls: calls + 1, ends: ended | ends });
                return;
            }
        }
        self.inside.set(self.inside.get() + 1);
    }

    fn seen(&self) -> Seen {
        let mut barriers = Barriers { between: 0, skipped: self.skipped.get(), inside: self.inside.get() };
        for place in self.places.iter().map(Cell::get).filter(|place| place.calls > 0) {
            if ends_operations(place.from, place.ends) {
                barriers.between += place.calls;
            } else {
                barriers.inside += place.calls;
            }
        }
        // An operation that was expected and has not come is odd as well.
        let odd = self.odd.get() || !self.expected.get().is_null();
        Seen { barriers, met: (!odd).then_some(self.met.get()) }
    }
}

/// Whether barriers that are called from here end operations. `seen`: one of them did; that is remembered.
fn ends_operations(from: usize, seen: bool) -> bool {
    for known in &NODE_ENDS {
        match known.load(Relaxed) {
            0 if seen => {
                known.store(from, Relaxed);
                return true;
            }
            0 => return false,
            at if at == from => return true,
            _ => {}
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(number: usize) -> *const Tensor {
        ptr::without_provenance(number * 336)
    }

    /// An operation of this library, with `after` behind it, and the barrier that ends it.
    fn ours(number: usize, after: After, from: usize) -> bool {
        arrive(op(number));
        leave(after, true);
        passes(from)
    }

    #[test]
    fn the_place_where_our_operations_end_tells_the_ends_of_the_others() {
        let counting = Counting::start();
        arrive(op(1)); // ggml's, with two barriers inside
        leave(After::Wait, false);
        assert!(!passes(0x2001) && !passes(0x2002) && !passes(0x1001));
        assert!(!ours(2, After::Wait, 0x1001));
        inside();
        arrive(op(3));
        leave(After::Wait, false);
        assert!(!passes(0x1001));
        let seen = counting.end();
        assert_eq!(seen.barriers, Barriers { between: 3, skipped: 0, inside: 3 });
        assert_eq!(seen.met, Some(0));
        drop(counting);
        // The place is remembered for graphs of which nothing is computed here.
        let counting = Counting::start();
        arrive(op(1));
        assert!(!passes(0x1001) && !passes(0x2001));
        assert_eq!(counting.end().barriers, Barriers { between: 1, skipped: 0, inside: 1 });
    }

    #[test]
    fn a_barrier_is_passed_once_and_only_behind_the_operation_that_the_plan_names() {
        let counting = Counting::start();
        assert!(ours(1, After::Pass(op(2)), 0x3001));
        arrive(op(2));
        assert!(!passes(0x3001), "ggml's");
        assert!(!passes(0x3001));
        let seen = counting.end();
        assert_eq!((seen.met, seen.barriers.skipped), (Some(1), 1));
    }

    #[test]
    fn every_other_way_through_the_graph_is_odd() {
        let watched = |after: &dyn Fn()| {
            let counting = Counting::start();
            arrive(op(1));
            leave(After::Watch(op(2)), true);
            after();
            counting.end().met
        };
        let barrier = || assert!(!passes(0x4001));
        assert_eq!(watched(&|| (barrier(), arrive(op(2))).0), Some(1));
        assert_eq!(watched(&|| arrive(op(2))), None, "no barrier, or one that is compiled into the loop");
        assert_eq!(watched(&|| (barrier(), barrier(), arrive(op(2))).0), None, "an operation without the hook");
        assert_eq!(watched(&|| (barrier(), arrive(op(3))).0), None, "another operation");
        assert_eq!(watched(&barrier), None, "none");
        assert_eq!(watched(&|| ()), None);
    }

    #[test]
    fn other_threads_pass_but_do_not_count() {
        assert!(ours(1, After::Pass(op(2)), 0x5001));
        assert!(!ours(2, After::Wait, 0x5001));
        let counting = Counting::start();
        assert_eq!(counting.end(), Seen { barriers: Barriers::default(), met: Some(0) });
    }

    #[test]
    fn a_graph_inside_another_one_is_not_counted() {
        let outer = Counting::start();
        assert!(!ours(1, After::Wait, 0x6001));
        let inner = Counting::start();
        assert_eq!(inner.end(), Seen::default());
        drop(inner);
        assert!(!ours(2, After::Wait, 0x6001));
        assert_eq!(outer.end().barriers.between, 2);
    }
}
