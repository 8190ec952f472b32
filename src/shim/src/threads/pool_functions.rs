//! ggml's functions for pools of threads: found, and checked.

use std::ffi::c_int;
use std::mem::offset_of;

use crate::ggml::abi::PoolParams;
use crate::ggml::bindings::PoolFunctions;
use crate::ggml::bound;
use crate::ggml::copies::{Caller, Scope, caller, function};
use crate::reason::Reason;
use crate::stats;

/// The functions for pools of the ggml that computes graphs for this library; `None` when they are not known.
pub fn of(library: &Caller) -> Option<&PoolFunctions> {
    let look_up = || find(library.as_scope(), library.graph_compute? as usize);
    library.pools.get_or_init(look_up).as_ref()
}

/// Those that are seen from a library that uses `graph_compute`; `None` when one is missing, as before August 2024, or when
/// the parameters are not where they are known to be.
///
/// `graph_compute` is an address in the CPU backend's library.
pub fn find(scope: Scope, graph_compute: usize) -> Option<PoolFunctions> {
    // SAFETY: ggml's functions of these names have had these signatures since they exist.
    let functions = unsafe {
        PoolFunctions {
            new: function(scope.find(c"ggml_threadpool_new")?),
            free: function(scope.find(c"ggml_threadpool_free")?),
            pause: function(scope.find(c"ggml_threadpool_pause")?),
            init: function(scope.find(c"ggml_threadpool_params_init")?),
            openmp: uses_openmp(scope, graph_compute),
            graphs_are_seen: caller(graph_compute).is_some_and(|library| library.abi.is_some())
                && bound::reaches_others(graph_compute, c"ggml_graph_compute"),
        }
    };
    if !parameters_fit(&functions) {
        stats::event_once(Reason::PoolParamsUnknown);
        return None;
    }
    Some(functions)
}

/// Lets ggml fill the parameters and looks where it wrote what.
fn parameters_fit(functions: &PoolFunctions) -> bool {
    const UNTOUCHED: u8 = 0xA5;
    const THREADS: c_int = 0x4321;
    let mut bytes = [UNTOUCHED; 2048];
    let params = bytes.as_mut_ptr().cast::<PoolParams>();
    const { assert!(size_of::<PoolParams>() <= 1024 && offset_of!(PoolParams, n_threads) == 512) };
    // SAFETY: the buffer is larger than the structure has ever been; integers and booleans are read as bytes below.
    unsafe { (functions.init)(params, THREADS) };
    let at = offset_of!(PoolParams, n_threads);
    let tail = offset_of!(PoolParams, strict_cpu);
    bytes[..at].iter().all(|&b| b == 0)
        && bytes[at..at + 4] == THREADS.to_ne_bytes()
        && bytes[tail..tail + 2].iter().all(|&b| b <= 1)
        && bytes[size_of::<PoolParams>()..].iter().all(|&b| b == UNTOUCHED)
}

/// Whether the library at `graph_compute` computes with OpenMP's threads.
fn uses_openmp(scope: Scope, graph_compute: usize) -> bool {
    [c"GOMP_parallel", c"__kmpc_fork_call", c"omp_get_num_threads"]
        .iter()
        .any(|name| bound::reaches_others(graph_compute, name) || scope.find(name).is_some())
}
