//! What tells one build of ggml from another.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::format::NONE;

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

/// The build of ggml whose functions `find` finds: version, commit and what the CPU backend was compiled for,
/// such as `0.26.0 1a2b3c4 avx2,fma,f16c,llamafile`; `-` stands for what it does not tell.
///
/// # Safety
/// `find` returns functions of one ggml by their names, whose library stays loaded.
pub unsafe fn identity(find: impl Fn(&CStr) -> Option<*mut c_void>) -> String {
    let text = |name: &CStr| {
        // SAFETY: `const char * ggml_version(void)` and `ggml_commit`, which return string constants.
        let text = unsafe {
            let function: unsafe extern "C" fn() -> *const c_char = std::mem::transmute(find(name)?);
            CStr::from_ptr(function())
        };
        let text = text.to_string_lossy().split_whitespace().collect::<String>();
        (!text.is_empty()).then_some(text)
    };
    let has = |name: &CStr| {
        // SAFETY: `int ggml_cpu_has_...(void)`.
        find(name).is_some_and(|function| unsafe {
            let function: unsafe extern "C" fn() -> c_int = std::mem::transmute(function);
            function() != 0
        })
    };
    let features: Vec<&str> = FEATURES.into_iter().filter(|(_, name)| has(name)).map(|(word, _)| word).collect();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    let features = (!features.is_empty()).then(|| features.join(","));
    [text(c"ggml_version"), text(c"ggml_commit"), features].map(or_none).join(" ")
}

#[cfg(test)]
mod tests {
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
        // SAFETY: functions with ggml's signatures.
        unsafe {
            assert_eq!(identity(find), "0.9.4 0.9.4 avx2,llamafile");
            assert_eq!(identity(|_| None), "- - -");
        }
    }
}
