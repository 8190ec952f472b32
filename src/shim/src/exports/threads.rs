//! Hooks of `ggml_threadpool_new` and `ggml_threadpool_free`, which programs often call by a pointer from the CPU
//! backend's registry, and of `ggml_barrier`, which ggml's threads call after nearly every operation.

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;

use crate::config::Fault;

use crate::gate::guard::{committed, fault, guarded};
use crate::gate::start::first_ggml_call;
use crate::gate::state::State;
use crate::ggml::abi::PoolParams;
use crate::ggml::functions;
use crate::loader::{Scope, caller, only_definer, pool_functions};
use crate::log;
use crate::reason::Reason;
use crate::stats;
use crate::threads::{barrier, node_ends, pools};

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

/// The scope of the ggml for which a call of a pool function is meant.
fn scope(name: &CStr, from: usize) -> Option<Scope> {
    let scope = guarded(None, || caller(from)?.own_scope(name).or_else(|| only_definer(name)));
    if scope.is_none() {
        stats::event(Reason::PoolOwnerUnknown);
    }
    scope
}

/// ggml's barrier, if the process has only one ggml.
fn only_barrier() -> Option<functions::ggml_barrier> {
    static FOUND: OnceLock<Option<functions::ggml_barrier>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        guarded(None, || {
            let barrier = functions::ggml_barrier;
            only_definer(barrier.symbol())?.function(barrier)
        })
    })
}

/// If the ggml that is meant is unknown, this returns null. Programs take it for a failure, and ggml then starts
/// threads for each graph.
unsafe extern "C-unwind" fn threadpool_new(params: *mut PoolParams, from: usize) -> *mut c_void {
    let new = functions::ggml_threadpool_new;
    let state = first_ggml_call(); // first: the messages about the caller depend on this state
    let Some(scope) = scope(new.symbol(), from) else { return std::ptr::null_mut() };
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
    if let Some(original) = scope(free.symbol(), from).and_then(|scope| scope.function(free)) {
        // SAFETY: the original is called with its own argument.
        unsafe { original(pool) };
    }
}

unsafe extern "C-unwind" fn barrier_of(pool: *mut c_void, from: usize) {
    // `committed`, because threads that use different barriers compute wrong results.
    let waited = committed(|| {
        fault(Fault::Barrier);
        node_ends::passes(from) || barrier::wait(pool)
    });
    if waited {
        return;
    }
    // If the call was the last one of a function, its return address lies in the caller of that function, perhaps in
    // OpenMP's library. So the caller may be unknown.
    let own = guarded(None, || caller(from)).and_then(|caller| caller.abi.as_ref()).map(|abi| abi.barrier());
    let Some(original) = own.or_else(only_barrier) else {
        log::line(format_args!("error: ggml_barrier was not found: the threads of a graph cannot wait for each other"));
        // The results would be wrong without a barrier.
        // SAFETY: abort has no preconditions.
        unsafe { libc::abort() }
    };
    // SAFETY: the original is called with its own argument.
    unsafe { original(pool) }
}
