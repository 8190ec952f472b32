//! The operation hooks: `ggml_cpu_extra_compute_forward` and `ggml_cpu_extra_work_size`, which
//! ggml-cpu calls for every node, and `ggml_graph_compute` around them.
//!
//! The exported functions are trampolines that add their return address as a last argument: it tells
//! which copy of ggml called (see [`crate::loader::libraries`]).

use std::ffi::{c_int, c_void};
use std::time::Instant;

use zen5turbo_host::fault::Fault;

use crate::buffers;
use crate::ggml::abi::{CPlan, ComputeParams, STATUS_FAILED, Tensor};
use crate::ggml::checked::object;
use crate::graph::context::{self, Running};
use crate::graph::plan::Plan;
use crate::graph::{attention, execute};
use crate::loader::{Abi, BoundLibrary, Op, caller};
use crate::log::{self, log};
use crate::memory::copies;
use crate::placement;
use crate::reason::Reason;
use crate::startup::{self, State, committed, fault, first_ggml_call, guarded};
use crate::stats::{self, OpKind};
use crate::threads::{self, Graph};
use crate::tuning;

/// `bool ggml_cpu_extra_compute_forward(struct ggml_compute_params *, struct ggml_tensor *)`: true
/// when the operation was computed.
///
/// # Safety
/// Called by ggml only.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_cpu_extra_compute_forward(_: *mut ComputeParams, _: *mut Tensor) -> bool {
    trampoline!(["mov rdx, [rsp]", "jmp {}"], sym compute_forward)
}

/// `bool ggml_cpu_extra_work_size(int n_threads, const struct ggml_tensor *, size_t *)`: forwarded
/// unchanged. Answering it would replace ggml's own calculation, and a product that is declined later
/// would then run over the end of the work buffer.
///
/// # Safety
/// Called by ggml only.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_cpu_extra_work_size(_: c_int, _: *const Tensor, _: *mut usize) -> bool {
    trampoline!(["mov rcx, [rsp]", "jmp {}"], sym work_size)
}

/// `enum ggml_status ggml_graph_compute(struct ggml_cgraph *, struct ggml_cplan *)`.
///
/// # Safety
/// Called with ggml's own arguments.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_graph_compute(_: *mut c_void, _: *mut CPlan) -> c_int {
    trampoline!(["mov rdx, [rsp]", "jmp {}"], sym graph_compute)
}

unsafe extern "C-unwind" fn compute_forward(params: *mut ComputeParams, op: *mut Tensor, from: usize) -> bool {
    let state = first_ggml_call(); // before anything is said about the caller
    let Some(caller) = guarded(None, || caller(from)) else {
        stats::event(Reason::OriginalMissing);
        return false;
    };
    if state == State::Active {
        // SAFETY: arguments of ggml.
        if let (Some(params), Some(op)) = unsafe { (object(params), object(op)) } {
            // SAFETY: as above.
            if committed(|| unsafe { try_compute(caller, params, op) }) {
                return true;
            }
        } else {
            stats::event(Reason::GraphOdd);
        }
    }
    match caller.compute_forward {
        // SAFETY: the original with its own arguments.
        Some(original) => unsafe { original(params, op) },
        None => {
            stats::event(Reason::OriginalMissing);
            false
        }
    }
}

/// Computes an operation that the graph's plan takes. All of it is past the decision, which the plan has made: the other threads
/// of the graph come to the same answer, whatever happens to this one.
#[inline]
unsafe fn try_compute(caller: &BoundLibrary, params: &ComputeParams, op: &Tensor) -> bool {
    let Some(abi) = &caller.abi else { return false };
    // SAFETY: arguments of ggml.
    if !unsafe { abi.fits(op) } {
        return false;
    }
    let plan = context::find(params.wdata);
    let (kind, weights, reason) = match abi.op(op.op) {
        Op::Matrix(kind) => {
            let node = plan.and_then(|plan| plan.find(op));
            match planned(abi, params, plan, node.map(|node| (node, &node.decision))) {
                Ok((plan, node, job)) => {
                    if params.ith == 0 {
                        fault(Fault::Product);
                    }
                    // SAFETY: the plan is this graph's.
                    unsafe { execute::run(plan, node, job, abi, params) };
                    return true;
                }
                Err(reason) => (kind.counted(), op.src[0], reason),
            }
        }
        Op::Attention => {
            let node = plan.and_then(|plan| plan.attention.find(op));
            match planned(abi, params, plan, node.map(|node| (node, &node.decision))) {
                Ok((plan, node, job)) => {
                    if params.ith == 0 {
                        fault(Fault::Attention);
                    }
                    // SAFETY: as above.
                    unsafe { attention::run(plan, node, job, abi, params) };
                    return true;
                }
                Err(reason) => (OpKind::FlashAttnExt, op.src[1], reason),
            }
        }
        Op::Ordinary | Op::Opaque => return false,
    };
    // Which thread this is cannot be told where that is what is odd.
    if params.ith == 0 || reason == Reason::GraphOdd {
        // SAFETY: a source of this operation.
        unsafe { count_declined(abi, kind, weights, reason) };
    }
    false
}

/// What was planned for a node, unless something keeps it from being computed here: the same for all threads.
#[inline]
fn planned<'a, N, J>(
    abi: &Abi,
    params: &ComputeParams,
    plan: Option<&'a Plan>,
    node: Option<(&'a N, &'a Result<J, Reason>)>,
) -> Result<(&'a Plan, &'a N, &'a J), Reason> {
    let (Some(plan), Some((node, decision))) = (plan, node) else { return Err(Reason::NoGraphContext) };
    let job = decision.as_ref().map_err(|reason| *reason)?;
    if abi.has_use_ref && params.use_ref {
        return Err(Reason::UseRef);
    }
    if !params.are_sound() {
        return Err(Reason::GraphOdd);
    }
    if params.nth as usize > plan.threads {
        return Err(Reason::TooManyThreads);
    }
    Ok((plan, node, job))
}

/// Counts an operation on `weights`, which may be keys, that ggml computes.
unsafe fn count_declined(abi: &Abi, kind: OpKind, weights: *const Tensor, reason: Reason) {
    // SAFETY: a tensor of this ggml, or null.
    let ty = unsafe { object(weights) }.map_or(-1, |t| t.ty);
    if ty >= 0 {
        let _ = abi.weight_type(ty); // makes its name known to the statistics
    }
    stats::declined(kind, u8::try_from(ty).unwrap_or(u8::MAX), reason);
}

unsafe extern "C-unwind" fn work_size(threads: c_int, op: *const Tensor, size: *mut usize, from: usize) -> bool {
    first_ggml_call();
    match guarded(None, || caller(from)).and_then(|c| c.work_size) {
        // SAFETY: the original with its own arguments.
        Some(original) => unsafe { original(threads, op, size) },
        None => {
            stats::event(Reason::OriginalMissing);
            false
        }
    }
}

unsafe extern "C-unwind" fn graph_compute(cgraph: *mut c_void, cplan: *mut CPlan, from: usize) -> c_int {
    let state = first_ggml_call(); // before anything is said about the caller
    let Some(caller) = guarded(None, || caller(from)) else {
        stats::event(Reason::OriginalMissing);
        return STATUS_FAILED;
    };
    let Some(original) = caller.graph_compute else {
        stats::event(Reason::OriginalMissing);
        log::line(format_args!("ggml_graph_compute of {} was not found: the graph cannot be computed", caller.path));
        return STATUS_FAILED;
    };
    if state != State::Active {
        // SAFETY: the original with its own arguments.
        let status = unsafe { original(cgraph, cplan) };
        stats::graph_ended();
        return status;
    }
    // SAFETY: arguments of ggml.
    let prepared = guarded(None, || unsafe { prepare(caller, cgraph, cplan) });
    let mut ended = Ended { prepared, started: Instant::now(), returned: false };
    // SAFETY: the original with its own arguments. It may throw: a callback of the program's can.
    let status = unsafe { original(cgraph, cplan) };
    ended.returned = true;
    status
}

/// A graph that runs: when this is dropped it has ended, in whatever way.
struct Ended {
    prepared: Option<Prepared>,
    started: Instant,
    returned: bool,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let (mut prepared, ns) = (self.prepared.take(), self.started.elapsed().as_nanos() as u64);
        if let Some(prepared) = prepared.as_mut().filter(|prepared| !self.returned && prepared.threads > 1) {
            // Something was thrown past the last barrier: the other threads may still compute by the plan, which stays.
            std::mem::forget(prepared.running.take());
        }
        guarded((), move || {
            let columns = prepared.as_ref().and_then(|prepared| prepared.columns);
            drop(prepared);
            if let Some(columns) = columns {
                stats::graph(columns, ns);
            }
            placement::leave();
            copies::graph_ended();
            buffers::graph_ended();
        });
        stats::graph_ended();
    }
}

/// What is undone when a graph has ended.
struct Prepared {
    /// Of its plan; `None` when nothing of it is computed here.
    columns: Option<usize>,
    running: Option<Running>,
    threads: usize,
    _graph: Graph,
}

/// Plans the graph, and who computes it; `None` when the structures of this ggml are not known, or it is to fail.
unsafe fn prepare(caller: &BoundLibrary, cgraph: *mut c_void, cplan: *mut CPlan) -> Option<Prepared> {
    let abi = caller.abi.as_ref()?;
    // SAFETY: an argument of ggml.
    let Some((work_data, asked)) = unsafe { object(cplan) }.and_then(CPlan::usable) else {
        stats::event(Reason::GraphOdd);
        return None;
    };
    let all = threads::count(asked);
    // SAFETY: arguments of ggml.
    let planned = unsafe { plan_graph(abi, caller, cgraph, work_data, all) };
    let one_column = planned.as_ref().is_some_and(|(_, columns)| *columns == 1);
    let (threads, whole) = if one_column { threads::count_for_one_column(all) } else { (all, false) };
    // SAFETY: as above.
    let graph = unsafe { Graph::start(caller, cplan, threads, whole) };
    let (running, columns) = planned.unzip();
    Some(Prepared { columns, running, threads: all, _graph: graph })
}

/// Plans the graph for so many threads; also its columns.
unsafe fn plan_graph(
    abi: &Abi,
    caller: &BoundLibrary,
    cgraph: *mut c_void,
    work_data: *mut c_void,
    threads: usize,
) -> Option<(Running, usize)> {
    if !caller.has_hook() || work_data.is_null() {
        return None; // no product of ours works without a work buffer
    }
    tuning::settle(startup::isa(), |name| caller.find(name));
    let mut columns = 0;
    let running = Running::start(work_data, threads, |plan, pin| {
        fault(Fault::Plan);
        // SAFETY: the graph is the caller's, its tensors are allocated before it is computed.
        unsafe { plan.make(abi, cgraph, threads, pin) }
        columns = plan.columns;
    });
    stats::live::settle();
    if running.is_none() {
        stats::event(Reason::PlanFull);
        log!(debug, "too many graphs at once: one is left to ggml");
    }
    running.map(|running| (running, columns))
}
