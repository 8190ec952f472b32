//! Looks whether ggml is in this process.

use std::ffi::CStr;

use crate::ggml::LIBRARY_PREFIX;
use crate::ggml::functions::{ggml_cpu_extra_compute_forward, ggml_graph_compute};
use crate::loader::is_defined_elsewhere;
use crate::loader::objects::{Loaded, find_loaded};

/// Whether ggml is part of this process already: as a shared object named `libggml*`, or inside the
/// program or another library that exports ggml's functions.
pub fn ggml_is_linked() -> bool {
    let is_ggml = |loaded: &Loaded<'_>| is_ggml_object(loaded.path.to_bytes()).then_some(());
    find_loaded(is_ggml).is_some() || GGML_SYMBOLS.iter().any(|name| is_defined_elsewhere(name))
}

/// Functions that only ggml's CPU backend has: the hook, and one that older builds have too.
const GGML_SYMBOLS: [&CStr; 2] = [ggml_cpu_extra_compute_forward.symbol(), ggml_graph_compute.symbol()];

fn is_ggml_object(path: &[u8]) -> bool {
    path.rsplit(|&b| b == b'/').next().is_some_and(|name| name.starts_with(LIBRARY_PREFIX.as_bytes()))
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
}
