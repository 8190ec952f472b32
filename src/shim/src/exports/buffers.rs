//! Hooks of `ggml_aligned_malloc` and `ggml_aligned_free`, by which ggml allocates its buffers in ordinary memory.

use std::ffi::c_void;

use crate::buffers::large;
use crate::gate::guard::{committed, guarded};
use crate::gate::start::first_ggml_call;
use crate::gate::state::State;
use crate::loader::{caller, originals};
use crate::log;
use crate::reason::Reason;
use crate::stats;

/// `void * ggml_aligned_malloc(size_t size)`: memory that is aligned to 64 bytes at least. Null for size 0, and when no
/// memory is left.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_aligned_malloc(_: usize) -> *mut c_void {
    trampoline!(["mov rsi, [rsp]", "jmp {}"], sym aligned_malloc)
}

/// `void ggml_aligned_free(void * ptr, size_t size)`. The size is not used, not even by the original.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_aligned_free(_: *mut c_void, _: usize) {
    trampoline!(["mov rdx, [rsp]", "jmp {}"], sym aligned_free)
}

unsafe extern "C-unwind" fn aligned_malloc(size: usize, from: usize) -> *mut c_void {
    let state = first_ggml_call(); // first: the messages about the caller depend on this state
    let Some(caller) = guarded(None, || caller(from)) else {
        stats::event(Reason::OriginalMissing);
        return std::ptr::null_mut();
    };
    if state == State::Active
        && let Some(p) = guarded(None, || large::allocate(caller, from, size))
    {
        return p;
    }
    let Some(original) = caller.aligned_malloc else {
        stats::event(Reason::OriginalMissing);
        log::line(format_args!("ggml_aligned_malloc of {} was not found: no memory can be had", caller.path));
        return std::ptr::null_mut();
    };
    // SAFETY: the original is called with its own argument.
    unsafe { original(size) }
}

unsafe extern "C-unwind" fn aligned_free(p: *mut c_void, size: usize, from: usize) {
    // `committed`, because after a panic half way the original would free memory that is not its own, or free it again.
    if committed(|| large::free(p)) {
        return;
    }
    match originals::aligned_free(from) {
        // SAFETY: the original is called with its own arguments.
        Some(original) => unsafe { original(p, size) },
        None => stats::event(Reason::OriginalMissing),
    }
}
