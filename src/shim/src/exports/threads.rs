//! Hooks of `ggml_threadpool_new` and `ggml_threadpool_free`, which programs often call by a pointer from the CPU
//! backend's registry, and of `ggml_barrier`, which ggml's threads call after nearly every operation.

use std::ffi::c_void;

use crate::config::Fault;
use crate::gate::guard::{committed, fault, guarded};
use crate::gate::start::first_ggml_call;
use crate::gate::state::State;
use crate::ggml::abi::PoolParams;
use crate::ggml::functions;
use crate::loader::{originals, pool_functions};
use crate::log;
use crate::threads::{barrier, counting, pools};

/// `struct ggml_threadpool * ggml_threadpool_new(struct ggml_threadpool_params *)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_threadpool_new(_: *mut PoolParams) -> *mut c_void {
    trampoline!(["mov rsi, [rsp]", "jmp {}"], sym threadpool_new)
}

/// `void ggml_threadpool_free(struct ggml_threadpool *)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_threadpool_free(_: *mut c_void) {
    trampoline!(["mov rsi, [rsp]", "jmp {}"], sym threadpool_free)
}

/// `void ggml_barrier(struct ggml_threadpool *)`.
///
/// # Safety
/// Called by the threads of a graph only.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_barrier(_: *mut c_void) {
    trampoline!(["mov rsi, [rsp]", "jmp {}"], sym barrier_of)
}

/// If the ggml that is meant is unknown, this returns null. Programs take it for a failure, and ggml then starts
/// threads for each graph.
unsafe extern "C-unwind" fn threadpool_new(params: *mut PoolParams, from: usize) -> *mut c_void {
    let new = functions::ggml_threadpool_new;
    let state = first_ggml_call(); // first: the messages about the caller depend on this state
    let Some(scope) = originals::pool_scope(new.symbol(), from) else { return std::ptr::null_mut() };
    let Some(original) = scope.function(new) else { return std::ptr::null_mut() };
    if state == State::Active {
        let functions = || pool_functions(scope, original as usize);
        // SAFETY: the program gave `params` to the `ggml_threadpool_new` of the ggml of these functions.
        if let Some(pool) = guarded(None, || unsafe { pools::make(functions()?, params) }) {
            return pool;
        }
    }
    // SAFETY: the original is called with its own arguments.
    unsafe { original(params) }
}

unsafe extern "C-unwind" fn threadpool_free(pool: *mut c_void, from: usize) {
    let free = functions::ggml_threadpool_free;
    // `committed`, because after a panic half way the original would free the pool again.
    // SAFETY: the program frees the pool, so it no longer uses it.
    if committed(|| unsafe { pools::free(pool) }) {
        return;
    }
    if let Some(original) = originals::pool_scope(free.symbol(), from).and_then(|scope| scope.function(free)) {
        // SAFETY: the original is called with its own argument.
        unsafe { original(pool) };
    }
}

unsafe extern "C-unwind" fn barrier_of(pool: *mut c_void, from: usize) {
    // `committed`, because threads that use different barriers compute wrong results.
    let waited = committed(|| {
        fault(Fault::Barrier);
        counting::between();
        barrier::wait(pool)
    });
    if waited {
        return;
    }
    let Some(original) = originals::barrier(from) else {
        log::line(format_args!("error: ggml_barrier was not found: the threads of a graph cannot wait for each other"));
        // The results would be wrong without a barrier.
        // SAFETY: abort has no preconditions.
        unsafe { libc::abort() }
    };
    // SAFETY: the original is called with its own argument.
    unsafe { original(pool) }
}
