//! Hooks of `ggml_cpu_extra_compute_forward` and `ggml_cpu_extra_work_size`, which ggml-cpu calls for every node, of
//! `ggml_compute_forward_rms_norm_mul_fused`, which it calls instead for two nodes that it has fused, and of
//! `ggml_graph_compute`, which runs a graph.
//!
//! The exported functions are trampolines that add their return address as a last argument. It shows which copy of ggml
//! has called (see [`crate::loader::libraries`]).

use std::ffi::{c_int, c_void};

use crate::gate::guard::{committed, guarded};
use crate::gate::start::first_ggml_call;
use crate::gate::state::State;
use crate::gate::stats_file::WhenGraphEnds;
use crate::ggml::abi::{CPlan, ComputeParams, STATUS_FAILED, Tensor};
use crate::ggml::checked::object;
use crate::graph::lifecycle::{self, RunningGraph};
use crate::graph::operation;
use crate::loader::{caller, originals};
use crate::log;
use crate::reason::Reason;
use crate::stats;

/// `bool ggml_cpu_extra_compute_forward(struct ggml_compute_params *, struct ggml_tensor *)`: returns true when the
/// operation was computed.
///
/// # Safety
/// Called by ggml only.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_cpu_extra_compute_forward(_: *mut ComputeParams, _: *mut Tensor) -> bool {
    trampoline!(["mov rdx, [rsp]", "jmp {}"], sym compute_forward)
}

/// `void ggml_compute_forward_rms_norm_mul_fused(const struct ggml_compute_params *, struct ggml_tensor * dst_rms_norm,
/// struct ggml_tensor * dst_mul)`.
///
/// # Safety
/// Called by ggml only.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_compute_forward_rms_norm_mul_fused(
    _: *const ComputeParams,
    _: *mut Tensor,
    _: *mut Tensor,
) {
    trampoline!(["mov rcx, [rsp]", "jmp {}"], sym norm_mul)
}

/// `bool ggml_cpu_extra_work_size(int n_threads, const struct ggml_tensor *, size_t *)`: forwarded unchanged. An answer
/// from here would replace ggml's own calculation. The work buffer could then be too small for a product that is left
/// to ggml later.
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
    let state = first_ggml_call(); // first: the messages about the caller depend on this state
    let Some(caller) = guarded(None, || caller(from)) else {
        stats::event(Reason::OriginalMissing);
        return false;
    };
    if state == State::Active {
        // SAFETY: ggml passes null or its own objects, which live as long as this call.
        if let (Some(params), Some(op)) = unsafe { (object(params), object(op)) } {
            // SAFETY: ggml passed `params` and `op` to the operation hook, and `caller` is the library that called.
            if committed(|| unsafe { operation::compute(caller, params, op) }) {
                return true;
            }
        } else {
            stats::event(Reason::GraphOdd);
        }
    }
    match caller.compute_forward {
        // SAFETY: the original is called with its own arguments.
        Some(original) => unsafe { original(params, op) },
        None => {
            stats::event(Reason::OriginalMissing);
            false
        }
    }
}

unsafe extern "C-unwind" fn norm_mul(params: *const ComputeParams, norm: *mut Tensor, mul: *mut Tensor, from: usize) {
    let state = first_ggml_call(); // first: the messages about the caller depend on this state
    let caller = guarded(None, || caller(from));
    if let (State::Active, Some(caller)) = (state, caller) {
        // SAFETY: ggml passes null or its own objects, which live as long as this call.
        if let (Some(params), Some(norm), Some(mul)) = unsafe { (object(params), object(norm), object(mul)) } {
            // SAFETY: ggml passed these to the hook of fused operations, and `caller` is the library that called.
            if committed(|| unsafe { operation::compute_norm_mul(caller, params, norm, mul) }) {
                return;
            }
        } else {
            stats::event(Reason::GraphOdd);
        }
    }
    let Some(original) = caller.and_then(|caller| caller.norm_mul).or_else(originals::norm_mul) else {
        stats::event(Reason::OriginalMissing);
        log::line(format_args!(
            "error: ggml_compute_forward_rms_norm_mul_fused was not found: a norm cannot be computed"
        ));
        // The results would be wrong without it.
        // SAFETY: abort has no preconditions.
        unsafe { libc::abort() }
    };
    // SAFETY: the original is called with its own arguments.
    unsafe { original(params, norm, mul) }
}

unsafe extern "C-unwind" fn work_size(threads: c_int, op: *const Tensor, size: *mut usize, from: usize) -> bool {
    first_ggml_call();
    match guarded(None, || caller(from)).and_then(|c| c.work_size) {
        // SAFETY: the original is called with its own arguments.
        Some(original) => unsafe { original(threads, op, size) },
        None => {
            stats::event(Reason::OriginalMissing);
            false
        }
    }
}

unsafe extern "C-unwind" fn graph_compute(cgraph: *mut c_void, cplan: *mut CPlan, from: usize) -> c_int {
    let state = first_ggml_call(); // first: the messages about the caller depend on this state
    let Some(caller) = guarded(None, || caller(from)) else {
        stats::event(Reason::OriginalMissing);
        return STATUS_FAILED;
    };
    let Some(original) = caller.graph_compute else {
        stats::event(Reason::OriginalMissing);
        log::line(format_args!("ggml_graph_compute of {} was not found: the graph cannot be computed", caller.path));
        return STATUS_FAILED;
    };
    let _when_it_ends = WhenGraphEnds;
    if state != State::Active {
        // SAFETY: the original is called with its own arguments.
        return unsafe { original(cgraph, cplan) };
    }
    // SAFETY: the program gave `cgraph` and `cplan` to the `ggml_graph_compute` of `caller`.
    let running = RunningGraph::begin(guarded(None, || unsafe { lifecycle::prepare(caller, cgraph, cplan) }));
    // SAFETY: the original is called with its own arguments. It may throw, because a callback of the program may.
    let status = unsafe { original(cgraph, cplan) };
    running.returned();
    status
}
