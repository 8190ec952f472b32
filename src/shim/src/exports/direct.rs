//! ggml's functions for single rows, see [`crate::direct`].
//!
//! An exported function compares its return address with the library that called first, and jumps: to ours, or to
//! that library's own. Everything else takes the long way, with all arguments kept.

use std::ffi::{CStr, c_int, c_void};
use std::mem::offset_of;

use zen5turbo_kernels::act::blocks::BlocksFn;
use zen5turbo_kernels::dequantize::DequantizeFn;
use zen5turbo_kernels::dot::{DotFn, LEAST};
use zen5turbo_kernels::formats::WeightType;

use crate::direct::gemm::gemm;
use crate::direct::sgemm::sgemm;
use crate::direct::{self, Blocks, COUNT, DOORS, Door, Dot, Hook, Ours, Role};
use crate::ggml::row_functions;
use crate::loader::{caller, find_definer};
use crate::log;
use crate::startup::{committed, first_ggml_call, guarded};

/// The functions of [`row_functions`]: the exported ones and [`HOOKS`]. `$ours` has the signature of the original and takes
/// the number.
macro_rules! hooks {
    ($($name:ident = $role:expr, $ours:ident;)*) => {
        #[allow(non_camel_case_types)]
        enum Number {
            $($name,)*
        }

        /// By their numbers.
        pub static HOOKS: [Hook; COUNT] = [$(Hook {
            name: match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            },
            role: $role,
            ours: Ours($ours::<{ Number::$name as usize }> as *const c_void),
        },)*];

        $(
            /// The function of ggml of this name.
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
                        "sub rax, qword ptr [rip + {doors} + {low}]",
                        "cmp rax, qword ptr [rip + {doors} + {len}]",
                        "jae 2f",
                        "jmp qword ptr [rip + {doors} + {target}]",
                        "2:",
                        "mov eax, {number}",
                        "jmp {enter}",
                    ],
                    doors = sym DOORS,
                    low = const Number::$name as usize * size_of::<Door>() + offset_of!(Door, low),
                    len = const Number::$name as usize * size_of::<Door>() + offset_of!(Door, len),
                    target = const Number::$name as usize * size_of::<Door>() + offset_of!(Door, target),
                    number = const Number::$name as usize,
                    enter = sym enter
                )
            }
        )*
    };
}

row_functions!(hooks);

unsafe extern "C" fn dequantize<const I: usize>(x: *const u8, y: *mut f32, k: i64) {
    direct::count(I);
    // SAFETY: the arguments are ggml's; `target` has given this function away with a kernel for its role.
    unsafe { direct::kernel::<DequantizeFn>(I)(x, y, usize::try_from(k).unwrap_or(0)) }
}

unsafe extern "C" fn quantize<const I: usize>(x: *const f32, y: *mut u8, k: i64) {
    direct::count(I);
    // SAFETY: the arguments are ggml's; `target` has given this function away with a kernel for its role.
    unsafe { direct::kernel::<BlocksFn>(I)(x, y, usize::try_from(k).unwrap_or(0)) }
}

#[allow(clippy::too_many_arguments)] // the original's
unsafe extern "C-unwind" fn dot<const I: usize>(
    n: c_int,
    s: *mut f32,
    bs: usize,
    x: *const u8,
    bx: usize,
    y: *const u8,
    by: usize,
    nrc: c_int,
) {
    // SAFETY: the arguments are ggml's; `target` has given this function away with a kernel and an original for its role.
    unsafe {
        match usize::try_from(n) {
            Ok(n) if n >= LEAST && nrc == 1 => {
                direct::count(I);
                committed(|| s.write(direct::kernel::<DotFn>(I)(n, x, y)));
            }
            _ => direct::original::<Dot>(I)(n, s, bs, x, bx, y, by, nrc),
        }
    }
}

/// The long way of function number `eax`: all of them have integer arguments only, the first six in registers.
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
    let name = HOOKS[i].name;
    let found = guarded(None, || direct::target(state, caller(from)?, i));
    // Code outside of every library, or a defect of ours: ggml's own.
    let found = found.or_else(|| guarded(None, || find_definer(name)?.find(name)));
    found.unwrap_or_else(|| {
        // What the loader does where a symbol has no definition.
        log::line(format_args!(
            "{} was called, but no library of this process has it: it cannot be computed",
            name.to_string_lossy()
        ));
        // SAFETY: no preconditions.
        unsafe { libc::abort() }
    })
}
