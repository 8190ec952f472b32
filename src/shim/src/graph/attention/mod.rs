//! Attention (`FLASH_ATTN_EXT`): which ones are computed here, and one thread's part of them.
//!
//! Query heads that share a head of keys and values are computed together, several tokens at a time. Many tokens are cut by
//! heads and tokens ([`Order::Heads`]). Few tokens read keys and values once, so they are cut by keys, and the heads of a key,
//! which lie beside each other, are computed one after the other ([`Order::Keys`]); what the parts give is put together at the end.

mod decide;
mod heads;
mod order;

use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use zen5turbo_kernels::attention::{Attention, Scale, seen};
use zen5turbo_kernels::formats::{LINE, WeightType};
use zen5turbo_kernels::isa::LANES;

use super::execute::turns;
use super::index::Index;
use super::plan::{Padded, Plan};
use crate::ggml::abi::{ComputeParams, Tensor};
use crate::loader::Abi;
use crate::reason::Reason;
use crate::stats::{self, OpKind};
use crate::threads::barrier;
use crate::tuning::Regime;
use decide::decide;
use heads::Heads;
use order::{Order, Work};

/// The attentions of a graph.
pub struct Attentions {
    nodes: Vec<Node>,
    index: Index,
}

/// One attention.
pub struct Node {
    op: *const Tensor,
    /// Number of the type of its keys.
    ty: u8,
    pub decision: Result<Job, Reason>,
    /// Counts the pieces given out beyond each thread's first.
    next: Padded<AtomicUsize>,
}

/// An attention that is taken over.
pub struct Job {
    heads: Heads,
    attention: Attention,
    scale: Scale,
    /// See [`Heads::slopes`].
    slopes: Vec<f32>,
    order: Order,
    /// Of all keys and values, each read once; and products, for the statistics.
    bytes: u64,
    macs: u64,
    /// Of one query and one key.
    macs_of_product: u64,
}

impl Job {
    fn new(
        op: &Tensor,
        heads: Heads,
        attention: Attention,
        ((key_type, key_len), (value_type, value_len)): ((WeightType, usize), (WeightType, usize)),
        threads: usize,
    ) -> Self {
        let [scale, max_bias, cap] = [0, 1, 2].map(|i| f32::from_bits(op.op_params[i] as u32));
        let row_bytes = [key_type.row_bytes(key_len), value_type.row_bytes(value_len)];
        let read = heads.groups() / heads.batches_sharing * heads.keys;
        let macs = heads.groups() * heads.rows() * heads.keys * (key_len + value_len);
        let bytes = read * (row_bytes[0] + row_bytes[1]);
        let work = Work {
            rows: heads.rows(),
            groups: heads.groups(),
            batches: heads.batches,
            keys: heads.keys,
            bytes,
            sums: 4 * attention.sums_len() * heads.groups() * heads.rows(),
            most_rows: attention.most_queries(),
        };
        Job {
            scale: Scale { scale: if cap == 0.0 { scale } else { scale / cap }, cap },
            slopes: heads.slopes(max_bias, |x| attention.exp(x)),
            order: Order::choose(&work, threads),
            bytes: bytes as u64,
            macs: macs as u64,
            macs_of_product: (key_len + value_len) as u64,
            heads,
            attention,
        }
    }

    /// Queries of all groups.
    fn all_rows(&self) -> usize {
        self.heads.groups() * self.heads.rows()
    }

    /// Sums that a thread keeps for itself; behind its scratch.
    fn own_rows(&self) -> usize {
        match self.order {
            Order::Heads { .. } => self.attention.most_queries(),
            Order::Keys { parts: 1, .. } => self.all_rows() / self.heads.batches,
            Order::Keys { .. } => 0,
        }
    }

    /// Bytes of scratch before them.
    fn scratch_bytes(&self) -> usize {
        match self.order {
            Order::Heads { .. } => self.attention.scratch_bytes(),
            Order::Keys { .. } => {
                self.attention.heads_scratch_bytes(self.heads.key_heads(), self.heads.rows()).next_multiple_of(LINE)
            }
        }
    }

    fn thread_bytes(&self) -> usize {
        self.scratch_bytes() + 4 * self.attention.sums_len() * self.own_rows()
    }

    fn shared_bytes(&self) -> usize {
        match self.order {
            Order::Keys { parts, .. } if parts > 1 => 4 * self.attention.sums_len() * parts * self.all_rows(),
            _ => 0,
        }
    }
}

impl Attentions {
    /// None; takes no memory.
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
        // SAFETY: by contract.
        let decision = unsafe { decide(abi, op, threads) };
        // SAFETY: as above.
        let ty = unsafe { op.source(1) }.map_or(u8::MAX, |k| u8::try_from(k.ty).unwrap_or(u8::MAX));
        if let Ok(job) = &decision {
            let regime = Regime::of(job.heads.tokens);
            stats::set_kernel(OpKind::FlashAttnExt, ty, regime.name(), job.attention.kernel.isa.name());
        }
        self.nodes.push(Node { op, ty, decision, next: Padded::default() });
    }

    /// To be called when all are there.
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

/// Computes this thread's share of `job`. Every thread of the graph calls this for every job: past the decision nobody
/// can decline, and the barrier inside needs them all.
///
/// # Safety
/// `params` is what ggml passed for the graph that `plan` describes, `params.nth <= plan.threads`.
pub unsafe fn run(plan: &Plan, node: &Node, job: &Job, abi: &Abi, params: &ComputeParams) {
    let (ith, nth) = (params.ith as usize, params.nth as usize);
    let started = (ith == 0).then(Instant::now);
    plan.arrive(ith);
    // SAFETY: `decide` checked the tensors; the scratch was laid out for this job by `Plan::make`; every piece is one
    // thread's.
    unsafe {
        match job.order {
            Order::Heads { cuts } => job.by_heads(cuts, plan, node, [ith, nth]),
            Order::Keys { parts, .. } => {
                job.by_keys(parts, plan, node, [ith, nth]);
                if parts > 1 {
                    if nth > 1 {
                        // all threads of the graph come here; then every part of every query is done
                        barrier::meet(params.threadpool, abi.barrier());
                    }
                    let stride = job.all_rows() * job.attention.sums_len();
                    for row in (ith..job.all_rows()).step_by(nth) {
                        let sums = plan.shared_attention().add(row * job.attention.sums_len());
                        job.finish(row / job.heads.rows(), row % job.heads.rows(), sums, parts, stride);
                    }
                }
            }
        }
    }
    if let Some(started) = started {
        let ns = started.elapsed().as_nanos() as u64;
        // SAFETY: as above.
        let (bytes, macs) = unsafe { job.done() };
        stats::taken(OpKind::FlashAttnExt, node.ty, ns, bytes, macs);
    }
}

impl Job {
    /// A thread's scratch, and its own sums behind it.
    fn scratch(&self, plan: &Plan, ith: usize) -> (*mut u8, *mut f32) {
        let [scratch, ..] = plan.thread_scratch(ith);
        (scratch, scratch.wrapping_add(self.scratch_bytes()).cast())
    }

    /// The result of query `row` of a group, see [`Attention::finish`].
    unsafe fn finish(&self, group: usize, row: usize, sums: *const f32, parts: usize, stride: usize) {
        let place = self.heads.place(group, row);
        // SAFETY: as in `run`.
        unsafe { self.attention.finish(sums, parts, stride, self.heads.sink(&place), self.heads.result(&place)) };
    }

    /// See [`Order::Heads`].
    unsafe fn by_heads(&self, cuts: usize, plan: &Plan, node: &Node, [ith, nth]: [usize; 2]) {
        let (heads, attention) = (&self.heads, &self.attention);
        let (scratch, sums) = self.scratch(plan, ith);
        let mut products = 0;
        for i in turns(ith, nth, heads.groups() * cuts, &node.next.0) {
            let (group, cut) = (i % heads.groups(), i / heads.groups());
            let (from, to) = (cut * heads.rows() / cuts, (cut + 1) * heads.rows() / cuts);
            let query = |row: usize| heads.query(&heads.place(group, from + row), &self.slopes);
            // SAFETY: as in `run`.
            unsafe {
                attention.clear(to - from, sums);
                products +=
                    attention.add(&heads.shared(group, self.scale), 0..heads.keys, to - from, query, sums, scratch);
                for row in from..to {
                    self.finish(group, row, sums.add((row - from) * attention.sums_len()), 1, 0);
                }
            }
        }
        stats::computed_part(OpKind::FlashAttnExt, node.ty, products as u64 * self.macs_of_product);
    }

    /// The keys of a batch that any of its queries sees, and some before them: whole vectors. Programs keep room for more
    /// keys than there are (llama.cpp: a multiple of 256), and a window leaves the oldest ones behind.
    ///
    /// # Safety
    /// The mask is readable.
    unsafe fn seen(&self, batch: usize) -> Range<usize> {
        // SAFETY: by contract.
        let seen = unsafe { seen(0..self.heads.keys, self.heads.masks(batch)) }.unwrap_or(0..0);
        seen.start / LANES * LANES..seen.end
    }

    /// The bytes and products of the keys that were gone through: with [`Order::Keys`] those that are seen. With
    /// [`Order::Heads`] all keys are read, and every thread counts its own products.
    ///
    /// # Safety
    /// The mask is readable.
    unsafe fn done(&self) -> (u64, u64) {
        let Order::Keys { .. } = self.order else { return (self.bytes, 0) };
        let all = self.heads.keys * self.heads.batches;
        // SAFETY: by contract.
        let seen: usize = (0..self.heads.batches).map(|batch| unsafe { self.seen(batch) }.len()).sum();
        let of = |whole: u64| whole * seen as u64 / all.max(1) as u64;
        (of(self.bytes), of(self.macs))
    }

    /// See [`Order::Keys`]. Sums of several parts are left to be put together.
    unsafe fn by_keys(&self, parts: usize, plan: &Plan, node: &Node, [ith, nth]: [usize; 2]) {
        let (heads, attention) = (&self.heads, &self.attention);
        let (scratch, own) = self.scratch(plan, ith);
        let (len, rows, count) = (attention.sums_len(), heads.rows(), heads.key_heads());
        for i in turns(ith, nth, parts * heads.batches, &node.next.0) {
            let (part, batch) = (i / heads.batches, i % heads.batches);
            let first = batch * count;
            let at = part * self.all_rows() + first * rows;
            let sums = if parts == 1 { own } else { plan.shared_attention().wrapping_add(at * len) };
            let query = |head: usize, row: usize| heads.query(&heads.place(first + head, row), &self.slopes);
            // SAFETY: as in `run`.
            unsafe {
                let keys = order::part(self.seen(batch), part, parts);
                attention.clear(count * rows, sums);
                attention.add_heads(&heads.all(batch, self.scale), keys, rows, query, sums, scratch);
                if parts == 1 {
                    for row in 0..count * rows {
                        self.finish(first + row / rows, row % rows, sums.add(row * len), 1, 0);
                    }
                }
            }
        }
    }
}
