//! The mapping calls of libc. Mappings of model files are placed where huge pages can lie, and
//! changes to them are watched; every other call is the original's, after a few compares.
//!
//! `posix_madvise` is not here: glibc's ignores the one advice that takes pages away.

use std::ffi::c_void;
use std::ops::Range;

use libc::{c_int, c_uint, off_t, size_t};
use zen5turbo_host::memory::map::SMALL_PAGE;

use super::next::Next;
use crate::memory::changes::{self, Change};
use crate::memory::registry::may_concern;
use crate::memory::weights;
use crate::startup::guarded;

type Mmap = unsafe extern "C-unwind" fn(*mut c_void, size_t, c_int, c_int, c_int, off_t) -> *mut c_void;
type OnRange = unsafe extern "C-unwind" fn(*mut c_void, size_t) -> c_int;
type OnRangeWith = unsafe extern "C-unwind" fn(*mut c_void, size_t, c_int) -> c_int;
type Mlock2 = unsafe extern "C-unwind" fn(*const c_void, size_t, c_uint) -> c_int;
type Mlockall = unsafe extern "C-unwind" fn(c_int) -> c_int;
type Munlockall = unsafe extern "C-unwind" fn() -> c_int;
type Mremap = unsafe extern "C-unwind" fn(*mut c_void, size_t, size_t, c_int, *mut c_void) -> *mut c_void;

static MMAP: Next<Mmap> = Next::new(c"mmap");
static MUNMAP: Next<OnRange> = Next::new(c"munmap");
static MREMAP: Next<Mremap> = Next::new(c"mremap");
static MADVISE: Next<OnRangeWith> = Next::new(c"madvise");
static MPROTECT: Next<OnRangeWith> = Next::new(c"mprotect");
static MLOCK: Next<OnRange> = Next::new(c"mlock");
static MLOCK2: Next<Mlock2> = Next::new(c"mlock2");
static MUNLOCK: Next<OnRange> = Next::new(c"munlock");
static MLOCKALL: Next<Mlockall> = Next::new(c"mlockall");
static MUNLOCKALL: Next<Munlockall> = Next::new(c"munlockall");

/// All addresses.
const EVERYTHING: Range<usize> = 0..usize::MAX;

/// The pages that the kernel takes such an address and length for: programs give the length of the
/// file, which seldom ends with a page.
fn range_of(addr: *const c_void, len: usize) -> Range<usize> {
    let end = (addr as usize).saturating_add(len);
    addr as usize & !(SMALL_PAGE - 1)..end.checked_next_multiple_of(SMALL_PAGE).unwrap_or(end)
}

/// Makes a call that changes a range; it succeeded when `worked` says so of its result.
#[inline]
fn change<R: Copy>(
    range: Range<usize>,
    change: Change,
    worked: impl FnOnce(R) -> bool,
    original: impl FnOnce() -> R,
) -> R {
    // Before anything else: nearly all calls are none of ours, and `guarded` is no inline code. EPYC (Zen 4),
    // 2026-11-22, fastest of many mprotect calls on a page: 330.7 ns without the shim, 338.3 with it, 331.3 so.
    if !may_concern(&range) {
        return original();
    }
    let changing = guarded(None, || changes::begin(range, change));
    let result = original();
    if let Some(changing) = changing
        && worked(result)
    {
        // Nothing below changes errno, and on success nobody reads it.
        guarded((), || changing.succeeded());
    }
    result
}

const fn is_zero(result: c_int) -> bool {
    result == 0
}

/// `void * mmap(void *, size_t, int, int, int, off_t)`.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mmap(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    if weights::may_be_model(addr as usize, len, prot, flags, fd)
        && let Some(at) = guarded(None, || weights::map(len, flags, fd, offset))
    {
        return at as *mut c_void;
    }
    // SAFETY: the original with its own arguments.
    let original = || unsafe { (MMAP.get())(addr, len, prot, flags, fd, offset) };
    if flags & libc::MAP_FIXED != 0 {
        return change(range_of(addr, len), Change::Unmap, |p| p != libc::MAP_FAILED, original);
    }
    original()
}

/// `mmap64`: the same function, as `off_t` has 64 bits.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mmap64(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: by contract.
    unsafe { mmap(addr, len, prot, flags, fd, offset) }
}

/// `int munmap(void *, size_t)`.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn munmap(addr: *mut c_void, len: size_t) -> c_int {
    // SAFETY: the original with its own arguments.
    change(range_of(addr, len), Change::Unmap, is_zero, || unsafe { (MUNMAP.get())(addr, len) })
}

/// `void * mremap(void *, size_t, size_t, int, ...)`, whose last argument is read for
/// `MREMAP_FIXED` only, and lies in the same register either way.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mremap(
    addr: *mut c_void,
    old_len: size_t,
    new_len: size_t,
    flags: c_int,
    new_addr: *mut c_void,
) -> *mut c_void {
    let worked = |p| p != libc::MAP_FAILED;
    // SAFETY: the original with its own arguments.
    let original = || unsafe { (MREMAP.get())(addr, old_len, new_len, flags, new_addr) };
    // A model's mapping that moves is not followed: its pages are the file's before it does.
    let moved = || {
        guarded((), || drop(changes::begin(range_of(addr, old_len), Change::Protect(libc::PROT_NONE))));
        change(range_of(addr, old_len), Change::Unmap, worked, original)
    };
    if flags & libc::MREMAP_FIXED != 0 {
        guarded((), || drop(changes::begin(range_of(new_addr, new_len), Change::Protect(libc::PROT_NONE))));
    }
    moved()
}

/// `int madvise(void *, size_t, int)`.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn madvise(addr: *mut c_void, len: size_t, advice: c_int) -> c_int {
    // SAFETY: the original with its own arguments.
    let original = || unsafe { (MADVISE.get())(addr, len, advice) };
    change(range_of(addr, len), Change::Advise(advice), is_zero, original)
}

/// `int mprotect(void *, size_t, int)`.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mprotect(addr: *mut c_void, len: size_t, prot: c_int) -> c_int {
    // SAFETY: the original with its own arguments.
    change(range_of(addr, len), Change::Protect(prot), is_zero, || unsafe { (MPROTECT.get())(addr, len, prot) })
}

/// `int mlock(const void *, size_t)`.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mlock(addr: *mut c_void, len: size_t) -> c_int {
    // SAFETY: the original with its own arguments.
    change(range_of(addr, len), Change::Lock, is_zero, || unsafe { (MLOCK.get())(addr, len) })
}

/// `int mlock2(const void *, size_t, unsigned)`.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mlock2(addr: *const c_void, len: size_t, flags: c_uint) -> c_int {
    // SAFETY: the original with its own arguments.
    change(range_of(addr, len), Change::Lock, is_zero, || unsafe { (MLOCK2.get())(addr, len, flags) })
}

/// `int munlock(const void *, size_t)`.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn munlock(addr: *mut c_void, len: size_t) -> c_int {
    // SAFETY: the original with its own arguments.
    change(range_of(addr, len), Change::Unlock, is_zero, || unsafe { (MUNLOCK.get())(addr, len) })
}

/// `int mlockall(int)`.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mlockall(flags: c_int) -> c_int {
    // SAFETY: the original with its own arguments.
    let original = || unsafe { (MLOCKALL.get())(flags) };
    let result =
        if flags & libc::MCL_CURRENT != 0 { change(EVERYTHING, Change::Lock, is_zero, original) } else { original() };
    if is_zero(result) {
        guarded((), || changes::locked_all(flags & libc::MCL_FUTURE != 0));
    }
    result
}

/// `int munlockall(void)`.
///
/// # Safety
/// As for the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn munlockall() -> c_int {
    // SAFETY: the original.
    let result = change(EVERYTHING, Change::Unlock, is_zero, || unsafe { (MUNLOCKALL.get())() });
    if is_zero(result) {
        guarded((), changes::unlocked_all);
    }
    result
}
