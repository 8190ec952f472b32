//! A shared library that this process opens, and what it finds there by name. The rest of the command looks symbols up here.
//!
//! What the files of libraries say about their symbols, without opening them, is read in `elf.rs`.

use std::ffi::{CStr, c_void};
use std::path::Path;

use anyhow::{Context, Result};
use libloading::os::unix;

/// An opened library, which stays open as long as this value.
pub struct Library(unix::Library);

impl Library {
    /// Opens a file with a library.
    ///
    /// # Errors
    /// The dynamic loader refuses it.
    ///
    /// # Safety
    /// The initialisers of the library, and of those that it needs, may run in this process.
    pub unsafe fn open(file: &Path) -> Result<Self> {
        // SAFETY: the caller has allowed the initialisers.
        let library = unsafe { unix::Library::new(file) };
        library.map(Self).with_context(|| format!("the loader cannot open {}", file.display()))
    }

    /// This program with all that is loaded for it, a preloaded library among them.
    pub fn program() -> Self {
        Self(unix::Library::this())
    }

    /// The address of what the library exports under this name.
    pub fn find(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the symbol is taken as an address, which it is whatever its type; nothing is read there.
        let symbol = unsafe { self.0.get::<*mut c_void>(name) };
        symbol.ok().map(|symbol| *symbol).filter(|address| !address.is_null())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_this_program_are_found_and_others_are_not() {
        let program = Library::program();
        assert_eq!(program.find(c"getpid"), Some(libc::getpid as *mut c_void));
        assert_eq!(program.find(c"zen5turbo_no_such_function"), None);
        // SAFETY: there is no such file, so no initialiser runs.
        let error = unsafe { Library::open(Path::new("/nonexistent.so")) }.err().map(|error| format!("{error:#}"));
        assert!(error.is_some_and(|error| error.starts_with("the loader cannot open /nonexistent.so: ")));
    }
}
