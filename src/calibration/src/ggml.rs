//! What tells one build of ggml from another.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::slice;

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

/// Bytes of the longest name that is accepted from ggml. Its own are shorter than 41: a commit.
const LONGEST_NAME: usize = 255;

/// No object has an address below this one: where `vm.mmap_min_addr` is set it is 4096 at least.
pub const FIRST_ADDRESS: usize = 4096;

/// A string that a function of ggml returned. `None` for a null pointer, which Ollama 0.12 to 0.24 returns for its version
/// (compiled with `GGML_VERSION=0x0`), and for what is no name: nothing, more than 255 bytes, control characters, not UTF-8.
///
/// # Safety
/// `p` is null, or readable up to its first zero byte.
#[must_use]
pub unsafe fn ggml_name<'a>(p: *const c_char) -> Option<&'a str> {
    if p.addr() < FIRST_ADDRESS {
        return None;
    }
    // SAFETY: by contract; a byte is read only when none before it was zero.
    let len = (0..=LONGEST_NAME).find(|&i| unsafe { p.add(i).read() } == 0)?;
    // SAFETY: these bytes were just read.
    let bytes = unsafe { slice::from_raw_parts(p.cast::<u8>(), len) };
    str::from_utf8(bytes).ok().filter(|text| !text.is_empty() && !text.contains(char::is_control))
}

/// The build of ggml whose functions `find` finds: version, commit and what the CPU backend was compiled for,
/// such as `0.26.0 1a2b3c4 avx2,fma,f16c,llamafile`; `-` stands for what it does not tell, see [`ggml_name`].
///
/// # Safety
/// `find` returns functions of one ggml by their names, whose library stays loaded.
pub unsafe fn identity(find: impl Fn(&CStr) -> Option<*mut c_void>) -> String {
    let text = |function: &CStr| {
        // SAFETY: `const char * ggml_version(void)` and `ggml_commit`, which return string constants or null.
        let text = unsafe {
            let function: unsafe extern "C" fn() -> *const c_char = std::mem::transmute(find(function)?);
            ggml_name(function())?
        };
        let text = text.split_whitespace().collect::<String>();
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
        // SAFETY: functions with ggml's signatures.
        assert_eq!(unsafe { identity(find) }, "- - avx2");
    }

    #[test]
    fn a_name_is_short_printable_utf8() {
        // SAFETY: C strings.
        let of = |text: &CStr| unsafe { ggml_name(text.as_ptr()).map(str::to_owned) };
        assert_eq!(of(c"0.9.4").as_deref(), Some("0.9.4"));
        let long = |n| std::ffi::CString::new(vec![b'x'; n]).unwrap();
        assert!(of(&long(LONGEST_NAME)).is_some() && of(&long(LONGEST_NAME + 1)).is_none());
        for odd in [c"", c"\xff\xfe", c"a\nb", c"\x1b[2J"] {
            assert_eq!(of(odd), None);
        }
        for nowhere in [0, 1, 4095] {
            // SAFETY: nothing is read below the first address.
            assert_eq!(unsafe { ggml_name(std::ptr::without_provenance(nowhere)) }, None);
        }
    }
}
