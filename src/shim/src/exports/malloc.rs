//! Hooks of the C library's allocation functions: one comparison, then a jump to the original.
//!
//! `free` is not hooked, because the original allocates every block. `reallocarray` is not hooked, because in glibc it
//! calls `realloc`.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;

use crate::buffers::malloc_thp;

const _: () = assert!(offset_of!(malloc_thp::FastPath, large) == 0, "the trampolines compare with the first word");

/// `void * malloc(size_t)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn malloc(_: usize) -> *mut c_void {
    trampoline!(
        [
            "cmp rdi, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        path = sym malloc_thp::FAST_PATH, slow = sym malloc_thp::malloc, original = const offset_of!(malloc_thp::FastPath, malloc)
    )
}

/// `void * calloc(size_t, size_t)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn calloc(_: usize, _: usize) -> *mut c_void {
    trampoline!(
        [
            "mov rax, rdi", "mul rsi", "jo {slow}",
            "cmp rax, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        path = sym malloc_thp::FAST_PATH, slow = sym malloc_thp::calloc, original = const offset_of!(malloc_thp::FastPath, calloc)
    )
}

/// `void * realloc(void *, size_t)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn realloc(_: *mut c_void, _: usize) -> *mut c_void {
    trampoline!(
        [
            "cmp rsi, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        path = sym malloc_thp::FAST_PATH, slow = sym malloc_thp::realloc, original = const offset_of!(malloc_thp::FastPath, realloc)
    )
}

/// `int posix_memalign(void **, size_t alignment, size_t size)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn posix_memalign(_: *mut *mut c_void, _: usize, _: usize) -> c_int {
    trampoline!(
        [
            "cmp rdx, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        path = sym malloc_thp::FAST_PATH, slow = sym malloc_thp::posix_memalign, original = const offset_of!(malloc_thp::FastPath, posix_memalign)
    )
}

/// `void * aligned_alloc(size_t alignment, size_t size)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn aligned_alloc(_: usize, _: usize) -> *mut c_void {
    trampoline!(
        [
            "cmp rsi, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        path = sym malloc_thp::FAST_PATH, slow = sym malloc_thp::aligned_alloc, original = const offset_of!(malloc_thp::FastPath, aligned_alloc)
    )
}

/// `void * memalign(size_t alignment, size_t size)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn memalign(_: usize, _: usize) -> *mut c_void {
    trampoline!(
        [
            "cmp rsi, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        path = sym malloc_thp::FAST_PATH, slow = sym malloc_thp::memalign, original = const offset_of!(malloc_thp::FastPath, memalign)
    )
}
