//! One thread's part of a product.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::plan::{Job, Node, Plan};
use crate::ggml::abi::ComputeParams;
use crate::ggml::probe::Abi;
use crate::stats;

/// Computes this thread's share of `job`. Every thread of the graph calls this for every job: past
/// the decision nobody can decline, and the barrier inside needs them all.
///
/// # Safety
/// `params` is what ggml passed for the graph that `plan` describes, `params.nth <= plan.threads`.
pub unsafe fn run(plan: &Plan, node: &Node, job: &Job, abi: &Abi, params: &ComputeParams) {
    let ith = params.ith as usize;
    let started = (ith == 0).then(Instant::now);
    let (panel, private) = plan.thread_scratch(ith);
    // SAFETY: by contract; the scratch was laid out for this job by `Plan::make`.
    unsafe {
        let act = if job.act.private {
            prepare_private(plan, job, ith, private);
            private
        } else {
            prepare_shared(plan, job, abi, params);
            plan.shared_activations()
        };
        compute(plan, node, job, act, panel);
    }
    if let Some(started) = started {
        stats::taken(node.kind, node.ty, started.elapsed().as_nanos() as u64, job.bytes, job.macs);
    }
}

/// Bytes of the quantised activations of one slice.
fn slice_bytes(job: &Job) -> usize {
    job.take.kernel.act.bytes(job.take.k, job.columns.per_slice)
}

/// Quantises tile `i` of all slices' tiles.
unsafe fn quantize(job: &Job, i: usize, act: *mut u8) {
    let (slice, tile) = (i / job.columns.tiles.count, i % job.columns.tiles.count);
    // SAFETY: `act` has room for all slices.
    unsafe {
        let act = act.add(slice * slice_bytes(job));
        job.take.kernel.quantize_tile(job.take.k, job.columns.tiles, tile, act, |c| job.columns.source(slice, c));
    }
}

/// Activations of this thread's own, unless the previous product left the same ones.
unsafe fn prepare_private(plan: &Plan, job: &Job, ith: usize, act: *mut u8) {
    let prepared = &plan.prepared[ith].0;
    if prepared.load(Ordering::Relaxed) == job.act.id {
        return;
    }
    for i in 0..job.columns.tiles.count * job.columns.slices {
        // SAFETY: this thread's own scratch.
        unsafe { quantize(job, i, act) };
    }
    prepared.store(job.act.id, Ordering::Relaxed);
}

/// Activations that all threads make together, unless an earlier product left the same ones.
unsafe fn prepare_shared(plan: &Plan, job: &Job, abi: &Abi, params: &ComputeParams) {
    let prepared = &plan.prepared[plan.threads].0;
    // All threads read this before thread 0 changes it: that happens behind the barrier.
    if prepared.load(Ordering::Relaxed) == job.act.id {
        return;
    }
    let (ith, nth) = (params.ith as usize, params.nth as usize);
    let act = plan.shared_activations();
    for i in (ith..job.columns.tiles.count * job.columns.slices).step_by(nth) {
        // SAFETY: every tile is written by one thread; the previous product's readers passed the
        // barrier between the nodes.
        unsafe { quantize(job, i, act) };
    }
    // SAFETY: all threads of the graph come here.
    unsafe { (abi.barrier)(params.threadpool) };
    if ith == 0 {
        prepared.store(job.act.id, Ordering::Relaxed);
    }
}

/// Takes pieces until none is left.
unsafe fn compute(plan: &Plan, node: &Node, job: &Job, act: *const u8, panel: *mut u8) {
    loop {
        let i = node.next.0.fetch_add(1, Ordering::Relaxed);
        if i >= job.pieces.count {
            return;
        }
        let (slice, panels, tiles) = job.pieces.get(i);
        // SAFETY: `policy` checked the tensors; a piece is computed by one thread.
        unsafe {
            let product = job.columns.product(slice, &job.take, act.add(slice * slice_bytes(job)));
            job.take.kernel.multiply(&product, panels, tiles, &plan.blocking, panel, |c| job.columns.result(slice, c));
        }
    }
}
