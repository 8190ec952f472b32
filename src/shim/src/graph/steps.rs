//! What each operation of a graph reads, writes and shares: the input of [`super::independent`].
//!
//! An operation that is computed here, and that is neither a product nor attention, has barriers before and after it.

use std::ffi::c_void;
use std::mem;

use super::attention::Order;
use super::independent::{Access, Independent, Shared, Step};
use super::plan::{Plan, extent};
use crate::ggml::abi::{TYPE_F32, Tensor};
use crate::loader::{Abi, Op};

/// Finds the operations of a graph after which threads do not wait.
///
/// # Safety
/// `plan` was just made for `cgraph`, with `abi`.
pub unsafe fn find_independent(plan: &mut Plan, abi: &Abi, cgraph: *mut c_void) {
    let mut independent = mem::replace(&mut plan.independent, Independent::new());
    // SAFETY: `cgraph` is a graph of the ggml of `abi`, by the contract of this function.
    let nodes = unsafe { abi.nodes(cgraph) }.into_iter().flatten().flatten();
    // SAFETY: the nodes are tensors of this graph.
    independent.find(nodes.map(|op| (op, unsafe { step(plan, abi, op) })));
    plan.independent = independent;
}

/// Whether rows may have to be converted by way of F32, which needs the work buffer: unless they are F32, and become
/// plain numbers.
///
/// # Safety
/// `op` is a tensor of the ggml of `abi`, and so are its sources, which live as long.
unsafe fn converts_twice(abi: &Abi, op: &Tensor) -> bool {
    let becomes_numbers = abi.weight_type(op.ty).is_some_and(|ty| ty.block().0 == 1);
    // SAFETY: the sources are null or tensors that live as long, by the contract of this function.
    !becomes_numbers || unsafe { op.source(0) }.is_none_or(|rows| rows.ty != TYPE_F32)
}

/// # Safety
/// `op` is a node of the graph for which `plan` was made.
unsafe fn step(plan: &Plan, abi: &Abi, op: &Tensor) -> Step {
    let shared = match abi.op(op.op) {
        Op::View => return Step::Nothing,
        Op::Matrix(_) => plan.find(op).and_then(|node| node.decision.as_ref().ok()).map(|job| match job.act.private {
            true => Shared::Nothing,
            false => Shared::Activations(job.act.id),
        }),
        Op::Attention => {
            let job = plan.attention.find(op).and_then(|node| node.decision.as_ref().ok());
            job.map(|job| match job.order {
                Order::Heads { .. } => Shared::Nothing,
                Order::Keys { .. } => Shared::Sums,
            })
        }
        Op::Simple { uses_work: true } => Some(Shared::Work),
        // SAFETY: the sources of a tensor of this graph are null or tensors that live as long.
        Op::Simple { .. } if unsafe { converts_twice(abi, op) } => Some(Shared::Work),
        Op::Simple { .. } => Some(Shared::Nothing),
        Op::Other(_) | Op::Ordinary | Op::Opaque => None,
    };
    let Some(shared) = shared else { return Step::Unknown };
    // SAFETY: the sources of a tensor of this graph are null or tensors that live as long.
    let reads = std::array::from_fn(|i| extent(abi, unsafe { op.source(i) }));
    Step::Known(Access { reads, writes: extent(abi, Some(op)), shared })
}
