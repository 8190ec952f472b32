//! The functions of ggml that a product needs, by their names in a library that is opened.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use anyhow::{Context, Result, bail};
use libloading::Library;
use zen5turbo_kernels::formats::WeightType;

/// `struct ggml_init_params`.
#[repr(C)]
pub struct InitParams {
    pub mem_size: usize,
    /// Null: ggml allocates it.
    pub mem_buffer: *mut c_void,
    /// Tensors get no data of their own.
    pub no_alloc: bool,
}

/// Opaque objects of ggml.
pub type Object = *mut c_void;

macro_rules! functions {
    ($($name:ident($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// Functions of ggml-base and of the CPU backend, with the signatures of their headers.
        #[allow(non_snake_case)]
        pub struct Functions {
            $(pub $name: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl Functions {
            /// # Safety
            /// The library is a ggml, and stays open.
            unsafe fn of(library: &Library) -> Result<Self> {
                Ok(Functions {
                    $(
                        // SAFETY: ggml's function with its signature.
                        $name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }
                            .with_context(|| concat!("found no function ", stringify!($name), "; expected a ggml of 2025 or later"))?,
                    )*
                })
            }
        }
    };
}

functions! {
    ggml_init(InitParams) -> Object;
    ggml_free(Object);
    ggml_tensor_overhead() -> usize;
    ggml_graph_overhead_custom(usize, bool) -> usize;
    ggml_new_tensor_2d(Object, c_int, i64, i64) -> Object;
    ggml_mul_mat(Object, Object, Object) -> Object;
    ggml_new_graph_custom(Object, usize, bool) -> Object;
    ggml_build_forward_expand(Object, Object);
    ggml_type_name(c_int) -> *const c_char;
    ggml_quantize_chunk(c_int, *const f32, *mut c_void, i64, i64, i64, *const f32) -> usize;
    ggml_backend_cpu_init() -> Object;
    ggml_backend_cpu_set_n_threads(Object, c_int);
    ggml_backend_cpu_set_threadpool(Object, Object);
    ggml_threadpool_params_init(*mut c_void, c_int);
    ggml_threadpool_new(*mut c_void) -> Object;
    ggml_threadpool_pause(Object);
    ggml_threadpool_free(Object);
    ggml_backend_cpu_buffer_from_ptr(*mut c_void, usize) -> Object;
    ggml_backend_buffer_set_usage(Object, c_int);
    ggml_backend_tensor_alloc(Object, Object, *mut c_void) -> c_int;
    ggml_backend_buffer_free(Object);
    ggml_backend_graph_compute(Object, Object) -> c_int;
    ggml_backend_cpu_reg() -> Object;
    ggml_backend_reg_dev_get(Object, usize) -> Object;
    ggml_backend_reg_get_proc_address(Object, *const c_char) -> *mut c_void;
    ggml_backend_dev_supports_op(Object, Object) -> bool;
    ggml_backend_buft_name(Object) -> *const c_char;
    ggml_backend_buft_alloc_buffer(Object, usize) -> Object;
    ggml_backend_buffer_get_base(Object) -> *mut c_void;
    ggml_backend_tensor_set(Object, *const c_void, usize, usize);
}

/// An opened ggml.
pub struct Ggml {
    pub functions: Functions,
    library: Library,
}

impl Ggml {
    /// Opens the library with the CPU backend; ggml-base comes with it.
    pub fn open(file: &Path) -> Result<Self> {
        // SAFETY: this process exists to load this library; whatever it does ends with the process.
        let library = unsafe { Library::new(file) }.context("the loader cannot open it")?;
        // SAFETY: the file has the hook of ggml's CPU backend; it is kept open in the result.
        let functions = unsafe { Functions::of(&library)? };
        Ok(Ggml { functions, library })
    }

    fn find(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: only the address is looked up.
        unsafe { self.library.get::<*mut c_void>(name.to_bytes_with_nul()) }.ok().map(|symbol| *symbol)
    }

    /// The build, as the shim tells it.
    pub fn identity(&self) -> String {
        // SAFETY: functions of one ggml, which is open.
        unsafe { zen5turbo_calibration::identity(|name| self.find(name)) }
    }

    /// How well this variant of the backend suits the CPU, where there are several; 0: not at all.
    pub fn score(&self) -> Option<c_int> {
        let score = self.find(c"ggml_backend_score")?;
        // SAFETY: `int ggml_backend_score(void)`.
        Some(unsafe {
            let score: unsafe extern "C" fn() -> c_int = std::mem::transmute(score);
            score()
        })
    }

    /// The number of a type.
    ///
    /// # Errors
    /// This release does not have it.
    pub fn number_of(&self, weight: WeightType) -> Result<c_int> {
        let number = number(weight);
        // The last of our types to come; ggml_type_name does not check its bounds.
        let known = weight != WeightType::Mxfp4 || self.find(c"quantize_mxfp4").is_some();
        if known {
            // SAFETY: a type of this release.
            let name = unsafe { (self.functions.ggml_type_name)(number) };
            // SAFETY: a string constant of ggml, or null.
            if unsafe { zen5turbo_calibration::ggml_name(name) } == Some(weight.ggml_name()) {
                return Ok(number);
            }
        }
        bail!("this ggml has no type {}", weight.ggml_name())
    }
}

/// `enum ggml_type`, which is part of the format of model files and does not change.
const fn number(weight: WeightType) -> c_int {
    match weight {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q4_0 => 2,
        WeightType::Q4_1 => 3,
        WeightType::Q5_0 => 6,
        WeightType::Q5_1 => 7,
        WeightType::Q8_0 => 8,
        WeightType::Q2K => 10,
        WeightType::Q3K => 11,
        WeightType::Q4K => 12,
        WeightType::Q5K => 13,
        WeightType::Q6K => 14,
        WeightType::Iq4Nl => 20,
        WeightType::Iq4Xs => 23,
        WeightType::Bf16 => 30,
        WeightType::Mxfp4 => 39,
    }
}

/// What the shim has counted in this process.
pub struct Counters {
    taken: Counter,
    declined: Counter,
}

type Counter = unsafe extern "C" fn(*const c_char, *const c_char) -> u64;

impl Counters {
    /// The shim's functions; `None` where it is not preloaded.
    pub fn find() -> Option<Self> {
        let symbol = |name: &CStr| {
            // SAFETY: looks a name up.
            let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            // SAFETY: a function of `include/zen5turbo.h` with its signature.
            (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Counter>(found) })
        };
        Some(Counters { taken: symbol(c"zen5turbo_taken")?, declined: symbol(c"zen5turbo_declined")? })
    }

    /// Products of this type taken over, and left to ggml.
    pub fn of(&self, weight: WeightType) -> (u64, u64) {
        let name = CString::new(weight.ggml_name()).unwrap_or_default();
        // SAFETY: C strings that outlive the calls.
        let ask = |counter: Counter| unsafe { counter(c"MUL_MAT".as_ptr(), name.as_ptr()) };
        (ask(self.taken), ask(self.declined))
    }
}
