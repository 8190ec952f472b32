//! Hooks of ggml's functions for single rows, see [`crate::rows`].
//!
//! An exported function checks whether its return address lies in the library that called first. If so, it jumps to the
//! target: the function of this library, or the original. All other calls take the long way ([`enter`]), which keeps
//! all arguments.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;

use crate::gate::guard::guarded;
use crate::gate::start::first_ggml_call;
use crate::ggml::row_functions;
use crate::loader::{caller, originals};
use crate::log;
use crate::rows;
use crate::rows::fast_path::{FAST_PATHS, FastPath};
use crate::rows::functions::FUNCTIONS;

/// The exported functions.
macro_rules! exports {
    ($($name:ident = $role:expr, $ours:ident;)*) => {
        #[allow(non_camel_case_types)]
        enum Number {
            $($name,)*
        }

        $(
            /// ggml's function of this name.
            ///
            /// # Safety
            /// Called with the arguments of the original.
            #[allow(non_snake_case)]
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name() {
                trampoline!(
                    [
                        "mov rax, [rsp]",
                        "sub rax, qword ptr [rip + {paths} + {low}]",
                        "cmp rax, qword ptr [rip + {paths} + {len}]",
                        "jae 2f",
                        "jmp qword ptr [rip + {paths} + {target}]",
                        "2:",
                        "mov eax, {number}",
                        "jmp {enter}",
                    ],
                    paths = sym FAST_PATHS,
                    low = const Number::$name as usize * size_of::<FastPath>() + offset_of!(FastPath, low),
                    len = const Number::$name as usize * size_of::<FastPath>() + offset_of!(FastPath, len),
                    target = const Number::$name as usize * size_of::<FastPath>() + offset_of!(FastPath, target),
                    number = const Number::$name as usize,
                    enter = sym enter
                )
            }
        )*
    };
}

row_functions!(exports);

/// The long way for function number `eax`. All these functions have only integer arguments, the first six in registers.
#[unsafe(naked)]
unsafe extern "C-unwind" fn enter() {
    trampoline!(
        [
            "push rdi",
            "push rsi",
            "push rdx",
            "push rcx",
            "push r8",
            "push r9",
            "sub rsp, 8",
            ".cfi_adjust_cfa_offset 56",
            "mov edi, eax",
            "mov rsi, [rsp + 56]",
            "call {find}",
            "add rsp, 8",
            "pop r9",
            "pop r8",
            "pop rcx",
            "pop rdx",
            "pop rsi",
            "pop rdi",
            ".cfi_adjust_cfa_offset -56",
            "jmp rax",
        ],
        find = sym find
    )
}

unsafe extern "C" fn find(i: c_int, from: usize) -> *mut c_void {
    let (state, i) = (first_ggml_call(), i as usize);
    let name = FUNCTIONS[i].name;
    let found = guarded(None, || rows::target(state, caller(from)?, i));
    // The caller lies in no library, or a panic was caught: any library's own function computes.
    let found = found.or_else(|| originals::any(name));
    found.unwrap_or_else(|| {
        // The loader also ends a program that calls a symbol without a definition.
        log::line(format_args!(
            "{} was called, but no library of this process has it: it cannot be computed",
            name.to_string_lossy()
        ));
        // SAFETY: abort has no preconditions.
        unsafe { libc::abort() }
    })
}
