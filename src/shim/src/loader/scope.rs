//! Looks originals up as one library of this process sees them. The library is kept open.

use std::ffi::{CStr, c_void};

use super::objects::{is_own, is_preloaded, loaded_paths, object_at};
use super::symbols::{Library, next};
use crate::ggml::functions::Function;

/// The library from which originals are looked up; `None` when it could not be kept open.
#[derive(Clone, Copy)]
pub struct Scope(pub Option<Library>);

impl Scope {
    /// The original of `name`: the definition that the library sees, unless it is this library's, else the next one in
    /// the global scope. The library's own view comes first because a process can hold several copies of ggml.
    pub fn find(self, name: &CStr) -> Option<*mut c_void> {
        let seen = self.0.and_then(|library| library.symbol(name)).filter(|&p| !is_preloaded(p as usize));
        seen.or_else(|| next(name).filter(|&p| !is_own(p as usize)))
    }

    /// A function of the ggml that the library sees.
    pub fn function<F: Copy>(self, function: Function<F>) -> Option<F> {
        // SAFETY: a definition under the name of a function of ggml, which is not this library's, is that function.
        unsafe { function.find(|name| self.find(name)) }
    }
}

/// Libraries of this process that see an original of `name`, at most `most` of them. Each sees it at another address
/// than the libraries before it. They are kept open.
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

/// The first library of this process that sees an original of `name`, for a caller that sees none itself. It is kept
/// open.
pub fn find_definer(name: &CStr) -> Option<Scope> {
    definers(name, 1).first().map(|(_, scope)| *scope)
}

/// The only library that sees an original of `name`; `None` when there is none, or more than one. For a caller that has
/// a pointer to this library's function of that name, and does not see the original itself.
pub fn only_definer(name: &CStr) -> Option<Scope> {
    let [(_, scope)] = definers(name, 2)[..] else { return None };
    Some(scope)
}

/// The library that `address` lies in, kept open; `None` for the main program.
pub fn library_of(address: usize) -> Option<Scope> {
    let object = object_at(address).filter(|object| !object.path.is_empty())?;
    Some(Scope(Some(Library::loaded(&object.path)?)))
}
