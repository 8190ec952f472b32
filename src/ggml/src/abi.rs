//! The structures of ggml that are read or written, as in ggml 0.26 (ggml.h, ggml-cpu.h, ggml-cpu-impl.h,
//! ggml-backend-impl.h). Nothing is read through them before [`crate::layout`] has compared them with the library that
//! is loaded.

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;
use std::sync::atomic::AtomicUsize;

/// An object of ggml that nobody here looks into: a context, a backend, a buffer, a graph.
pub type Object = *mut c_void;

/// `struct ggml_tensor`.
#[repr(C)]
pub struct Tensor {
    /// `enum ggml_type`. A number means what `ggml_type_name` calls it, see [`crate::types`].
    pub ty: c_int,
    /// `struct ggml_backend_buffer *`.
    pub buffer: Object,
    /// Elements per dimension.
    pub ne: [i64; 4],
    /// Bytes per step in each dimension.
    pub nb: [usize; 4],
    /// `enum ggml_op`. The numbers move between releases: a number means what `ggml_op_name` calls it.
    pub op: c_int,
    /// Parameters of the operation, as integers or the bits of floats.
    pub op_params: [i32; 16],
    /// `enum ggml_tensor_flag`, such as [`TENSOR_FLAG_INPUT`].
    pub flags: i32,
    /// The operands; null where there are fewer.
    pub src: [*mut Tensor; 10],
    /// The tensor that this one is a view of, or null.
    pub view_src: *mut Tensor,
    /// Bytes from the start of `view_src`.
    pub view_offs: usize,
    /// The elements, once they have a place in memory.
    pub data: *mut c_void,
    /// A name that ends with NUL. Some programs compile ggml with a larger `GGML_MAX_NAME`: what follows lies further on.
    pub name: [c_char; NAME_BYTES],
    extra: *mut c_void,
    /// Up to a multiple of 16 bytes.
    padding: [c_char; 8],
}

/// `GGML_MAX_NAME`, as upstream has it.
pub const NAME_BYTES: usize = 64;

impl Tensor {
    /// What the backend keeps with the tensor; CPU_REPACK puts its kernels here. `longer`: bytes that a name of this ggml has
    /// beyond [`NAME_BYTES`], a multiple of 16.
    ///
    /// # Safety
    /// This is a tensor of a ggml with such names.
    pub unsafe fn extra(&self, longer: usize) -> *mut c_void {
        let at = std::ptr::from_ref(self).cast::<u8>().wrapping_add(offset_of!(Self, extra) + longer);
        // SAFETY: the field lies there, by the contract of this function, and it is aligned, since `longer` is a multiple of 16.
        unsafe { at.cast::<*mut c_void>().read() }
    }
}

const _: () = assert!(size_of::<Tensor>() == 336);

/// `sizeof(struct ggml_object)`, which [`TENSOR_OVERHEAD`] includes.
pub const OBJECT_SIZE: usize = 32;

/// What `ggml_tensor_overhead` returns.
pub const TENSOR_OVERHEAD: usize = OBJECT_SIZE + size_of::<Tensor>();

/// `GGML_TENSOR_FLAG_INPUT`: the program sets the tensor anew for every graph.
pub const TENSOR_FLAG_INPUT: i32 = 1;

/// `GGML_TYPE_F32` in every release.
pub const TYPE_F32: c_int = 0;

/// `GGML_OP_NONE`, the first of the operations in every release.
pub const OP_NONE: c_int = 0;

/// `GGML_HINT_NONE` in `op_params[1]` of a MUL_MAT; older releases leave it zero.
pub const HINT_NONE: i32 = 0;

/// `struct ggml_compute_params`, as far as every release has it.
#[repr(C)]
pub struct ComputeParams {
    /// This thread's number.
    pub ith: c_int,
    /// How many threads compute this graph.
    pub nth: c_int,
    /// Bytes of the work buffer.
    pub wsize: usize,
    /// The work buffer: one per graph in execution.
    pub wdata: *mut c_void,
    /// `struct ggml_threadpool *`.
    pub threadpool: Object,
    /// Only there when the library exports `ggml_backend_cpu_set_use_ref`.
    pub use_ref: bool,
}

const _: () = assert!(size_of::<ComputeParams>() == 40);

/// The head of `struct ggml_cplan`.
#[repr(C)]
pub struct CPlan {
    /// Bytes of the work buffer.
    pub work_size: usize,
    /// The work buffer; null where no node needs one.
    pub work_data: *mut c_void,
    /// How many threads compute the graph.
    pub n_threads: c_int,
    /// Only there when the library exports `ggml_threadpool_new`.
    pub threadpool: Object,
    /// `bool (*abort_callback)(void *)`: asked by the first thread after each operation; 0 for none. Only there when the
    /// library exports `ggml_threadpool_new`.
    pub abort_callback: usize,
}

const _: () = assert!(size_of::<CPlan>() == 40);

/// `struct ggml_threadpool_params`. Its places are compared with the library's before it is used.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PoolParams {
    /// CPUs of the pool's threads, a byte each; none: those of the process.
    pub cpumask: [u8; 512],
    /// How many threads the pool has.
    pub n_threads: c_int,
    /// `enum ggml_sched_priority`.
    pub prio: c_int,
    /// How long threads without work poll for it, 0 to 100.
    pub poll: u32,
    /// Every thread has one CPU of the mask.
    pub strict_cpu: bool,
    /// The pool starts paused.
    pub paused: bool,
}

const _: () = assert!(size_of::<PoolParams>() == 528 && offset_of!(PoolParams, n_threads) == 512);

/// Bytes that hold a `struct ggml_threadpool_params` of any release, aligned for it.
pub type PoolParamsRoom = [u64; 512];

const _: () = assert!(size_of::<PoolParamsRoom>() >= 4 * size_of::<PoolParams>());

/// `struct ggml_init_params`.
#[repr(C)]
pub struct InitParams {
    /// Bytes of the context.
    pub mem_size: usize,
    /// Null: ggml allocates it.
    pub mem_buffer: *mut c_void,
    /// Tensors get no data of their own.
    pub no_alloc: bool,
}

const _: () = assert!(size_of::<InitParams>() == 24);

/// `struct ggml_backend_device` of every release since October 2024: addresses of functions, 0 where the device has none.
#[repr(C)]
#[allow(missing_docs)] // the header's names
pub struct BackendDevice {
    pub get_name: usize,
    pub get_description: usize,
    pub get_memory: usize,
    pub get_type: usize,
    pub get_props: usize,
    pub init_backend: usize,
    pub get_buffer_type: usize,
    pub get_host_buffer_type: usize,
    pub buffer_from_host_ptr: usize,
    /// A [`SupportsOp`], which the preload library replaces in a BLAS device.
    pub supports_op: AtomicUsize,
    pub supports_buft: usize,
    pub offload_op: usize,
    pub event_new: usize,
    pub event_free: usize,
    pub event_synchronize: usize,
    pub reg: Object,
    pub context: *mut c_void,
}

const _: () = assert!(size_of::<BackendDevice>() == 17 * 8);

/// `bool (*supports_op)(ggml_backend_dev_t, const struct ggml_tensor *)`
pub type SupportsOp = unsafe extern "C-unwind" fn(*mut BackendDevice, *const Tensor) -> bool;

/// `GGML_STATUS_SUCCESS`.
pub const STATUS_SUCCESS: c_int = 0;

/// `GGML_STATUS_FAILED`.
pub const STATUS_FAILED: c_int = -1;

/// `GGML_BACKEND_BUFFER_USAGE_WEIGHTS`.
pub const BUFFER_USAGE_WEIGHTS: c_int = 1;

/// The names of the buffer type that holds weights in ggml's repacked layout: today's, and that of releases before June 2025.
pub const REPACK_BUFFER_TYPES: [&str; 2] = ["CPU_REPACK", "CPU_AARCH64"];

/// Extra buffer types of a device, at most; ggml 0.26 has four of them.
pub const MOST_BUFFER_TYPES: usize = 64;
