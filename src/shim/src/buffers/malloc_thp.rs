//! Asks for huge pages under large blocks of the C library's allocation functions. The original allocates, and nothing
//! else changes.
//!
//! The exported trampolines ([`crate::exports::malloc`]) compare the size with [`FastPath::large`] and jump to the
//! original if it is smaller:
//!
//! - At first this threshold is 0, so every call comes to the functions here, which find the originals.
//! - The constructor sets it to `usize::MAX` ([`init_once`]).
//! - [`activate`] sets it to the size from which on blocks are large.
//!
//! The functions use no thread-local variable and no lock, and do not allocate. They leave `errno` as the original set
//! it.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use zen5turbo_host::memory::map::{self, HUGE_PAGE, keep_errno};

use crate::config::{Threshold, config};
use crate::loader::in_one_object;
use crate::loader::symbols::{function, next};
use crate::pages::{HugePages, thp_available};
use crate::reason::Reason;
use crate::stats;

/// The threshold of `auto`: a block of this size contains three whole huge pages at any address.
const AUTO: usize = 8 << 20;

/// The values that the trampolines read, in one cache line that holds nothing else.
#[repr(C, align(64))]
pub struct FastPath {
    /// Requests of at least this many bytes go to the functions here: 0 at first, `usize::MAX` for none.
    pub large: AtomicUsize,
    /// The original `malloc`, null until it is found; the next fields are the other originals.
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

/// Whether the originals are glibc's. Its blocks have a flag that says whether they are mappings of their own.
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

/// Begins to ask for huge pages under large blocks, if the configuration says so.
pub fn activate() {
    let large = match config().malloc {
        Threshold::Off => return,
        Threshold::Auto => AUTO,
        Threshold::Bytes(bytes) => bytes,
    };
    if config().huge_pages == HugePages::Off || FAST_PATH.large.load(Acquire) == 0 || !thp_available() {
        return;
    }
    // Another allocator manages its pages by its own policy. The name `__libc_malloc` does not show that `malloc` is
    // glibc's, because mimalloc defines that name too.
    let glibc = libc::gnu_get_libc_version as *const () as usize;
    if !in_one_object(FAST_PATH.malloc.load(Relaxed).addr(), glibc) {
        stats::event(Reason::ForeignAllocator);
        return;
    }
    GLIBC.store(true, Relaxed);
    FAST_PATH.large.store(large, Release);
}

/// The threads that are looking for an original. A call that the search itself makes gets no memory.
static SEARCHING: [AtomicUsize; 32] = [const { AtomicUsize::new(0) }; 32];

/// The address of the calling thread's control block, which no other thread has. The C library stores it in the first
/// word of the block. The thread's number would need a system call, for which a seccomp filter may kill the program.
fn this_thread() -> usize {
    let block: usize;
    // SAFETY: by the ABI of x86-64 for thread-local storage, `fs:0` holds this address. The loader sets it before other
    // code runs.
    unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) block, options(nostack, readonly, preserves_flags)) };
    block
}

/// The next definition of `name` after this library's, looked up once. `None` when there is none, and for a call that
/// the search itself makes: the C library then uses a static buffer.
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
    // SAFETY: __errno_location returns the address of this thread's errno.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    std::ptr::null_mut()
}

/// `malloc`, for a large block, or before the original is found.
///
/// # Safety
/// The conditions of the original, as for the functions below.
pub unsafe extern "C-unwind" fn malloc(size: usize) -> *mut c_void {
    let Some(f) = original(&FAST_PATH.malloc, c"malloc") else { return no_memory() };
    // SAFETY: this is the signature of the original, which is called with its own arguments.
    let p = unsafe { function::<unsafe extern "C-unwind" fn(usize) -> *mut c_void>(f)(size) };
    // SAFETY: the original has just allocated this block.
    unsafe { advise(p, size) };
    p
}

/// `calloc`. If the product of its arguments overflows, the original refuses it.
pub unsafe extern "C-unwind" fn calloc(n: usize, size: usize) -> *mut c_void {
    let Some(f) = original(&FAST_PATH.calloc, c"calloc") else { return no_memory() };
    // SAFETY: this is the signature of the original, which is called with its own arguments and has just returned the
    // block.
    unsafe {
        let p = function::<unsafe extern "C-unwind" fn(usize, usize) -> *mut c_void>(f)(n, size);
        advise(p, n.wrapping_mul(size));
        p
    }
}

/// `realloc`, which glibc's `reallocarray` calls too.
pub unsafe extern "C-unwind" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    let Some(f) = original(&FAST_PATH.realloc, c"realloc") else { return no_memory() };
    // SAFETY: this is the signature of the original, which is called with its own arguments and has just returned the
    // block. A block that has moved or grown is advised again.
    unsafe {
        let p = function::<unsafe extern "C-unwind" fn(*mut c_void, usize) -> *mut c_void>(f)(old, size);
        advise(p, size);
        p
    }
}

/// `posix_memalign`, which returns an error number.
pub unsafe extern "C-unwind" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    let Some(f) = original(&FAST_PATH.posix_memalign, c"posix_memalign") else { return libc::ENOMEM };
    // SAFETY: this is the signature of the original, which is called with its own arguments. If it returns 0, it has
    // stored the block in `out`.
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
    // SAFETY: the original is a function with these two arguments, and the caller meets its conditions.
    unsafe { aligned(original(&FAST_PATH.aligned_alloc, c"aligned_alloc"), align, size) }
}

/// `memalign`.
pub unsafe extern "C-unwind" fn memalign(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the original is a function with these two arguments, and the caller meets its conditions.
    unsafe { aligned(original(&FAST_PATH.memalign, c"memalign"), align, size) }
}

unsafe fn aligned(original: Option<*mut c_void>, align: usize, size: usize) -> *mut c_void {
    let Some(f) = original else { return no_memory() };
    // SAFETY: this is the signature of the original, which is called with its own arguments and has just returned the
    // block.
    unsafe {
        let p = function::<unsafe extern "C-unwind" fn(usize, usize) -> *mut c_void>(f)(align, size);
        advise(p, size);
        p
    }
}

/// Asks for huge pages for all whole huge pages inside a block, if the block is a mapping of its own. A block in a heap
/// is left alone, because the advice would stay after the block is freed.
unsafe fn advise(p: *mut c_void, size: usize) {
    /// A flag of glibc in the size field before a block, unchanged since ptmalloc.
    const IS_MMAPPED: usize = 2;
    if p.is_null() || !GLIBC.load(Relaxed) || size < FAST_PATH.large.load(Relaxed) {
        return;
    }
    // SAFETY: the block is glibc's, and glibc keeps size and flags in the word before a block.
    if unsafe { p.cast::<usize>().sub(1).read() } & IS_MMAPPED == 0 {
        return;
    }
    let start = (p as usize).next_multiple_of(HUGE_PAGE);
    let end = (p as usize + size) / HUGE_PAGE * HUGE_PAGE;
    // SAFETY: the range lies inside the block, and the advice changes no bytes.
    if start < end && keep_errno(|| unsafe { map::advise(start..end, libc::MADV_HUGEPAGE) }).is_ok() {
        let [count, bytes] = &stats::counters().heap;
        count.fetch_add(1, Relaxed);
        bytes.fetch_add((end - start) as u64, Relaxed);
    }
}
