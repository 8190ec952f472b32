//! Decides for one matrix product: which kernel computes it, or why it is left to ggml.

use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::kernel::Kernel;
use zen5turbo_kernels::registry;

use crate::config::{KernelChoice, config};
use crate::gate::state;
use crate::ggml::abi::{HINT_NONE, TYPE_F32, Tensor};
use crate::ggml::checked::{is_address, object};
use crate::loader::{Abi, MatrixOp};
use crate::reason::Reason;
use crate::tuning::{self, Regime};

/// A product to be computed here.
#[derive(Clone, Copy)]
pub struct Selection {
    pub kernel: &'static Kernel,
    pub regime: Regime,
    /// Rows of the weights.
    pub rows: usize,
    /// Elements of a row.
    pub k: usize,
}

/// The kernel that computes `op`, a matrix product, or the reason why `op` is left to ggml.
///
/// # Safety
/// `op` and its sources are tensors of the ggml that `abi` belongs to.
pub unsafe fn decide(abi: &Abi, kind: MatrixOp, op: &Tensor) -> Result<Selection, Reason> {
    // SAFETY: `op` and its sources are tensors of the ggml of `abi`, by the contract of this function.
    let selection = unsafe { decide_unplaced(abi, kind, op)? };
    // SAFETY: `decide_unplaced` has found both sources.
    let (weights, activations) = unsafe { ((*op.src[0]).data, (*op.src[1]).data) };
    let placed = is_address::<u8>(weights.cast()) && [activations, op.data].iter().all(|p| is_address::<f32>(p.cast()));
    if placed { Ok(selection) } else { Err(Reason::ShapeNotSupported) }
}

/// Whether the settings let products and attention be computed here.
pub fn kernels_are_asked_for() -> Result<(), Reason> {
    match config().kernels {
        KernelChoice::Off => Err(Reason::KernelsOff),
        KernelChoice::Exact => Err(Reason::KernelsExact),
        _ => Ok(()),
    }
}

/// [`decide`] for a product whose activations and result may have no memory yet.
///
/// # Safety
/// The conditions of [`decide`].
pub unsafe fn decide_unplaced(abi: &Abi, kind: MatrixOp, op: &Tensor) -> Result<Selection, Reason> {
    kernels_are_asked_for()?;
    // SAFETY: `op` and its sources are tensors of the ggml of `abi`, by the contract of this function.
    let sources = unsafe { (op.source(0), op.source(1)) };
    let (Some(src0), Some(src1)) = sources else { return Err(Reason::SourceMissing) };
    let weight = abi.weight_type(src0.ty).ok_or(Reason::TypeNotSupported)?;
    // SAFETY: `src0` is a source of `op`, so it is a tensor of the same ggml.
    if unsafe { is_repacked(abi, src0) } {
        return Err(Reason::Repacked);
    }
    if kind == MatrixOp::MulMat && op.op_params[1] != HINT_NONE {
        return Err(Reason::HadamardHint);
    }
    if src1.ty != TYPE_F32 {
        return Err(Reason::Src1NotF32);
    }
    let (block, bytes) = weight.block();
    if op.ty != TYPE_F32 {
        return Err(Reason::DstNotF32);
    }
    let k = usize::try_from(src0.ne[0]).map_err(|_| Reason::ShapeNotSupported)?;
    if src0.nb[0] != bytes || src0.nb[1] < k / block * bytes {
        return Err(Reason::Src0Permuted);
    }
    let plain = k.is_multiple_of(block)
        && [src0, src1, op].into_iter().all(Tensor::is_sound)
        && src1.ne[0] == src0.ne[0]
        && op.ne[0] == src0.ne[1]
        && src1.nb[0] == 4
        && op.nb[0] == 4;
    let columns_fit = plain
        && match kind {
            MatrixOp::MulMat => dense_fits(op, src0, src1),
            // SAFETY: `op` is a MUL_MAT_ID of this ggml, and `src0` and `src1` are its first two sources.
            MatrixOp::MulMatId => unsafe { experts_fit(abi, op, src0, src1) },
        };
    if !columns_fit {
        return Err(Reason::ShapeNotSupported);
    }
    // SAFETY: both sources are there, and their shapes were checked above.
    let columns = unsafe { columns(kind, op) };
    let (path, isa) = (state::data_path(), state::isa());
    // Only products of many columns would round.
    let rounds = config().f16_as_bf16 && weight == WeightType::F16 && !config().invariant;
    let kernel = match rounds.then(|| registry::f16_as_bf16(path, isa, columns)).flatten() {
        // the user asks for this kernel, so it is used without a comparison with ggml's
        Some(kernel) => kernel,
        None => {
            if let Some(reason) = tuning::decline(isa, weight, columns) {
                return Err(reason);
            }
            tuning::kernel(weight, k, columns).ok_or(Reason::TypeNotSupported)?
        }
    };
    Ok(Selection { kernel, regime: Regime::of(columns), rows: src0.ne[1] as usize, k })
}

/// Whether a tensor, or the tensor of which it is a view, has a layout that its buffer type has made.
///
/// # Safety
/// `t` is a tensor of the ggml of `abi`.
pub unsafe fn is_repacked(abi: &Abi, t: &Tensor) -> bool {
    // SAFETY: `view_src` of a tensor of ggml is null or a tensor of the same ggml.
    let viewed = unsafe { object(t.view_src.cast_const()) };
    // SAFETY: both are tensors of the ggml of `abi`, which knows its names.
    [Some(t), viewed].into_iter().flatten().any(|t| !unsafe { t.extra(abi.longer_names()) }.is_null())
}

/// MUL_MAT: weights are broadcast over the columns of `ne2` and `ne3`.
fn dense_fits(op: &Tensor, src0: &Tensor, src1: &Tensor) -> bool {
    op.ne[1..] == src1.ne[1..] && src1.ne[2] % src0.ne[2] == 0 && src1.ne[3] % src0.ne[3] == 0
}

/// Picks are numbered with 32 bits.
const MAX_PICKS: i64 = 1 << 31;

/// MUL_MAT_ID: one matrix per expert in `src0.ne[2]`, ids of `[used, tokens]`.
unsafe fn experts_fit(abi: &Abi, op: &Tensor, src0: &Tensor, src1: &Tensor) -> bool {
    // SAFETY: `op` is a tensor of ggml, as `decide_unplaced` was promised, and so are its sources.
    let Some(ids) = (unsafe { op.source(2) }) else { return false };
    abi.is_i32(ids.ty)
        && is_address::<u8>(ids.data.cast())
        && ids.is_sound()
        && ids.ne[0] * ids.ne[1] <= MAX_PICKS
        && src0.ne[3] == 1
        && src1.ne[3] == 1
        && ids.ne[2..] == [1, 1]
        && ids.ne[1] == src1.ne[2]
        && op.ne[1..] == [ids.ne[0], ids.ne[1], 1]
        && ids.ne[0] % src1.ne[1] == 0
}

/// The number of columns that share the weights of one matrix. For experts this is the mean: the picks divided by the
/// experts, rounded up.
unsafe fn columns(kind: MatrixOp, op: &Tensor) -> usize {
    // SAFETY: `decide_unplaced` has found both sources of `op` before it calls this.
    let (src0, src1) = unsafe { (&*op.src[0], &*op.src[1]) };
    let n = match kind {
        MatrixOp::MulMat => src1.ne[1] * (src1.ne[2] / src0.ne[2]) * (src1.ne[3] / src0.ne[3]),
        MatrixOp::MulMatId => (op.ne[1] * op.ne[2] + src0.ne[2] - 1) / src0.ne[2],
    };
    n as usize
}
