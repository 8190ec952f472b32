//! What each operation of a graph reads, writes and shares: the input of [`super::independent`].

use std::ffi::c_void;
use std::mem;

use super::attention::Order;
use super::independent::{Access, Independent, Shared, Step};
use super::plan::{Plan, extent};
use crate::ggml::abi::Tensor;
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
        Op::Ordinary | Op::Opaque => None,
    };
    let Some(shared) = shared else { return Step::Unknown };
    // SAFETY: the sources of a tensor of this graph are null or tensors that live as long.
    let reads = std::array::from_fn(|i| extent(abi, unsafe { op.source(i) }));
    Step::Known(Access { reads, writes: extent(abi, Some(op)), shared })
}
