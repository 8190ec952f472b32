//! Removes CPU_REPACK (CPU_AARCH64 before June 2025) from ggml's list of extra buffer types. With it, llama.cpp copies weights into another layout
//! when it loads a model. The kernels of this library read the weights as they lie in the file.

use std::ffi::{CStr, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

use zen5turbo_kernels::formats::WeightType;

use super::blas_device::{self, ManyColumns};
use crate::config::{KernelChoice, Repack, config};
use crate::gate::guard::guarded;
use crate::gate::state;
use crate::ggml::abi::{MOST_BUFFER_TYPES, REPACK_BUFFER_TYPES};
use crate::ggml::checked::{entries, ggml_name, is_address};
use crate::ggml::functions::{
    function, ggml_backend_buft_name, ggml_backend_dev_get_extra_bufts, ggml_cpu_extra_compute_forward,
};
use crate::loader::{BoundLibrary, caller, is_interposable, is_own, library_of, only_definer};
use crate::log::log;
use crate::reason::Reason;
use crate::stats;
use crate::tuning;

/// The function that a registry returns for `name`. `p` is the function of this library to which the registry's library
/// was bound. With several copies of ggml, the original of the registry's own copy is returned instead: a call through
/// a pointer does not show which copy is meant.
pub fn of_this_copy(reg: *mut c_void, name: &CStr, p: *mut c_void) -> *mut c_void {
    if !is_own(p as usize) || only_definer(name).is_some() {
        return p;
    }
    // A registry is a variable in the memory of its library.
    library_of(reg as usize).and_then(|library| library.find(name)).unwrap_or(p)
}

/// The function that `program` calls for the list: `p`, or a replacement.
pub fn answer(program: &BoundLibrary, p: *mut c_void) -> *mut c_void {
    let unused = matches!(config().kernels, KernelChoice::Off | KernelChoice::Exact)
        || tuning::decline(state::isa(), WeightType::Q4_0, 512).is_some();
    // The library of the CPU backend, which may be another one than `program`.
    let Some(backend) = caller(p as usize) else {
        stats::event_once(Reason::GgmlAnswerOdd);
        return p;
    };
    let Some(abi) = backend.abi.as_ref().filter(|_| backend.has_hook() && !unused) else { return p };
    if !is_interposable(p as usize, ggml_cpu_extra_compute_forward.symbol()) {
        stats::event_once(Reason::HookOutOfReach);
        return p;
    }
    let many_columns = blas_device::refuse(program, abi);
    if config().invariant && many_columns == ManyColumns::Blas {
        stats::event_once(Reason::OrderNotKept);
    }
    match config().repack {
        Repack::Keep => p,
        // BLAS would unpack plain weights to floats for each product, at less than half the speed of stock with
        // repacked weights (Q4_K, two threads, pp256, OpenBLAS, Zen 4, 2026-11-22: 42 tokens/s, stock 95).
        Repack::Auto if many_columns == ManyColumns::Blas => {
            stats::event_once(Reason::RepackKeptForBlas);
            p
        }
        _ => filtered(program, p),
    }
}

/// An original list function, the function that names its entries, and the answers given so far.
struct List {
    original: ggml_backend_dev_get_extra_bufts,
    name: ggml_backend_buft_name,
    /// The lists that were returned. They live for ever, as the original's lists do.
    answers: Mutex<Vec<Answer>>,
}

struct Answer {
    original: *mut *mut c_void,
    filtered: *mut *mut c_void,
}

// SAFETY: the pointers are those of lists that live as long as the process and do not change.
unsafe impl Send for Answer {}

/// One list for each copy of ggml. Each has its own function, because the list function gets only a device.
static LISTS: [AtomicPtr<List>; 4] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 4];
const THUNKS: [ggml_backend_dev_get_extra_bufts; 4] = [thunk::<0>, thunk::<1>, thunk::<2>, thunk::<3>];

/// The replacement for the list function `p`, or `p` itself when there are too many.
fn filtered(caller: &BoundLibrary, p: *mut c_void) -> *mut c_void {
    let Some(name) = caller.function(ggml_backend_buft_name) else {
        stats::event(Reason::OriginalMissing);
        return p;
    };
    for (slot, thunk) in LISTS.iter().zip(THUNKS) {
        let list = slot.load(Ordering::Acquire);
        // SAFETY: a list that is not null was stored by this function, and lists are never freed.
        if !list.is_null() && unsafe { (*list).original as usize } == p as usize {
            return thunk as *mut c_void;
        }
        if list.is_null() {
            // SAFETY: ggml's registry gave `p` for the name of the list function, whose signature this is.
            let original = unsafe { function(p) };
            let new = Box::into_raw(Box::new(List { original, name, answers: Mutex::new(Vec::new()) }));
            if slot.compare_exchange(list, new, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                log!(debug, "the list of buffer types is looked through for {}", caller.path);
                return thunk as *mut c_void;
            }
            // Another thread has taken the slot meanwhile.
            // SAFETY: the box was made above and not stored in the slot, so nobody else has its address.
            drop(unsafe { Box::from_raw(new) });
        }
    }
    p
}

unsafe extern "C-unwind" fn thunk<const I: usize>(device: *mut c_void) -> *mut *mut c_void {
    // SAFETY: `filtered` returns this function only after it has filled the slot, and lists are never freed.
    let list = unsafe { &*LISTS[I].load(Ordering::Acquire) };
    // SAFETY: the original with its own argument.
    let original = unsafe { (list.original)(device) };
    // SAFETY: ggml's function returns null or a list that ends with null.
    guarded(original, || unsafe { without_repack(list, original) })
}

/// The list without the buffer type CPU_REPACK. The same list always gives the same pointer.
///
/// # Safety
/// `original` is null, or a list of buffer types of this ggml.
unsafe fn without_repack(list: &List, original: *mut *mut c_void) -> *mut *mut c_void {
    if original.is_null() {
        return original; // there are none
    }
    if !is_address(original.cast_const()) {
        stats::event(Reason::GgmlAnswerOdd);
        return original;
    }
    let mut answers = list.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(a) = answers.iter().find(|a| a.original == original) {
        return a.filtered;
    }
    // SAFETY: a list of ggml ends with null, by the contract of this function, and its address was checked.
    let Some(mut kept) = (unsafe { entries(original, MOST_BUFFER_TYPES) }) else {
        stats::event(Reason::GgmlAnswerOdd);
        return original;
    };
    kept.retain(|&ty| {
        // SAFETY: `ty` is an entry of ggml's list, so it is a buffer type of the ggml of `name`.
        let name = unsafe { ggml_name((list.name)(ty)) };
        if name.is_none() {
            stats::event_once(Reason::GgmlAnswerOdd);
        }
        let repacks = name.is_some_and(|name| REPACK_BUFFER_TYPES.contains(&name));
        if let Some(name) = name.filter(|_| repacks) {
            log!(debug, "weights are kept plain: {name} is not offered");
        }
        !repacks
    });
    kept.push(std::ptr::null_mut());
    let filtered = Box::leak(kept.into_boxed_slice()).as_mut_ptr();
    answers.push(Answer { original, filtered });
    filtered
}
