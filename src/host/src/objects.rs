//! Shared objects of this process.

use std::ffi::c_void;
use std::mem::MaybeUninit;

/// Whether two addresses lie in one shared object, or both in the program.
#[must_use]
pub fn same_object(a: *const c_void, b: *const c_void) -> bool {
    base_of(a).is_some_and(|base| Some(base) == base_of(b))
}

/// The load address of the object that holds `address`.
fn base_of(address: *const c_void) -> Option<*mut c_void> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr fills the record when it returns non-zero; zeroes are valid for all its fields.
    unsafe { (libc::dladdr(address, info.as_mut_ptr()) != 0).then(|| info.assume_init().dli_fbase) }
}
