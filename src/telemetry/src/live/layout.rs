//! What lies where in the shared memory. Everything is a 64-bit word of this machine, so `N` is an
//! atomic for the one who counts and a plain number for the one who reads.
//!
//! ```text
//! Segment:  magic, version, bytes            the same in every version
//!           pid, turn, text_len, unused[2], counters, text
//! Counters: graphs[4], threads, weights, prefetch, buffers, heap[2], copies, events[REASONS], others[OTHER_OPS], cells[OPS][TYPES]
//! Cell:     calls, ns, bytes, macs, declined[REASONS]
//! ```
//! `text` is JSON: the members of the statistics that are not numbers counted here, and `names`, which
//! give `ops`, `types`, `reasons` and `graphs` their words in the order of the arrays. `others` has its words from the version.

use std::ffi::CStr;
use std::sync::atomic::AtomicU64;

use zen5turbo_kernels::ops::Operation;

/// The name of the memfd; `/proc/PID/fd` shows `/memfd:zen5turbo-live (deleted)`.
pub const NAME: &CStr = c"zen5turbo-live";

/// Of the layout: to be raised with every change of it.
pub const VERSION: u64 = 7;

/// The first word, as the bytes of a text.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"zen5live");

/// Operations: MUL_MAT, MUL_MAT_ID and FLASH_ATTN_EXT.
pub const OPS: usize = 3;

/// Operations that are no products, as in `zen5turbo_kernels::ops::Operation`.
pub const OTHER_OPS: usize = Operation::ALL.len();

/// Weight types by ggml's number (41 in ggml 0.26), and one more for all others.
pub const TYPES: usize = 65;

/// Room for reasons; the shim has fewer.
pub const REASONS: usize = 96;

/// Graphs by their columns: none, one, 2 to 16, more.
pub const GRAPH_CLASSES: usize = 4;

/// Room for the text.
pub const TEXT_BYTES: usize = 32 << 10;

/// The whole.
#[repr(C)]
pub struct Segment<N> {
    pub(super) magic: N,
    pub(super) version: N,
    pub(super) bytes: N,
    pub(super) pid: N,
    /// Odd while the text is written.
    pub(super) turn: N,
    pub(super) text_len: N,
    pub(super) unused: [N; 2],
    /// What is counted.
    pub counters: Counters<N>,
    pub(super) text: [N; TEXT_BYTES / 8],
}

/// Everything that is counted in numbers. Times are in the unit of their name.
#[repr(C)]
pub struct Counters<N> {
    /// Executions by the columns of the graph.
    pub graphs: [Graphs<N>; GRAPH_CLASSES],
    /// Threads of graphs.
    pub threads: Threads<N>,
    /// Model files on huge pages.
    pub weights: Weights<N>,
    /// What was read ahead.
    pub prefetch: Prefetch<N>,
    /// ggml's large buffers.
    pub buffers: Buffers<N>,
    /// Blocks of the heap that were advised, and their bytes.
    pub heap: [N; 2],
    /// Copies.
    pub copies: Copies<N>,
    /// By reason.
    pub events: [N; REASONS],
    /// Operations that are no products; `bytes` are all that was read and written, times and `macs` are zero.
    pub others: [Cell<N>; OTHER_OPS],
    /// By operation and weight type.
    pub cells: [[Cell<N>; TYPES]; OPS],
}

/// Graphs of one class.
#[repr(C)]
pub struct Graphs<N> {
    /// Executions.
    pub count: N,
    /// Columns of the activations that met weights, added up: with a language model the tokens it computed.
    pub columns: N,
    /// From the first thread's start to its end, nanoseconds.
    pub ns: N,
    /// Barriers, as the first thread comes to them.
    pub barriers: Barriers<N>,
}

/// Barriers of graphs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Barriers<N> {
    /// ggml's: behind nearly every operation, and inside some.
    pub between: N,
    /// Inside products and attention that this library computes.
    pub inside: N,
}

/// Threads of graphs, and how they wait for each other.
#[repr(C)]
pub struct Threads<N> {
    /// That the program asked for, in the last graph.
    pub asked: N,
    /// That computed it.
    pub used: N,
    /// CPUs that the process can keep busy; 0 while nobody asked.
    pub budget: N,
    /// Graphs that were computed by fewer threads than asked for.
    pub capped: N,
    /// Pools that the shim made in the place of the program's, which has another number of threads, or none.
    pub pools: N,
    /// Thousandths of a CPU that the threads of graphs could have used lately, but others had.
    pub lost_mcpu: N,
    /// Waits at barriers that ended in sleep, and microseconds asleep.
    pub sleeps: [N; 2],
}

/// Bytes of model files.
#[repr(C)]
pub struct Weights<N> {
    /// Mapped where huge pages can lie.
    pub mapped: N,
    /// In pages that products read.
    pub wanted: N,
    /// Of those, in huge pages of the page cache.
    pub cached: N,
    /// Copied to transparent huge pages.
    pub thp: N,
    /// To reserved pages of 2 MiB.
    pub huge: N,
    /// To reserved pages of 1 GiB.
    pub giant: N,
    /// Of copies freed.
    pub freed: N,
    /// Microseconds that copying took.
    pub us: N,
    /// Microseconds of rest between, because graphs computed on all CPUs.
    pub rested_us: N,
}

/// Reading ahead.
#[repr(C)]
pub struct Prefetch<N> {
    /// Bytes read; resident ones count as well.
    pub bytes: N,
    /// Calls.
    pub calls: N,
    /// Microseconds in them.
    pub us: N,
    /// Bytes taken out of memory behind the products.
    pub released: N,
}

/// Large buffers in memory of the shim's own.
#[repr(C)]
pub struct Buffers<N> {
    /// On transparent huge pages: number and bytes.
    pub thp: [N; 2],
    /// On reserved pages of 2 MiB: number and bytes.
    pub hugetlb: [N; 2],
    /// Given back.
    pub freed: N,
}

/// Large copies.
#[repr(C)]
pub struct Copies<N> {
    /// Measurements made.
    pub measured: N,
    /// Streamed past the caches: number and bytes.
    pub streamed: [N; 2],
}

/// One operation on one weight type.
#[repr(C)]
pub struct Cell<N> {
    /// Computed by the shim.
    pub calls: N,
    /// Nanoseconds of one thread.
    pub ns: N,
    /// Weights read.
    pub bytes: N,
    /// Multiply-accumulates.
    pub macs: N,
    /// Left to the original, by reason.
    pub declined: [N; REASONS],
}

impl Counters<AtomicU64> {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        // SAFETY: integers only, of which zeros are valid.
        unsafe { std::mem::zeroed() }
    }

    /// Every counter.
    pub fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        let first: *const AtomicU64 = (&raw const *self).cast();
        // SAFETY: the structure is made of nothing but such words, without gaps (all have one alignment).
        unsafe { std::slice::from_raw_parts(first, size_of::<Self>() / size_of::<AtomicU64>()) }.iter()
    }
}

impl Default for Counters<AtomicU64> {
    fn default() -> Self {
        Self::new()
    }
}
