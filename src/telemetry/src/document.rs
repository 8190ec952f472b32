//! The statistics document: all members, each declared once. libzen5turbo.so writes it, the command `zen5turbo` reads it.
//!
//! libzen5turbo.so writes the whole document into the file of `ZEN5TURBO_STATS`. Into the live segment it writes the counters
//! and, as a text, a [`SegmentText`]. Who reads the segment puts both together with [`Document::counted`], with which the
//! library makes its own document too.
//!
//! A text that is not told is empty, and a number is 0. A member that is an `Option` is left out where it is `None`.

mod count;

use std::collections::BTreeMap;

pub use count::{Names, Number};

use crate::member::{Member, members};

/// Values by their names.
pub type ByName<T> = BTreeMap<String, T>;

members! {
    /// The statistics of one process. Numbers count from its start.
    pub struct Document {
        ..
        /// What the numbers are of.
        about: About,
        /// Whether a graph was computed: false for a program that only lists devices.
        computed: Option<bool>,
        /// Threads of the last graph, and of all.
        threads: Threads,
        /// Executions of graphs by their columns: `0`, `1`, `2-16`, `many`. A class without any is left out.
        graphs: ByName<Graphs>,
        /// Operations by name (`MUL_MAT`) and weight type (`q4_K`); `FLASH_ATTN_EXT` by the type of its keys. A type that
        /// was not met is left out.
        ops: ByName<ByName<Operation>>,
        /// Operations that are no products, by name (`MUL`). One that was not met is left out.
        other_ops: ByName<OtherOperation>,
        /// ggml's functions for single rows that were called, by name.
        direct: Option<ByName<Function>>,
        /// Memory.
        memory: Memory,
        /// Products of BLAS.
        blas: Option<Blas>,
        /// What concerns the process, by reason. Why something was not done is found here.
        events: ByName<u64>,
    }

    /// The process, and how the library works in it: everything that is not counted.
    pub struct About {
        /// Of the library.
        version: String,
        /// The number of the process.
        pid: u64,
        /// Its executable.
        program: String,
        /// What the library does in the process: `active`, `passthrough` ...
        state: String,
        /// The processor.
        cpu: Cpu,
        /// The gate.
        gate: Gate,
        /// The kernel family in use.
        tier: String,
        /// The same with its width.
        isa: String,
        /// The kernel family that was asked for.
        kernels: String,
        /// The settings by their variables.
        config: ByName<String>,
        /// The calibration file.
        tuning: Tuning,
        /// What limits the threads of a graph, in words.
        threads_limit: String,
        /// The copies of ggml.
        ggml: Vec<Library>,
    }

    /// A processor.
    pub struct Cpu {
        /// `AuthenticAMD` ...
        vendor: String,
        /// What it calls itself.
        brand: String,
        /// Its family.
        family: u64,
        /// Its model.
        model: u64,
        /// Its stepping.
        stepping: u64,
        /// Whether it is a Zen 5.
        zen5: bool,
        /// The features that kernels ask for, and that the kernel lets programs use.
        features: Vec<String>,
    }

    /// The gate, which lets the library work on the CPUs that it is for.
    pub struct Gate {
        /// What was asked for.
        mode: String,
        /// What it decided; `pending` until ggml is in use.
        decision: String,
    }

    /// The calibration file.
    pub struct Tuning {
        /// Where it lies.
        file: String,
        /// Whether it is used.
        status: String,
        /// The most threads of a graph of one column, where they were measured.
        threads: Option<u64>,
        /// The gain of copies in hundredths, where it was measured.
        copies_hundredths: Option<u64>,
        /// Whether that is enough to copy.
        copies_pay: Option<bool>,
    }

    /// A copy of ggml.
    pub struct Library {
        /// Where the file lies.
        path: String,
        /// Whether the library works with it: `bound`, `abi_mismatch` ...
        status: String,
    }

    /// Threads of graphs.
    pub struct Threads {
        /// That the program asked for, in the last graph; 0 before the first one.
        asked: u64,
        /// That computed it.
        used: u64,
        /// CPUs that the process can keep busy; 0 where that is not known.
        budget: u64,
        /// Graphs with fewer threads than asked for.
        capped: u64,
        /// Pools that replace the program's pools.
        pools: u64,
        /// The mean CPU time that threads lost to other processes, in thousandths of a CPU.
        lost_mcpu: u64,
        /// Waits at barriers that ended in sleep.
        sleeps: Sleeps,
    }

    /// Waits that ended in sleep.
    pub struct Sleeps {
        /// How many.
        count: u64,
        /// Microseconds asleep.
        us: u64,
    }

    /// Graphs of one class.
    pub struct Graphs {
        /// Executions.
        count: u64,
        /// Columns, added up.
        columns: u64,
        /// Nanoseconds, added up.
        ns: u64,
        /// Barriers, as the first thread comes to them, added up.
        barriers: Barriers,
    }

    /// Barriers of graphs.
    pub struct Barriers {
        /// ggml's: behind nearly every operation, and inside some.
        between: u64,
        /// Inside products and attention that this library computes.
        inside: u64,
    }

    /// An operation on one weight type.
    pub struct Operation {
        /// Calls that were computed here.
        taken: u64,
        /// Nanoseconds in these.
        ns: u64,
        /// Bytes of weights (of keys and values) that they read.
        bytes: u64,
        /// Multiply-accumulates that they did.
        mac: u64,
        /// The kernels, by regime.
        kernels: ByName<String>,
        /// Calls that were left to the original, by reason.
        declined: ByName<u64>,
    }

    /// An operation that is no product.
    pub struct OtherOperation {
        /// Calls that were computed here.
        taken: u64,
        /// Bytes that they read and wrote.
        bytes: u64,
        /// Calls that were left to ggml, by reason.
        declined: ByName<u64>,
    }

    /// A function for single rows.
    pub struct Function {
        /// Calls that were computed here.
        taken: u64,
        /// Why a library's own function was not replaced; its calls are not counted.
        left: Option<String>,
    }

    /// Memory.
    pub struct Memory {
        /// Of model files.
        weights: Weights,
        /// Read ahead.
        prefetch: Prefetch,
        /// Its place.
        numa: Option<Numa>,
        /// ggml's large buffers on huge pages.
        buffers: Buffers,
        /// Blocks of the heap that were advised to be huge.
        heap: Amount,
        /// Large copies.
        copies: Copies,
    }

    /// Bytes of model files.
    pub struct Weights {
        /// Mapped where huge pages can lie.
        mapped: u64,
        /// In pages that products read.
        wanted: u64,
        /// Of those, found in huge pages of the page cache.
        cached: u64,
        /// Copied since the start.
        copied: Copied,
        /// Of copies freed.
        freed: u64,
        /// Of copies that there are now.
        now: Option<u64>,
        /// Microseconds that copying took.
        us: u64,
        /// Microseconds of rest between, for the graphs' sake.
        rested_us: u64,
    }

    /// Bytes copied to each kind of page.
    pub struct Copied {
        /// Transparent huge pages.
        thp: u64,
        /// Reserved pages of 2 MiB.
        huge as "2m": u64,
        /// Reserved pages of 1 GiB.
        giant as "1g": u64,
    }

    /// Reading ahead.
    pub struct Prefetch {
        /// Bytes read; resident ones count as well.
        bytes: u64,
        /// Calls.
        calls: u64,
        /// Microseconds in them.
        us: u64,
        /// Bytes taken out of memory behind the products.
        released: u64,
    }

    /// The placement in use.
    pub struct Numa {
        /// `off`, `interleave` ...
        mode: String,
        /// The numbers of the NUMA nodes.
        nodes: Vec<String>,
        /// Bytes placed on each NUMA node.
        placed: ByName<u64>,
        /// Bytes interleaved over all of them.
        interleaved: u64,
        /// Calls to place memory that failed.
        failed: u64,
        /// How many threads can be pinned; 0 when threads are not pinned.
        seats: u64,
        /// How often a thread was moved to its CPU.
        moved: u64,
    }

    /// Large buffers, by the kind of page.
    pub struct Buffers {
        /// On transparent huge pages.
        thp: Amount,
        /// On reserved pages of 2 MiB.
        hugetlb_2m: Amount,
        /// Bytes given back.
        freed: u64,
    }

    /// A number of things, and their bytes.
    pub struct Amount {
        /// How many.
        count: u64,
        /// Bytes of all.
        bytes: u64,
    }

    /// Large copies that pass the caches.
    pub struct Copies {
        /// Whether they are made.
        status: Option<String>,
        /// The fewest bytes of one.
        from: Option<u64>,
        /// Measurements made.
        measured: u64,
        /// Copies made.
        streamed: Amount,
    }

    /// Products of BLAS.
    pub struct Blas {
        /// Calls of cblas_sgemm that went to the library of `ZEN5TURBO_BLAS`.
        calls: u64,
        /// How often the BLAS device refused a product that is computed here.
        refused: u64,
    }

    /// The text of a live segment.
    pub struct SegmentText {
        ..
        /// What the numbers are of.
        about: About,
        /// The words that belong to the counters.
        names: Words,
        /// Kernels by operation, weight type and regime.
        kernels_in_use: ByName<ByName<ByName<String>>>,
    }

    /// Words in the order of the counters.
    pub struct Words {
        /// Operations.
        ops: Vec<String>,
        /// Weight types.
        types: Vec<String>,
        /// Reasons.
        reasons: Vec<String>,
        /// Classes of graphs.
        graphs: Vec<String>,
    }
}

impl Document {
    /// Operations with their names and weight types.
    pub fn operations(&self) -> impl Iterator<Item = (&str, &str, &Operation)> {
        self.ops.iter().flat_map(|(name, types)| {
            types.iter().map(move |(weight_type, operation)| (name.as_str(), weight_type.as_str(), operation))
        })
    }

    /// An operation on a weight type that was met.
    #[must_use]
    pub fn operation(&self, name: &str, weight_type: &str) -> Option<&Operation> {
        self.ops.get(name)?.get(weight_type)
    }

    /// Calls that were computed by the library.
    #[must_use]
    pub fn taken(&self) -> u64 {
        total(self.operations().map(|(_, _, operation)| operation.taken))
    }

    /// Calls that were left to the original.
    #[must_use]
    pub fn declined(&self) -> u64 {
        total(self.operations().map(|(_, _, operation)| operation.declined()))
    }
}

impl Operation {
    /// Calls that were left to the original, for all reasons.
    #[must_use]
    pub fn declined(&self) -> u64 {
        total(self.declined.values().copied())
    }
}

/// A file may hold any numbers, so this stops at the largest.
fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// As the same JSON that is read from it.
#[cfg(feature = "read")]
impl serde::Serialize for Document {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: serde_json::Value = serde_json::from_str(&self.json()).expect("what is written is JSON");
        value.serialize(serializer)
    }
}

#[cfg(all(test, feature = "read"))]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn everything_that_is_written_is_read_again() {
        let full = json!({
            "version": "1", "pid": 7, "program": "a\"b", "state": "active",
            "cpu": {"vendor": "AuthenticAMD", "brand": "AMD EPYC", "family": 26, "model": 2, "stepping": 1, "zen5": true,
                    "features": ["avx2", "fma"]},
            "gate": {"mode": "strict", "decision": "engage"}, "tier": "avx512", "isa": "avx512vnni", "kernels": "auto",
            "config": {"ZEN5TURBO_LOG": "off"},
            "tuning": {"file": "/x", "status": "used", "threads": 24, "copies_hundredths": 112, "copies_pay": true},
            "threads_limit": "CPUs online", "ggml": [{"path": "/x/libggml-cpu.so", "status": "bound"}],
            "computed": true,
            "threads": {"asked": 8, "used": 2, "budget": 2, "capped": 5, "pools": 1, "lost_mcpu": 40,
                        "sleeps": {"count": 3, "us": 9}},
            "graphs": {"1": {"count": 1, "columns": 1, "ns": 5, "barriers": {"between": 9, "inside": 1}}},
            "ops": {"MUL_MAT": {"q4_K": {"taken": 90, "ns": 5, "bytes": 6, "mac": 7, "kernels": {"gemv": "avx512"},
                                         "declined": {"use_ref": 10}}}, "FLASH_ATTN_EXT": {}},
            "other_ops": {"MUL": {"taken": 1, "bytes": 2, "declined": {"shape_not_supported": 3}}},
            "direct": {"ggml_vec_dot_q4_0_q8_0": {"taken": 3}, "ggml_gemv_q4_0_8x8_q8_0": {"taken": 0, "left": "x"}},
            "memory": {
                "weights": {"mapped": 1, "wanted": 2, "cached": 3, "copied": {"thp": 4, "2m": 5, "1g": 6}, "freed": 7, "now": 8,
                            "us": 9, "rested_us": 10},
                "prefetch": {"bytes": 1, "calls": 2, "us": 3, "released": 4},
                "numa": {"mode": "auto", "nodes": ["0", "1"], "placed": {"0": 5}, "interleaved": 1, "failed": 2, "seats": 3,
                         "moved": 4},
                "buffers": {"thp": {"count": 1, "bytes": 2}, "hugetlb_2m": {"count": 3, "bytes": 4}, "freed": 5},
                "heap": {"count": 1, "bytes": 2},
                "copies": {"status": "on", "from": 1, "measured": 2, "streamed": {"count": 3, "bytes": 4}}},
            "blas": {"calls": 1, "refused": 2},
            "events": {"abi_mismatch": 1}});
        let document = Document::read(&full).unwrap();
        let written: Value = serde_json::from_str(&document.json()).unwrap();
        assert_eq!(written, full, "nothing is left over, and nothing is added");
        assert_eq!(serde_json::to_value(&document).unwrap(), full);
        assert_eq!(Document::read(&written).unwrap(), document);
    }

    #[test]
    fn what_is_missing_or_odd_leaves_the_rest() {
        let odd = json!({"ops": {"MUL_MAT": {"q8_0": {"taken": 2.0, "ns": "x"}, "q4_0": 7}, "X": null}, "ggml": 3, "version": 2,
                         "computed": 1, "unknown": {}, "events": {"a": 1, "b": []}});
        let document = Document::read(&odd).unwrap();
        assert_eq!((document.taken(), document.about.version.as_str(), document.computed), (2, "2", None));
        assert_eq!(document.ops.keys().collect::<Vec<_>>(), ["MUL_MAT"]);
        assert_eq!(document.events, ByName::from([("a".to_owned(), 1)]));
        assert_eq!(Document::read(&json!([1])), None);
        assert_eq!(Document::read(&json!({})).unwrap(), Document::default());
    }
}
