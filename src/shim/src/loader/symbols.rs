//! Looks symbols up. There are four questions, and each has its function here:
//!
//! | question | asked by | answered by |
//! |---|---|---|
//! | Which definition does the program use? | code that checks whether this library comes first | [`first`] |
//! | Which definition comes after this library? | hooks of libc's functions | [`next`], [`next_version`], [`Next`] |
//! | Which definition does one library use? | hooks of ggml (a process can hold several copies) | [`Library::symbol`] |
//! | Which function lies at this address? | code that finds out where a call comes from | [`symbol_at`] |
//!
//! The hooks of `malloc` and `memcpy` keep the originals in tables of their own, which their trampolines read. `dlsym`
//! itself may allocate and copy. So `malloc` marks the thread that searches (`crate::buffers::malloc_thp`), and only
//! the constructor looks `memcpy` up (`crate::buffers::nt_copy`). Later calls of these hooks look nothing up.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

pub use zen5turbo_ggml::functions::function;

/// An address from the dynamic linker. It is an `Option` so that work remains after the call of `dlsym`. Otherwise the
/// compiler could make the call a jump, and the linker would search after the caller's library instead of after this
/// one.
type Address = Option<*mut c_void>;

fn address(p: *mut c_void) -> Address {
    (!p.is_null()).then_some(p)
}

/// The first definition of `name` in the order of the loader, to which the program's own calls are bound.
pub fn first(name: &CStr) -> Address {
    // SAFETY: the name is a C string, and RTLD_DEFAULT is a handle that is always valid.
    address(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// The definition of `name` that comes after this library in the order of the loader.
pub fn next(name: &CStr) -> Address {
    // SAFETY: the name is a C string. RTLD_NEXT has a meaning, because this call comes from a loaded object.
    address(unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) })
}

/// [`next`] for the symbol of exactly this version.
pub fn next_version(name: &CStr, version: &CStr) -> Address {
    // SAFETY: both are C strings. RTLD_NEXT has a meaning, because this call comes from a loaded object.
    address(unsafe { libc::dlvsym(libc::RTLD_NEXT, name.as_ptr(), version.as_ptr()) })
}

/// The exported function that holds `address`. Its name is part of the library that the address lies in.
pub fn symbol_at(address: usize) -> Option<&'static CStr> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr compares the address and reads nothing there; it fills the record when it returns non-zero. Zeroes are
    // valid for all fields. The name is null or a C string of a loaded library, which the caller of this function keeps open.
    unsafe {
        let found = libc::dladdr(address as *const c_void, info.as_mut_ptr()) != 0;
        let name = info.assume_init().dli_sname;
        (found && !name.is_null()).then(|| CStr::from_ptr(name))
    }
}

/// A loaded library, held by a reference. It stays loaded until [`Library::close`], or for ever if nobody calls that.
#[derive(Clone, Copy)]
pub struct Library(*mut c_void);

// SAFETY: a handle is only passed to functions of the dynamic linker, which may be called from any thread.
unsafe impl Send for Library {}
// SAFETY: the functions of the dynamic linker that take a handle may run in several threads at the same time.
unsafe impl Sync for Library {}

impl Library {
    /// The library that was loaded from `path`; `None` if it is not loaded.
    pub fn loaded(path: &CStr) -> Option<Self> {
        // SAFETY: the path is a C string. With NOLOAD no constructor of a library runs.
        address(unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) }).map(Self)
    }

    /// The main program, which sees the global scope.
    pub fn program() -> Option<Self> {
        // SAFETY: null stands for the main program. With NOLOAD no constructor of a library runs.
        address(unsafe { libc::dlopen(std::ptr::null(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) }).map(Self)
    }

    /// Opens a library so that calls between its own functions stay in it (`RTLD_DEEPBIND`).
    ///
    /// # Errors
    /// The message of the dynamic linker.
    ///
    /// # Safety
    /// The constructors of the library and of those that it needs may run in this process.
    pub unsafe fn open_for_itself(path: &CStr) -> Result<Self, String> {
        // SAFETY: the path is a C string; the caller has allowed the constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_DEEPBIND) };
        address(handle).map(Self).ok_or_else(|| {
            // SAFETY: dlerror returns null or a C string of this thread, which the next call of the linker replaces. It is
            // copied at once.
            unsafe { c_str(libc::dlerror()) }.to_string_lossy().into_owned()
        })
    }

    /// The definition that the library uses under this name: its own, or one of a library that it needs.
    pub fn symbol(self, name: &CStr) -> Address {
        // SAFETY: the handle is open, as nobody uses a library after `close`; the name is a C string.
        address(unsafe { libc::dlsym(self.0, name.as_ptr()) })
    }

    /// Gives the reference back.
    ///
    /// # Safety
    /// From now on nobody uses this value, a copy of it, or an address that it found.
    pub unsafe fn close(self) {
        // SAFETY: the handle is open, and the caller promises that it is used no more.
        unsafe { libc::dlclose(self.0) };
    }
}

/// The original of a hooked function of libc, of type `F`. It is looked up at its first use, which may be before this
/// library's constructor and in any thread. Two threads may look it up at the same time; both find the same address.
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

    /// The function. Ends the process when libc has none, which does not happen on Linux.
    #[inline]
    pub fn get(&self) -> F {
        let mut address = self.address.load(Relaxed);
        if address.is_null() {
            address = self.look_up();
        }
        // SAFETY: the address is that of the function with this name, and F is its type, as `new` was told.
        unsafe { function(address) }
    }

    #[cold]
    fn look_up(&self) -> *mut c_void {
        let Some(address) = next(self.name) else {
            crate::log::line(format_args!(
                "libc has no {}: it cannot be hooked, nor left out",
                self.name.to_string_lossy()
            ));
            // SAFETY: abort has no preconditions.
            unsafe { libc::abort() }
        };
        self.address.store(address, Relaxed);
        address
    }
}

/// A string that a C function returned; empty for null.
///
/// # Safety
/// `p` is null or a C string that lives for `'a`.
pub unsafe fn c_str<'a>(p: *const c_char) -> &'a CStr {
    // SAFETY: a pointer that is not null is that of a C string which lives for `'a`, by the contract of this function.
    if p.is_null() { c"" } else { unsafe { CStr::from_ptr(p) } }
}

#[cfg(test)]
mod tests {
    use std::ffi::c_int;

    use super::*;

    #[test]
    fn each_question_has_its_answer() {
        let getpid = libc::getpid as *mut c_void;
        assert_eq!(first(c"getpid"), Some(getpid));
        assert_eq!(next(c"getpid"), Some(getpid));
        assert_eq!(Library::program().and_then(|program| program.symbol(c"getpid")), Some(getpid));
        assert!(symbol_at(getpid as usize).is_some_and(|name| name.to_bytes().ends_with(b"getpid")));
        for absent in [first(c"zen5turbo_no_such"), next(c"zen5turbo_no_such"), next_version(c"getpid", c"GLIBC_9.9")] {
            assert_eq!(absent, None);
        }
        assert!(Library::loaded(c"/nonexistent/library.so").is_none());
    }

    #[test]
    fn the_next_function_is_looked_up_once() {
        static GETPID: Next<unsafe extern "C" fn() -> c_int> = Next::new(c"getpid");
        // SAFETY: getpid has this signature and no preconditions.
        let number = unsafe { GETPID.get()() };
        assert_eq!(number as u32, std::process::id());
        assert_eq!(GETPID.address.load(Relaxed), libc::getpid as *mut c_void);
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        // SAFETY: there is no such library, so no constructor runs.
        let error = unsafe { Library::open_for_itself(c"/nonexistent/library.so") }.err();
        assert!(error.is_some_and(|why| why.contains("/nonexistent/library.so")));
    }
}
