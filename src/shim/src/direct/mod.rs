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

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize};

use zen5turbo_kernels::act::blocks::{BlocksFn, quantizer};
use zen5turbo_kernels::dequantize::{DequantizeFn, dequantizer};
use zen5turbo_kernels::dot::{DotFn, dot};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::repacked;

pub use zen5turbo_kernels::act::blocks::Blocks;

use crate::config::{KernelChoice, config};
use crate::exports::direct::HOOKS;
use crate::ggml::checked::name_of;
use crate::ggml::copies::{Caller, Scope, function};
use crate::log::log;
use crate::reason::Reason;
use crate::startup::{self, State};
use crate::stats::Json;

/// How many functions there are.
pub const COUNT: usize = 29;

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

/// `void dequantize_row_*(const block * x, float * y, int64_t k)`
pub type Dequantize = unsafe extern "C" fn(*const u8, *mut f32, i64);
/// `void quantize_row_*(const float * x, void * y, int64_t k)`
pub type Quantize = unsafe extern "C" fn(*const f32, *mut u8, i64);
/// `void ggml_vec_dot_*(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc)`
pub type Dot = unsafe extern "C-unwind" fn(c_int, *mut f32, usize, *const u8, usize, *const u8, usize, c_int);

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
// SAFETY: the address of code.
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

/// What is known of the functions to one library; null while nothing is.
pub type Targets = [AtomicPtr<c_void>; COUNT];

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
    // SAFETY: by contract; `target` stored it before it gave ours away.
    unsafe { function(DOORS[i].kernel.load(Relaxed)) }
}

/// The original of function `i`, which was taken over.
///
/// # Safety
/// As for [`kernel`].
#[inline]
pub unsafe fn original<F: Copy>(i: usize) -> F {
    // SAFETY: as above.
    unsafe { function(DOORS[i].original.load(Relaxed)) }
}

/// Where calls of function `i` from this library go. `None` where nobody in this process has that function.
pub fn target(state: State, caller: &Caller, i: usize) -> Option<*mut c_void> {
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
const fn columns_of(weight: WeightType) -> Blocks {
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

/// The number of a type in model files (`enum ggml_type` of ggml.h), which therefore never changes.
const fn weight_number(weight: WeightType) -> c_int {
    match weight {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q4_0 => 2,
        WeightType::Q4_1 => 3,
        WeightType::Q5_0 => 6,
        WeightType::Q5_1 => 7,
        WeightType::Q8_0 => 8,
        WeightType::Q2K => 10,
        WeightType::Q3K => 11,
        WeightType::Q4K => 12,
        WeightType::Q5K => 13,
        WeightType::Q6K => 14,
        WeightType::Iq4Nl => 20,
        WeightType::Iq4Xs => 23,
        WeightType::Bf16 => 30,
        WeightType::Mxfp4 => 39,
    }
}

/// The same for activations.
const fn blocks_number(blocks: Blocks) -> c_int {
    match blocks {
        Blocks::Q8_0 => 8,
        Blocks::Q8_1 => 9,
        Blocks::Q8K => 15,
    }
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
    fn every_function_has_the_name_of_its_role() {
        let repacked = |name: &str, weight: WeightType| {
            format!("ggml_{name}_{}_8x8_{}", weight.ggml_name(), columns_of(weight).ggml_name())
        };
        for hook in &HOOKS {
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

    #[test]
    fn a_door_belongs_to_the_first_library() {
        let door = Door::closed();
        let (a, b) = (std::ptr::without_provenance_mut(1), std::ptr::without_provenance_mut(2));
        door.open(&(4096..8192), a);
        door.open(&(65536..65537), b);
        assert_eq!((door.low.load(Relaxed), door.len.load(Relaxed), door.target.load(Relaxed)), (4096, 4096, a));
    }
}
