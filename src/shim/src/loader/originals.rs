//! Originals of hooks that are called from places which say little: through a pointer, or with a return address that lies in
//! another library than the call. Each function here guards itself against panics, as hooks call it directly.

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;

use super::libraries::caller;
use super::scope::{Scope, find_definer, only_definer};
use crate::gate::guard::guarded;
use crate::ggml::functions::{Function, ggml_aligned_free, ggml_barrier, ggml_compute_forward_rms_norm_mul_fused};
use crate::reason::Reason;
use crate::stats;

/// The scope of the ggml for which a call of a pool function is meant. Programs often have the function from the CPU
/// backend's registry, and do not see the original themselves. `None`, which is counted, when several copies of ggml could be
/// meant, or none is found.
pub fn pool_scope(name: &CStr, from: usize) -> Option<Scope> {
    let scope = guarded(None, || caller(from)?.own_scope(name).or_else(|| only_definer(name)));
    if scope.is_none() {
        stats::event(Reason::PoolOwnerUnknown);
    }
    scope
}

/// The `ggml_barrier` for a call from `from`; if that lies in no library that is known, the one of the only ggml.
///
/// If the call was the last one of a function, its return address lies in the caller of that function, perhaps in OpenMP's
/// library.
pub fn barrier(from: usize) -> Option<ggml_barrier> {
    static ONLY: OnceLock<Option<ggml_barrier>> = OnceLock::new();
    let own = guarded(None, || caller(from)).and_then(|caller| caller.abi.as_ref()).map(|abi| abi.barrier());
    own.or_else(|| once(&ONLY, ggml_barrier, only_definer))
}

/// The function for a norm and its weights of the only ggml, for a call from no library that is known.
pub fn norm_mul() -> Option<ggml_compute_forward_rms_norm_mul_fused> {
    static ONLY: OnceLock<Option<ggml_compute_forward_rms_norm_mul_fused>> = OnceLock::new();
    once(&ONLY, ggml_compute_forward_rms_norm_mul_fused, only_definer)
}

/// The `ggml_aligned_free` for a call from `from`, else that of any copy of ggml; in all copies it is libc's `free`.
///
/// The latter is needed when this library calls `ggml_threadpool_free`. The last call in that function is a jump, so its
/// return address lies in this library, from which a copy of ggml that was opened with `RTLD_LOCAL` is not seen.
pub fn aligned_free(from: usize) -> Option<ggml_aligned_free> {
    static ANY: OnceLock<Option<ggml_aligned_free>> = OnceLock::new();
    let own = guarded(None, || caller(from)).and_then(|caller| caller.aligned_free);
    own.or_else(|| once(&ANY, ggml_aligned_free, find_definer))
}

/// The definition of `name` that any library of this process sees.
pub fn any(name: &CStr) -> Option<*mut c_void> {
    guarded(None, || find_definer(name)?.find(name))
}

fn once<F: Copy>(found: &OnceLock<Option<F>>, function: Function<F>, definer: fn(&CStr) -> Option<Scope>) -> Option<F> {
    *found.get_or_init(|| guarded(None, || definer(function.symbol())?.function(function)))
}
