//! Hooks of `cblas_sgemm` and `openblas_set_num_threads`. If `ZEN5TURBO_BLAS` names a library, products go to that
//! library.

use std::ffi::{c_int, c_void};

use crate::gate::guard::guarded;
use crate::ggml::functions::function;
use crate::graph::blas_route::{self, route};
use crate::loader::caller;
use crate::reason::Reason;
use crate::stats;

/// `void cblas_sgemm(order, transA, transB, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)`. The arguments are passed on
/// unchanged, in registers and on the stack. Registers that the call of `choose` may change are saved.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cblas_sgemm() {
    trampoline!(
        [
            "push rdi", "push rsi", "push rdx", "push rcx", "push r8", "push r9",
            "sub rsp, 24",
            ".cfi_adjust_cfa_offset 72",
            "movsd qword ptr [rsp], xmm0",
            "movsd qword ptr [rsp + 8], xmm1",
            "mov rdi, qword ptr [rsp + 72]", // the return address
            "call {choose}",
            "movsd xmm0, qword ptr [rsp]",
            "movsd xmm1, qword ptr [rsp + 8]",
            "add rsp, 24",
            "pop r9", "pop r8", "pop rcx", "pop rdx", "pop rsi", "pop rdi",
            ".cfi_adjust_cfa_offset -72",
            "jmp rax",
        ],
        choose = sym sgemm_for
    )
}

/// `void openblas_set_num_threads(int n)`: ggml calls it before its products. The number is also set in the BLIS
/// library.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn openblas_set_num_threads(_: c_int) {
    trampoline!(["mov rsi, [rsp]", "jmp {}"], sym set_threads)
}

/// The `cblas_sgemm` that computes for the caller.
unsafe extern "C" fn sgemm_for(from: usize) -> *const c_void {
    if let Some(route) = guarded(None, route) {
        blas_route::count();
        return route.sgemm;
    }
    match guarded(None, || caller(from)?.blas().sgemm) {
        Some(original) => original as *const c_void,
        None => {
            stats::event(Reason::OriginalMissing);
            blas_route::plain_sgemm as *const c_void
        }
    }
}

unsafe extern "C-unwind" fn set_threads(n: c_int, from: usize) {
    if let Some(route) = guarded(None, route) {
        route.set_threads(n);
    }
    if let Some(original) = guarded(None, || caller(from)?.blas().set_threads) {
        // SAFETY: the original is called with its own argument.
        unsafe { function::<unsafe extern "C-unwind" fn(c_int)>(original as *mut c_void)(n) }
    }
}
