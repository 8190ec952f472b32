//! The targets of calls of the hooked functions, and counters of these calls.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize};

use crate::ggml::rows::COUNT;
use crate::loader::symbols::function;
use crate::reason::Reason;

/// The target of one function for calls from the first library that called it. The exported function reads the fields
/// in this order. Calls from other libraries, and the first call, go the long way: [`super::target`].
#[repr(C)]
pub struct FastPath {
    /// The first address of that library.
    pub low: AtomicUsize,
    /// Its bytes; 0 while no library has called.
    pub len: AtomicUsize,
    /// The function that is called.
    pub target: AtomicPtr<c_void>,
    /// The kernel that the function of this library calls, of the type that belongs to the role.
    kernel: AtomicPtr<c_void>,
    /// The original, for calls that the function of this library does not compute.
    original: AtomicPtr<c_void>,
    claimed: AtomicBool,
}

impl FastPath {
    const fn closed() -> Self {
        let null = std::ptr::null_mut();
        FastPath {
            low: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            target: AtomicPtr::new(null),
            kernel: AtomicPtr::new(null),
            original: AtomicPtr::new(null),
            claimed: AtomicBool::new(false),
        }
    }

    pub fn open(&self, range: &Range<usize>, target: *mut c_void) {
        if !self.claimed.swap(true, Relaxed) {
            self.low.store(range.start, Relaxed);
            self.target.store(target, Relaxed);
            self.len.store(range.len(), Release);
        }
    }
}

/// The fast path of each function, by its number.
pub static FAST_PATHS: [FastPath; COUNT] = [const { FastPath::closed() }; COUNT];

/// The number of slots for counters. Threads count in different slots, so that they do not share a cache line.
const SLOTS: usize = 64;

#[repr(align(64))]
struct Slot([AtomicU64; COUNT]);

static TAKEN: [Slot; SLOTS] = [const { Slot([const { AtomicU64::new(0) }; COUNT]) }; SLOTS];

/// The number of the reason why a function was left to a library's own, plus 1; 0 if it was not.
static LEFT: [AtomicU8; COUNT] = [const { AtomicU8::new(0) }; COUNT];

const _: () = assert!(Reason::COUNT < 255);

/// Counts one call. The slot of a thread is chosen by the address of its stack; the C library gives each thread 8 MiB.
/// Two threads that have the same slot may lose counts.
#[inline]
pub fn count(i: usize) {
    let here = 0u8;
    let slot = &TAKEN[((&raw const here).addr() >> 23) % SLOTS].0[i];
    slot.store(slot.load(Relaxed) + 1, Relaxed);
}

/// The kernel behind function `i`, which was taken over.
///
/// # Safety
/// `F` is the type that belongs to the role of `i`, and the caller was reached through [`super::target`].
#[inline]
pub unsafe fn kernel<F: Copy>(i: usize) -> F {
    // SAFETY: `F` is the type that belongs to the role of `i`, by the contract of this function. `keep` stored the
    // kernel before anybody could reach our function.
    unsafe { function(FAST_PATHS[i].kernel.load(Relaxed)) }
}

/// The original of function `i`, which was taken over.
///
/// # Safety
/// The conditions of [`kernel`].
#[inline]
pub unsafe fn original<F: Copy>(i: usize) -> F {
    // SAFETY: `F` is the type that belongs to the role of `i`, by the contract of this function. `keep` stored the
    // original before anybody could reach our function.
    unsafe { function(FAST_PATHS[i].original.load(Relaxed)) }
}

/// Stores the kernel of function `i` and its original, before anybody can call the function of this library. The first
/// original stays, because the trial has found that the originals of other libraries do the same.
pub fn keep(i: usize, kernel: *const c_void, original: *mut c_void) {
    let _ = FAST_PATHS[i].original.compare_exchange(std::ptr::null_mut(), original, Release, Relaxed);
    FAST_PATHS[i].kernel.store(kernel.cast_mut(), Release);
}

/// Notes why function `i` was left to a library's own.
pub fn leave(i: usize, reason: Reason) {
    LEFT[i].store(reason as u8 + 1, Relaxed);
}

/// Why function `i` was left to a library's own, if it was.
pub fn left(i: usize) -> Option<Reason> {
    usize::from(LEFT[i].load(Relaxed)).checked_sub(1).map(|number| Reason::ALL[number])
}

/// Counts the calls of function `i` that were taken over.
pub fn taken(i: usize) -> u64 {
    TAKEN.iter().map(|slot| slot.0[i].load(Relaxed)).sum()
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
    fn a_fast_path_belongs_to_the_first_library() {
        let path = FastPath::closed();
        let (a, b) = (std::ptr::without_provenance_mut(1), std::ptr::without_provenance_mut(2));
        path.open(&(4096..8192), a);
        path.open(&(65536..65537), b);
        assert_eq!((path.low.load(Relaxed), path.len.load(Relaxed), path.target.load(Relaxed)), (4096, 4096, a));
    }
}
