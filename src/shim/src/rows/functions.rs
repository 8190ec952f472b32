//! The hooked functions for single rows, and the function of this library that stands in for each.

use std::ffi::{CStr, c_int, c_void};

use zen5turbo_kernels::act::blocks::{Blocks, BlocksFn};
use zen5turbo_kernels::dequantize::DequantizeFn;
use zen5turbo_kernels::dot::{DotFn, LEAST};
use zen5turbo_kernels::formats::WeightType;

use super::fast_path;
use super::gemm::gemm;
use super::sgemm::sgemm;
use crate::gate::guard::committed;
use crate::ggml::row_functions;
use crate::ggml::rows::{COUNT, Dot, Role};

/// A hooked function.
pub struct Function {
    /// Its name.
    pub name: &'static CStr,
    pub role: Role,
    /// The function that stands in for it, with the signature of the original.
    pub ours: Ours,
}

/// The address of a function.
pub struct Ours(pub *const c_void);
// SAFETY: it is the address of code, which nobody writes to.
unsafe impl Sync for Ours {}

macro_rules! table {
    ($($name:ident = $role:expr, $ours:ident;)*) => {
        #[allow(non_camel_case_types)]
        enum Number {
            $($name,)*
        }

        /// All hooked functions, by their numbers.
        pub static FUNCTIONS: [Function; COUNT] = [$(Function {
            name: match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            },
            role: $role,
            ours: Ours($ours::<{ Number::$name as usize }> as *const c_void),
        },)*];
    };
}

row_functions!(table);

unsafe extern "C" fn dequantize<const I: usize>(x: *const u8, y: *mut f32, k: i64) {
    fast_path::count(I);
    // SAFETY: [`super::target`] chose this function for function `I` of ggml, and ggml passes its arguments.
    unsafe { fast_path::kernel::<DequantizeFn>(I)(x, y, usize::try_from(k).unwrap_or(0)) }
}

unsafe extern "C" fn quantize<const I: usize>(x: *const f32, y: *mut u8, k: i64) {
    fast_path::count(I);
    // SAFETY: [`super::target`] chose this function for function `I` of ggml, and ggml passes its arguments.
    unsafe { fast_path::kernel::<BlocksFn>(I)(x, y, usize::try_from(k).unwrap_or(0)) }
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
    // SAFETY: [`super::target`] chose this function for function `I` of ggml, and ggml passes its arguments. The kernel
    // is called only for one product of at least `LEAST` elements, for which it was written.
    unsafe {
        match usize::try_from(n) {
            Ok(n) if n >= LEAST && nrc == 1 => {
                fast_path::count(I);
                committed(|| s.write(fast_path::kernel::<DotFn>(I)(n, x, y)));
            }
            _ => fast_path::original::<Dot>(I)(n, s, bs, x, bx, y, by, nrc),
        }
    }
}
