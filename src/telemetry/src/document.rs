//! The statistics document: the names of its members, and how what is counted is written into it.
//!
//! libzen5turbo.so writes the whole document into the file of `ZEN5TURBO_STATS`. Into the live segment it writes the counters and,
//! as a text, the members that are not counted; who reads the segment puts the document together with the functions here. So
//! both write the counted members alike.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::json::Json;
use crate::live::{Buffers, Cell, Copies, Counters, Prefetch, Weights};

/// The names of members that are read as well as written. What each of them holds is told where the shim writes the document
/// (`src/shim/src/gate/report.rs`).
pub mod member {
    /// Of the library.
    pub const VERSION: &str = "version";
    /// The number of the process.
    pub const PID: &str = "pid";
    /// Its executable.
    pub const PROGRAM: &str = "program";
    /// What the library does in the process.
    pub const STATE: &str = "state";
    /// Whether a graph was computed.
    pub const COMPUTED: &str = "computed";
    /// The processor; with [`BRAND`].
    pub const CPU: &str = "cpu";
    /// What the processor calls itself.
    pub const BRAND: &str = "brand";
    /// The gate; with [`MODE`] and [`DECISION`].
    pub const GATE: &str = "gate";
    /// What was asked for.
    pub const MODE: &str = "mode";
    /// What the gate decided.
    pub const DECISION: &str = "decision";
    /// The kernel family in use.
    pub const TIER: &str = "tier";
    /// The same with its width.
    pub const ISA: &str = "isa";
    /// The settings by their variables.
    pub const CONFIG: &str = "config";
    /// The calibration file; with [`THREADS`] where it has measured them.
    pub const TUNING: &str = "tuning";
    /// The copies of ggml; a list of [`PATH`] and [`STATUS`].
    pub const GGML: &str = "ggml";
    /// Where a file lies.
    pub const PATH: &str = "path";
    /// What became of it.
    pub const STATUS: &str = "status";
    /// What limits the threads of a graph, in words.
    pub const THREADS_LIMIT: &str = "threads_limit";
    /// Threads of graphs; with the six members that follow.
    pub const THREADS: &str = "threads";
    /// That the program asked for, in the last graph.
    pub const ASKED: &str = "asked";
    /// That computed it.
    pub const USED: &str = "used";
    /// CPUs that the process can keep busy.
    pub const BUDGET: &str = "budget";
    /// Graphs with fewer threads than asked for.
    pub const CAPPED: &str = "capped";
    /// Pools of the library's own.
    pub const POOLS: &str = "pools";
    /// Thousandths of a CPU that were lost to others.
    pub const LOST_MCPU: &str = "lost_mcpu";
    /// Graphs by their columns; each with [`COUNT`], [`COLUMNS`], [`NS`] and [`BARRIERS`].
    pub const GRAPHS: &str = "graphs";
    /// How many.
    pub const COUNT: &str = "count";
    /// Columns, added up.
    pub const COLUMNS: &str = "columns";
    /// Barriers of graphs; with [`BETWEEN`], [`SKIPPED`] and [`INSIDE`].
    pub const BARRIERS: &str = "barriers";
    /// At the end of an operation, where the threads wait for each other.
    pub const BETWEEN: &str = "between";
    /// At the end of an operation, where they do not wait.
    pub const SKIPPED: &str = "skipped";
    /// Inside operations.
    pub const INSIDE: &str = "inside";
    /// Operations by name and weight type; each with the six members that follow.
    pub const OPS: &str = "ops";
    /// Calls that were computed here.
    pub const TAKEN: &str = "taken";
    /// Nanoseconds.
    pub const NS: &str = "ns";
    /// Bytes.
    pub const BYTES: &str = "bytes";
    /// Multiply-accumulates.
    pub const MAC: &str = "mac";
    /// Kernels by regime.
    pub const KERNELS: &str = "kernels";
    /// Calls left to the original, by reason.
    pub const DECLINED: &str = "declined";
    /// Memory; with [`WEIGHTS`] and [`BUFFERS`].
    pub const MEMORY: &str = "memory";
    /// Of model files; with [`WANTED`], [`CACHED`], [`COPIED`] and [`FREED`].
    pub const WEIGHTS: &str = "weights";
    /// In pages that products read.
    pub const WANTED: &str = "wanted";
    /// Of those, in huge pages of the page cache.
    pub const CACHED: &str = "cached";
    /// Copied, by the kind of page: [`THP`], [`HUGE`], [`GIANT`].
    pub const COPIED: &str = "copied";
    /// Transparent huge pages.
    pub const THP: &str = "thp";
    /// Reserved pages of 2 MiB.
    pub const HUGE: &str = "2m";
    /// Reserved pages of 1 GiB.
    pub const GIANT: &str = "1g";
    /// Given back.
    pub const FREED: &str = "freed";
    /// ggml's large buffers; by the kind of page, [`THP`] or [`HUGETLB`], with [`COUNT`] and [`BYTES`].
    pub const BUFFERS: &str = "buffers";
    /// Reserved pages of 2 MiB, of buffers.
    pub const HUGETLB: &str = "hugetlb_2m";
    /// What concerns the process, by reason.
    pub const EVENTS: &str = "events";
    /// In the segment's text only: the words of [`OPS`], [`TYPES`], [`REASONS`] and [`GRAPHS`] in the order of the counters.
    pub const NAMES: &str = "names";
    /// Weight types.
    pub const TYPES: &str = "types";
    /// Reasons.
    pub const REASONS: &str = "reasons";
    /// In the segment's text only: kernels by operation, weight type and regime.
    pub const KERNELS_IN_USE: &str = "kernels_in_use";
}
use member::*;

/// A counter: an atomic of the one who counts, a plain number of the one who reads.
pub trait Number {
    /// Its value now.
    fn get(&self) -> u64;
}

impl Number for AtomicU64 {
    fn get(&self) -> u64 {
        self.load(Relaxed)
    }
}

impl Number for u64 {
    fn get(&self) -> u64 {
        *self
    }
}

/// The words that belong to the places of counters.
pub trait Names {
    /// Of an operation.
    fn operation(&self, number: usize) -> String;
    /// Of a weight type.
    fn weight_type(&self, number: usize) -> String;
    /// Of a reason.
    fn reason(&self, number: usize) -> String;
    /// Of a class of graphs.
    fn graphs(&self, class: usize) -> String;
    /// Of the kernels that compute an operation on a weight type: regime and name.
    fn kernels(&self, operation: usize, weight_type: usize) -> Vec<(String, String)>;
}

/// All members that are counted in a segment.
pub fn counted<N: Number>(j: &mut Json, counters: &Counters<N>, names: &impl Names) {
    threads(j, counters);
    graphs(j, counters, names);
    operations(j, counters, names);
    j.open(Some(MEMORY));
    weights(j, &counters.weights, None);
    prefetch(j, &counters.prefetch);
    buffers(j, &counters.buffers);
    pair(j, "heap", &counters.heap);
    j.open(Some("copies"));
    copies(j, &counters.copies);
    j.close();
    j.close();
    events(j, counters, names);
}

/// The member `threads`.
pub fn threads<N: Number>(j: &mut Json, counters: &Counters<N>) {
    let threads = &counters.threads;
    j.open(Some(THREADS));
    for (name, count) in [
        (ASKED, &threads.asked),
        (USED, &threads.used),
        (BUDGET, &threads.budget),
        (CAPPED, &threads.capped),
        (POOLS, &threads.pools),
        (LOST_MCPU, &threads.lost_mcpu),
    ] {
        j.number(name, count.get());
    }
    j.open(Some("sleeps"));
    j.number(COUNT, threads.sleeps[0].get());
    j.number("us", threads.sleeps[1].get());
    j.close();
    j.close();
}

/// The member `graphs`: the classes that have any.
pub fn graphs<N: Number>(j: &mut Json, counters: &Counters<N>, names: &impl Names) {
    j.open(Some(GRAPHS));
    for (class, graphs) in counters.graphs.iter().enumerate().filter(|(_, graphs)| graphs.count.get() > 0) {
        j.open(Some(&names.graphs(class)));
        j.number(COUNT, graphs.count.get());
        j.number(COLUMNS, graphs.columns.get());
        j.number(NS, graphs.ns.get());
        j.open(Some(BARRIERS));
        j.number(BETWEEN, graphs.barriers.between.get());
        j.number(SKIPPED, graphs.barriers.skipped.get());
        j.number(INSIDE, graphs.barriers.inside.get());
        j.close();
        j.close();
    }
    j.close();
}

/// The member `ops`: all operations, each with the weight types that were met.
pub fn operations<N: Number>(j: &mut Json, counters: &Counters<N>, names: &impl Names) {
    j.open(Some(OPS));
    for (operation, cells) in counters.cells.iter().enumerate() {
        j.open(Some(&names.operation(operation)));
        for (ty, cell) in cells.iter().enumerate().filter(|(_, cell)| was_met(cell)) {
            j.open(Some(&names.weight_type(ty)));
            j.number(TAKEN, cell.calls.get());
            j.number(NS, cell.ns.get());
            j.number(BYTES, cell.bytes.get());
            j.number(MAC, cell.macs.get());
            kernels(j, KERNELS, &names.kernels(operation, ty));
            reasons(j, DECLINED, &cell.declined, names);
            j.close();
        }
        j.close();
    }
    j.close();
}

fn was_met<N: Number>(cell: &Cell<N>) -> bool {
    cell.calls.get() > 0 || cell.declined.iter().any(|n| n.get() > 0)
}

/// A member that names kernels by regime.
pub fn kernels(j: &mut Json, key: &str, kernels: &[(String, String)]) {
    j.open(Some(key));
    for (regime, name) in kernels {
        j.string(regime, name);
    }
    j.close();
}

/// The member `events`.
pub fn events<N: Number>(j: &mut Json, counters: &Counters<N>, names: &impl Names) {
    reasons(j, EVENTS, &counters.events, names);
}

fn reasons<N: Number>(j: &mut Json, key: &str, counts: &[N], names: &impl Names) {
    j.open(Some(key));
    for (number, count) in counts.iter().enumerate().filter(|(_, count)| count.get() > 0) {
        j.number(&names.reason(number), count.get());
    }
    j.close();
}

/// The member `memory.weights`: bytes of model files mapped, bytes in pages that products read, those of them that were found
/// in huge pages of the page cache, bytes copied to each kind of page since the start, bytes of copies freed, bytes of copies
/// `now` where that is known, and the microseconds that copying took, and those of rest for the graphs' sake.
pub fn weights<N: Number>(j: &mut Json, weights: &Weights<N>, now: Option<u64>) {
    j.open(Some(WEIGHTS));
    j.number("mapped", weights.mapped.get());
    j.number(WANTED, weights.wanted.get());
    j.number(CACHED, weights.cached.get());
    j.open(Some(COPIED));
    j.number(THP, weights.thp.get());
    j.number(HUGE, weights.huge.get());
    j.number(GIANT, weights.giant.get());
    j.close();
    j.number(FREED, weights.freed.get());
    if let Some(now) = now {
        j.number("now", now);
    }
    j.number("us", weights.us.get());
    j.number("rested_us", weights.rested_us.get());
    j.close();
}

/// The member `memory.prefetch`: bytes that were read ahead (resident ones count as well), the calls, the
/// time they took in microseconds, and bytes that were taken out of memory behind the products.
pub fn prefetch<N: Number>(j: &mut Json, prefetch: &Prefetch<N>) {
    j.open(Some("prefetch"));
    j.number(BYTES, prefetch.bytes.get());
    j.number("calls", prefetch.calls.get());
    j.number("us", prefetch.us.get());
    j.number("released", prefetch.released.get());
    j.close();
}

/// The member `memory.buffers`.
pub fn buffers<N: Number>(j: &mut Json, buffers: &Buffers<N>) {
    j.open(Some(BUFFERS));
    pair(j, THP, &buffers.thp);
    pair(j, HUGETLB, &buffers.hugetlb);
    j.number(FREED, buffers.freed.get());
    j.close();
}

/// What is counted of the member `memory.copies`.
pub fn copies<N: Number>(j: &mut Json, copies: &Copies<N>) {
    j.number("measured", copies.measured.get());
    pair(j, "streamed", &copies.streamed);
}

/// A member that holds a number of things and their bytes.
pub fn pair<N: Number>(j: &mut Json, key: &str, [count, bytes]: &[N; 2]) {
    j.open(Some(key));
    j.number(COUNT, count.get());
    j.number(BYTES, bytes.get());
    j.close();
}
