//! Decides for one attention: whether it is computed here, or why it is left to ggml.

use zen5turbo_kernels::attention::Attention;
use zen5turbo_kernels::formats::WeightType;

use super::heads::Heads;
use super::job::Job;
use crate::config::config;
use crate::gate::state;
use crate::ggml::abi::{TYPE_F32, Tensor};
use crate::ggml::checked::is_address;
use crate::graph::policy::{is_repacked, kernels_are_asked_for};
use crate::loader::Abi;
use crate::reason::Reason;

/// The number of known sources of an attention: queries, keys, values, mask, sinks.
const SOURCES: usize = 5;

/// The job for `op`, or the reason why it is left to ggml.
///
/// # Safety
/// `op`, a `FLASH_ATTN_EXT`, and its sources are tensors of the ggml that `abi` belongs to.
pub unsafe fn decide(abi: &Abi, op: &Tensor, threads: usize) -> Result<Job, Reason> {
    let config = config();
    kernels_are_asked_for()?;
    if !config.attention {
        return Err(Reason::AttentionOff);
    }
    // SAFETY: `op` is a tensor of ggml, by the contract of this function, so its sources are null or tensors.
    let [q, k, v, mask, sinks] = [0, 1, 2, 3, 4].map(|i| unsafe { op.source(i) });
    let (Some(q), Some(k), Some(v)) = (q, k, v) else { return Err(Reason::SourceMissing) };
    if op.src[SOURCES..].iter().any(|s| !s.is_null()) {
        return Err(Reason::ShapeNotSupported);
    }
    let (Some(key_type), Some(value_type)) = (abi.weight_type(k.ty), abi.weight_type(v.ty)) else {
        return Err(Reason::TypeNotSupported);
    };
    if q.ty != TYPE_F32 {
        return Err(Reason::Src1NotF32);
    }
    if op.ty != TYPE_F32 {
        return Err(Reason::DstNotF32);
    }
    // SAFETY: keys and values are sources of `op`, so they are tensors of the same ggml.
    if [k, v].into_iter().any(|t| unsafe { is_repacked(abi, t) }) {
        return Err(Reason::Repacked);
    }
    let half_mask = mask.is_none_or(|m| abi.weight_type(m.ty) == Some(WeightType::F16));
    if !half_mask || sinks.is_some_and(|s| s.ty != TYPE_F32) {
        return Err(Reason::TypeNotSupported);
    }
    let sources = [Some(q), Some(k), Some(v), mask, sinks];
    let sound =
        [Some(op)].into_iter().chain(sources).flatten().all(|t| is_address::<u8>(t.data.cast()) && t.is_sound());
    if !sound || !shapes_fit(op, [q, k, v], [key_type, value_type], mask, sinks) {
        return Err(Reason::ShapeNotSupported);
    }
    let n = |x: i64| x as usize;
    let heads = Heads::new(op, [q, k, v], mask, sinks);
    let (key, value) = ((key_type, n(k.ne[0])), (value_type, n(v.ne[0])));
    let new = if config.invariant { Attention::in_one_order } else { Attention::new };
    let attention = new((state::data_path(), state::isa()), key, value, heads.rows());
    let attention = attention.ok_or(Reason::TypeNotSupported)?;
    Ok(Job::new(op, heads, attention, (key, value), threads))
}

/// Whether the tensors have the shapes and strides that ggml's own code requires. None of them is empty.
fn shapes_fit(
    op: &Tensor,
    [q, k, v]: [&Tensor; 3],
    [key_type, value_type]: [WeightType; 2],
    mask: Option<&Tensor>,
    sinks: Option<&Tensor>,
) -> bool {
    let rows = |t: &Tensor, ty: WeightType| {
        let (block, bytes) = ty.block();
        let n = t.ne[0] as usize;
        n.is_multiple_of(block) && t.nb[0] == bytes && t.nb[1] >= ty.row_bytes(n)
    };
    let result = [v.ne[0], q.ne[2], q.ne[1], q.ne[3]];
    let mut dense = [4; 4];
    for i in 1..4 {
        dense[i] = dense[i - 1] * op.ne[i - 1] as usize;
    }
    q.nb[0] == 4
        && q.ne[0] == k.ne[0]
        && rows(k, key_type)
        && rows(v, value_type)
        && k.ne[1..] == v.ne[1..]
        && q.ne[2] % k.ne[2] == 0
        && q.ne[3] % k.ne[3] == 0
        && op.ne == result
        && op.nb == dense
        && mask.is_none_or(|m| m.nb[0] == 2 && m.ne[0] >= k.ne[1] && m.ne[1] >= q.ne[1])
        && sinks.is_none_or(|s| s.nb[0] == 4 && s.ne[0] >= q.ne[2])
}
