//! Operations that are no products: elementwise ones, norms, copies, and those of recurrent layers.
//!
//! They are not planned. Every thread decides for itself from the operation's tensors, and so all threads decide alike.
//! They divide the rows, or parts of rows, by their numbers, and do not wait for each other: ggml's barrier follows.
//!
//! A result may lie where a source lies, if both have the same layout: an element is read before it is written, by the
//! same thread. Any other overlap is left to ggml.

mod concat;
mod elementwise;
mod layout;
mod norm;
mod order;
mod recurrent;
mod rope;
mod scan;
mod share;
mod soft_max;

use zen5turbo_kernels::ops::{Functions, Operation, functions};

use crate::config::{KernelChoice, config};
use crate::gate::state;
use crate::ggml::abi::{ComputeParams, Tensor};
use crate::loader::Abi;
use crate::reason::Reason;
use crate::stats;
use share::Threads;

/// An operation that is computed here, with everything that its threads need.
trait Job {
    /// Computes the part of one thread.
    ///
    /// # Safety
    /// The tensors that the job was made of are allocated, and no other thread has the same number.
    unsafe fn run(&self, threads: Threads);

    /// The bytes that all threads read and write, for the statistics.
    fn bytes(&self) -> u64;
}

/// Computes this thread's part of an operation; returns whether it was computed. The answer is the same for all threads.
///
/// # Safety
/// `params` and `op`, an operation of this kind, are what ggml passed to the operation hook of the ggml of `abi`.
#[inline]
pub unsafe fn compute(abi: &Abi, params: &ComputeParams, op: &Tensor, kind: Operation) -> bool {
    // SAFETY: `params` and `op` are those of ggml, by the contract of this function. ggml computes the operation now, so
    // its tensors are allocated.
    counted(params, kind, || unsafe {
        let (functions, threads) = ready(abi, params, op, kind)?;
        match kind {
            Operation::Add | Operation::Sub | Operation::Mul | Operation::Div => {
                run(&elementwise::binary(op, kind, functions)?, threads)
            }
            Operation::Glu => run(&elementwise::glu(abi, op, functions)?, threads),
            Operation::Unary => run(&elementwise::unary(abi, op, functions)?, threads),
            Operation::RmsNorm => run(&norm::norm(op, functions.rms_norm)?, threads),
            Operation::L2Norm => run(&norm::norm(op, functions.l2_norm)?, threads),
            Operation::Concat => run(&concat::concat(op)?, threads),
            Operation::SsmConv => run(&recurrent::ssm_conv(op, functions)?, threads),
            Operation::GatedDeltaNet => run(&recurrent::delta_net(op, functions)?, threads),
            Operation::SoftMax => run(&soft_max::soft_max(abi, op, functions)?, threads),
            Operation::Argsort => run(&order::order(abi, op, functions)?, threads),
            Operation::Rope => run(&rope::rope(abi, op, functions)?, threads),
            Operation::SsmScan => run(&scan::scan(abi, op, functions)?, threads),
        }
    })
}

/// The same for a RMS_NORM and the MUL after it, which counts as a RMS_NORM. Nothing is written to the norm's result.
///
/// # Safety
/// `params`, `norm` and `mul` are what ggml passed to the hook of fused operations of the ggml of `abi`.
#[inline]
pub unsafe fn compute_norm_mul(abi: &Abi, params: &ComputeParams, norm: &Tensor, mul: &Tensor) -> bool {
    // SAFETY: as in `compute`.
    counted(params, Operation::RmsNorm, || unsafe {
        let (functions, threads) = ready(abi, params, mul, Operation::RmsNorm)?;
        run(&norm::norm_mul(norm, mul, functions.rms_norm)?, threads)
    })
}

/// Counts an operation that `compute` has computed, with its bytes, or has not, with the reason.
#[inline]
fn counted(params: &ComputeParams, kind: Operation, compute: impl FnOnce() -> Result<u64, Reason>) -> bool {
    let config = config();
    if config.kernels == KernelChoice::Off || !config.ops.have(kind) {
        return false; // the user knows, and the document holds the settings: nothing to count
    }
    let proved = config.kernels != KernelChoice::Exact || kind.is_exact();
    match if proved { compute() } else { Err(Reason::KernelsExact) } {
        Ok(bytes) => {
            if params.ith == 0 {
                stats::other_taken(kind, bytes);
            }
            true
        }
        Err(reason) => {
            if params.ith == 0 {
                stats::other_declined(kind, reason);
            }
            false
        }
    }
}

/// With fewer elements of the result ggml's own code is faster: what is found out about the tensors takes 0.1 us. A DIV of 8
/// elements takes 0.06 us in ggml and 0.20 us here, one of 2048 elements 6.6 and 4.0 (Zen 4, 2026-11-30).
const FEWEST_ELEMENTS: i64 = 256;

/// The same for sorting, of which an element takes longer: 64 numbers take 0.33 us in ggml and 0.37 here, 128 numbers 4.3
/// in ggml (Zen 4, 2026-11-30).
const FEWEST_TO_SORT: i64 = 128;

/// The functions and the threads for an operation of this kind, or why it is left to ggml.
#[inline]
fn ready(
    abi: &Abi,
    params: &ComputeParams,
    op: &Tensor,
    kind: Operation,
) -> Result<(&'static Functions, Threads), Reason> {
    if abi.has_use_ref && params.use_ref {
        return Err(Reason::UseRef);
    }
    if !params.are_sound() {
        return Err(Reason::GraphOdd);
    }
    let fewest = if kind == Operation::Argsort { FEWEST_TO_SORT } else { FEWEST_ELEMENTS };
    // Without this condition the tokens of a batch, which make an operation larger, do not decide who computes it.
    if op.ne.iter().product::<i64>() < fewest && !config().invariant {
        return Err(Reason::StockIsFaster);
    }
    let functions = functions(state::isa()).ok_or(Reason::OpNotSupported)?;
    Ok((functions, Threads { ith: params.ith as usize, nth: params.nth as usize }))
}

/// # Safety
/// As [`Job::run`].
#[inline]
unsafe fn run(job: &impl Job, threads: Threads) -> Result<u64, Reason> {
    // SAFETY: the caller promises what `Job::run` asks for.
    unsafe { job.run(threads) };
    Ok(job.bytes())
}
