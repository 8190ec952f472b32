//! How many threads compute a graph, in which pool, and how they wait for each other.
//!
//! Programs start as many threads as the *host* has cores, even if the process may use fewer. ggml's threads spin while
//! they wait for each other, so one thread more than there are CPUs can make a graph a hundred times slower.
//!
//! `ggml_graph_compute` is the place where this is changed. The number of threads in the plan is lowered there. It is
//! never raised, so the program's work buffer is always large enough. The graph also gets a pool of exactly that many
//! threads, because threads without work would poll for it.

pub mod barrier;
mod budget;
pub mod counting;
mod graph;
pub mod pools;
mod pressure;

pub use budget::{count, limit};
pub use graph::{Graph, count_for_one_column};

/// In a forked child: forgets graphs and pools, which have no threads there. Only stores.
pub fn forget() {
    barrier::forget();
    pressure::forget();
    pools::forget();
}
