//! The copies of ggml in this process, and the originals of the hooked functions.
//!
//! A process can hold several copies, opened with `RTLD_LOCAL`, where `dlsym(RTLD_NEXT)` finds
//! nothing. So an original is looked up from the library that called: its handle sees the copy it is
//! linked with. Each caller is resolved once and its library is kept open from then on (a reference
//! that is never given back), so that an address found here cannot go stale; the libraries that
//! llama.cpp opens only to score them never call a hook and are closed as usual.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::abi::{AlignedFree, AlignedMalloc, ComputeForward, GetProcAddress, GraphCompute, WorkSize};
use super::bindings::{BlasOriginals, PoolFunctions, RowTargets};
use super::probe::Abi;
use crate::gate::state::{self, State};
use crate::log::{self, log};
use crate::reason::Reason;
use crate::stats;

/// A library that calls hooks, and what its calls are bound to.
pub struct Caller {
    /// Its address range in memory.
    pub range: Range<usize>,
    handle: *mut c_void,
    /// Path, for logs and statistics.
    pub path: String,
    /// Originals; `None` where the library cannot see one.
    pub compute_forward: Option<ComputeForward>,
    pub work_size: Option<WorkSize>,
    pub graph_compute: Option<GraphCompute>,
    pub get_proc_address: Option<GetProcAddress>,
    pub aligned_malloc: Option<AlignedMalloc>,
    pub aligned_free: Option<AlignedFree>,
    /// Where its calls of the functions for single rows go.
    pub rows: RowTargets,
    /// Whether its large buffers come back through the hook (see [`crate::buffers::large`]), once known.
    pub returns_buffers: OnceLock<bool>,
    /// ggml's functions for pools of threads, once they were asked for.
    pub pools: OnceLock<Option<PoolFunctions>>,
    /// What it is bound to in a BLAS library, once it was asked for.
    pub blas: OnceLock<BlasOriginals>,
    /// The functions of the ggml it uses, checked; `None` when that ggml is not understood.
    pub abi: Option<Abi>,
}

// SAFETY: the raw handle is only passed to dlsym, which is thread-safe; the rest is immutable.
unsafe impl Send for Caller {}
// SAFETY: as above.
unsafe impl Sync for Caller {}

const MAX_CALLERS: usize = 128;
static CALLERS: [AtomicPtr<Caller>; MAX_CALLERS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_CALLERS];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static RESOLVING: Mutex<()> = Mutex::new(());

/// The library that a return address lies in. `None` only when it cannot be found out.
#[inline]
pub fn caller(return_address: usize) -> Option<&'static Caller> {
    let n = COUNT.load(Ordering::Acquire);
    for slot in &CALLERS[..n] {
        // SAFETY: slots below COUNT hold leaked, immutable objects.
        let c = unsafe { &*slot.load(Ordering::Relaxed) };
        if c.range.contains(&return_address) {
            return Some(c);
        }
    }
    resolve(return_address)
}

#[cold]
fn resolve(address: usize) -> Option<&'static Caller> {
    let _guard = RESOLVING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let n = COUNT.load(Ordering::Acquire);
    for slot in &CALLERS[..n] {
        // SAFETY: as in `caller`.
        let c = unsafe { &*slot.load(Ordering::Relaxed) };
        if c.range.contains(&address) {
            return Some(c); // another thread was first
        }
    }
    if n == MAX_CALLERS {
        return None;
    }
    let object = object_at(address)?;
    let path = object.path.to_string_lossy().into_owned();
    // The main program has an empty name; its handle is the global scope.
    let name = if object.path.is_empty() { std::ptr::null() } else { object.path.as_ptr() };
    // SAFETY: `name` is null or a C string; NOLOAD opens nothing new. The handle is never closed,
    // which keeps the library where it is.
    let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    let path = if path.is_empty() { "main program".to_owned() } else { path };
    let find = |name: &CStr| original(handle, name);
    // SAFETY: the symbols are ggml's, whose signatures these are.
    let caller = unsafe {
        Caller {
            range: object.range,
            handle,
            compute_forward: find(c"ggml_cpu_extra_compute_forward").map(|p| function(p)),
            work_size: find(c"ggml_cpu_extra_work_size").map(|p| function(p)),
            graph_compute: find(c"ggml_graph_compute").map(|p| function(p)),
            get_proc_address: find(c"ggml_backend_reg_get_proc_address").map(|p| function(p)),
            aligned_malloc: find(c"ggml_aligned_malloc").map(|p| function(p)),
            aligned_free: find(c"ggml_aligned_free").map(|p| function(p)),
            rows: RowTargets::default(),
            returns_buffers: OnceLock::new(),
            pools: OnceLock::new(),
            blas: OnceLock::new(),
            abi: Abi::probe(&find),
            path,
        }
    };
    let status = if caller.abi.is_some() { "bound" } else { "abi_mismatch" };
    // Others see the same copy: it is told of once, as the library that defines the operation hook.
    let defines_hook = caller.compute_forward.is_some_and(|f| caller.range.contains(&(f as usize)));
    if defines_hook && matches!(state::current(), State::Waiting | State::Active) {
        stats::add_library(&caller.path, status);
        if caller.abi.is_none() {
            stats::event(Reason::AbiMismatch);
            log::line(format_args!(
                "{}: the structures of this ggml are not those of the versions this library knows (0.2 to 0.26); \
                 nothing is taken over, ggml computes as usual",
                caller.path
            ));
        }
    }
    if !caller.has_hook() && matches!(state::current(), State::Waiting | State::Active) {
        tell_of_missing_hook(&caller);
    }
    log!(debug, "calls from {}: {}", caller.path, status);
    CALLERS[n].store(Box::into_raw(Box::new(caller)), Ordering::Relaxed);
    COUNT.store(n + 1, Ordering::Release);
    // SAFETY: just stored.
    Some(unsafe { &*CALLERS[n].load(Ordering::Relaxed) })
}

/// Lists the library that computes graphs for `caller` and counts it, once for all its callers. The CPU backend may
/// be out of sight of a caller, and then nothing is known.
fn tell_of_missing_hook(caller: &Caller) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let Some(library) = caller.graph_compute.and_then(|f| object_at(f as usize)) else { return };
    if TOLD.swap(true, Ordering::Relaxed) {
        return;
    }
    let path = library.path.to_string_lossy();
    stats::add_library(&path, Reason::NoOperationHook.as_str());
    stats::event(Reason::NoOperationHook);
    log!(
        info,
        "{path}: a ggml from before December 2024, without ggml_cpu_extra_compute_forward; it computes as usual"
    );
}

impl Caller {
    /// Whether its ggml asks before it computes an operation.
    pub fn has_hook(&self) -> bool {
        self.compute_forward.is_some()
    }

    /// Whether `address` lies in this library.
    pub fn contains(&self, address: usize) -> bool {
        self.range.contains(&address)
    }

    /// A function of the ggml that this library uses, by name.
    pub fn find(&self, name: &CStr) -> Option<*mut c_void> {
        original(self.handle, name)
    }

    /// The library itself, as the place where names are looked up.
    pub fn as_scope(&self) -> Scope {
        Scope(self.handle)
    }

    /// Where this library finds `name`; `None` where it does not.
    pub fn own_scope(&self, name: &CStr) -> Option<Scope> {
        self.find(name).map(|_| Scope(self.handle))
    }

    /// Where this library finds `name`; where it finds none itself (it was given a pointer), see [`holder`].
    pub fn scope(&self, name: &CStr) -> Option<Scope> {
        self.own_scope(name).or_else(|| holder(name))
    }
}

/// A library, as the place where names are looked up.
#[derive(Clone, Copy)]
pub struct Scope(*mut c_void);

impl Scope {
    /// A function that is seen from there, by name.
    pub fn find(self, name: &CStr) -> Option<*mut c_void> {
        original(self.0, name)
    }
}

/// The first library of this process that finds `name`. It is kept open, as callers are.
pub fn holder(name: &CStr) -> Option<Scope> {
    loaded_paths().iter().find_map(|path| {
        // SAFETY: a C string; NOLOAD opens nothing new. What is not used is given back.
        unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if handle.is_null() {
                return None;
            }
            let found = original(handle, name).map(|_| Scope(handle));
            if found.is_none() {
                libc::dlclose(handle);
            }
            found
        }
    })
}

/// The library that defines `name`, for a caller that has a pointer to our function of that name and does not see the original;
/// `None` when there are several, or none.
pub fn only_definer(name: &CStr) -> Option<Scope> {
    let mut definers: Vec<(usize, Scope)> = Vec::new();
    for path in loaded_paths() {
        // SAFETY: a C string; NOLOAD opens nothing new. What is not used is given back.
        unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if handle.is_null() {
                continue;
            }
            match original(handle, name).map(|address| address as usize) {
                Some(address) if definers.iter().all(|(known, _)| *known != address) => {
                    definers.push((address, Scope(handle)));
                }
                _ => {
                    libc::dlclose(handle);
                }
            }
        }
    }
    let [(_, scope)] = definers[..] else { return None };
    Some(scope)
}

fn loaded_paths() -> Vec<CString> {
    let mut paths = Vec::new();
    find_loaded(|loaded| {
        if !loaded.path.is_empty() {
            paths.push(loaded.path.to_owned());
        }
        None::<()>
    });
    paths
}

/// The library that `address` lies in, kept open; `None` for the main program.
pub fn library_of(address: usize) -> Option<Scope> {
    let object = object_at(address).filter(|object| !object.path.is_empty())?;
    // SAFETY: a C string; NOLOAD opens nothing new.
    let handle = unsafe { libc::dlopen(object.path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    (!handle.is_null()).then_some(Scope(handle))
}

/// The definition of `name` that is not ours: seen from `handle`, else the next in the global scope.
fn original(handle: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the handle is open (or null, which is then not used); the name is a C string.
    let seen = if handle.is_null() { std::ptr::null_mut() } else { unsafe { libc::dlsym(handle, name.as_ptr()) } };
    if !seen.is_null() && !is_preloaded(seen as usize) {
        return Some(seen);
    }
    // SAFETY: as above; RTLD_NEXT searches the libraries after this one.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    (!next.is_null() && !own_range().contains(&(next as usize))).then_some(next)
}

/// Whether `address` lies in this library, or in another file of it that is preloaded as well: the
/// first one calls the next, which must not find the way back.
fn is_preloaded(address: usize) -> bool {
    if own_range().contains(&address) {
        return true;
    }
    let Some(object) = object_at(address).filter(|o| !o.path.is_empty()) else { return false };
    // SAFETY: the path is a C string; NOLOAD opens nothing new, and the handle is given back.
    unsafe {
        let handle = libc::dlopen(object.path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return false;
        }
        let version = libc::dlsym(handle, c"zen5turbo_version".as_ptr());
        libc::dlclose(handle);
        object.range.contains(&(version as usize))
    }
}

/// The addresses of this library.
pub fn own_range() -> Range<usize> {
    static START: AtomicUsize = AtomicUsize::new(0);
    static END: AtomicUsize = AtomicUsize::new(0);
    if END.load(Ordering::Acquire) == 0 {
        let range = object_at(own_range as *const () as usize).map_or(1..1, |o| o.range);
        START.store(range.start, Ordering::Relaxed);
        END.store(range.end, Ordering::Release);
    }
    START.load(Ordering::Relaxed)..END.load(Ordering::Relaxed)
}

struct Object {
    range: Range<usize>,
    path: CString,
}

/// A loaded object, as the dynamic linker tells of it.
pub struct Loaded<'a> {
    /// What its addresses in the file are added to.
    pub base: usize,
    /// Its path; empty for the main program.
    path: &'a CStr,
    headers: &'a [libc::Elf64_Phdr],
}

impl Loaded<'_> {
    /// Program headers of a kind, each with its addresses in memory.
    pub fn parts(&self, kind: u32) -> impl Iterator<Item = (&libc::Elf64_Phdr, Range<usize>)> {
        self.headers.iter().filter(move |h| h.p_type == kind).map(|h| {
            let start = self.base + h.p_vaddr as usize;
            (h, start..start + h.p_memsz as usize)
        })
    }
}

/// The first answer that `ask` gives, of all loaded objects.
pub fn find_loaded<T, F: FnMut(&Loaded<'_>) -> Option<T>>(ask: F) -> Option<T> {
    unsafe extern "C" fn visit<T, F: FnMut(&Loaded<'_>) -> Option<T>>(
        info: *mut libc::dl_phdr_info,
        _: usize,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: the dynamic linker passes a valid record, whose name is a C string or null and whose dlpi_phdr points to
        // dlpi_phnum headers, and our own pointer.
        let (loaded, (ask, found)) = unsafe {
            let info = &*info;
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
            let loaded = Loaded { base: info.dlpi_addr as usize, path: c_str(info.dlpi_name), headers };
            (loaded, &mut *data.cast::<(F, Option<T>)>())
        };
        *found = ask(&loaded);
        c_int::from(found.is_some())
    }
    let mut search = (ask, None);
    // SAFETY: `visit` only uses its arguments during the call.
    unsafe { libc::dl_iterate_phdr(Some(visit::<T, F>), (&raw mut search).cast()) };
    search.1
}

/// The loaded object that contains `address`.
fn object_at(address: usize) -> Option<Object> {
    find_loaded(|loaded| {
        let parts = || loaded.parts(libc::PT_LOAD).map(|(_, part)| part);
        let range = parts().map(|p| p.start).min()?..parts().map(|p| p.end).max()?;
        range.contains(&address).then(|| Object { range, path: loaded.path.to_owned() })
    })
}

/// Whether `range` is data of a loaded library that may be written (not sealed after relocation).
pub fn is_writable(range: Range<usize>) -> bool {
    let Range { start, end } = range;
    let found = find_loaded(|loaded| {
        let mut data = loaded.parts(libc::PT_LOAD).filter(|(h, _)| h.p_flags & libc::PF_W != 0);
        data.any(|(_, p)| p.start <= start && end <= p.end)
            .then(|| !loaded.parts(libc::PT_GNU_RELRO).any(|(_, p)| p.start < end && start < p.end))
    });
    found == Some(true)
}

/// `name` as a C string for a caller that has a pointer.
///
/// # Safety
/// `p` is null or a C string that lives for `'a`.
pub unsafe fn c_str<'a>(p: *const c_char) -> &'a CStr {
    // SAFETY: by contract.
    if p.is_null() { c"" } else { unsafe { CStr::from_ptr(p) } }
}

/// A symbol as the function it is.
///
/// # Safety
/// `F` is the function's pointer type.
pub unsafe fn function<F: Copy>(p: *mut c_void) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: by contract; on this platform both kinds of pointer have the same representation.
    unsafe { std::mem::transmute_copy(&p) }
}
