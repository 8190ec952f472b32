//! One thread's call for one operation of a graph.

use crate::config::{Fault, config};

use super::plan::Plan;
use super::{context, execute, ops};
use crate::gate::guard::fault;
use crate::ggml::abi::{ComputeParams, Tensor};
use crate::ggml::checked::object;
use crate::loader::{Abi, BoundLibrary, Op};
use crate::reason::Reason;
use crate::stats::{self, OpKind};

/// Computes an operation if the graph's plan says so; returns whether it was computed. The plan has made the decision
/// before, so all threads of the graph come to the same answer.
///
/// # Safety
/// `params` and `op` are what ggml passed to the operation hook of `caller`'s ggml.
#[inline]
pub unsafe fn compute(caller: &BoundLibrary, params: &ComputeParams, op: &Tensor) -> bool {
    let Some(abi) = &caller.abi else { return false };
    // SAFETY: `op` is a tensor of the ggml of `caller`, by the contract of this function.
    if !unsafe { abi.fits(op) } {
        return false;
    }
    let (kind, weights, reason) = match abi.op(op.op) {
        Op::Matrix(kind) => {
            let plan = context::find(params.wdata);
            let node = plan.and_then(|plan| plan.find(op));
            match planned(abi, params, plan, node.map(|node| (node, &node.decision))) {
                Ok((plan, node, job)) => {
                    if params.ith == 0 {
                        fault(Fault::Product);
                    }
                    // SAFETY: ggml passed `params` for the graph of `plan`, and `planned` has compared `nth` with its
                    // threads.
                    unsafe { execute::product::run(plan, node, job, abi, params) };
                    return true;
                }
                Err(reason) => (kind.counted(), op.src[0], reason),
            }
        }
        Op::Attention => {
            let plan = context::find(params.wdata);
            let node = plan.and_then(|plan| plan.attention.find(op));
            match planned(abi, params, plan, node.map(|node| (node, &node.decision))) {
                Ok((plan, node, job)) => {
                    if params.ith == 0 {
                        fault(Fault::Attention);
                    }
                    // SAFETY: ggml passed `params` for the graph of `plan`, and `planned` has compared `nth` with its
                    // threads.
                    unsafe { execute::attention::run(plan, node, job, abi, params) };
                    return true;
                }
                Err(reason) => (OpKind::FlashAttnExt, op.src[1], reason),
            }
        }
        // SAFETY: `params` and `op` are what ggml passed to the hook, and `op` is of this kind.
        Op::Other(kind) => return unsafe { ops::compute(abi, params, op, kind) },
        Op::Ordinary | Op::View | Op::Opaque => return false,
    };
    // Thread 0 counts for all. If the parameters are odd, the number of this thread may be wrong, so every thread
    // counts.
    if params.ith == 0 || reason == Reason::GraphOdd {
        // SAFETY: `weights` is a source of `op`: null, or a tensor of the same ggml.
        unsafe { count_declined(abi, kind, weights, reason) };
    }
    false
}

/// The same for a RMS_NORM and the MUL after it, of which ggml writes only the result of the MUL.
///
/// # Safety
/// `params`, `norm` and `mul` are what ggml passed to the hook of fused operations of `caller`'s ggml.
#[inline]
pub unsafe fn compute_norm_mul(caller: &BoundLibrary, params: &ComputeParams, norm: &Tensor, mul: &Tensor) -> bool {
    let Some(abi) = &caller.abi else { return false };
    // SAFETY: both are tensors of the ggml of `caller`, by the contract of this function.
    if !unsafe { abi.fits(norm) && abi.fits(mul) } {
        return false;
    }
    // SAFETY: the conditions are those of this function.
    unsafe { ops::compute_norm_mul(abi, params, norm, mul) }
}

/// The planned job of a node, or the reason why it is not computed here. The answer is the same for all threads.
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

/// Counts an operation that ggml computes, by the type of its weights (of attention: its keys).
unsafe fn count_declined(abi: &Abi, kind: OpKind, weights: *const Tensor, reason: Reason) {
    // SAFETY: the caller passes null or a tensor of the ggml of `abi`.
    let ty = unsafe { object(weights) }.map_or(-1, |t| t.ty);
    if ty >= 0 {
        let _ = abi.weight_type(ty); // makes its name known to the statistics
    }
    stats::declined(kind, u8::try_from(ty).unwrap_or(u8::MAX), reason);
    if config().invariant {
        stats::event(Reason::OrderNotKept);
    }
}
