//! Hooks of `memcpy` and `memmove`: one comparison, then a jump to the original.
//!
//! They are called before the constructor of this library has run, and even before its relocations are done (by the
//! resolvers of other libraries' IFUNCs). So the threshold is 0 at first, and every call goes to code that needs only
//! its arguments.

use std::ffi::c_void;
use std::mem::offset_of;

use crate::buffers::nt_copy;

const _: () = assert!(offset_of!(nt_copy::FastPath, large) == 0, "the trampolines compare with the first word");

/// `void * memcpy(void * dst, const void * src, size_t n)`. The ranges may overlap, because programs that are bound to
/// its first version (GLIBC_2.2.5) expect that.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn memcpy(_: *mut c_void, _: *const c_void, _: usize) -> *mut c_void {
    trampoline!(
        [
            "cmp rdx, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        path = sym nt_copy::FAST_PATH, slow = sym large_copy,
        original = const offset_of!(nt_copy::FastPath, memcpy)
    )
}

/// `void * memmove(void * dst, const void * src, size_t n)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn memmove(_: *mut c_void, _: *const c_void, _: usize) -> *mut c_void {
    trampoline!(
        [
            "cmp rdx, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        path = sym nt_copy::FAST_PATH, slow = sym large_copy,
        original = const offset_of!(nt_copy::FastPath, memmove)
    )
}

/// `void * __memcpy_chk(void * dst, const void * src, size_t n, size_t room)`: ends the program when `n` is more than
/// `room`, the size of the destination.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __memcpy_chk(_: *mut c_void, _: *const c_void, _: usize, _: usize) -> *mut c_void {
    trampoline!(
        [
            "cmp rcx, rdx", "jb {overflow}",
            "cmp rdx, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        overflow = sym nt_copy::overflow,
        path = sym nt_copy::FAST_PATH, slow = sym large_copy,
        original = const offset_of!(nt_copy::FastPath, memcpy)
    )
}

/// `void * __memmove_chk(void * dst, const void * src, size_t n, size_t room)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __memmove_chk(_: *mut c_void, _: *const c_void, _: usize, _: usize) -> *mut c_void {
    trampoline!(
        [
            "cmp rcx, rdx", "jb {overflow}",
            "cmp rdx, qword ptr [rip + {path}]", "jae {slow}", "jmp qword ptr [rip + {path} + {original}]",
        ],
        overflow = sym nt_copy::overflow,
        path = sym nt_copy::FAST_PATH, slow = sym large_copy,
        original = const offset_of!(nt_copy::FastPath, memmove)
    )
}

/// A large copy, which [`nt_copy::copy`] makes. Before the originals are known, this copies by itself, in the direction
/// that an overlap requires.
#[unsafe(naked)]
unsafe extern "C-unwind" fn large_copy(_: *mut c_void, _: *const c_void, _: usize) -> *mut c_void {
    trampoline!(
        [
            "cmp qword ptr [rip + {path} + {original}], 0",
            "jne {large}",
            "mov rax, rdi",
            "mov rcx, rdx",
            "mov r8, rdi",
            "sub r8, rsi",
            "cmp r8, rdx",
            "jb 2f", // the destination begins inside the source: copy from the end
            "rep movsb",
            "ret",
            "2:",
            "lea rsi, [rsi + rcx - 1]",
            "lea rdi, [rdi + rcx - 1]",
            "std",
            "rep movsb",
            "cld",
            "ret",
        ],
        path = sym nt_copy::FAST_PATH, original = const offset_of!(nt_copy::FastPath, memmove), large = sym nt_copy::copy
    )
}
