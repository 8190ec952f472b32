//! What tells one build of ggml from another.

use std::ffi::{CStr, c_int, c_void};

use crate::checked::ggml_name;
use crate::functions::{Function, function, ggml_commit, ggml_version};

/// Functions of ggml's CPU backend that tell what it was compiled for, as far as its products change.
const FEATURES: [(&str, &CStr); 9] = [
    ("avx2", c"ggml_cpu_has_avx2"),
    ("fma", c"ggml_cpu_has_fma"),
    ("f16c", c"ggml_cpu_has_f16c"),
    ("avx_vnni", c"ggml_cpu_has_avx_vnni"),
    ("avx512", c"ggml_cpu_has_avx512"),
    ("avx512_vnni", c"ggml_cpu_has_avx512_vnni"),
    ("avx512_bf16", c"ggml_cpu_has_avx512_bf16"),
    ("amx_int8", c"ggml_cpu_has_amx_int8"),
    ("llamafile", c"ggml_cpu_has_llamafile"),
];

/// Stands for a version or commit that a build does not tell.
pub const NONE: &str = "-";

/// The build of ggml whose functions `find` finds: version, commit and what the CPU backend was compiled for,
/// such as `0.26.0 1a2b3c4 avx2,fma,f16c,llamafile`; `-` stands for what it does not tell, see [`ggml_name`].
///
/// # Safety
/// `find` returns functions of one ggml by their names, whose library stays loaded.
#[must_use]
pub unsafe fn identity(find: impl Fn(&CStr) -> Option<*mut c_void>) -> String {
    let text = |function: Function<ggml_version>| {
        // SAFETY: `find` gives ggml's functions, by the contract of this function. These return null or a string constant of
        // a library that stays loaded.
        let text = unsafe { ggml_name(function.find(&find)?())? };
        let text = text.split_whitespace().collect::<String>();
        (!text.is_empty()).then_some(text)
    };
    let has = |name: &CStr| {
        // SAFETY: `find` gives ggml's functions, by the contract of this function. Those of `FEATURES` are
        // `int ggml_cpu_has_...(void)`.
        find(name).is_some_and(|address| unsafe { function::<unsafe extern "C-unwind" fn() -> c_int>(address)() != 0 })
    };
    let features: Vec<&str> = FEATURES.into_iter().filter(|(_, name)| has(name)).map(|(word, _)| word).collect();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    let features = (!features.is_empty()).then(|| features.join(","));
    [text(ggml_version), text(ggml_commit), features].map(or_none).join(" ")
}

#[cfg(test)]
mod tests {
    use std::ffi::c_char;

    use super::*;

    #[test]
    fn a_build_is_its_version_commit_and_features() {
        extern "C" fn version() -> *const c_char {
            c"0.9.4".as_ptr()
        }
        extern "C" fn yes() -> c_int {
            1
        }
        extern "C" fn no() -> c_int {
            0
        }
        let find = |name: &CStr| match name.to_str().unwrap() {
            "ggml_version" | "ggml_commit" => Some(version as *mut c_void),
            "ggml_cpu_has_avx2" | "ggml_cpu_has_llamafile" => Some(yes as *mut c_void),
            "ggml_cpu_has_fma" => Some(no as *mut c_void),
            _ => None,
        };
        // SAFETY: the functions have the signatures of ggml's, and lie in this program.
        unsafe {
            assert_eq!(identity(find), "0.9.4 0.9.4 avx2,llamafile");
            assert_eq!(identity(|_| None), "- - -");
        }
    }

    #[test]
    fn a_build_without_version_and_commit_is_its_features() {
        extern "C" fn null() -> *const c_char {
            std::ptr::null()
        }
        extern "C" fn yes() -> c_int {
            1
        }
        let find = |name: &CStr| match name.to_str().unwrap() {
            "ggml_version" | "ggml_commit" => Some(null as *mut c_void),
            "ggml_cpu_has_avx2" => Some(yes as *mut c_void),
            _ => None,
        };
        // SAFETY: the functions have the signatures of ggml's, and lie in this program.
        assert_eq!(unsafe { identity(find) }, "- - avx2");
    }
}
