//! The functions that are hooked, and what stands in for each.

use std::ffi::{CStr, c_int, c_void};

use zen5turbo_kernels::act::blocks::{Blocks, BlocksFn};
use zen5turbo_kernels::dequantize::DequantizeFn;
use zen5turbo_kernels::dot::{DotFn, LEAST};
use zen5turbo_kernels::formats::WeightType;

use super::fast_path;
use super::gemm::gemm;
use super::sgemm::sgemm;
use super::types::Dot;
use crate::gate::guard::committed;
use crate::ggml::bindings::ROW_FUNCTIONS;

/// What a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A row of this type to floats.
    Dequantize(WeightType),
    /// Floats to a row of activations.
    Quantize(Blocks),
    /// The product of a row of this type and one of Q8_0.
    Dot(WeightType),
    /// `llamafile_sgemm`, see [`sgemm`].
    Products,
    /// A product of repacked rows of this type and many columns, see [`gemm`].
    Gemm(WeightType),
    /// The same with single columns, which is left to ggml.
    Gemv(WeightType),
}

/// A function that is hooked.
pub struct Function {
    /// Its name.
    pub name: &'static CStr,
    pub role: Role,
    /// Ours, with the signature of the original.
    pub ours: Ours,
}

/// The address of a function.
pub struct Ours(pub *const c_void);
// SAFETY: the address of code.
unsafe impl Sync for Ours {}

/// Gives the list of functions to the macro `$make`: name, role, and what stands in for it, which has the signature of the original
/// and takes the number of the function.
macro_rules! row_functions {
    ($make:ident) => {
        $make! {
            dequantize_row_q4_0 = Role::Dequantize(WeightType::Q4_0), dequantize;
            dequantize_row_q4_1 = Role::Dequantize(WeightType::Q4_1), dequantize;
            dequantize_row_q5_0 = Role::Dequantize(WeightType::Q5_0), dequantize;
            dequantize_row_q5_1 = Role::Dequantize(WeightType::Q5_1), dequantize;
            dequantize_row_q8_0 = Role::Dequantize(WeightType::Q8_0), dequantize;
            dequantize_row_q2_K = Role::Dequantize(WeightType::Q2K), dequantize;
            dequantize_row_q3_K = Role::Dequantize(WeightType::Q3K), dequantize;
            dequantize_row_q4_K = Role::Dequantize(WeightType::Q4K), dequantize;
            dequantize_row_q5_K = Role::Dequantize(WeightType::Q5K), dequantize;
            dequantize_row_q6_K = Role::Dequantize(WeightType::Q6K), dequantize;
            dequantize_row_iq4_nl = Role::Dequantize(WeightType::Iq4Nl), dequantize;
            dequantize_row_iq4_xs = Role::Dequantize(WeightType::Iq4Xs), dequantize;
            dequantize_row_mxfp4 = Role::Dequantize(WeightType::Mxfp4), dequantize;
            quantize_row_q8_0 = Role::Quantize(Blocks::Q8_0), quantize;
            quantize_row_q8_1 = Role::Quantize(Blocks::Q8_1), quantize;
            quantize_row_q8_K = Role::Quantize(Blocks::Q8K), quantize;
            ggml_vec_dot_iq4_nl_q8_0 = Role::Dot(WeightType::Iq4Nl), dot;
            ggml_vec_dot_mxfp4_q8_0 = Role::Dot(WeightType::Mxfp4), dot;
            llamafile_sgemm = Role::Products, sgemm;
            ggml_gemm_q4_0_8x8_q8_0 = Role::Gemm(WeightType::Q4_0), gemm;
            ggml_gemm_q4_K_8x8_q8_K = Role::Gemm(WeightType::Q4K), gemm;
            ggml_gemm_q2_K_8x8_q8_K = Role::Gemm(WeightType::Q2K), gemm;
            ggml_gemm_iq4_nl_8x8_q8_0 = Role::Gemm(WeightType::Iq4Nl), gemm;
            ggml_gemm_mxfp4_8x8_q8_0 = Role::Gemm(WeightType::Mxfp4), gemm;
            ggml_gemv_q4_0_8x8_q8_0 = Role::Gemv(WeightType::Q4_0), gemm;
            ggml_gemv_q4_K_8x8_q8_K = Role::Gemv(WeightType::Q4K), gemm;
            ggml_gemv_q2_K_8x8_q8_K = Role::Gemv(WeightType::Q2K), gemm;
            ggml_gemv_iq4_nl_8x8_q8_0 = Role::Gemv(WeightType::Iq4Nl), gemm;
            ggml_gemv_mxfp4_8x8_q8_0 = Role::Gemv(WeightType::Mxfp4), gemm;
        }
    };
}
pub(crate) use row_functions;

macro_rules! table {
    ($($name:ident = $role:expr, $ours:ident;)*) => {
        #[allow(non_camel_case_types)]
        enum Number {
            $($name,)*
        }

        /// All of them, by their numbers.
        pub static FUNCTIONS: [Function; ROW_FUNCTIONS] = [$(Function {
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
    // SAFETY: arguments of ggml, for the function that [`super::target`] chose.
    unsafe { fast_path::kernel::<DequantizeFn>(I)(x, y, usize::try_from(k).unwrap_or(0)) }
}

unsafe extern "C" fn quantize<const I: usize>(x: *const f32, y: *mut u8, k: i64) {
    fast_path::count(I);
    // SAFETY: as above.
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
    // SAFETY: as above.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_has_the_name_of_its_role() {
        let repacked = |name: &str, weight: WeightType| {
            format!("ggml_{name}_{}_8x8_{}", weight.ggml_name(), super::super::choose::columns_of(weight).ggml_name())
        };
        for hook in &FUNCTIONS {
            let name = match hook.role {
                Role::Dequantize(weight) => format!("dequantize_row_{}", weight.ggml_name()),
                Role::Quantize(blocks) => format!("quantize_row_{}", blocks.ggml_name()),
                Role::Dot(weight) => format!("ggml_vec_dot_{}_q8_0", weight.ggml_name()),
                Role::Products => "llamafile_sgemm".to_owned(),
                Role::Gemm(weight) => repacked("gemm", weight),
                Role::Gemv(weight) => repacked("gemv", weight),
            };
            assert_eq!(hook.name.to_str(), Ok(name.as_str()));
        }
    }
}
