//! A graph from its head to its end.

use std::ffi::c_void;
use std::time::Instant;

use crate::config::Fault;

use super::context::ActiveGraph;
use crate::buffers::large;
use crate::gate::guard::{fault, guarded};
use crate::gate::state;
use crate::ggml::abi::CPlan;
use crate::ggml::checked::object;
use crate::loader::{Abi, BoundLibrary};
use crate::log::log;
use crate::reason::Reason;
use crate::threads::{self, Graph};
use crate::weights::copies;
use crate::{placement, stats, tuning};

/// A graph that runs: when this is dropped it has ended, in whatever way.
pub struct RunningGraph {
    prepared: Option<Prepared>,
    started: Instant,
    returned: bool,
}

impl RunningGraph {
    /// A graph that begins now, as it was prepared.
    pub fn begin(prepared: Option<Prepared>) -> Self {
        Self { prepared, started: Instant::now(), returned: false }
    }

    /// It has ended without a throw.
    pub fn returned(mut self) {
        self.returned = true;
    }
}

impl Drop for RunningGraph {
    fn drop(&mut self) {
        let (mut prepared, ns) = (self.prepared.take(), self.started.elapsed().as_nanos() as u64);
        if let Some(prepared) = prepared.as_mut().filter(|prepared| !self.returned && prepared.threads > 1) {
            // Something was thrown past the last barrier: the other threads may still compute by the plan, which stays.
            std::mem::forget(prepared.active.take());
        }
        guarded((), move || {
            let columns = prepared.as_ref().and_then(|prepared| prepared.columns);
            drop(prepared);
            if let Some(columns) = columns {
                stats::graph(columns, ns);
            }
            placement::leave();
            copies::graph_ended();
            large::graph_ended();
        });
    }
}

/// What is undone when a graph has ended.
pub struct Prepared {
    /// Of its plan; `None` when nothing of it is computed here.
    columns: Option<usize>,
    active: Option<ActiveGraph>,
    threads: usize,
    _graph: Graph,
}

/// Plans the graph, and who computes it; `None` when the structures of this ggml are not known, or it is to fail.
///
/// # Safety
/// `cgraph` and `cplan` are what the program gave to the `ggml_graph_compute` of `caller`.
pub unsafe fn prepare(caller: &BoundLibrary, cgraph: *mut c_void, cplan: *mut CPlan) -> Option<Prepared> {
    let abi = caller.abi.as_ref()?;
    // SAFETY: `cplan` is null or a plan of the program, by the contract of this function.
    let Some((work_data, asked)) = unsafe { object(cplan) }.and_then(CPlan::usable) else {
        stats::event(Reason::GraphOdd);
        return None;
    };
    let all = threads::count(asked);
    // SAFETY: `cgraph` is the graph that the program lets `caller` compute, by the contract of this function.
    let planned = unsafe { plan_graph(abi, caller, cgraph, work_data, all) };
    let one_column = planned.as_ref().is_some_and(|(_, columns)| *columns == 1);
    let (threads, whole) = if one_column { threads::count_for_one_column(all) } else { (all, false) };
    // SAFETY: `cplan` is the plan that the program gave to `caller`, whose structures are known. It lives until the
    // graph ends.
    let graph = unsafe { Graph::start(caller, cplan, threads, whole) };
    let (active, columns) = planned.unzip();
    Some(Prepared { columns, active, threads: all, _graph: graph })
}

/// Plans the graph for so many threads; also its columns.
unsafe fn plan_graph(
    abi: &Abi,
    caller: &BoundLibrary,
    cgraph: *mut c_void,
    work_data: *mut c_void,
    threads: usize,
) -> Option<(ActiveGraph, usize)> {
    if !caller.has_hook() || work_data.is_null() {
        return None; // no product of ours works without a work buffer
    }
    tuning::resolve(state::isa(), |name| caller.find(name));
    let mut columns = 0;
    let active = ActiveGraph::start(work_data, threads, |plan, pin| {
        fault(Fault::Plan);
        // SAFETY: the graph is the caller's, its tensors are allocated before it is computed.
        unsafe { plan.make(abi, cgraph, threads, pin) }
        columns = plan.columns;
    });
    stats::flush_names();
    if active.is_none() {
        stats::event(Reason::PlanFull);
        log!(debug, "too many graphs at once: one is left to ggml");
    }
    active.map(|active| (active, columns))
}
