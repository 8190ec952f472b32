//! The unwinder of the process, which this library's code calls instead of one of its own.
//!
//! An exception of the program, or the end of a thread, may pass through the hooks. The unwinder that raised it then calls the
//! personality function of Rust, which asks back: where is this frame, what does its table say? Its questions are about a record that
//! only the same unwinder can read. A library that is linked with an unwinder of its own, as the one of `scripts/package.sh` would be,
//! reads another unwinder's record and crashes. A library that needs `libgcc_s.so.1` cannot be preloaded where there is none.
//!
//! So the functions that Rust calls are defined here, hidden from the program. Each jumps to the process's function of the same name,
//! which is looked up at the first call: nothing happens in a process in which nothing is thrown.

use std::arch::global_asm;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use super::symbols::{Library, first};

/// The functions of the process, by their place in [`NAMES`]; null until they are looked up.
static FOUND: [AtomicPtr<c_void>; NAMES.len()] = [const { AtomicPtr::new(null_mut()) }; NAMES.len()];

/// Defines functions, of at most three arguments, and the list of their names. The numbers count from 0.
macro_rules! forward {
    ($($number:literal $name:literal)*) => {
        const NAMES: &[&str] = &[$(concat!($name, "\0")),*];

        $(global_asm!(
            ".pushsection .text.zen5turbo_unwinder, \"ax\", @progbits",
            concat!(".globl ", $name),
            concat!(".hidden ", $name),
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            ".cfi_startproc",
            concat!("mov rax, qword ptr [rip + {found} + 8 * ", $number, "]"),
            "test rax, rax",
            "jnz 2f",
            // The three arguments, which also align the stack.
            "push rdi",
            ".cfi_adjust_cfa_offset 8",
            "push rsi",
            ".cfi_adjust_cfa_offset 8",
            "push rdx",
            ".cfi_adjust_cfa_offset 8",
            concat!("mov edi, ", $number),
            "call {look_up}",
            "pop rdx",
            ".cfi_adjust_cfa_offset -8",
            "pop rsi",
            ".cfi_adjust_cfa_offset -8",
            "pop rdi",
            ".cfi_adjust_cfa_offset -8",
            // A jump, so that the unwinder sees the caller as its own.
            "2: jmp rax",
            ".cfi_endproc",
            concat!(".size ", $name, ", . - ", $name),
            ".popsection",
            found = sym FOUND,
            look_up = sym look_up,
        );)*
    };
}

forward! {
    0 "_Unwind_Backtrace"
    1 "_Unwind_DeleteException"
    2 "_Unwind_GetCFA"
    3 "_Unwind_GetDataRelBase"
    4 "_Unwind_GetIP"
    5 "_Unwind_GetIPInfo"
    6 "_Unwind_GetLanguageSpecificData"
    7 "_Unwind_GetRegionStart"
    8 "_Unwind_GetTextRelBase"
    9 "_Unwind_FindEnclosingFunction"
    10 "_Unwind_RaiseException"
    11 "_Unwind_Resume"
    12 "_Unwind_SetGR"
    13 "_Unwind_SetIP"
}

/// The process's function: the one that its own calls are bound to, or of the library that C++ and the end of threads use. Without
/// any nothing can be unwound: the process ends.
extern "C" fn look_up(number: usize) -> *mut c_void {
    let name = CStr::from_bytes_with_nul(NAMES[number].as_bytes()).expect("the names end with a zero");
    // SAFETY: libgcc_s only registers itself when it is loaded.
    let library = || unsafe { Library::open_for_itself(c"libgcc_s.so.1") }.ok();
    let Some(address) = first(name).or_else(|| library()?.symbol(name)) else {
        // SAFETY: abort has no preconditions.
        unsafe { libc::abort() }
    };
    FOUND[number].store(address, Relaxed);
    address
}
