//! Chooses for each library that calls: the function of this library, or the library's own.

use std::ffi::{CStr, c_void};
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use zen5turbo_kernels::act::blocks::{BlocksFn, quantizer};
use zen5turbo_kernels::dequantize::{DequantizeFn, dequantizer};
use zen5turbo_kernels::dot::{DotFn, dot};
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::repacked;

use super::fast_path::{self, FAST_PATHS};
use super::functions::FUNCTIONS;
use super::{sgemm, trial};
use crate::config::{KernelChoice, config};
use crate::gate::state::{self, State};
use crate::ggml::rows::{Role, signatures_known, types_fit};
use crate::loader::symbols::function;
use crate::loader::{BoundLibrary, Scope};
use crate::log::log;
use crate::reason::Reason;

/// The target of calls of function `i` from this library. `None` if no library of this process has that function.
pub fn target(state: State, caller: &BoundLibrary, i: usize) -> Option<*mut c_void> {
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
    // The choice of the first thread is valid for all threads, because they must compute a product in the same way.
    let null = std::ptr::null_mut();
    let target = caller.rows[i].compare_exchange(null, target, AcqRel, Acquire).err().unwrap_or(target);
    FAST_PATHS[i].open(&caller.range, target);
    Some(target)
}

/// The kernel for a function, or the reason why its original is used.
fn decide(state: State, role: Role, scope: Scope, original: *mut c_void) -> Result<*const c_void, Reason> {
    if state != State::Active {
        return Err(Reason::GatePassthrough);
    }
    if config().kernels == KernelChoice::Off {
        return Err(Reason::KernelsOff);
    }
    let exact = config().kernels == KernelChoice::Exact;
    let isa = state::isa();
    let find = |name: &CStr| scope.find(name);
    // SAFETY: the scope has the function of this role, and it finds the functions of that ggml, which stays loaded.
    if !signatures_known(&find, role) || !unsafe { types_fit(&find, role) } {
        return Err(Reason::SignatureUnknown);
    }
    // SAFETY: the original has the signature of its role, as `signatures_known` has seen.
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
                (f as *const c_void, trial::dot(function(original), f, weight, exact))
            }
            Role::Gemm(weight) => {
                let kernel = repacked::kernel(isa, weight).ok_or(Reason::StockIsFaster)?;
                ((&raw const *kernel).cast(), trial::gemm(function(original), kernel, exact))
            }
            Role::Gemv(_) => return Err(Reason::StockIsFaster),
            Role::Products if exact => return Err(Reason::KernelsExact),
            Role::Products if isa == Isa::Scalar => return Err(Reason::StockIsFaster),
            Role::Products => (sgemm::NO_KERNEL, trial::sgemm(function(original))),
        }
    };
    match same {
        true => Ok(kernel),
        false if exact => Err(Reason::KernelsExact),
        false => Err(Reason::OriginalDiffers),
    }
}
