//! Which function computes for a library: ours, or its own.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use zen5turbo_kernels::act::blocks::{Blocks, BlocksFn, quantizer};
use zen5turbo_kernels::dequantize::{DequantizeFn, dequantizer};
use zen5turbo_kernels::dot::{DotFn, dot};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::repacked;

use super::fast_path::{self, FAST_PATHS};
use super::functions::{FUNCTIONS, Role};
use super::types::{blocks_number, weight_number};
use super::{sgemm, trial};
use crate::config::{KernelChoice, config};
use crate::gate::state::{self, State};
use crate::ggml::checked::name_of;
use crate::ggml::copies::{Caller, Scope, function};
use crate::log::log;
use crate::reason::Reason;

/// Where calls of function `i` from this library go. `None` where nobody in this process has that function.
pub fn target(state: State, caller: &Caller, i: usize) -> Option<*mut c_void> {
    let known = caller.rows[i].load(Acquire);
    if !known.is_null() {
        return Some(known);
    }
    let hook = &FUNCTIONS[i];
    let scope = caller.scope(hook.name)?;
    let original = scope.find(hook.name)?;
    let target = match decide(state, hook.role, scope, original) {
        Ok(kernel) => {
            fast_path::keep(i, kernel, original);
            hook.ours.0.cast_mut()
        }
        Err(reason) => {
            fast_path::leave(i, reason);
            log!(debug, "{}: left to {} ({})", hook.name.to_string_lossy(), caller.path, reason.as_str());
            original
        }
    };
    // What the first thread found holds for all: they must compute a product alike.
    let null = std::ptr::null_mut();
    let target = caller.rows[i].compare_exchange(null, target, AcqRel, Acquire).err().unwrap_or(target);
    FAST_PATHS[i].open(&caller.range, target);
    Some(target)
}

/// The kernel for a function, or why there is none.
fn decide(state: State, role: Role, scope: Scope, original: *mut c_void) -> Result<*const c_void, Reason> {
    if state != State::Active {
        return Err(Reason::GatePassthrough);
    }
    if config().kernels == KernelChoice::Off {
        return Err(Reason::KernelsOff);
    }
    let isa = state::isa();
    let find = |name: &CStr| scope.find(name);
    if !signatures_known(&find, role) || !types_fit(&find, role) {
        return Err(Reason::SignatureUnknown);
    }
    // SAFETY: the original, whose signature is known.
    let (kernel, same) = unsafe {
        match role {
            Role::Dequantize(weight) => {
                let f: DequantizeFn = dequantizer(isa, weight).ok_or(Reason::StockIsFaster)?;
                (f as *const c_void, trial::dequantize(function(original), f, weight))
            }
            Role::Quantize(blocks) => {
                let f: BlocksFn = quantizer(isa, blocks).ok_or(Reason::StockIsFaster)?;
                (f as *const c_void, trial::quantize(function(original), f, blocks))
            }
            Role::Dot(weight) => {
                let f: DotFn = dot(isa, weight).ok_or(Reason::StockIsFaster)?;
                (f as *const c_void, trial::dot(function(original), f, weight))
            }
            Role::Gemm(weight) => {
                let kernel = repacked::kernel(isa, weight).ok_or(Reason::StockIsFaster)?;
                ((&raw const *kernel).cast(), trial::gemm(function(original), kernel))
            }
            Role::Gemv(_) => return Err(Reason::StockIsFaster),
            Role::Products if isa == Isa::Scalar => return Err(Reason::StockIsFaster),
            Role::Products => (sgemm::NO_KERNEL, trial::sgemm(function(original))),
        }
    };
    if same { Ok(kernel) } else { Err(Reason::OriginalDiffers) }
}

/// Whether the functions have the signatures above. They have had them since before July 2024, when the portable
/// versions got the names by which that is known here. `llamafile_sgemm` has had another one since December 2024,
/// a few days after ggml got the operation hook, with which it is not needed.
/// Those for repacked weights are known beside the function that makes blocks of four columns for them, by the name
/// that it has had since ggml exports both (in May 2025 it did not; in 2024 it had another one).
fn signatures_known(find: &dyn Fn(&CStr) -> Option<*mut c_void>, role: Role) -> bool {
    let there = |name| find(name).is_some();
    there(c"quantize_row_q8_K_ref")
        && match role {
            Role::Products => !there(c"ggml_cpu_extra_compute_forward"),
            Role::Gemm(weight) | Role::Gemv(weight) => there(match columns_of(weight) {
                Blocks::Q8K => c"ggml_quantize_mat_q8_K_4x8",
                _ => c"ggml_quantize_mat_q8_0_4x8",
            }),
            Role::Dequantize(_) | Role::Quantize(_) | Role::Dot(_) => true,
        }
}

/// The form of the columns that a row is multiplied by.
pub const fn columns_of(weight: WeightType) -> Blocks {
    if weight.block().0 == 256 { Blocks::Q8K } else { Blocks::Q8_0 }
}

/// Whether this ggml knows the types of a function by the same numbers, names and block sizes.
fn types_fit(find: &dyn Fn(&CStr) -> Option<*mut c_void>, role: Role) -> bool {
    let functions = || Some((find(c"ggml_type_name")?, find(c"ggml_type_size")?, find(c"ggml_blck_size")?));
    let Some((name, size, elements)) = functions() else { return false };
    let fits = |number: c_int, expected: &str, block: (usize, usize)| {
        // SAFETY: ggml's functions with their signatures; a ggml that has the function knows its types.
        unsafe {
            let name: unsafe extern "C" fn(c_int) -> *const c_char = function(name);
            let size: unsafe extern "C" fn(c_int) -> usize = function(size);
            let elements: unsafe extern "C" fn(c_int) -> i64 = function(elements);
            // An `int` in old releases: the upper half of the register may hold anything.
            name_of(name, number) == Some(expected) && (elements(number) as u32 as usize, size(number)) == block
        }
    };
    let weight_fits = |w: WeightType| fits(weight_number(w), w.ggml_name(), w.block());
    let blocks_fit = |b: Blocks| fits(blocks_number(b), b.ggml_name(), b.block());
    match role {
        Role::Dequantize(weight) => weight_fits(weight),
        Role::Quantize(blocks) => blocks_fit(blocks),
        Role::Dot(weight) | Role::Gemm(weight) | Role::Gemv(weight) => {
            weight_fits(weight) && blocks_fit(columns_of(weight))
        }
        Role::Products => weight_fits(WeightType::F32) && sgemm::WEIGHTS.into_iter().all(weight_fits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_without_the_portable_versions_or_with_other_types_is_not_understood() {
        extern "C" fn q8_0(_: c_int) -> *const c_char {
            c"q8_0".as_ptr()
        }
        extern "C" fn size(_: c_int) -> usize {
            34
        }
        extern "C" fn elements(_: c_int) -> i64 {
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
        assert!(types_fit(&find, Role::Quantize(Blocks::Q8_0)));
        assert!(types_fit(&find, Role::Dequantize(WeightType::Q8_0)));
        for other in [Role::Quantize(Blocks::Q8_1), Role::Dequantize(WeightType::Q4_0), Role::Dot(WeightType::Mxfp4)] {
            assert!(!types_fit(&find, other), "{other:?}");
        }
        assert!(!types_fit(&|_| None, Role::Quantize(Blocks::Q8_0)));
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
