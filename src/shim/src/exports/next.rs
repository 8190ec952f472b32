//! The original of a hooked function of libc: the next definition in the order of the loader.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A function of type `F`, looked up at its first use. That may be before this library's
/// constructor, and in any thread; looking up twice does no harm.
pub struct Next<F> {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
    function: PhantomData<F>,
}

impl<F: Copy> Next<F> {
    /// The next function with this name, whose type is `F`.
    pub const fn new(name: &'static CStr) -> Self {
        Next { name, address: AtomicPtr::new(std::ptr::null_mut()), function: PhantomData }
    }

    /// The function. Ends the process when there is none, which no libc of Linux can bring about.
    #[inline]
    pub fn get(&self) -> F {
        let mut address = self.address.load(Relaxed);
        if address.is_null() {
            address = self.look_up();
        }
        // SAFETY: an address of that function; F is a function pointer, as wide as the address.
        unsafe { std::mem::transmute_copy(&address) }
    }

    #[cold]
    fn look_up(&self) -> *mut c_void {
        // SAFETY: a C string; the library is a loaded object, so RTLD_NEXT has a meaning.
        let address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if address.is_null() {
            crate::log::line(format_args!(
                "libc has no {}: it cannot be hooked, nor left out",
                self.name.to_string_lossy()
            ));
            // SAFETY: no preconditions.
            unsafe { libc::abort() }
        }
        self.address.store(address, Relaxed);
        address
    }
}
