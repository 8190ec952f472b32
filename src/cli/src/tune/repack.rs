//! Weights in ggml's buffer type `CPU_REPACK`: the layout in which llama.cpp holds them without the shim, and for which ggml
//! has kernels of its own. The loaded ggml is asked which types have some, as llama.cpp asks it.

use std::ffi::{c_int, c_void};

use anyhow::{Result, ensure};
use zen5turbo_ggml::abi::{InitParams, MOST_BUFFER_TYPES, Object, REPACK_BUFFER_TYPES, STATUS_SUCCESS, TYPE_F32};
use zen5turbo_ggml::checked::ggml_name;
use zen5turbo_ggml::functions::{function, ggml_backend_dev_get_extra_bufts};
use zen5turbo_host::memory::map::HUGE_PAGE;

use super::ggml::Ggml;
use super::weights::{no_room, spread};

/// The buffer type, and the weights in it.
pub struct Repack {
    buffer_type: Object,
    device: Object,
    /// Made for the first type that can be repacked, large enough for all.
    buffer: Option<Buffer>,
    /// Holds the matrices of the current type.
    context: Object,
}

#[derive(Clone, Copy)]
struct Buffer {
    object: Object,
    start: usize,
    bytes: usize,
}

impl Repack {
    /// That of the CPU backend; `None` where it has none.
    pub fn of(ggml: &Ggml) -> Result<Option<Self>> {
        let f = &ggml.functions;
        // SAFETY: ggml's functions with their signatures; a list ends with a null pointer.
        unsafe {
            let registry = (f.ggml_backend_cpu_reg)();
            ensure!(!registry.is_null(), "ggml_backend_cpu_reg gave none");
            let device = (f.ggml_backend_reg_dev_get)(registry, 0);
            let name = ggml_backend_dev_get_extra_bufts.symbol();
            let list = (f.ggml_backend_reg_get_proc_address)(registry, name.as_ptr());
            if device.is_null() || list.is_null() {
                return Ok(None);
            }
            let list = function::<ggml_backend_dev_get_extra_bufts>(list)(device);
            if list.is_null() {
                return Ok(None);
            }
            let types = (0..MOST_BUFFER_TYPES).map(|i| *list.add(i)).take_while(|object| !object.is_null());
            let is_repack = |name: &str| REPACK_BUFFER_TYPES.contains(&name);
            let mut named =
                types.filter(|&object| ggml_name((f.ggml_backend_buft_name)(object)).is_some_and(is_repack));
            let repack = |buffer_type| Self { buffer_type, device, buffer: None, context: std::ptr::null_mut() };
            Ok(named.next().map(repack))
        }
    }

    /// Repacks matrices of `bytes` each, given by rows, elements of a row and address, into memory of their own; none where
    /// ggml has no repacked kernel for this type. Those of the type before are gone, and no graph uses them.
    pub fn fill(
        &mut self,
        ggml: &Ggml,
        number: c_int,
        bytes: usize,
        matrices: &[((usize, usize), usize)],
    ) -> Result<Vec<Object>> {
        let f = &ggml.functions;
        // SAFETY: ggml's functions with their signatures. The context has room for every matrix and for what is asked about
        // one of them; the buffer lives as long as this process; each matrix is read whole.
        unsafe {
            if !self.context.is_null() {
                (f.ggml_free)(std::mem::replace(&mut self.context, std::ptr::null_mut()));
            }
            let tensors = matrices.len() + 2;
            let mem_size = tensors * (f.ggml_tensor_overhead)() + (64 << 10);
            let context = (f.ggml_init)(InitParams { mem_size, mem_buffer: std::ptr::null_mut(), no_alloc: true });
            ensure!(!context.is_null(), "ggml_init failed for {tensors} tensors");
            self.context = context;
            let buffer = self.buffer(ggml, bytes * matrices.len())?;
            let mut repacked = Vec::new();
            for (at, &((rows, k), from)) in matrices.iter().enumerate() {
                let weights = (f.ggml_new_tensor_2d)(context, number, k as i64, rows as i64);
                ensure!(!weights.is_null(), "ggml made no tensor");
                let place = (buffer.start + at * bytes) as *mut c_void;
                let status = (f.ggml_backend_tensor_alloc)(buffer.object, weights, place);
                ensure!(status == STATUS_SUCCESS, "ggml_backend_tensor_alloc gave status {status}");
                // Filling the buffer with what it has no layout for would end the process.
                if at == 0 && !self.computes(ggml, context, weights, k) {
                    return Ok(Vec::new());
                }
                (f.ggml_backend_tensor_set)(weights, from as *const c_void, 0, bytes);
                repacked.push(weights);
            }
            Ok(repacked)
        }
    }

    /// Whether the backend computes products of these weights, which lie in the buffer type.
    ///
    /// # Safety
    /// The context has room for two tensors.
    unsafe fn computes(&self, ggml: &Ggml, context: Object, weights: Object, k: usize) -> bool {
        let f = &ggml.functions;
        // SAFETY: the functions are ggml's, and the context has room for both tensors, by the contract of this function. The
        // device is that of the CPU backend, and is asked about a product of its own ggml.
        unsafe {
            let x = (f.ggml_new_tensor_2d)(context, TYPE_F32, k as i64, 1);
            let product = if x.is_null() { x } else { (f.ggml_mul_mat)(context, weights, x) };
            !product.is_null() && (f.ggml_backend_dev_supports_op)(self.device, product)
        }
    }

    /// The buffer, of at least `bytes` bytes; on huge pages and spread over all nodes as the plain weights are.
    fn buffer(&mut self, ggml: &Ggml, bytes: usize) -> Result<Buffer> {
        let f = &ggml.functions;
        if let Some(buffer) = self.buffer.take_if(|buffer| buffer.bytes < bytes) {
            // SAFETY: nothing lies in it any more.
            unsafe { (f.ggml_backend_buffer_free)(buffer.object) };
        }
        if let Some(buffer) = self.buffer {
            return Ok(buffer);
        }
        // SAFETY: ggml's functions with their signatures.
        let (object, start) = unsafe {
            let object = (f.ggml_backend_buft_alloc_buffer)(self.buffer_type, bytes);
            ensure!(!object.is_null(), no_room(bytes));
            (object, (f.ggml_backend_buffer_get_base)(object) as usize)
        };
        let (first, end) = (start.next_multiple_of(HUGE_PAGE), (start + bytes) / HUGE_PAGE * HUGE_PAGE);
        if first < end {
            // SAFETY: whole pages of the buffer; advice changes no contents. Refused, the pages are small.
            unsafe { libc::madvise(first as *mut c_void, end - first, libc::MADV_HUGEPAGE) };
            spread(first, end - first);
        }
        let buffer = Buffer { object, start, bytes };
        self.buffer = Some(buffer);
        Ok(buffer)
    }
}
