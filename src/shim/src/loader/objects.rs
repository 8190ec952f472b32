//! The objects that the dynamic linker has loaded, and their addresses.

use std::ffi::{CStr, CString, c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::symbols::{Library, c_str, first, next};
use crate::ggml::hooks::api;

/// A loaded object, as the dynamic linker describes it.
pub struct Loaded<'a> {
    /// The base address: an address in the file plus this is an address in memory.
    pub base: usize,
    /// Its path; empty for the main program.
    pub path: &'a CStr,
    headers: &'a [libc::Elf64_Phdr],
}

impl Loaded<'_> {
    /// The program headers of one kind, each with its addresses in memory.
    pub fn parts(&self, kind: u32) -> impl Iterator<Item = (&libc::Elf64_Phdr, Range<usize>)> {
        self.headers.iter().filter(move |h| h.p_type == kind).map(|h| {
            let start = self.base + h.p_vaddr as usize;
            (h, start..start + h.p_memsz as usize)
        })
    }
}

/// Asks for each loaded object in turn, and returns the first answer. `ask` must not panic: a panic ends the process.
pub fn find_loaded<T, F: FnMut(&Loaded<'_>) -> Option<T>>(ask: F) -> Option<T> {
    unsafe extern "C" fn visit<T, F: FnMut(&Loaded<'_>) -> Option<T>>(
        info: *mut libc::dl_phdr_info,
        _: usize,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: the dynamic linker passes a valid record, whose name is a C string or null and whose dlpi_phdr points to
        // dlpi_phnum headers, all for the time of this call. `data` is the address of `search` below, which nobody else uses.
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
    // SAFETY: `visit` has the signature that the linker calls, and uses its arguments during the call only, which `search`
    // outlives.
    unsafe { libc::dl_iterate_phdr(Some(visit::<T, F>), (&raw mut search).cast()) };
    search.1
}

/// The addresses and the path of a loaded object.
pub struct Object {
    pub range: Range<usize>,
    /// Empty for the main program.
    pub path: CString,
}

/// The loaded object that contains `address`.
pub fn object_at(address: usize) -> Option<Object> {
    find_loaded(|loaded| {
        let parts = || loaded.parts(libc::PT_LOAD).map(|(_, part)| part);
        let range = parts().map(|p| p.start).min()?..parts().map(|p| p.end).max()?;
        range.contains(&address).then(|| Object { range, path: loaded.path.to_owned() })
    })
}

/// The paths of all loaded libraries.
pub fn loaded_paths() -> Vec<CString> {
    let mut paths = Vec::new();
    find_loaded(|loaded| {
        if !loaded.path.is_empty() {
            paths.push(loaded.path.to_owned());
        }
        None::<()>
    });
    paths
}

/// Whether two addresses lie in one loaded object.
pub fn in_one_object(a: usize, b: usize) -> bool {
    object_at(a).is_some_and(|object| object.range.contains(&b))
}

/// Whether `address` lies in this library.
pub fn is_own(address: usize) -> bool {
    static START: AtomicUsize = AtomicUsize::new(0);
    static END: AtomicUsize = AtomicUsize::new(0);
    if END.load(Ordering::Acquire) == 0 {
        let range = object_at(is_own as *const () as usize).map_or(1..1, |o| o.range);
        START.store(range.start, Ordering::Relaxed);
        END.store(range.end, Ordering::Release);
    }
    (START.load(Ordering::Relaxed)..END.load(Ordering::Relaxed)).contains(&address)
}

/// Whether `address` lies in this library, or in another copy of it that is preloaded too. The first copy calls the
/// second as its original; the second must not take the first one for its own original.
pub fn is_preloaded(address: usize) -> bool {
    if is_own(address) {
        return true;
    }
    let Some(object) = object_at(address).filter(|o| !o.path.is_empty()) else { return false };
    let Some(library) = Library::loaded(&object.path) else { return false };
    let version = library.symbol(api::VERSION);
    // SAFETY: the reference was taken above for this question, and nobody else has it.
    unsafe { library.close() };
    version.is_some_and(|version| object.range.contains(&(version as usize)))
}

/// Whether an object other than this library defines `name` in the program's global scope.
pub fn is_defined_elsewhere(name: &CStr) -> bool {
    next(name).is_some() || first(name).is_some_and(|address| !is_own(address as usize))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_attributed_to_their_object() {
        let (here, libc) = (is_own as *const () as usize, libc::getpid as *const () as usize);
        assert!(is_own(here) && !is_own(libc) && !is_own(0));
        assert!(in_one_object(libc, libc::gnu_get_libc_version as *const () as usize));
        assert!(!in_one_object(libc, here) && !in_one_object(0, 0));
        assert!(object_at(here).is_some_and(|object| object.path.is_empty()));
        assert!(is_defined_elsewhere(c"getpid"));
        assert!(!is_defined_elsewhere(c"zen5turbo_no_such_function"));
    }

    #[test]
    fn data_may_be_written_and_code_may_not() {
        static DATA: AtomicUsize = AtomicUsize::new(1);
        let at = (&raw const DATA).addr();
        assert!(is_writable(at..at + size_of::<usize>()));
        let code = is_writable as *const () as usize;
        assert!(!is_writable(code..code + 1) && !is_writable(0..8));
    }
}
