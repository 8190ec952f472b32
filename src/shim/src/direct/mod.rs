//! ggml's functions for single rows: `dequantize_row_*` (GET_ROWS, attention over a quantised cache, BLAS),
//! `quantize_row_*` (activations of what ggml computes, writing to a quantised cache) and `ggml_vec_dot_*`.
//! They are called directly and through ggml's tables of types, and are there in builds without the operation hook.
//! And its products of repacked weights, see [`gemm`].
//!
//! A function is taken over only where ours was measured to be faster, and only after it was compared, in this
//! process, with the one it replaces (see [`trial`]). Which one that is depends on the library that calls; what
//! was found out is kept with that library, and of the first one also in the function's [`Door`].

pub mod gemm;
mod memory;
pub mod sgemm;
mod trial;

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize};

use zen5turbo_kernels::act::blocks::{BlocksFn, quantizer};
use zen5turbo_kernels::dequantize::{DequantizeFn, dequantizer};
use zen5turbo_kernels::dot::{DotFn, dot};
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::repacked;

pub use crate::ggml::rows::{COUNT, Dot, Role};
pub use zen5turbo_kernels::act::blocks::Blocks;

use crate::config::{KernelChoice, config};
use crate::exports::direct::HOOKS;
use crate::ggml::rows::{signatures_known, types_fit};
use crate::loader::symbols::function;
use crate::loader::{BoundLibrary, Scope};
use crate::log::log;
use crate::reason::Reason;
use crate::startup::{self, State};
use crate::stats::Json;

/// A function that is hooked.
pub struct Hook {
    /// Its name.
    pub name: &'static CStr,
    pub role: Role,
    /// Ours, with the signature of the original.
    pub ours: Ours,
}

/// The address of a function.
pub struct Ours(pub *const c_void);
// SAFETY: it is the address of code, which does not change.
unsafe impl Sync for Ours {}

/// Where calls of one function go when they come from the first library that called it; the exported function
/// reads it in this order. From elsewhere, and before, they go the long way: [`target`].
#[repr(C)]
pub struct Door {
    /// The first address of that library.
    pub low: AtomicUsize,
    /// Its bytes; 0 while there is none.
    pub len: AtomicUsize,
    /// Where to go.
    pub target: AtomicPtr<c_void>,
    /// The kernel behind ours, of the type that belongs to the role.
    kernel: AtomicPtr<c_void>,
    /// The original beside ours, for what ours leaves to it.
    original: AtomicPtr<c_void>,
    claimed: AtomicBool,
}

impl Door {
    const fn closed() -> Self {
        let null = std::ptr::null_mut();
        Door {
            low: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            target: AtomicPtr::new(null),
            kernel: AtomicPtr::new(null),
            original: AtomicPtr::new(null),
            claimed: AtomicBool::new(false),
        }
    }

    fn open(&self, range: &Range<usize>, target: *mut c_void) {
        if !self.claimed.swap(true, Relaxed) {
            self.low.store(range.start, Relaxed);
            self.target.store(target, Relaxed);
            self.len.store(range.len(), Release);
        }
    }
}

/// By the number of the function.
pub static DOORS: [Door; COUNT] = [const { Door::closed() }; COUNT];

/// Threads count in slots of their own, so that none waits for another's cache line.
const SLOTS: usize = 64;

#[repr(align(64))]
struct Slot([AtomicU64; COUNT]);

static TAKEN: [Slot; SLOTS] = [const { Slot([const { AtomicU64::new(0) }; COUNT]) }; SLOTS];

/// Why a function was left to a library's own, plus 1.
static LEFT: [AtomicU8; COUNT] = [const { AtomicU8::new(0) }; COUNT];

const _: () = assert!(Reason::COUNT < 255);

/// Counts one call. A thread is known by its stack, of which the C library gives each 8 MiB; threads that share a
/// slot may lose a count to each other.
#[inline]
pub fn count(i: usize) {
    let here = 0u8;
    let slot = &TAKEN[((&raw const here).addr() >> 23) % SLOTS].0[i];
    slot.store(slot.load(Relaxed) + 1, Relaxed);
}

/// The kernel behind function `i`, which was taken over.
///
/// # Safety
/// `F` is the type that belongs to the role of `i`, and ours was reached by way of [`target`].
#[inline]
pub unsafe fn kernel<F: Copy>(i: usize) -> F {
    // SAFETY: `F` is the type of the role's kernel, by the contract of this function; `target` stored the kernel before it
    // gave ours away.
    unsafe { function(DOORS[i].kernel.load(Relaxed)) }
}

/// The original of function `i`, which was taken over.
///
/// # Safety
/// As for [`kernel`].
#[inline]
pub unsafe fn original<F: Copy>(i: usize) -> F {
    // SAFETY: `F` is the type of the role's original, by the contract of this function; `target` stored the original before
    // it gave ours away.
    unsafe { function(DOORS[i].original.load(Relaxed)) }
}

/// Where calls of function `i` from this library go. `None` where nobody in this process has that function.
pub fn target(state: State, caller: &BoundLibrary, i: usize) -> Option<*mut c_void> {
    let known = caller.direct[i].load(Acquire);
    if !known.is_null() {
        return Some(known);
    }
    let hook = &HOOKS[i];
    let scope = caller.scope(hook.name)?;
    let original = scope.find(hook.name)?;
    let target = match decide(state, hook.role, scope, original) {
        Ok(kernel) => {
            // The first original stays: those of other libraries were found to do the same.
            let null = std::ptr::null_mut();
            let _ = DOORS[i].original.compare_exchange(null, original, Release, Relaxed);
            DOORS[i].kernel.store(kernel.cast_mut(), Release);
            hook.ours.0.cast_mut()
        }
        Err(reason) => {
            LEFT[i].store(reason as u8 + 1, Relaxed);
            log!(debug, "{}: left to {} ({})", hook.name.to_string_lossy(), caller.path, reason.as_str());
            original
        }
    };
    // What the first thread found holds for all: they must compute a product alike.
    let null = std::ptr::null_mut();
    let target = caller.direct[i].compare_exchange(null, target, AcqRel, Acquire).err().unwrap_or(target);
    DOORS[i].open(&caller.range, target);
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
    let isa = startup::isa();
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

fn taken(i: usize) -> u64 {
    TAKEN.iter().map(|slot| slot.0[i].load(Relaxed)).sum()
}

/// Writes the member `direct`: `{ FUNCTION: { taken, left: reason } }`, of the functions that were called. `taken`
/// counts calls; `left` is there where a library's own function was not replaced, for as many calls as it makes.
pub fn report(j: &mut Json) {
    j.open(Some("direct"));
    for (i, hook) in HOOKS.iter().enumerate() {
        let (taken, left) = (taken(i), usize::from(LEFT[i].load(Relaxed)));
        if taken == 0 && left == 0 {
            continue;
        }
        j.open(Some(&hook.name.to_string_lossy()));
        j.number("taken", taken);
        if left > 0 {
            j.string("left", Reason::ALL[left - 1].as_str());
        }
        j.close();
    }
    j.close();
}

/// Sets the counters to 0 in a forked child. Only loads and stores.
pub fn forget() {
    for slot in TAKEN.iter().flat_map(|slot| &slot.0).filter(|n| n.load(Relaxed) != 0) {
        slot.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_belongs_to_the_first_library() {
        let door = Door::closed();
        let (a, b) = (std::ptr::without_provenance_mut(1), std::ptr::without_provenance_mut(2));
        door.open(&(4096..8192), a);
        door.open(&(65536..65537), b);
        assert_eq!((door.low.load(Relaxed), door.len.load(Relaxed), door.target.load(Relaxed)), (4096, 4096, a));
    }
}
