//! What a library is bound to beside the graph functions of its ggml. Filled in by the parts that use it.

use std::ffi::c_void;
use std::sync::atomic::AtomicPtr;

use super::abi::{PoolDo, PoolNew, PoolParamsInit};

/// How many functions for single rows are hooked (see [`crate::rows`]).
pub const ROW_FUNCTIONS: usize = 29;

/// Where calls of each function for single rows go; null while that is not known.
pub type RowTargets = [AtomicPtr<c_void>; ROW_FUNCTIONS];

/// The originals in a BLAS library; `None` where there are none.
pub struct BlasOriginals {
    /// `cblas_sgemm`.
    pub sgemm: Option<usize>,
    /// `openblas_set_num_threads`.
    pub set_threads: Option<usize>,
}

/// ggml's functions for pools of threads, of one copy.
#[derive(Clone, Copy)]
pub struct PoolFunctions {
    pub new: PoolNew,
    pub free: PoolDo,
    pub pause: PoolDo,
    pub init: PoolParamsInit,
    /// Its threads are those of OpenMP, which ends them and lets them sleep as it does, and a graph may get fewer.
    pub openmp: bool,
    /// The CPU backend's graphs come through our `ggml_graph_compute`, and their plans are known.
    pub graphs_are_seen: bool,
}
