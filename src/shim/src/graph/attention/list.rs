//! The attentions of a graph: this part of a plan.

use std::sync::atomic::AtomicUsize;

use super::decide::decide;
use super::job::Job;
use crate::ggml::abi::Tensor;
use crate::graph::index::Index;
use crate::graph::padded::Padded;
use crate::loader::Abi;
use crate::reason::Reason;
use crate::stats::{self, OpKind};
use crate::tuning::Regime;

/// The attentions of a graph.
pub struct Attentions {
    nodes: Vec<Node>,
    index: Index,
}

/// One attention.
pub struct Node {
    op: *const Tensor,
    /// The number of the type of its keys.
    pub ty: u8,
    pub decision: Result<Job, Reason>,
    /// The number of pieces that threads have taken, without each thread's first piece.
    pub next: Padded<AtomicUsize>,
}

impl Attentions {
    /// Without attentions; takes no memory.
    pub const fn new() -> Self {
        Attentions { nodes: Vec::new(), index: Index::new() }
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.nodes.clear();
    }

    /// Plans one for `threads` threads.
    ///
    /// # Safety
    /// `op`, a `FLASH_ATTN_EXT`, is a node of a graph of the ggml that `abi` belongs to, its tensors allocated.
    pub unsafe fn push(&mut self, abi: &Abi, op: &Tensor, threads: usize) {
        // SAFETY: `op` is an attention of the ggml of `abi`, its tensors allocated, by the contract of this function.
        let decision = unsafe { decide(abi, op, threads) };
        // SAFETY: the sources of a tensor of ggml are null or tensors that live as long.
        let ty = unsafe { op.source(1) }.map_or(u8::MAX, |k| u8::try_from(k.ty).unwrap_or(u8::MAX));
        if let Ok(job) = &decision {
            let regime = Regime::of(job.heads.tokens);
            stats::set_kernel(OpKind::FlashAttnExt, ty, regime.name(), job.attention.kernel.isa.name());
        }
        self.nodes.push(Node { op, ty, decision, next: Padded::default() });
    }

    /// Builds the index; called after the last [`Self::push`].
    pub fn build_index(&mut self) {
        self.index.build(self.nodes.iter().map(|node| node.op));
    }

    /// Leaves all of them to ggml.
    pub fn decline(&mut self, reason: Reason) {
        for node in self.nodes.iter_mut().filter(|node| node.decision.is_ok()) {
            node.decision = Err(reason);
        }
    }

    fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.nodes.iter().filter_map(|node| node.decision.as_ref().ok())
    }

    /// Bytes of scratch that every thread needs.
    pub fn thread_bytes(&self) -> usize {
        self.jobs().map(Job::thread_bytes).max().unwrap_or(0)
    }

    /// Bytes that all threads share.
    pub fn shared_bytes(&self) -> usize {
        self.jobs().map(Job::shared_bytes).max().unwrap_or(0)
    }

    /// The node for an operation of this graph.
    #[inline]
    pub fn find(&self, op: *const Tensor) -> Option<&Node> {
        self.index.find(op, |i| self.nodes[i].op).map(|i| &self.nodes[i])
    }
}
