//! Where originals are looked up: from a library of this process, which is kept open.

use std::ffi::{CStr, c_void};

use super::objects::{is_own, is_preloaded, loaded_paths, object_at};
use super::symbols::{Library, next};
use crate::ggml::functions::Function;

/// A library, as the place where originals are looked up; `None` where it could not be kept open.
#[derive(Clone, Copy)]
pub struct Scope(pub Option<Library>);

impl Scope {
    /// The original that is seen from there: the definition of `name` that is not ours, else the next one in the global
    /// scope. The library's own view comes first, as a process can hold several copies of ggml.
    pub fn find(self, name: &CStr) -> Option<*mut c_void> {
        let seen = self.0.and_then(|library| library.symbol(name)).filter(|&p| !is_preloaded(p as usize));
        seen.or_else(|| next(name).filter(|&p| !is_own(p as usize)))
    }

    /// A function of the ggml that is seen from there.
    pub fn function<F: Copy>(self, function: Function<F>) -> Option<F> {
        // SAFETY: what the dynamic linker finds under the name of a function of ggml, beside our own, is that function.
        unsafe { function.find(|name| self.find(name)) }
    }
}

/// The libraries of this process that find an original `name`, each at another address than those before it; `most` of them.
/// They are kept open, as callers are.
fn definers(name: &CStr, most: usize) -> Vec<(usize, Scope)> {
    let mut found: Vec<(usize, Scope)> = Vec::new();
    for path in loaded_paths() {
        if found.len() == most {
            break;
        }
        let Some(library) = Library::loaded(&path) else { continue };
        let scope = Scope(Some(library));
        match scope.find(name).map(|address| address as usize) {
            Some(address) if found.iter().all(|(known, _)| *known != address) => found.push((address, scope)),
            // SAFETY: the reference was taken above, and `scope` is dropped without use.
            _ => unsafe { library.close() },
        }
    }
    found
}

/// The first library of this process that finds an original `name`, for a caller that sees none itself. It is kept open.
pub fn find_definer(name: &CStr) -> Option<Scope> {
    definers(name, 1).first().map(|(_, scope)| *scope)
}

/// The library that defines `name`, for a caller that has a pointer to our function of that name and does not see the original;
/// `None` when there are several, or none.
pub fn only_definer(name: &CStr) -> Option<Scope> {
    let [(_, scope)] = definers(name, 2)[..] else { return None };
    Some(scope)
}

/// The library that `address` lies in, kept open; `None` for the main program.
pub fn library_of(address: usize) -> Option<Scope> {
    let object = object_at(address).filter(|object| !object.path.is_empty())?;
    Some(Scope(Some(Library::loaded(&object.path)?)))
}
