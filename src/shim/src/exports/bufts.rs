//! Hook of `ggml_backend_reg_get_proc_address`. llama.cpp asks this function for the list of extra buffer types (see
//! [`crate::graph::buffer_types`]), and for functions that this library hooks.

use std::ffi::{c_char, c_void};

use crate::gate::guard::guarded;
use crate::gate::start::first_ggml_call;
use crate::gate::state::State;
use crate::ggml::functions::{ggml_backend_dev_get_extra_bufts, ggml_threadpool_free, ggml_threadpool_new};
use crate::graph::buffer_types;
use crate::loader::caller;
use crate::loader::symbols::c_str;
use crate::reason::Reason;
use crate::stats;

/// `void * ggml_backend_reg_get_proc_address(ggml_backend_reg_t, const char *)`.
///
/// # Safety
/// Called with ggml's own arguments.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_backend_reg_get_proc_address(_: *mut c_void, _: *const c_char) -> *mut c_void {
    trampoline!(["mov rdx, [rsp]", "jmp {}"], sym get_proc_address)
}

unsafe extern "C-unwind" fn get_proc_address(reg: *mut c_void, name: *const c_char, from: usize) -> *mut c_void {
    let found = guarded(None, || caller(from));
    let Some((caller, original)) = found.and_then(|c| Some((c, c.get_proc_address?))) else {
        stats::event(Reason::OriginalMissing);
        return std::ptr::null_mut();
    };
    // SAFETY: the original is called with its own arguments.
    let p = unsafe { original(reg, name) };
    // SAFETY: the caller passes a C string as the name.
    let asked = unsafe { c_str(name) };
    if [ggml_threadpool_new.symbol(), ggml_threadpool_free.symbol()].contains(&asked) {
        return guarded(p, || buffer_types::of_this_copy(reg, asked, p));
    }
    if p.is_null() || asked != ggml_backend_dev_get_extra_bufts.symbol() || first_ggml_call() != State::Active {
        return p;
    }
    guarded(p, || buffer_types::answer(caller, p))
}
