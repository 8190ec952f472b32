//! The C library's allocation functions: the original allocates, large blocks are advised to lie on
//! huge pages, and nothing else changes.
//!
//! The exported trampolines ([`crate::exports::malloc`]) compare the size with [`FastPath`] and jump to the
//! original. At first the threshold is 0, so that every call comes to the functions here, which find the
//! originals; the constructor then closes the way ([`init_once`]), and [`activate`] opens it for large
//! blocks only. No thread-local variable, no lock, no allocation; `errno` stays what the original made it.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use zen5turbo_host::memory::map::{self, HUGE_PAGE, keep_errno};

use crate::config::{Threshold, config};
use crate::loader::in_one_object;
use crate::loader::symbols::{function, next};
use crate::pages::{HugePages, thp_available};
use crate::reason::Reason;
use crate::stats;

/// What `auto` means: blocks that hold three whole huge pages wherever they begin.
const AUTO: usize = 8 << 20;

/// What the trampolines read, in one cache line that nothing else writes to.
#[repr(C, align(64))]
pub struct FastPath {
    /// Requests of at least so many bytes leave the trampolines: 0 at first, `usize::MAX` for none.
    pub large: AtomicUsize,
    /// The originals, null until they are found; so the others.
    pub malloc: AtomicPtr<c_void>,
    pub calloc: AtomicPtr<c_void>,
    pub realloc: AtomicPtr<c_void>,
    pub posix_memalign: AtomicPtr<c_void>,
    pub aligned_alloc: AtomicPtr<c_void>,
    pub memalign: AtomicPtr<c_void>,
}

const fn unknown() -> AtomicPtr<c_void> {
    AtomicPtr::new(std::ptr::null_mut())
}

/// See [`FastPath`].
pub static FAST_PATH: FastPath = FastPath {
    large: AtomicUsize::new(0),
    malloc: unknown(),
    calloc: unknown(),
    realloc: unknown(),
    posix_memalign: unknown(),
    aligned_alloc: unknown(),
    memalign: unknown(),
};

/// Whether the originals are glibc's own, whose blocks tell whether they are mappings.
static GLIBC: AtomicBool = AtomicBool::new(false);

/// Finds every original. From then on the trampolines jump to them.
pub fn init_once() {
    let all: [(&AtomicPtr<c_void>, &CStr); 6] = [
        (&FAST_PATH.malloc, c"malloc"),
        (&FAST_PATH.calloc, c"calloc"),
        (&FAST_PATH.realloc, c"realloc"),
        (&FAST_PATH.posix_memalign, c"posix_memalign"),
        (&FAST_PATH.aligned_alloc, c"aligned_alloc"),
        (&FAST_PATH.memalign, c"memalign"),
    ];
    if all.iter().all(|(slot, name)| original(slot, name).is_some()) {
        FAST_PATH.large.store(usize::MAX, Release);
    }
}

/// Begins to advise large blocks, when the configuration says so.
pub fn activate() {
    let large = match config().malloc {
        Threshold::Off => return,
        Threshold::Auto => AUTO,
        Threshold::Bytes(bytes) => bytes,
    };
    if config().huge_pages == HugePages::Off || FAST_PATH.large.load(Acquire) == 0 || !thp_available() {
        return;
    }
    // Another allocator has pages and a policy of its own. Not compared with `__libc_malloc`: mimalloc
    // defines that name as well.
    let glibc = libc::gnu_get_libc_version as *const () as usize;
    if !in_one_object(FAST_PATH.malloc.load(Relaxed).addr(), glibc) {
        stats::event(Reason::ForeignAllocator);
        return;
    }
    GLIBC.store(true, Relaxed);
    FAST_PATH.large.store(large, Release);
}

/// Threads that are looking for an original: a call from inside that search cannot be answered.
static SEARCHING: [AtomicUsize; 32] = [const { AtomicUsize::new(0) }; 32];

/// The address of the calling thread's control block, which the C library keeps at its own beginning; no other thread has it.
/// The thread's number would be a system call, which a seccomp filter may kill.
fn this_thread() -> usize {
    let block: usize;
    // SAFETY: the ABI of x86-64 for thread-local storage: the first word, there before any code but the loader's runs.
    unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) block, options(nostack, readonly, preserves_flags)) };
    block
}

/// The next definition of `name` after this library's, looked up once. `None` when there is none,
/// and for a call that the search itself makes: the C library has a static buffer for that case.
fn original(slot: &AtomicPtr<c_void>, name: &CStr) -> Option<*mut c_void> {
    let known = slot.load(Acquire);
    if !known.is_null() {
        return Some(known);
    }
    keep_errno(|| {
        let thread = this_thread();
        if SEARCHING.iter().any(|s| s.load(Relaxed) == thread) {
            return None;
        }
        let claimed = SEARCHING.iter().find(|s| s.compare_exchange(0, thread, Relaxed, Relaxed).is_ok())?;
        let found = next(name);
        claimed.store(0, Relaxed);
        slot.store(found?, Release);
        found
    })
}

fn no_memory() -> *mut c_void {
    // SAFETY: errno of this thread.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    std::ptr::null_mut()
}

/// `malloc` of an original not yet found, or of a large block.
///
/// # Safety
/// As the original's; so for the functions below.
pub unsafe extern "C-unwind" fn malloc(size: usize) -> *mut c_void {
    let Some(f) = original(&FAST_PATH.malloc, c"malloc") else { return no_memory() };
    // SAFETY: the original, whose signature this is, with its own arguments; so below.
    let p = unsafe { function::<unsafe extern "C-unwind" fn(usize) -> *mut c_void>(f)(size) };
    // SAFETY: the block just allocated; so below.
    unsafe { advise(p, size) };
    p
}

/// `calloc`, also with a product that overflows, which the original refuses.
pub unsafe extern "C-unwind" fn calloc(n: usize, size: usize) -> *mut c_void {
    let Some(f) = original(&FAST_PATH.calloc, c"calloc") else { return no_memory() };
    // SAFETY: as in `malloc`.
    unsafe {
        let p = function::<unsafe extern "C-unwind" fn(usize, usize) -> *mut c_void>(f)(n, size);
        advise(p, n.wrapping_mul(size));
        p
    }
}

/// `realloc`; also what glibc's `reallocarray` calls.
pub unsafe extern "C-unwind" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    let Some(f) = original(&FAST_PATH.realloc, c"realloc") else { return no_memory() };
    // SAFETY: as in `malloc`. A block that has moved or grown is advised anew.
    unsafe {
        let p = function::<unsafe extern "C-unwind" fn(*mut c_void, usize) -> *mut c_void>(f)(old, size);
        advise(p, size);
        p
    }
}

/// `posix_memalign`, which returns an error number.
pub unsafe extern "C-unwind" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    let Some(f) = original(&FAST_PATH.posix_memalign, c"posix_memalign") else { return libc::ENOMEM };
    // SAFETY: as in `malloc`; the original has stored the block when it returns 0.
    unsafe {
        let error =
            function::<unsafe extern "C-unwind" fn(*mut *mut c_void, usize, usize) -> c_int>(f)(out, align, size);
        if error == 0 {
            advise(*out, size);
        }
        error
    }
}

/// `aligned_alloc`.
pub unsafe extern "C-unwind" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    // SAFETY: as in `malloc`.
    unsafe { aligned(original(&FAST_PATH.aligned_alloc, c"aligned_alloc"), align, size) }
}

/// `memalign`.
pub unsafe extern "C-unwind" fn memalign(align: usize, size: usize) -> *mut c_void {
    // SAFETY: as in `malloc`.
    unsafe { aligned(original(&FAST_PATH.memalign, c"memalign"), align, size) }
}

unsafe fn aligned(original: Option<*mut c_void>, align: usize, size: usize) -> *mut c_void {
    let Some(f) = original else { return no_memory() };
    // SAFETY: as in `malloc`.
    unsafe {
        let p = function::<unsafe extern "C-unwind" fn(usize, usize) -> *mut c_void>(f)(align, size);
        advise(p, size);
        p
    }
}

/// Asks for huge pages on the whole ones inside a block that is a mapping of its own. What is part
/// of a heap is left alone: the advice would outlive the block.
unsafe fn advise(p: *mut c_void, size: usize) {
    /// glibc's flag in the size field before a block; the same since ptmalloc.
    const IS_MMAPPED: usize = 2;
    if p.is_null() || !GLIBC.load(Relaxed) || size < FAST_PATH.large.load(Relaxed) {
        return;
    }
    // SAFETY: glibc's blocks have their size and flags in the word before them.
    if unsafe { p.cast::<usize>().sub(1).read() } & IS_MMAPPED == 0 {
        return;
    }
    let start = (p as usize).next_multiple_of(HUGE_PAGE);
    let end = (p as usize + size) / HUGE_PAGE * HUGE_PAGE;
    // SAFETY: inside the block.
    if start < end && keep_errno(|| unsafe { map::advise(start..end, libc::MADV_HUGEPAGE) }).is_ok() {
        let [count, bytes] = &stats::counters().heap;
        count.fetch_add(1, Relaxed);
        bytes.fetch_add((end - start) as u64, Relaxed);
    }
}
