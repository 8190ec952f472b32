//! `ggml_threadpool_new` and `ggml_threadpool_free`, which programs often call by a pointer that the CPU backend's
//! registry handed out, and `ggml_barrier`, which ggml's threads call after nearly every operation.

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
use crate::threads::{barrier, pools};

/// `struct ggml_threadpool * ggml_threadpool_new(struct ggml_threadpool_params *)`.
///
/// # Safety
/// As the original's.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ggml_threadpool_new(_: *mut PoolParams) -> *mut c_void {
    trampoline!(["mov rsi, [rsp]", "jmp {}"], sym threadpool_new)
}

/// `void ggml_threadpool_free(struct ggml_threadpool *)`.
///
/// # Safety
/// As the original's.
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

/// The ggml that a call of a function for pools is meant for.
fn scope(name: &CStr, from: usize) -> Option<Scope> {
    let scope = guarded(None, || caller(from)?.own_scope(name).or_else(|| only_definer(name)));
    if scope.is_none() {
        stats::event(Reason::PoolOwnerUnknown);
    }
    scope
}

/// ggml's barrier in a process with one ggml.
fn only_barrier() -> Option<functions::ggml_barrier> {
    static FOUND: OnceLock<Option<functions::ggml_barrier>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        guarded(None, || {
            let barrier = functions::ggml_barrier;
            only_definer(barrier.symbol())?.function(barrier)
        })
    })
}

/// Without an owner there is no pool, which programs take for a failure: ggml then starts threads for each graph.
unsafe extern "C-unwind" fn threadpool_new(params: *mut PoolParams, from: usize) -> *mut c_void {
    let new = functions::ggml_threadpool_new;
    let state = first_ggml_call(); // before anything is said about the caller
    let Some(scope) = scope(new.symbol(), from) else { return std::ptr::null_mut() };
    let Some(original) = scope.function(new) else { return std::ptr::null_mut() };
    if state == State::Active {
        let functions = || pool_functions(scope, original as usize);
        // SAFETY: arguments of the program.
        if let Some(pool) = guarded(None, || unsafe { pools::make(functions()?, params) }) {
            return pool;
        }
    }
    // SAFETY: the original with its own arguments.
    unsafe { original(params) }
}

unsafe extern "C-unwind" fn threadpool_free(pool: *mut c_void, from: usize) {
    let free = functions::ggml_threadpool_free;
    // SAFETY: the program has done with its pool. A panic half way would have the original free it again.
    if committed(|| unsafe { pools::free(pool) }) {
        return;
    }
    if let Some(original) = scope(free.symbol(), from).and_then(|scope| scope.function(free)) {
        // SAFETY: the original with its own argument.
        unsafe { original(pool) };
    }
}

unsafe extern "C-unwind" fn barrier_of(pool: *mut c_void, from: usize) {
    // Threads that disagree at a barrier compute what nobody can trust.
    let waited = committed(|| {
        fault(Fault::Barrier);
        barrier::wait(pool)
    });
    if waited {
        return;
    }
    // A call that is a function's last one returns to where that function was called from, perhaps OpenMP's library.
    let own = guarded(None, || caller(from)).and_then(|caller| caller.abi.as_ref()).map(|abi| abi.barrier());
    let Some(original) = own.or_else(only_barrier) else {
        log::line(format_args!("error: ggml_barrier was not found: the threads of a graph cannot wait for each other"));
        // SAFETY: no preconditions. Going on would give wrong results.
        unsafe { libc::abort() }
    };
    // SAFETY: the original with its own argument.
    unsafe { original(pool) }
}
