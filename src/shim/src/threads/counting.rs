//! Counts the barriers of a graph, as the first thread of the graph comes to them.

use std::cell::Cell;

use zen5turbo_telemetry::live;

/// The barriers of a graph.
pub type Barriers = live::Barriers<u64>;

thread_local! {
    /// What this thread has counted in its graph; `None` for a thread that is not the first one of a graph.
    static COUNTED: Cell<Option<Barriers>> = const { Cell::new(None) };
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
        let counts = COUNTED.get().is_none();
        if counts {
            COUNTED.set(Some(Barriers::default()));
        }
        Self { counts }
    }

    /// What was counted since the start.
    pub fn end(&self) -> Barriers {
        COUNTED.get().filter(|_| self.counts).unwrap_or_default()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if self.counts {
            COUNTED.set(None);
        }
    }
}

/// ggml has called a barrier on this thread.
#[inline]
pub fn between() {
    COUNTED.set(COUNTED.get().map(|barriers| Barriers { between: barriers.between + 1, ..barriers }));
}

/// The threads meet inside an operation of this library.
#[inline]
pub fn inside() {
    COUNTED.set(COUNTED.get().map(|barriers| Barriers { inside: barriers.inside + 1, ..barriers }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thread_of_a_graph_counts_and_others_do_not() {
        between();
        assert_eq!(COUNTED.get(), None);
        let counting = Counting::start();
        between();
        inside();
        between();
        std::thread::spawn(between).join().expect("the thread counts nothing");
        assert_eq!(counting.end(), Barriers { between: 2, inside: 1 });
        drop(counting);
        assert_eq!(Counting::start().end(), Barriers::default());
    }

    #[test]
    fn a_graph_inside_another_one_is_not_counted() {
        let outer = Counting::start();
        between();
        let inner = Counting::start();
        assert_eq!(inner.end(), Barriers::default());
        drop(inner);
        between();
        inside();
        assert_eq!(outer.end(), Barriers { between: 2, inside: 1 });
    }
}
