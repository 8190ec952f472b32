//! The C API of `include/zen5turbo.h`, by which a program can query the shim.

use std::ffi::{CStr, CString, c_char, c_int};

use crate::gate::guard::guarded;
use crate::gate::{report, state};
use crate::stats;

const VERSION: &CStr = {
    let bytes = concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes();
    match CStr::from_bytes_with_nul(bytes) {
        Ok(version) => version,
        Err(_) => panic!("the version contains a NUL"),
    }
};

/// `zen5turbo_version`: the version, for example `0.1.0`. The string is static.
#[unsafe(no_mangle)]
pub extern "C" fn zen5turbo_version() -> *const c_char {
    VERSION.as_ptr()
}

/// `zen5turbo_state`: the number of a [`state::State`].
#[unsafe(no_mangle)]
pub extern "C" fn zen5turbo_state() -> c_int {
    state::current() as c_int
}

/// `zen5turbo_stats_json`: the statistics so far. The caller releases the string with [`zen5turbo_free`]. Null when no
/// memory is left.
#[unsafe(no_mangle)]
pub extern "C" fn zen5turbo_stats_json() -> *mut c_char {
    guarded(std::ptr::null_mut(), || CString::new(report::json()).map_or(std::ptr::null_mut(), CString::into_raw))
}

/// `zen5turbo_free`: releases a string of [`zen5turbo_stats_json`]. Null is allowed.
///
/// # Safety
/// `text` is null or such a string, not yet released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zen5turbo_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the pointer comes from CString::into_raw in `zen5turbo_stats_json`, by the contract of this function.
        guarded((), || drop(unsafe { CString::from_raw(text) }));
    }
}

/// `zen5turbo_taken`: the number of calls that were computed here, for one operation and one weight type. Null stands
/// for all.
///
/// # Safety
/// `op` and `type_name` are null or C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zen5turbo_taken(op: *const c_char, type_name: *const c_char) -> u64 {
    // SAFETY: both are null or C strings, by the contract of this function.
    unsafe { count(op, type_name, stats::count_taken) }
}

/// `zen5turbo_declined`: the number of calls that were left to the original. The arguments are those of
/// [`zen5turbo_taken`].
///
/// # Safety
/// `op` and `type_name` are null or C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zen5turbo_declined(op: *const c_char, type_name: *const c_char) -> u64 {
    // SAFETY: both are null or C strings, by the contract of this function.
    unsafe { count(op, type_name, stats::count_declined) }
}

/// # Safety
/// `op` and `type_name` are null or C strings.
unsafe fn count(
    op: *const c_char,
    type_name: *const c_char,
    counter: impl FnOnce(Option<&str>, Option<&str>) -> u64,
) -> u64 {
    guarded(0, || {
        // SAFETY: the pointer is null or a C string, by the contract of this function.
        let text = |p: *const c_char| (!p.is_null()).then(|| unsafe { CStr::from_ptr(p) });
        // All names are UTF-8. A name with other bytes becomes an unknown name.
        let (op, ty) = (text(op).map(CStr::to_string_lossy), text(type_name).map(CStr::to_string_lossy));
        counter(op.as_deref(), ty.as_deref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_accept_null_and_unknown_names() {
        stats::set_type_name(58, "q_capi");
        stats::taken(stats::OpKind::MulMat, 58, 1, 1, 1);
        let ask = |op: Option<&CStr>, ty: Option<&CStr>| {
            let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
            // SAFETY: null or C strings that outlive the call.
            unsafe { zen5turbo_taken(pointer(op), pointer(ty)) }
        };
        assert_eq!(ask(Some(c"MUL_MAT"), Some(c"q_capi")), 1);
        assert!(ask(None, None) >= 1);
        assert_eq!(ask(Some(c"\xFF"), None), 0);
    }

    #[test]
    fn a_report_is_a_string_that_can_be_released() {
        let text = zen5turbo_stats_json();
        // SAFETY: a string of zen5turbo_stats_json, released below and not used after.
        assert!(unsafe { CStr::from_ptr(text) }.to_bytes().starts_with(b"{"));
        // SAFETY: `text` comes from zen5turbo_stats_json and was not released yet. Null is allowed.
        unsafe {
            zen5turbo_free(text);
            zen5turbo_free(std::ptr::null_mut());
        }
    }
}
