//! The functions of ggml that a product needs, by their names in a library that is opened.

use std::ffi::{CStr, CString, c_int};
use std::path::Path;

use anyhow::{Context, Result, bail};
use zen5turbo_ggml::build::identity;
use zen5turbo_ggml::functions::{self, function};
use zen5turbo_ggml::hooks::api;
use zen5turbo_ggml::types::{TypeFunctions, weight_number};
use zen5turbo_kernels::formats::WeightType;

use crate::library::Library;

macro_rules! functions {
    ($($name:ident)*) => {
        /// Functions of ggml-base and of the CPU backend.
        pub struct Functions {
            $(pub $name: functions::$name,)*
        }

        impl Functions {
            /// # Safety
            /// The library is a ggml, and stays open.
            unsafe fn of(library: &Library) -> Result<Self> {
                let find = |name: &CStr| library.find(name);
                Ok(Functions {
                    $(
                        // SAFETY: the library is a ggml, by the contract of this function.
                        $name: unsafe { functions::$name.find(find) }
                            .context(concat!("found no function ", stringify!($name), "; expected a ggml of 2025 or later"))?,
                    )*
                })
            }
        }
    };
}

functions! {
    ggml_init
    ggml_free
    ggml_tensor_overhead
    ggml_graph_overhead_custom
    ggml_new_tensor_2d
    ggml_mul_mat
    ggml_new_graph_custom
    ggml_build_forward_expand
    ggml_quantize_chunk
    ggml_backend_cpu_init
    ggml_backend_cpu_set_n_threads
    ggml_backend_cpu_set_threadpool
    ggml_threadpool_params_init
    ggml_threadpool_new
    ggml_threadpool_pause
    ggml_threadpool_free
    ggml_backend_cpu_buffer_from_ptr
    ggml_backend_buffer_set_usage
    ggml_backend_tensor_alloc
    ggml_backend_buffer_free
    ggml_backend_graph_compute
    ggml_backend_cpu_reg
    ggml_backend_reg_dev_get
    ggml_backend_reg_get_proc_address
    ggml_backend_dev_supports_op
    ggml_backend_buft_name
    ggml_backend_buft_alloc_buffer
    ggml_backend_buffer_get_base
    ggml_backend_tensor_set
}

/// An opened ggml.
pub struct Ggml {
    pub functions: Functions,
    types: TypeFunctions,
    library: Library,
}

impl Ggml {
    /// Opens the library with the CPU backend; ggml-base comes with it.
    pub fn open(file: &Path) -> Result<Self> {
        // SAFETY: this process exists to load this library; whatever its initialisers do ends with the process.
        let library = unsafe { Library::open(file) }?;
        // SAFETY: the file has the hook of ggml's CPU backend, so it is a ggml; it is kept open in the result.
        let functions = unsafe { Functions::of(&library)? };
        // SAFETY: the library is a ggml, because it has its hook, and is kept open in the result.
        let types = unsafe { TypeFunctions::find(&|name| library.find(name)) };
        let types = types.context("found no functions for types; expected a ggml of 2025 or later")?;
        Ok(Ggml { functions, types, library })
    }

    /// The build, as the shim tells it.
    pub fn identity(&self) -> String {
        // SAFETY: the functions are those of one ggml, which is open.
        unsafe { identity(|name| self.library.find(name)) }
    }

    /// How well this variant of the backend suits the CPU, where there are several; 0: not at all.
    pub fn score(&self) -> Option<c_int> {
        // SAFETY: the library is a ggml, which is open. The function has no preconditions.
        unsafe { functions::ggml_backend_score.find(|name| self.library.find(name)).map(|score| score()) }
    }

    /// The number of a type.
    ///
    /// # Errors
    /// This release does not have it.
    pub fn number_of(&self, weight: WeightType) -> Result<c_int> {
        let number = weight_number(weight);
        // ggml_type_name does not check its bounds, and these types are younger than the hook.
        let young = match weight {
            WeightType::Mxfp4 => Some(functions::quantize_mxfp4.symbol()),
            WeightType::Nvfp4 => Some(functions::quantize_nvfp4.symbol()),
            WeightType::Q1_0 => Some(functions::quantize_q1_0.symbol()),
            WeightType::Q2_0 => Some(functions::quantize_q2_0.symbol()),
            _ => None,
        };
        let known = young.is_none_or(|symbol| self.library.find(symbol).is_some());
        // SAFETY: the release knows the number, as was just seen; all other types are older than the hook.
        if known && unsafe { self.types.name(number) } == Some(weight.ggml_name()) {
            return Ok(number);
        }
        bail!("this ggml has no type {}", weight.ggml_name())
    }
}

/// What the shim has counted in this process.
pub struct Counters {
    taken: api::Count,
    declined: api::Count,
    /// Keeps the shim loaded, as the program does anyway.
    _program: Library,
}

impl Counters {
    /// The shim's functions; `None` where it is not preloaded.
    pub fn find() -> Option<Self> {
        let program = Library::program();
        // SAFETY: a function of this name is that of `include/zen5turbo.h`, whose signature this is.
        let symbol = |name: &CStr| program.find(name).map(|address| unsafe { function::<api::Count>(address) });
        let (taken, declined) = (symbol(api::TAKEN)?, symbol(api::DECLINED)?);
        Some(Counters { taken, declined, _program: program })
    }

    /// Products of this type taken over, and left to ggml.
    pub fn of(&self, weight: WeightType) -> (u64, u64) {
        let name = CString::new(weight.ggml_name()).unwrap_or_default();
        // SAFETY: the arguments are C strings that outlive the calls.
        let ask = |counter: api::Count| unsafe { counter(c"MUL_MAT".as_ptr(), name.as_ptr()) };
        (ask(self.taken), ask(self.declined))
    }
}
