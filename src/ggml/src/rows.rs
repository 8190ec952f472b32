//! ggml's functions for single rows (`dequantize_row_*`, `quantize_row_*`, `ggml_vec_dot_*`), its products of repacked
//! weights (`ggml_gemm_*`, `ggml_gemv_*`) and `llamafile_sgemm`: which of them are hooked, what they do, and how one sees
//! that a ggml has them with the signatures that are known here (ggml-quants.h, quants.h, repack.h, sgemm.h).

use std::ffi::{CStr, c_int, c_void};

use zen5turbo_kernels::act::blocks::Blocks;
use zen5turbo_kernels::formats::WeightType;

use crate::functions::ggml_cpu_extra_compute_forward;
use crate::types::{TypeFunctions, blocks_number, weight_number};

/// `void dequantize_row_*(const block * x, float * y, int64_t k)`
pub type Dequantize = unsafe extern "C" fn(*const u8, *mut f32, i64);
/// `void quantize_row_*(const float * x, void * y, int64_t k)`
pub type Quantize = unsafe extern "C" fn(*const f32, *mut u8, i64);
/// `void ggml_vec_dot_*(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc)`
pub type Dot = unsafe extern "C-unwind" fn(c_int, *mut f32, usize, *const u8, usize, *const u8, usize, c_int);
/// `void ggml_gem[mv]_*_8x8_*(int n, float * s, size_t bs, const void * vx, const void * vy, int nr, int nc)`: of `nc`
/// rows `vx` and `nr` columns `vy` of `n` elements each, the product of row `i` and column `j` is `s[j * bs + i]`.
pub type Gemm = unsafe extern "C-unwind" fn(c_int, *mut f32, usize, *const u8, *const u8, c_int, c_int);
/// `bool llamafile_sgemm(m, n, k, A, lda, B, ldb, C, ldc, ith, nth, Atype, Btype, Ctype)` of releases before December 2024:
/// `C[j * ldc + i]` is the product of rows `i` of A and `j` of B, of `k` blocks; `lda`, `ldb` and `ldc` count blocks. False:
/// not computed.
pub type Sgemm = unsafe extern "C-unwind" fn(
    i64,
    i64,
    i64,
    *const u8,
    i64,
    *const u8,
    i64,
    *mut f32,
    i64,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
) -> bool;

/// What a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A row of this type to floats: a [`Dequantize`].
    Dequantize(WeightType),
    /// Floats to a row of activations: a [`Quantize`].
    Quantize(Blocks),
    /// The product of a row of this type and one of Q8_0: a [`Dot`].
    Dot(WeightType),
    /// `llamafile_sgemm`: a [`Sgemm`].
    Products,
    /// A product of repacked rows of this type and many columns: a [`Gemm`].
    Gemm(WeightType),
    /// The same with single columns.
    Gemv(WeightType),
}

/// The hooked functions: calls `$with! { NAME = ROLE, KIND; ... }`, where KIND is a word for the signature. Who calls this
/// has `Role`, `WeightType` and `Blocks` in scope.
#[macro_export]
macro_rules! row_functions {
    ($with:ident) => {
        $with! {
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
            dequantize_row_iq2_xxs = Role::Dequantize(WeightType::Iq2Xxs), dequantize;
            dequantize_row_iq2_xs = Role::Dequantize(WeightType::Iq2Xs), dequantize;
            dequantize_row_iq2_s = Role::Dequantize(WeightType::Iq2S), dequantize;
            dequantize_row_iq3_xxs = Role::Dequantize(WeightType::Iq3Xxs), dequantize;
            dequantize_row_iq3_s = Role::Dequantize(WeightType::Iq3S), dequantize;
            dequantize_row_iq1_s = Role::Dequantize(WeightType::Iq1S), dequantize;
            dequantize_row_iq1_m = Role::Dequantize(WeightType::Iq1M), dequantize;
            dequantize_row_tq1_0 = Role::Dequantize(WeightType::Tq1_0), dequantize;
            dequantize_row_tq2_0 = Role::Dequantize(WeightType::Tq2_0), dequantize;
            dequantize_row_nvfp4 = Role::Dequantize(WeightType::Nvfp4), dequantize;
            dequantize_row_q1_0 = Role::Dequantize(WeightType::Q1_0), dequantize;
            dequantize_row_q2_0 = Role::Dequantize(WeightType::Q2_0), dequantize;
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

macro_rules! names_and_roles {
    ($($name:ident = $role:expr, $kind:ident;)*) => {
        /// The hooked functions: name and role.
        pub const HOOKED: [(&str, Role); [$(stringify!($name)),*].len()] = [$((stringify!($name), $role)),*];
    };
}

row_functions!(names_and_roles);

/// The function that has the role [`Role::Products`].
pub const PRODUCTS: &str = "llamafile_sgemm";

/// How many functions are hooked.
pub const COUNT: usize = HOOKED.len();

/// Types whose products `llamafile_sgemm` is taken over for: the quantised ones that ggml had before December 2024.
pub const SGEMM_WEIGHTS: [WeightType; 12] = [
    WeightType::Q4_0,
    WeightType::Q4_1,
    WeightType::Q5_0,
    WeightType::Q5_1,
    WeightType::Q8_0,
    WeightType::Q2K,
    WeightType::Q3K,
    WeightType::Q4K,
    WeightType::Q5K,
    WeightType::Q6K,
    WeightType::Iq4Nl,
    WeightType::Iq4Xs,
];

/// The format of the activations that rows of this type are multiplied by.
#[must_use]
pub const fn columns_of(weight: WeightType) -> Blocks {
    if weight.block().0 == 256 { Blocks::Q8K } else { Blocks::Q8_0 }
}

/// Whether functions of this role have the signatures above, as far as the presence of other functions tells.
///
/// They have had them since before July 2024, when the portable versions got the names by which that is known here.
/// `llamafile_sgemm` has had another signature since December 2024, a few days after ggml got the operation hook, with which
/// it is not needed. Those for repacked weights are known beside the function that makes blocks of four columns for them, by
/// the name that it has had since ggml exports both (in May 2025 it did not; in 2024 it had another one).
#[must_use]
pub fn signatures_known(find: &dyn Fn(&CStr) -> Option<*mut c_void>, role: Role) -> bool {
    let there = |name| find(name).is_some();
    there(c"quantize_row_q8_K_ref")
        && match role {
            Role::Products => !there(ggml_cpu_extra_compute_forward.symbol()),
            Role::Gemm(weight) | Role::Gemv(weight) => there(match columns_of(weight) {
                Blocks::Q8K => c"ggml_quantize_mat_q8_K_4x8",
                _ => c"ggml_quantize_mat_q8_0_4x8",
            }),
            Role::Dequantize(_) | Role::Quantize(_) | Role::Dot(_) => true,
        }
}

/// Whether a ggml knows the types of a function by the same numbers, names and block sizes.
///
/// # Safety
/// `find` returns addresses of functions of one ggml, which has the functions of this role, and whose library stays loaded.
#[must_use]
pub unsafe fn types_fit(find: &dyn Fn(&CStr) -> Option<*mut c_void>, role: Role) -> bool {
    // SAFETY: `find` gives the functions of a ggml that stays loaded, by the contract of this function.
    let Some(types) = (unsafe { TypeFunctions::find(find) }) else { return false };
    // SAFETY: a ggml that has the function knows its types, by the contract of this function.
    let weight_fits = |w: WeightType| unsafe { types.are(weight_number(w), w.ggml_name(), w.block()) };
    // SAFETY: a ggml that has the function knows its types, by the contract of this function.
    let blocks_fit = |b: Blocks| unsafe { types.are(blocks_number(b), b.ggml_name(), b.block()) };
    match role {
        Role::Dequantize(weight) => weight_fits(weight),
        Role::Quantize(blocks) => blocks_fit(blocks),
        Role::Dot(weight) | Role::Gemm(weight) | Role::Gemv(weight) => {
            weight_fits(weight) && blocks_fit(columns_of(weight))
        }
        Role::Products => weight_fits(WeightType::F32) && SGEMM_WEIGHTS.into_iter().all(weight_fits),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::c_char;

    use super::*;

    #[test]
    fn every_function_has_the_name_of_its_role() {
        let repacked = |name: &str, weight: WeightType| {
            format!("ggml_{name}_{}_8x8_{}", weight.ggml_name(), columns_of(weight).ggml_name())
        };
        for (name, role) in HOOKED {
            let expected = match role {
                Role::Dequantize(weight) => format!("dequantize_row_{}", weight.ggml_name()),
                Role::Quantize(blocks) => format!("quantize_row_{}", blocks.ggml_name()),
                Role::Dot(weight) => format!("ggml_vec_dot_{}_q8_0", weight.ggml_name()),
                Role::Products => "llamafile_sgemm".to_owned(),
                Role::Gemm(weight) => repacked("gemm", weight),
                Role::Gemv(weight) => repacked("gemv", weight),
            };
            assert_eq!(name, expected);
        }
    }

    #[test]
    fn a_library_without_the_portable_versions_or_with_other_types_is_not_understood() {
        extern "C-unwind" fn q8_0(_: c_int) -> *const c_char {
            c"q8_0".as_ptr()
        }
        extern "C-unwind" fn size(_: c_int) -> usize {
            34
        }
        extern "C-unwind" fn elements(_: c_int) -> i64 {
            0x7_0000_0020 // an `int` of 32
        }
        let find = |name: &CStr| {
            let f = match name.to_bytes() {
                b"ggml_type_name" => q8_0 as *mut c_void,
                b"ggml_type_size" => size as *mut c_void,
                b"ggml_blck_size" => elements as *mut c_void,
                _ => return None,
            };
            Some(f)
        };
        assert!(!signatures_known(&find, Role::Quantize(Blocks::Q8_0)));
        // SAFETY: the functions have the signatures of ggml's, and take any number.
        let fit = |role| unsafe { types_fit(&find, role) };
        assert!(fit(Role::Quantize(Blocks::Q8_0)));
        assert!(fit(Role::Dequantize(WeightType::Q8_0)));
        for other in [Role::Quantize(Blocks::Q8_1), Role::Dequantize(WeightType::Q4_0), Role::Dot(WeightType::Mxfp4)] {
            assert!(!fit(other), "{other:?}");
        }
        // SAFETY: nothing is found, so nothing is called.
        assert!(!unsafe { types_fit(&|_| None, Role::Quantize(Blocks::Q8_0)) });
    }

    #[test]
    fn products_of_repacked_weights_are_known_beside_the_function_for_their_columns() {
        let has = |names: &'static [&CStr]| {
            move |name: &CStr| names.contains(&name).then_some(std::ptr::dangling_mut::<c_void>())
        };
        let (q4_k, q4_0) = (Role::Gemm(WeightType::Q4K), Role::Gemv(WeightType::Q4_0));
        let old = has(&[c"quantize_row_q8_K_ref"]);
        assert!(!signatures_known(&old, q4_k) && !signatures_known(&old, q4_0));
        let new = has(&[c"quantize_row_q8_K_ref", c"ggml_quantize_mat_q8_K_4x8"]);
        assert!(signatures_known(&new, q4_k) && !signatures_known(&new, q4_0));
    }
}
