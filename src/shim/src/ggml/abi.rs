//! The structures of ggml that are read here, as in ggml 0.26 (ggml.h, ggml-cpu.h,
//! ggml-cpu-impl.h). Nothing is read through them before [`super::probe`] has compared them with the
//! library that is loaded.

use std::ffi::{c_char, c_int, c_void};

/// `struct ggml_tensor`.
#[repr(C)]
pub struct Tensor {
    /// `enum ggml_type`; the numbers move between releases, see [`super::probe`].
    pub ty: c_int,
    pub buffer: *mut c_void,
    /// Elements per dimension.
    pub ne: [i64; 4],
    /// Bytes per step in each dimension.
    pub nb: [usize; 4],
    /// `enum ggml_op`; the numbers move as well.
    pub op: c_int,
    pub op_params: [i32; 16],
    pub flags: i32,
    pub src: [*mut Tensor; 10],
    pub view_src: *mut Tensor,
    pub view_offs: usize,
    pub data: *mut c_void,
    pub name: [c_char; 64],
    pub extra: *mut c_void,
    pub padding: [c_char; 8],
}

/// `sizeof(struct ggml_object)`, which `ggml_tensor_overhead` includes.
pub const OBJECT_SIZE: usize = 32;

const _: () = assert!(size_of::<Tensor>() == 336);

/// `struct ggml_compute_params`, as far as every release has it.
#[repr(C)]
pub struct ComputeParams {
    /// This thread's number.
    pub ith: c_int,
    /// How many threads compute this graph.
    pub nth: c_int,
    pub wsize: usize,
    /// The work buffer: one per graph in execution.
    pub wdata: *mut c_void,
    pub threadpool: *mut c_void,
    /// Only there when the library exports `ggml_backend_cpu_set_use_ref`.
    pub use_ref: bool,
}

/// The head of `struct ggml_cplan`.
#[repr(C)]
pub struct CPlan {
    pub work_size: usize,
    pub work_data: *mut c_void,
    pub n_threads: c_int,
    /// Only there when the library exports `ggml_threadpool_new`.
    pub threadpool: *mut c_void,
}

/// `struct ggml_threadpool_params`. Its places are compared with the library's before it is used.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PoolParams {
    /// CPUs of the pool's threads, a byte each; none: those of the process.
    pub cpumask: [u8; 512],
    pub n_threads: c_int,
    pub prio: c_int,
    /// How long threads without work poll for it, 0 to 100.
    pub poll: u32,
    pub strict_cpu: bool,
    pub paused: bool,
}

/// `struct ggml_threadpool * ggml_threadpool_new(params)`
pub type PoolNew = unsafe extern "C-unwind" fn(*mut PoolParams) -> *mut c_void;
/// `void ggml_threadpool_free(pool)`, and `ggml_threadpool_pause`
pub type PoolDo = unsafe extern "C-unwind" fn(*mut c_void);
/// `void ggml_threadpool_params_init(params, n_threads)`
pub type PoolParamsInit = unsafe extern "C-unwind" fn(*mut PoolParams, c_int);
/// `void ggml_barrier(pool)`
pub type Barrier = unsafe extern "C-unwind" fn(*mut c_void);

/// `GGML_STATUS_FAILED`.
pub const STATUS_FAILED: c_int = -1;

/// `bool ggml_cpu_extra_compute_forward(params, op)`
pub type ComputeForward = unsafe extern "C-unwind" fn(*mut ComputeParams, *mut Tensor) -> bool;
/// `bool ggml_cpu_extra_work_size(n_threads, op, size)`
pub type WorkSize = unsafe extern "C-unwind" fn(c_int, *const Tensor, *mut usize) -> bool;
/// `enum ggml_status ggml_graph_compute(cgraph, cplan)`
pub type GraphCompute = unsafe extern "C-unwind" fn(*mut c_void, *mut CPlan) -> c_int;
/// `void * ggml_backend_reg_get_proc_address(reg, name)`
pub type GetProcAddress = unsafe extern "C-unwind" fn(*mut c_void, *const c_char) -> *mut c_void;
/// `ggml_backend_buffer_type_t * ggml_backend_dev_get_extra_bufts(device)`
pub type GetExtraBufts = unsafe extern "C-unwind" fn(*mut c_void) -> *mut *mut c_void;
/// `void * ggml_aligned_malloc(size)`
pub type AlignedMalloc = unsafe extern "C-unwind" fn(usize) -> *mut c_void;
/// `void ggml_aligned_free(ptr, size)`
pub type AlignedFree = unsafe extern "C-unwind" fn(*mut c_void, usize);
