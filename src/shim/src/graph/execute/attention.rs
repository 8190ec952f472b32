//! One thread's part of an attention.

use std::ops::Range;
use std::time::Instant;

use zen5turbo_kernels::attention::seen;
use zen5turbo_kernels::isa::LANES;

use super::claim_pieces::claim_pieces;
use crate::ggml::abi::ComputeParams;
use crate::graph::attention::{Job, Node, Order, part};
use crate::graph::plan::Plan;
use crate::loader::Abi;
use crate::stats::{self, OpKind};
use crate::threads::barrier;

/// Computes this thread's share of `job`. Every thread of the graph calls this for every job, because the barrier
/// inside needs all threads; no thread can decline after the plan's decision.
///
/// # Safety
/// `params` is what ggml passed for the graph that `plan` describes, `params.nth <= plan.threads`.
pub unsafe fn run(plan: &Plan, node: &Node, job: &Job, abi: &Abi, params: &ComputeParams) {
    let (ith, nth) = (params.ith as usize, params.nth as usize);
    let started = (ith == 0).then(Instant::now);
    plan.arrive(ith);
    // SAFETY: `decide` has checked the tensors, and `Plan::make` has laid out the scratch for this job. One thread
    // computes each piece.
    unsafe {
        match job.order {
            Order::Heads { cuts } => job.by_heads(cuts, plan, node, [ith, nth]),
            Order::Keys { parts, .. } => {
                job.by_keys(parts, plan, node, [ith, nth]);
                if parts > 1 {
                    if nth > 1 {
                        // All threads of the graph come here. After the barrier, every part of every query is computed.
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
        // SAFETY: `decide` has checked the mask, and nobody frees it while the graph is computed.
        let (bytes, macs) = unsafe { job.done() };
        stats::taken(OpKind::FlashAttnExt, node.ty, ns, bytes, macs);
    }
}

impl Job {
    /// The scratch of a thread, and the sums of that thread, which lie after the scratch.
    fn scratch(&self, plan: &Plan, ith: usize) -> (*mut u8, *mut f32) {
        let [scratch, ..] = plan.thread_scratch(ith);
        (scratch, scratch.wrapping_add(self.scratch_bytes()).cast())
    }

    /// Writes the result of query `row` of a group, see [`Attention::finish`].
    unsafe fn finish(&self, group: usize, row: usize, sums: *const f32, parts: usize, stride: usize) {
        let place = self.heads.place(group, row);
        // SAFETY: `decide` has checked the tensors, so the result lies in the result tensor. The caller has computed
        // the sums.
        unsafe { self.attention.finish(sums, parts, stride, self.heads.sink(&place), self.heads.result(&place)) };
    }

    /// See [`Order::Heads`].
    unsafe fn by_heads(&self, cuts: usize, plan: &Plan, node: &Node, [ith, nth]: [usize; 2]) {
        let (heads, attention) = (&self.heads, &self.attention);
        let (scratch, sums) = self.scratch(plan, ith);
        let mut products = 0;
        for i in claim_pieces(ith, nth, heads.groups() * cuts, &node.next.0) {
            let (group, cut) = (i % heads.groups(), i / heads.groups());
            let (from, to) = (cut * heads.rows() / cuts, (cut + 1) * heads.rows() / cuts);
            let query = |row: usize| heads.query(&heads.place(group, from + row), &self.slopes);
            // SAFETY: `decide` has checked the tensors, and the scratch is this thread's own. Only this thread computes
            // this piece.
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

    /// The keys of a batch that at least one of its queries sees, and a few keys before them, to begin with a whole
    /// vector. Programs keep room for more keys than there are (llama.cpp: a multiple of 256), and sliding-window
    /// attention does not see the oldest keys.
    ///
    /// # Safety
    /// The mask is readable.
    unsafe fn seen(&self, batch: usize) -> Range<usize> {
        // SAFETY: the mask is readable, by the contract of this function.
        let seen = unsafe { seen(0..self.heads.keys, self.heads.masks(batch)) }.unwrap_or(0..0);
        seen.start / LANES * LANES..seen.end
    }

    /// The bytes and multiply-adds of this attention, for the statistics. With [`Order::Keys`] only the keys that are
    /// seen count. With [`Order::Heads`] all keys are read, and every thread counts its own multiply-adds.
    ///
    /// # Safety
    /// The mask is readable.
    unsafe fn done(&self) -> (u64, u64) {
        let Order::Keys { .. } = self.order else { return (self.bytes, 0) };
        let all = self.heads.keys * self.heads.batches;
        // SAFETY: the mask is readable, by the contract of this function.
        let seen: usize = (0..self.heads.batches).map(|batch| unsafe { self.seen(batch) }.len()).sum();
        let of = |whole: u64| whole * seen as u64 / all.max(1) as u64;
        (of(self.bytes), of(self.macs))
    }

    /// See [`Order::Keys`]. If there are several parts, their sums are added up later, after the barrier.
    unsafe fn by_keys(&self, parts: usize, plan: &Plan, node: &Node, [ith, nth]: [usize; 2]) {
        let (heads, attention) = (&self.heads, &self.attention);
        let (scratch, own) = self.scratch(plan, ith);
        let (len, rows, count) = (attention.sums_len(), heads.rows(), heads.key_heads());
        for i in claim_pieces(ith, nth, parts * heads.batches, &node.next.0) {
            let (number, batch) = (i / heads.batches, i % heads.batches);
            let first = batch * count;
            let at = number * self.all_rows() + first * rows;
            let sums = if parts == 1 { own } else { plan.shared_attention().wrapping_add(at * len) };
            let query = |head: usize, row: usize| heads.query(&heads.place(first + head, row), &self.slopes);
            // SAFETY: `decide` has checked the tensors, and the scratch is this thread's own. Only this thread computes
            // this piece, so only this thread writes its sums.
            unsafe {
                let keys = part(self.seen(batch), number, parts);
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
