//! What is done before and after a graph is computed.

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
use crate::threads::counting::Counting;
use crate::threads::{self, Graph};
use crate::weights::copies;
use crate::{placement, stats, tuning};

/// A graph that runs. When this is dropped, the graph has ended, normally or by a throw.
pub struct RunningGraph {
    prepared: Option<Prepared>,
    started: Instant,
    returned: bool,
    counting: Counting,
}

impl RunningGraph {
    /// A graph that begins now and was prepared before.
    pub fn begin(prepared: Option<Prepared>) -> Self {
        Self { prepared, started: Instant::now(), returned: false, counting: Counting::start() }
    }

    /// The graph has ended without a throw.
    pub fn returned(mut self) {
        self.returned = true;
    }
}

impl Drop for RunningGraph {
    fn drop(&mut self) {
        let (mut prepared, ns) = (self.prepared.take(), self.started.elapsed().as_nanos() as u64);
        if let Some(prepared) = prepared.as_mut().filter(|prepared| !self.returned && prepared.threads > 1) {
            // A throw has left the graph before its last barrier. The other threads may still use the plan, so it is
            // kept.
            std::mem::forget(prepared.active.take());
        }
        let barriers = self.counting.end();
        guarded((), move || {
            let columns = prepared.as_ref().and_then(|prepared| prepared.columns);
            drop(prepared);
            if let Some(columns) = columns {
                stats::graph(columns, ns, barriers);
            }
            placement::leave();
            copies::graph_ended();
            large::graph_ended();
        });
    }
}

/// A prepared graph. Dropping it undoes the preparation.
pub struct Prepared {
    /// The columns of its plan; `None` when the graph has no plan.
    columns: Option<usize>,
    active: Option<ActiveGraph>,
    threads: usize,
    _graph: Graph,
}

/// Plans the graph, and chooses the threads that compute it. `None` when the structures of this ggml are not known, or
/// when `cplan` is not usable.
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

/// Plans the graph for this many threads. Also returns its columns.
unsafe fn plan_graph(
    abi: &Abi,
    caller: &BoundLibrary,
    cgraph: *mut c_void,
    work_data: *mut c_void,
    threads: usize,
) -> Option<(ActiveGraph, usize)> {
    if !caller.has_hook() || work_data.is_null() {
        return None; // the threads find the plan by the work buffer
    }
    tuning::resolve(state::isa(), |name| caller.find(name));
    let mut columns = 0;
    let active = ActiveGraph::start(work_data, threads, |plan, pin| {
        fault(Fault::Plan);
        // SAFETY: the graph belongs to the ggml of `caller`. The program allocates its tensors before it computes the
        // graph.
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
