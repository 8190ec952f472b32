//! The functions for thread pools of one copy of ggml.

use std::ffi::c_int;
use std::mem::offset_of;

use super::interposable::is_interposable;
use super::scope::Scope;
use crate::ggml::abi::{PoolParams, PoolParamsRoom};
use crate::ggml::functions::{
    ggml_graph_compute, ggml_threadpool_free, ggml_threadpool_new, ggml_threadpool_params_init, ggml_threadpool_pause,
};
use crate::reason::Reason;
use crate::stats;

/// The functions for thread pools of one copy of ggml.
#[derive(Clone, Copy)]
pub struct PoolFunctions {
    pub new: ggml_threadpool_new,
    pub free: ggml_threadpool_free,
    pub pause: ggml_threadpool_pause,
    pub init: ggml_threadpool_params_init,
    /// This ggml computes with OpenMP's threads. OpenMP decides when they sleep and end, and may give a graph fewer
    /// threads.
    pub openmp: bool,
    /// The CPU backend calls the `ggml_graph_compute` of this library, and the layout of its plans is known.
    pub graphs_are_seen: bool,
}

impl PoolFunctions {
    /// Finds the functions in `scope`. `None` when one is missing (a ggml from before August 2024), or when the pool
    /// parameters have an unknown layout. `backend` is an address in the CPU backend's library; `plans_are_known` says
    /// whether the structures of that ggml are known.
    pub fn find(scope: Scope, backend: usize, plans_are_known: impl FnOnce() -> bool) -> Option<Self> {
        let functions = Self {
            new: scope.function(ggml_threadpool_new)?,
            free: scope.function(ggml_threadpool_free)?,
            pause: scope.function(ggml_threadpool_pause)?,
            init: scope.function(ggml_threadpool_params_init)?,
            openmp: uses_openmp(scope, backend),
            graphs_are_seen: plans_are_known() && is_interposable(backend, ggml_graph_compute.symbol()),
        };
        if !functions.parameters_fit() {
            stats::event_once(Reason::PoolParamsUnknown);
            return None;
        }
        Some(functions)
    }

    /// Lets ggml fill the parameters, and compares the layout of the result with [`PoolParams`].
    fn parameters_fit(&self) -> bool {
        const UNTOUCHED: u8 = 0xA5;
        const THREADS: c_int = 0x4321;
        let mut room: PoolParamsRoom = [u64::from_ne_bytes([UNTOUCHED; 8]); 512];
        // SAFETY: the room is aligned for the structure and larger than it has ever been. Integers and booleans are read as
        // bytes below, so any value is valid.
        unsafe { (self.init)(room.as_mut_ptr().cast(), THREADS) };
        let bytes: Vec<u8> = room.into_iter().flat_map(u64::to_ne_bytes).collect();
        let at = offset_of!(PoolParams, n_threads);
        let tail = offset_of!(PoolParams, strict_cpu);
        bytes[..at].iter().all(|&b| b == 0)
            && bytes[at..at + 4] == THREADS.to_ne_bytes()
            && bytes[tail..tail + 2].iter().all(|&b| b <= 1)
            && bytes[size_of::<PoolParams>()..].iter().all(|&b| b == UNTOUCHED)
    }
}

/// Whether the library at `backend` computes with OpenMP's threads.
fn uses_openmp(scope: Scope, backend: usize) -> bool {
    [c"GOMP_parallel", c"__kmpc_fork_call", c"omp_get_num_threads"]
        .iter()
        .any(|name| is_interposable(backend, name) || scope.find(name).is_some())
}
