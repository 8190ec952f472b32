//! How many threads compute a graph, in which pool, and how they wait for each other.
//!
//! Programs start as many threads as the *host* has cores, whatever the process may use. ggml's threads spin while they
//! wait for each other, so a thread above the CPUs costs a factor of a hundred. `ggml_graph_compute` is where everything comes
//! together: the number of threads in the plan is lowered there, never raised, so a work buffer that was made for more threads
//! always fits; and the graph is given a pool of exactly that many threads, as those without work would poll for it.

pub mod barrier;
mod budget;
mod graph;
pub mod pools;
mod pressure;

pub use budget::{count, limit};
pub use graph::{Graph, count_for_one_column};

/// In a forked child: no graph runs, and no pool has threads. Only stores.
pub fn forget() {
    barrier::forget();
    pressure::forget();
    pools::forget();
}
