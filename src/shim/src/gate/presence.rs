//! Whether ggml is in this process.

use std::ffi::{CStr, c_int, c_void};

use zen5turbo_host::objects;

/// Whether ggml is part of this process already: as a shared object named `libggml*`, or inside the
/// program or another library that exports ggml's functions.
pub fn ggml_is_linked() -> bool {
    extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: libc::size_t, found: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr passes a valid record whose name is null or a C string that
        // lives as long as the call.
        let name = unsafe {
            let name = (*info).dlpi_name;
            if name.is_null() { c"" } else { CStr::from_ptr(name) }
        };
        if is_ggml_object(name.to_bytes()) {
            // SAFETY: `found` is the address of the bool below, not shared with anyone.
            unsafe { *found.cast::<bool>() = true };
            return 1;
        }
        0
    }
    let mut found = false;
    // SAFETY: `visit` has the required signature, never unwinds, and `found` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    found || GGML_SYMBOLS.iter().any(|name| is_defined_elsewhere(name))
}

/// Functions that tell ggml's CPU backend: the hook, and one that also older builds have.
const GGML_SYMBOLS: [&CStr; 2] = [c"ggml_cpu_extra_compute_forward", c"ggml_graph_compute"];

fn is_ggml_object(path: &[u8]) -> bool {
    path.rsplit(|&b| b == b'/').next().is_some_and(|name| name.starts_with(b"libggml"))
}

/// Whether an object other than this library defines `name` in the program's global scope.
fn is_defined_elsewhere(name: &CStr) -> bool {
    // SAFETY: dlsym takes a C string and only looks the symbol up; RTLD_NEXT is meaningful because
    // this library is itself a loaded object.
    let (first, next) =
        unsafe { (libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()), libc::dlsym(libc::RTLD_NEXT, name.as_ptr())) };
    !next.is_null() || (!first.is_null() && !is_in_this_library(first))
}

fn is_in_this_library(address: *const c_void) -> bool {
    objects::same_object(address, is_in_this_library as *const c_void)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_recognised_by_their_file_name() {
        for yes in ["libggml.so", "/a/libggml-cpu-haswell.so", "/b/libggml-base-1a2b3c.so.0"] {
            assert!(is_ggml_object(yes.as_bytes()), "{yes}");
        }
        for no in ["", "/usr/lib/libc.so.6", "/opt/libggml/libfoo.so", "linux-vdso.so.1"] {
            assert!(!is_ggml_object(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn a_test_program_has_no_ggml() {
        assert!(!ggml_is_linked());
    }

    #[test]
    fn addresses_are_attributed_to_their_object() {
        assert!(is_in_this_library(is_in_this_library as *const c_void));
        assert!(!is_in_this_library(libc::getpid as *const c_void));
        assert!(is_defined_elsewhere(c"getpid"));
        assert!(!is_defined_elsewhere(c"zen5turbo_no_such_function"));
    }
}
