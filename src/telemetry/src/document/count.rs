//! From the counters of a live segment to the document.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{
    About, Amount, Barriers, Buffers, ByName, Copied, Copies, Document, Graphs, Memory, Operation, OtherOperation,
    Prefetch, Sleeps, Threads, Weights,
};
use crate::live::{Cell, Counters};

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
    /// Of the kernels that compute an operation on a weight type, by regime.
    fn kernels(&self, operation: usize, weight_type: usize) -> ByName<String>;
}

impl Document {
    /// The document with everything that is counted in a segment. The members that are an `Option` are left out.
    pub fn counted<N: Number>(about: About, counters: &Counters<N>, names: &impl Names) -> Self {
        let graphs = counters.graphs.iter().enumerate().filter(|(_, graphs)| graphs.count.get() > 0);
        Self {
            about,
            threads: threads(&counters.threads),
            graphs: graphs
                .map(|(class, graphs)| {
                    let (count, columns, ns) = (graphs.count.get(), graphs.columns.get(), graphs.ns.get());
                    (names.graphs(class), Graphs { count, columns, ns, barriers: barriers(&graphs.barriers) })
                })
                .collect(),
            ops: operations(counters, names),
            other_ops: other_operations(counters, names),
            memory: memory(counters),
            events: reasons(&counters.events, names),
            ..Self::default()
        }
    }
}

fn barriers<N: Number>(barriers: &crate::live::Barriers<N>) -> Barriers {
    Barriers { between: barriers.between.get(), inside: barriers.inside.get() }
}

fn threads<N: Number>(threads: &crate::live::Threads<N>) -> Threads {
    let [count, us] = &threads.sleeps;
    Threads {
        asked: threads.asked.get(),
        used: threads.used.get(),
        budget: threads.budget.get(),
        capped: threads.capped.get(),
        pools: threads.pools.get(),
        lost_mcpu: threads.lost_mcpu.get(),
        sleeps: Sleeps { count: count.get(), us: us.get() },
    }
}

fn was_met<N: Number>(cell: &Cell<N>) -> bool {
    cell.calls.get() > 0 || cell.declined.iter().any(|n| n.get() > 0)
}

/// The operations that were met and are no products.
fn other_operations<N: Number>(counters: &Counters<N>, names: &impl Names) -> ByName<OtherOperation> {
    let cells = zen5turbo_kernels::ops::Operation::ALL.into_iter().zip(&counters.others);
    cells
        .filter(|(_, cell)| was_met(cell))
        .map(|(operation, cell)| {
            let (taken, bytes) = (cell.calls.get(), cell.bytes.get());
            let declined = reasons(&cell.declined, names);
            (operation.name().to_owned(), OtherOperation { taken, bytes, declined })
        })
        .collect()
}

/// All operations, each with the weight types that were met.
fn operations<N: Number>(counters: &Counters<N>, names: &impl Names) -> ByName<ByName<Operation>> {
    let of_types = |number: usize, cells: &[Cell<N>]| {
        let met = cells.iter().enumerate().filter(|(_, cell)| was_met(*cell));
        met.map(|(ty, cell)| {
            let operation = Operation {
                taken: cell.calls.get(),
                ns: cell.ns.get(),
                bytes: cell.bytes.get(),
                mac: cell.macs.get(),
                kernels: names.kernels(number, ty),
                declined: reasons(&cell.declined, names),
            };
            (names.weight_type(ty), operation)
        })
        .collect()
    };
    counters
        .cells
        .iter()
        .enumerate()
        .map(|(number, cells)| (names.operation(number), of_types(number, cells)))
        .collect()
}

fn reasons<N: Number>(counts: &[N], names: &impl Names) -> ByName<u64> {
    let counts = counts.iter().map(Number::get).enumerate().filter(|(_, count)| *count > 0);
    counts.map(|(number, count)| (names.reason(number), count)).collect()
}

fn memory<N: Number>(counters: &Counters<N>) -> Memory {
    let Counters { weights, prefetch, buffers, heap, copies, .. } = counters;
    Memory {
        weights: Weights {
            mapped: weights.mapped.get(),
            wanted: weights.wanted.get(),
            cached: weights.cached.get(),
            copied: Copied { thp: weights.thp.get(), huge: weights.huge.get(), giant: weights.giant.get() },
            freed: weights.freed.get(),
            now: None,
            us: weights.us.get(),
            rested_us: weights.rested_us.get(),
        },
        prefetch: Prefetch {
            bytes: prefetch.bytes.get(),
            calls: prefetch.calls.get(),
            us: prefetch.us.get(),
            released: prefetch.released.get(),
        },
        numa: None,
        buffers: Buffers {
            thp: amount(&buffers.thp),
            hugetlb_2m: amount(&buffers.hugetlb),
            freed: buffers.freed.get(),
        },
        heap: amount(heap),
        copies: Copies { measured: copies.measured.get(), streamed: amount(&copies.streamed), ..Copies::default() },
    }
}

fn amount<N: Number>([count, bytes]: &[N; 2]) -> Amount {
    Amount { count: count.get(), bytes: bytes.get() }
}
