//! The functions that the preload library stands in for. [`exports`] is the list of all that it exports: a test compares it
//! with the library, and `zen5turbo doctor` looks for calls of [`COMPUTE`] and [`REPORTED`].

use std::ffi::CStr;

use crate::functions::{
    ggml_aligned_free, ggml_aligned_malloc, ggml_backend_reg_get_proc_address, ggml_barrier,
    ggml_compute_forward_rms_norm_mul_fused, ggml_cpu_extra_compute_forward, ggml_cpu_extra_work_size,
    ggml_graph_compute, ggml_threadpool_free, ggml_threadpool_new,
};
use crate::rows;

/// The hook without which no operation is taken over.
pub const COMPUTE: &str = ggml_cpu_extra_compute_forward.name();

/// A hook besides [`COMPUTE`] that a user is told about.
#[derive(Debug, PartialEq, Eq)]
pub struct Hook {
    /// The function, under all its names.
    pub names: &'static [&'static str],
    /// What is lost when no call of it goes through the loader.
    pub loss: &'static str,
}

/// The hooks whose loss a user is told.
pub const REPORTED: [Hook; 5] = [
    Hook {
        names: &[ggml_cpu_extra_work_size.name()],
        loss: "scratch memory is reserved at the first product instead of when the graph is planned",
    },
    Hook { names: &[ggml_graph_compute.name()], loss: "the shim does not see whole graphs" },
    Hook {
        names: &[ggml_backend_reg_get_proc_address.name()],
        loss: "weights that llama.cpp repacks at load stay repacked, and their products are left to it",
    },
    Hook {
        names: &["mmap", "mmap64"],
        loss: "the model file is not mapped where huge pages can lie, and its weights get no copies",
    },
    Hook {
        names: &[ggml_aligned_malloc.name()],
        loss: "the KV cache and the compute buffers lie on the pages that the program gets",
    },
];

/// Hooks that go with a reported one, or without which little is lost.
const OTHERS: [&str; 25] = [
    // Buffers of ours are given back.
    ggml_aligned_free.name(),
    // As many threads as there are CPUs; some programs call these by pointers that a registry gives them.
    ggml_threadpool_new.name(),
    ggml_threadpool_free.name(),
    ggml_barrier.name(),
    // A norm and the product with its weights, which ggml computes together without asking [`COMPUTE`].
    ggml_compute_forward_rms_norm_mul_fused.name(),
    // Mappings of a model are gone.
    "munmap",
    "mremap",
    // Large blocks lie on huge pages.
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    // Large copies pass the caches by. A compiler calls the last two with _FORTIFY_SOURCE.
    "memcpy",
    "memmove",
    "__memcpy_chk",
    "__memmove_chk",
    // A BLAS library of the user's choice computes.
    text(blas::SGEMM),
    text(blas::SET_NUM_THREADS),
    // The C API.
    text(api::VERSION),
    text(api::TAKEN),
    text(api::DECLINED),
    "zen5turbo_state",
    "zen5turbo_stats_json",
    "zen5turbo_free",
];

/// Functions of BLAS that a ggml with GGML_BLAS calls.
pub mod blas {
    use std::ffi::CStr;

    /// `void cblas_sgemm(order, transA, transB, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)`
    pub const SGEMM: &CStr = c"cblas_sgemm";
    /// `void openblas_set_num_threads(int)`, called before products.
    pub const SET_NUM_THREADS: &CStr = c"openblas_set_num_threads";
}

/// Functions of the C API (`include/zen5turbo.h`) that are looked up by name.
pub mod api {
    use std::ffi::{CStr, c_char};

    /// `const char * zen5turbo_version(void)`: a library that has it is a preload library of ours.
    pub const VERSION: &CStr = c"zen5turbo_version";
    /// A [`Count`]: calls that were taken over.
    pub const TAKEN: &CStr = c"zen5turbo_taken";
    /// A [`Count`]: calls that were left to ggml.
    pub const DECLINED: &CStr = c"zen5turbo_declined";

    /// `uint64_t zen5turbo_taken(const char * op, const char * type)`, and `zen5turbo_declined`.
    pub type Count = unsafe extern "C" fn(*const c_char, *const c_char) -> u64;
}

/// The name of a C function in texts.
const fn text(name: &'static CStr) -> &'static str {
    match name.to_str() {
        Ok(name) => name,
        Err(_) => panic!("the names of C functions are ASCII"),
    }
}

/// The names of [`COMPUTE`] and [`REPORTED`].
#[must_use]
pub fn reported() -> Vec<&'static str> {
    [COMPUTE].into_iter().chain(REPORTED.iter().flat_map(|hook| hook.names.iter().copied())).collect()
}

/// Every symbol that the preload library exports, in the order of their bytes.
#[must_use]
pub fn exports() -> Vec<&'static str> {
    let rows = rows::HOOKED.into_iter().map(|(name, _)| name);
    let mut all: Vec<&str> = reported().into_iter().chain(rows).chain(OTHERS).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        let all = exports();
        let mut once = all.clone();
        once.dedup();
        assert_eq!(all, once);
        assert!(all.iter().all(|name| !name.is_empty()));
    }
}
