//! The functions of ggml that are called, each once with its name and its signature (ggml.h, ggml-cpu.h, ggml-backend.h,
//! ggml-cpu-impl.h, ggml-impl.h).
//!
//! Every name here is two things. As a type it is the function's pointer type. As a constant it is a [`Function`], which
//! knows the symbol and gives an address that was found the right type:
//!
//! ```
//! use std::ffi::c_void;
//! use zen5turbo_ggml::functions::ggml_tensor_overhead;
//!
//! extern "C-unwind" fn overhead() -> usize {
//!     368
//! }
//! // SAFETY: the function has the signature of ggml's.
//! let found: Option<ggml_tensor_overhead> = unsafe { ggml_tensor_overhead.find(|_| Some(overhead as *mut c_void)) };
//! // SAFETY: it has no preconditions.
//! assert_eq!(found.map(|overhead| unsafe { overhead() }), Some(368));
//! ```

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;

use crate::abi::{CPlan, ComputeParams, InitParams, Object, PoolParams, Tensor};

/// A function of ggml: its symbol, and `F`, the type of a pointer to it.
#[derive(Debug)]
pub struct Function<F> {
    symbol: &'static CStr,
    signature: PhantomData<F>,
}

impl<F: Copy> Function<F> {
    /// The function with this name, which a NUL ends.
    const fn new(name: &'static str) -> Self {
        match CStr::from_bytes_with_nul(name.as_bytes()) {
            Ok(symbol) => Self { symbol, signature: PhantomData },
            Err(_) => panic!("a name ends with its only NUL"),
        }
    }

    /// The name for the dynamic linker.
    #[must_use]
    pub const fn symbol(&self) -> &'static CStr {
        self.symbol
    }

    /// The name in texts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.symbol.to_str() {
            Ok(name) => name,
            Err(_) => panic!("the names of C functions are ASCII"),
        }
    }

    /// The function that `find` gives for the name; `None` where it gives none.
    ///
    /// # Safety
    /// `find` returns addresses of ggml's functions by their names.
    #[must_use]
    pub unsafe fn find(&self, find: impl Fn(&CStr) -> Option<*mut c_void>) -> Option<F> {
        // SAFETY: the address is that of ggml's function of this name, by the contract of this function. The constants of
        // this file say which type it has.
        find(self.symbol).map(|address| unsafe { function(address) })
    }
}

/// A symbol as the function it is.
///
/// # Safety
/// `F` is the function's pointer type, and `address` is its address.
#[must_use]
pub unsafe fn function<F: Copy>(address: *mut c_void) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the caller promises that F is the function's pointer type; on this platform pointers to functions and to data
    // have the same representation.
    unsafe { std::mem::transmute_copy(&address) }
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident($($arg:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        $(
            $(#[$doc])*
            #[allow(non_camel_case_types)]
            pub type $name = unsafe extern "C-unwind" fn($($arg),*) $(-> $result)?;
            $(#[$doc])*
            #[allow(non_upper_case_globals)]
            pub const $name: Function<$name> = Function::new(concat!(stringify!($name), "\0"));
        )*
    };
}

// What tells about structures, types and operations.
functions! {
    /// `size_t ggml_tensor_overhead(void)`
    ggml_tensor_overhead() -> usize;
    /// `const char * ggml_op_name(enum ggml_op)`: does not check its bounds.
    ggml_op_name(c_int) -> *const c_char;
    /// `const char * ggml_unary_op_name(enum ggml_unary_op)`: does not check its bounds.
    ggml_unary_op_name(c_int) -> *const c_char;
    /// `const char * ggml_glu_op_name(enum ggml_glu_op)`: does not check its bounds. Not in releases before June 2025.
    ggml_glu_op_name(c_int) -> *const c_char;
    /// `const char * ggml_type_name(enum ggml_type)`: does not check its bounds.
    ggml_type_name(c_int) -> *const c_char;
    /// `size_t ggml_type_size(enum ggml_type)`
    ggml_type_size(c_int) -> usize;
    /// `int64_t ggml_blck_size(enum ggml_type)`, an `int` in releases of 2023.
    ggml_blck_size(c_int) -> i64;
    /// `void * ggml_get_data(const struct ggml_tensor *)`
    ggml_get_data(*const Tensor) -> *mut c_void;
    /// `const char * ggml_get_name(const struct ggml_tensor *)`
    ggml_get_name(*const Tensor) -> *const c_char;
    /// `struct ggml_tensor * ggml_set_name(struct ggml_tensor * tensor, const char * name)`: as much of it as fits.
    ggml_set_name(*mut Tensor, *const c_char) -> *mut Tensor;
    /// `const char * ggml_version(void)`: null in Ollama 0.12 to 0.24.
    ggml_version() -> *const c_char;
    /// `const char * ggml_commit(void)`
    ggml_commit() -> *const c_char;
    /// `int ggml_backend_score(void)`: how well a variant of the CPU backend suits this CPU, 0 for not at all.
    ggml_backend_score() -> c_int;
    /// `size_t quantize_mxfp4(const float *, void *, int64_t, int64_t, const float *)`: only looked for; releases that know
    /// the type MXFP4 export it.
    quantize_mxfp4(*const f32, *mut c_void, i64, i64, *const f32) -> usize;
    /// The same for NVFP4.
    quantize_nvfp4(*const f32, *mut c_void, i64, i64, *const f32) -> usize;
    /// The same for Q1_0.
    quantize_q1_0(*const f32, *mut c_void, i64, i64, *const f32) -> usize;
    /// The same for Q2_0.
    quantize_q2_0(*const f32, *mut c_void, i64, i64, *const f32) -> usize;
}

// Graphs and their computation.
functions! {
    /// `int ggml_graph_n_nodes(struct ggml_cgraph *)`
    ggml_graph_n_nodes(Object) -> c_int;
    /// `struct ggml_tensor * ggml_graph_node(struct ggml_cgraph *, int)`
    ggml_graph_node(Object, c_int) -> *mut Tensor;
    /// `bool ggml_cpu_extra_compute_forward(struct ggml_compute_params *, struct ggml_tensor *)`: true when the operation was
    /// computed. ggml-cpu calls it for every node, from every thread.
    ggml_cpu_extra_compute_forward(*mut ComputeParams, *mut Tensor) -> bool;
    /// `bool ggml_cpu_extra_work_size(int n_threads, const struct ggml_tensor *, size_t *)`
    ggml_cpu_extra_work_size(c_int, *const Tensor, *mut usize) -> bool;
    /// `void ggml_compute_forward_rms_norm_mul_fused(const struct ggml_compute_params *, struct ggml_tensor * dst_rms_norm,
    /// struct ggml_tensor * dst_mul)`: a RMS_NORM and the MUL after it, of which only the result of the MUL is written. Not
    /// in releases before 2026.
    ggml_compute_forward_rms_norm_mul_fused(*const ComputeParams, *mut Tensor, *mut Tensor);
    /// `enum ggml_status ggml_graph_compute(struct ggml_cgraph *, struct ggml_cplan *)`
    ggml_graph_compute(Object, *mut CPlan) -> c_int;
    /// `void ggml_barrier(struct ggml_threadpool *)`
    ggml_barrier(Object);
    /// `void ggml_backend_cpu_set_use_ref(ggml_backend_t, bool)`: only looked for; releases that export it have
    /// [`ComputeParams::use_ref`].
    ggml_backend_cpu_set_use_ref(Object, bool);
}

// Pools of threads.
functions! {
    /// `struct ggml_threadpool * ggml_threadpool_new(struct ggml_threadpool_params *)`
    ggml_threadpool_new(*mut PoolParams) -> Object;
    /// `void ggml_threadpool_free(struct ggml_threadpool *)`
    ggml_threadpool_free(Object);
    /// `void ggml_threadpool_pause(struct ggml_threadpool *)`
    ggml_threadpool_pause(Object);
    /// `void ggml_threadpool_params_init(struct ggml_threadpool_params *, int n_threads)`
    ggml_threadpool_params_init(*mut PoolParams, c_int);
}

// Buffers in memory.
functions! {
    /// `void * ggml_aligned_malloc(size_t size)`
    ggml_aligned_malloc(usize) -> *mut c_void;
    /// `void ggml_aligned_free(void * ptr, size_t size)`: does not use the size.
    ggml_aligned_free(*mut c_void, usize);
    /// `ggml_backend_buffer_type_t ggml_backend_cpu_buffer_type(void)`
    ggml_backend_cpu_buffer_type() -> Object;
    /// `const char * ggml_backend_buft_name(ggml_backend_buffer_type_t)`
    ggml_backend_buft_name(Object) -> *const c_char;
    /// `ggml_backend_buffer_t ggml_backend_buft_alloc_buffer(ggml_backend_buffer_type_t, size_t)`
    ggml_backend_buft_alloc_buffer(Object, usize) -> Object;
    /// `void * ggml_backend_buffer_get_base(ggml_backend_buffer_t)`
    ggml_backend_buffer_get_base(Object) -> *mut c_void;
    /// `void ggml_backend_buffer_free(ggml_backend_buffer_t)`
    ggml_backend_buffer_free(Object);
    /// `void ggml_backend_buffer_set_usage(ggml_backend_buffer_t, enum ggml_backend_buffer_usage)`
    ggml_backend_buffer_set_usage(Object, c_int);
    /// `ggml_backend_buffer_t ggml_backend_cpu_buffer_from_ptr(void *, size_t)`
    ggml_backend_cpu_buffer_from_ptr(*mut c_void, usize) -> Object;
}

// Backends, their registries and devices.
functions! {
    /// `ggml_backend_reg_t ggml_backend_reg_by_name(const char *)`
    ggml_backend_reg_by_name(*const c_char) -> Object;
    /// `size_t ggml_backend_reg_dev_count(ggml_backend_reg_t)`
    ggml_backend_reg_dev_count(Object) -> usize;
    /// `ggml_backend_dev_t ggml_backend_reg_dev_get(ggml_backend_reg_t, size_t)`
    ggml_backend_reg_dev_get(Object, usize) -> Object;
    /// `void * ggml_backend_reg_get_proc_address(ggml_backend_reg_t, const char *)`
    ggml_backend_reg_get_proc_address(Object, *const c_char) -> *mut c_void;
    /// `ggml_backend_buffer_type_t * ggml_backend_dev_get_extra_bufts(ggml_backend_dev_t)`: no symbol, but a name that
    /// `ggml_backend_reg_get_proc_address` is asked for. The list ends with null.
    ggml_backend_dev_get_extra_bufts(Object) -> *mut Object;
    /// `bool ggml_backend_dev_supports_op(ggml_backend_dev_t, const struct ggml_tensor *)`
    ggml_backend_dev_supports_op(Object, Object) -> bool;
    /// `ggml_backend_t ggml_backend_cpu_init(void)`
    ggml_backend_cpu_init() -> Object;
    /// `ggml_backend_reg_t ggml_backend_cpu_reg(void)`
    ggml_backend_cpu_reg() -> Object;
    /// `void ggml_backend_cpu_set_n_threads(ggml_backend_t, int)`
    ggml_backend_cpu_set_n_threads(Object, c_int);
    /// `void ggml_backend_cpu_set_threadpool(ggml_backend_t, struct ggml_threadpool *)`
    ggml_backend_cpu_set_threadpool(Object, Object);
    /// `enum ggml_status ggml_backend_graph_compute(ggml_backend_t, struct ggml_cgraph *)`
    ggml_backend_graph_compute(Object, Object) -> c_int;
    /// `enum ggml_status ggml_backend_tensor_alloc(ggml_backend_buffer_t, struct ggml_tensor *, void *)`
    ggml_backend_tensor_alloc(Object, Object, *mut c_void) -> c_int;
    /// `void ggml_backend_tensor_set(struct ggml_tensor *, const void *, size_t offset, size_t size)`
    ggml_backend_tensor_set(Object, *const c_void, usize, usize);
}

// Making tensors and graphs. Tensors are objects here: who makes them does not look into them.
functions! {
    /// `void ggml_cpu_init(void)`
    ggml_cpu_init();
    /// `struct ggml_context * ggml_init(struct ggml_init_params)`
    ggml_init(InitParams) -> Object;
    /// `void ggml_free(struct ggml_context *)`
    ggml_free(Object);
    /// `size_t ggml_graph_overhead_custom(size_t size, bool grads)`
    ggml_graph_overhead_custom(usize, bool) -> usize;
    /// `struct ggml_tensor * ggml_new_tensor_2d(struct ggml_context *, enum ggml_type, int64_t, int64_t)`
    ggml_new_tensor_2d(Object, c_int, i64, i64) -> Object;
    /// `struct ggml_tensor * ggml_mul_mat(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *)`
    ggml_mul_mat(Object, Object, Object) -> Object;
    /// `struct ggml_cgraph * ggml_new_graph_custom(struct ggml_context *, size_t size, bool grads)`
    ggml_new_graph_custom(Object, usize, bool) -> Object;
    /// `void ggml_build_forward_expand(struct ggml_cgraph *, struct ggml_tensor *)`
    ggml_build_forward_expand(Object, Object);
    /// `size_t ggml_quantize_chunk(enum ggml_type, const float * src, void * dst, int64_t start, int64_t nrows,
    /// int64_t n_per_row, const float * imatrix)`
    ggml_quantize_chunk(c_int, *const f32, *mut c_void, i64, i64, i64, *const f32) -> usize;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_has_its_name_for_the_linker_and_for_texts() {
        assert_eq!(ggml_barrier.symbol(), c"ggml_barrier");
        assert_eq!(ggml_barrier.name(), "ggml_barrier");
    }

    #[test]
    fn a_function_is_looked_up_by_its_own_name() {
        extern "C-unwind" fn score() -> c_int {
            7
        }
        let find = |name: &CStr| (name == c"ggml_backend_score").then_some(score as *mut c_void);
        // SAFETY: the function has the signature of `ggml_backend_score`, and no preconditions.
        unsafe {
            assert_eq!(ggml_backend_score.find(find).map(|score| score()), Some(7));
            assert!(ggml_cpu_init.find(find).is_none());
        }
    }
}
