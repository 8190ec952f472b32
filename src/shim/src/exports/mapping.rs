//! Hooks of libc's mapping calls. Model files are mapped at addresses that are aligned for huge pages, and the hooks
//! notice when the program unmaps them. Every other call goes to the original after a few compares.
//!
//! An allocator may call these functions while it holds a lock. So only the mapping of a model takes a lock or
//! allocates.

use std::ffi::c_void;
use std::ops::Range;

use libc::{c_int, off_t, size_t};
use zen5turbo_host::memory::map::SMALL_PAGE;

use crate::gate::guard::guarded;
use crate::loader::symbols::Next;
use crate::weights::{mapping, sources};

type Mmap = unsafe extern "C-unwind" fn(*mut c_void, size_t, c_int, c_int, c_int, off_t) -> *mut c_void;
type Munmap = unsafe extern "C-unwind" fn(*mut c_void, size_t) -> c_int;
type Mremap = unsafe extern "C-unwind" fn(*mut c_void, size_t, size_t, c_int, *mut c_void) -> *mut c_void;

static MMAP: Next<Mmap> = Next::new(c"mmap");
static MUNMAP: Next<Munmap> = Next::new(c"munmap");
static MREMAP: Next<Mremap> = Next::new(c"mremap");

/// The whole pages that the kernel uses for an address and a length. Programs pass the length of a file, which is
/// seldom a multiple of the page size.
fn range_of(addr: *const c_void, len: usize) -> Range<usize> {
    let end = (addr as usize).saturating_add(len);
    addr as usize & !(SMALL_PAGE - 1)..end.checked_next_multiple_of(SMALL_PAGE).unwrap_or(end)
}

/// Called before the program unmaps a range.
#[inline]
fn gone(range: Range<usize>) {
    // This check comes first, because almost no call touches a model, and `guarded` is not inlined. EPYC (Zen 4),
    // 2026-11-22, fastest of many mprotect calls on a page: 330.7 ns without the shim, 338.3 ns with `guarded` first,
    // 331.3 ns in this order.
    if sources::may_concern(&range) {
        guarded((), || sources::gone(&range));
    }
}

/// `void * mmap(void *, size_t, int, int, int, off_t)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mmap(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    if mapping::may_be_model(addr as usize, len, prot, flags, fd)
        && let Some(at) = guarded(None, || mapping::map(len, flags, fd, offset))
    {
        return at as *mut c_void;
    }
    if flags & libc::MAP_FIXED != 0 {
        gone(range_of(addr, len));
    }
    // SAFETY: the original is called with its own arguments.
    unsafe { (MMAP.get())(addr, len, prot, flags, fd, offset) }
}

/// `mmap64`: the same function as `mmap`, because `off_t` has 64 bits.
///
/// # Safety
/// The conditions of the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mmap64(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: `mmap` is the same function, and the caller meets its conditions.
    unsafe { mmap(addr, len, prot, flags, fd, offset) }
}

/// `int munmap(void *, size_t)`.
///
/// # Safety
/// The conditions of the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn munmap(addr: *mut c_void, len: size_t) -> c_int {
    gone(range_of(addr, len));
    // SAFETY: the original is called with its own arguments.
    unsafe { (MUNMAP.get())(addr, len) }
}

/// `void * mremap(void *, size_t, size_t, int, ...)`. The last argument is read only with `MREMAP_FIXED`. It lies in
/// the same register whether the function is variadic or not.
///
/// # Safety
/// The conditions of the original.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mremap(
    addr: *mut c_void,
    old_len: size_t,
    new_len: size_t,
    flags: c_int,
    new_addr: *mut c_void,
) -> *mut c_void {
    gone(range_of(addr, old_len));
    if flags & libc::MREMAP_FIXED != 0 {
        gone(range_of(new_addr, new_len));
    }
    // SAFETY: the original is called with its own arguments.
    unsafe { (MREMAP.get())(addr, old_len, new_len, flags, new_addr) }
}
