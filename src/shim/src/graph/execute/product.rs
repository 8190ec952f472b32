//! One thread's part of a matrix product.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use zen5turbo_kernels::isa::LANES;

use super::claim_pieces::{claim_cut, claim_pieces};
use crate::ggml::abi::ComputeParams;
use crate::graph::dense::{Columns, Pieces};
use crate::graph::expert_pieces::Cut;
use crate::graph::experts::Experts;
use crate::graph::groups::Groups;
use crate::graph::plan::{Job, Node, Plan, Share, Work};
use crate::loader::Abi;
use crate::stats;
use crate::threads::barrier;
use crate::weights::reader;

/// Computes this thread's share of `job`. Every thread of the graph calls this for every job, because the barrier inside
/// needs all threads; no thread can decline after the plan's decision.
///
/// # Safety
/// `params` is what ggml passed for the graph that `plan` describes, `params.nth <= plan.threads`.
pub unsafe fn run(plan: &Plan, node: &Node, job: &Job, abi: &Abi, params: &ComputeParams) {
    let ith = params.ith as usize;
    let started = (ith == 0).then(Instant::now);
    plan.arrive(ith);
    if ith == 0
        && let Some(place) = node.place
    {
        reader::reached(place);
    }
    let [panel, private, memory] = plan.thread_scratch(ith);
    // SAFETY: `Plan::make` has laid out the scratch for this job and for `plan.threads` threads. This is one of these
    // threads, by the contract of this function.
    unsafe {
        let worker = Worker { plan, job, abi, params, panel, private };
        match &job.work {
            Work::Dense(columns, pieces) => match worker.share(node) {
                None => dense(&worker, columns, pieces, [ith, params.nth as usize], &node.next.0),
                Some(Share { panels, rank, threads, next }) => {
                    let pieces = columns.pieces(panels, threads);
                    dense(&worker, columns, &pieces, [rank, threads], next);
                }
            },
            Work::Experts(experts) => {
                let grouped = &plan.progress[ith].0.grouped;
                let done = grouped.load(Ordering::Relaxed) == job.group_id;
                let groups = experts.ids.group(memory, done);
                grouped.store(job.group_id, Ordering::Relaxed);
                match worker.share(node) {
                    None => {
                        let workers = [ith, params.nth as usize];
                        picked(&worker, experts, (&groups, experts.cut), workers, &node.next.0);
                    }
                    Some(Share { panels, rank, threads, next }) => {
                        picked(&worker, experts, (&groups, experts.cut_of(panels, threads)), [rank, threads], next);
                    }
                }
            }
        }
    }
    if let Some(started) = started {
        stats::taken(node.kind.counted(), node.ty, started.elapsed().as_nanos() as u64, job.bytes, job.macs);
    }
}

/// A thread of a graph, with the job and its scratch.
struct Worker<'a> {
    plan: &'a Plan,
    job: &'a Job,
    abi: &'a Abi,
    params: &'a ComputeParams,
    panel: *mut u8,
    private: *mut u8,
}

impl<'a> Worker<'a> {
    /// With shares, the part of the product that belongs to this thread's NUMA node.
    #[inline]
    fn share(&self, node: &Node) -> Option<Share<'a>> {
        let panels = self.job.selection.rows.div_ceil(LANES);
        self.plan.share(node, self.params.ith as usize, self.params.nth as usize, panels)
    }

    /// Bytes of `n` quantised columns.
    fn bytes(&self, n: usize) -> usize {
        self.job.selection.kernel.act.bytes(self.job.selection.k, n)
    }

    /// The quantised activations. Unless the product before left the same ones, `quantize(first, step, to)` makes them:
    /// it quantises every `step`-th tile from `first` on.
    unsafe fn activations(&self, quantize: impl Fn(usize, usize, *mut u8)) -> *const u8 {
        let (plan, act) = (self.plan, &self.job.act);
        let (ith, nth) = (self.params.ith as usize, self.params.nth as usize);
        let progress = &plan.progress[ith].0;
        if act.private {
            if progress.private.load(Ordering::Relaxed) != act.id {
                quantize(0, 1, self.private);
                progress.private.store(act.id, Ordering::Relaxed);
            }
            return self.private;
        }
        let shared = plan.shared_activations();
        // Every thread has come through the same products, so all threads decide alike.
        if progress.shared.load(Ordering::Relaxed) != act.id {
            // No thread reads the activations of a product before: all threads have passed ggml's barrier behind it.
            quantize(ith, nth, shared);
            if nth > 1 {
                // SAFETY: all threads of the graph come here; the pool and the barrier are those of its ggml.
                unsafe { barrier::meet(self.params.threadpool, self.abi.barrier()) };
            }
            progress.shared.store(act.id, Ordering::Relaxed);
        }
        shared
    }
}

/// MUL_MAT, computed by thread `rank` of the `workers` that share the pieces.
unsafe fn dense(
    worker: &Worker<'_>,
    columns: &Columns,
    pieces: &Pieces,
    [rank, workers]: [usize; 2],
    next: &AtomicUsize,
) {
    let selection = &worker.job.selection;
    let slice_bytes = worker.bytes(columns.per_slice);
    // SAFETY: `policy` has checked the tensors, and the scratch has room for all slices. One thread quantises each
    // tile, and one thread computes each piece.
    unsafe {
        let act = worker.activations(|first, step, to| {
            for i in (first..columns.tiles.count * columns.slices).step_by(step) {
                let (slice, tile) = (i / columns.tiles.count, i % columns.tiles.count);
                let to = to.add(slice * slice_bytes);
                selection.kernel.quantize_tile(selection.k, columns.tiles, tile, to, |c| columns.source(slice, c));
            }
        });
        for i in claim_pieces(rank, workers, pieces.count, next) {
            let (slice, panels, tiles) = pieces.get(i);
            let product = columns.product(slice, selection, act.add(slice * slice_bytes));
            let result = |c| columns.result(slice, c);
            selection.kernel.multiply(&product, panels, tiles, &worker.plan.blocking, worker.panel, result);
        }
    }
}

/// MUL_MAT_ID, computed by thread `rank` of the `workers` that share the pieces.
unsafe fn picked(
    worker: &Worker<'_>,
    experts: &Experts,
    (groups, cut): (&Groups<'_>, Cut),
    [rank, workers]: [usize; 2],
    next: &AtomicUsize,
) {
    // SAFETY: `policy` has checked the tensors, and the scratch has room for all columns. One thread quantises each
    // tile, and one thread computes each piece.
    unsafe {
        let act = worker.activations(|first, step, to| experts.quantize(groups, first, step, to));
        for piece in claim_cut(cut.cursor(groups), rank, workers, next) {
            experts.multiply(groups, piece, act, &worker.plan.blocking, worker.panel);
        }
    }
}
