//! What is done before and after a graph is computed.

use std::ffi::c_void;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::config::{Fault, config};

use super::context::ActiveGraph;
use super::together;
use crate::buffers::large;
use crate::gate::guard::{fault, guarded};
use crate::gate::state;
use crate::ggml::abi::CPlan;
use crate::ggml::checked::object;
use crate::loader::{Abi, BoundLibrary};
use crate::log::log;
use crate::reason::Reason;
use crate::threads::node_ends::{self, Counting, Ends};
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

    /// The graph, which `caller` has computed, has ended without a throw.
    pub fn returned(mut self, caller: &BoundLibrary) {
        self.returned = true;
        let plan = self.prepared.as_ref().and_then(|prepared| prepared.active.as_ref()).map(ActiveGraph::plan);
        if plan.is_some_and(|plan| plan.ends == Ends::Watch && plan.one_barrier_came()) {
            caller.one_barrier_ends.store(true, Ordering::Relaxed);
        }
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
    let planned = unsafe { plan_graph(abi, caller, cgraph, cplan, work_data, all) };
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
    cplan: *mut CPlan,
    work_data: *mut c_void,
    threads: usize,
) -> Option<(ActiveGraph, usize)> {
    if !caller.has_hook() || work_data.is_null() {
        return None; // the threads find the plan by the work buffer
    }
    tuning::resolve(state::isa(), |name| caller.find(name));
    // SAFETY: `cplan` is a plan that `prepare` has checked.
    let no_thread_leaves_early = unsafe { no_thread_leaves_early(caller, &*cplan) };
    let ends = if no_thread_leaves_early && threads > 1 { expected_ends(caller) } else { Ends::Wait };
    let mut columns = 0;
    let active = ActiveGraph::start(work_data, threads, |plan, pin| {
        fault(Fault::Plan);
        // SAFETY: the graph belongs to the ggml of `caller`. The program allocates its tensors before it computes the
        // graph.
        unsafe { plan.make(abi, cgraph, threads, pin) }
        if config().together {
            // SAFETY: the plan was just made for this graph.
            unsafe { together::find(plan, abi, cgraph) };
            plan.ends = ends;
        }
        columns = plan.columns;
    });
    stats::flush_names();
    if active.is_none() {
        stats::event(Reason::PlanFull);
        log!(debug, "too many graphs at once: one is left to ggml");
    }
    active.map(|active| (active, columns))
}

/// What threads do behind a product for which nothing was left to do.
fn expected_ends(caller: &BoundLibrary) -> Ends {
    match caller.one_barrier_ends.load(Ordering::Relaxed) {
        _ if node_ends::are_odd() => Ends::Wait,
        true => Ends::Pass,
        false => Ends::Watch,
    }
}

/// Whether all threads come to all operations. With a callback that can abort the graph, the first thread tells the
/// others before the barrier at which operation they leave. Without that barrier they could have gone on already, and
/// would wait for ever.
///
/// # Safety
/// The program gave `cplan` to the `ggml_graph_compute` of `caller`, whose structures are known.
unsafe fn no_thread_leaves_early(caller: &BoundLibrary, cplan: &CPlan) -> bool {
    // The callback's place is known in releases that have pools.
    caller.pools().is_some() && cplan.abort_callback == 0
}
