//! Finds out whether a library calls a function through the dynamic linker, so that a preloaded library can replace it.
//!
//! The relocations are read in memory, where the linker has loaded them. This needs none of the linker's locks, and
//! does not open a file that may be gone. `zen5turbo doctor` reads the same from files that no process has loaded
//! (`src/cli/src/elf.rs`).

use std::ffi::CStr;

use libc::{Elf64_Rela, Elf64_Sym};

use super::objects::find_loaded;

/// An entry of the dynamic section, `Elf64_Dyn` of elf.h, which the libc crate does not have.
#[repr(C)]
struct Dynamic {
    tag: i64,
    value: u64,
}

/// Tags and flags of elf.h.
const DT_NULL: i64 = 0;
const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_SYMBOLIC: i64 = 16;
const DT_JMPREL: i64 = 23;
const DT_FLAGS: i64 = 30;
const DF_SYMBOLIC: u64 = 2;

/// The tables of symbols and relocations of a loaded object, from its dynamic section. An address is 0 when it has no
/// such table.
#[derive(Default)]
struct Tables {
    strings: usize,
    symbols: usize,
    /// Start and bytes of the relocations of the procedure linkage table, and of the others.
    relocations: [(usize, usize); 2],
    symbolic: bool,
}

/// Whether the library that contains `address` refers to `name` by a relocation and was not linked with `-Bsymbolic`,
/// which binds calls to its own definition. False when the call stays inside the library (`-Bsymbolic-functions`,
/// hidden visibility, link-time optimisation).
pub fn is_interposable(address: usize, name: &CStr) -> bool {
    let found = find_loaded(|loaded| {
        if !loaded.parts(libc::PT_LOAD).any(|(_, part)| part.contains(&address)) {
            return None;
        }
        let dynamic = loaded.parts(libc::PT_DYNAMIC).next();
        // SAFETY: the part is the dynamic section of an object that the linker has loaded at this base, and `tables` gives the
        // tables of that object. The object stays loaded while `find_loaded` visits it.
        let refers = |start| unsafe { refers(&tables(start as *const Dynamic, loaded.base), name) };
        Some(dynamic.is_some_and(|(_, part)| refers(part.start)))
    });
    found == Some(true)
}

/// # Safety
/// `entry` is the dynamic section of an object that is loaded at `base`.
unsafe fn tables(mut entry: *const Dynamic, base: usize) -> Tables {
    let mut tables = Tables::default();
    // The dynamic linker has turned the offsets into addresses, except in objects that it did not load.
    let address = |value: u64| if (value as usize) < base { base + value as usize } else { value as usize };
    loop {
        // SAFETY: the section ends with DT_NULL, and no entry before this one was that.
        let Dynamic { tag, value } = unsafe { entry.read() };
        match tag {
            DT_NULL => return tables,
            DT_STRTAB => tables.strings = address(value),
            DT_SYMTAB => tables.symbols = address(value),
            DT_JMPREL => tables.relocations[0].0 = address(value),
            DT_PLTRELSZ => tables.relocations[0].1 = value as usize,
            DT_RELA => tables.relocations[1].0 = address(value),
            DT_RELASZ => tables.relocations[1].1 = value as usize,
            DT_SYMBOLIC => tables.symbolic = true,
            DT_FLAGS => tables.symbolic |= value & DF_SYMBOLIC != 0,
            _ => {}
        }
        // SAFETY: this entry is not DT_NULL, so another one follows in the section.
        entry = unsafe { entry.add(1) };
    }
}

/// # Safety
/// `tables` are those of an object that stays loaded.
unsafe fn refers(tables: &Tables, name: &CStr) -> bool {
    if tables.symbolic || tables.strings == 0 || tables.symbols == 0 {
        return false;
    }
    tables.relocations.iter().filter(|(start, _)| *start != 0).any(|&(start, bytes)| {
        // SAFETY: the object has a table of relocations there, as long as its dynamic section says, by the contract of this
        // function.
        let all = unsafe { std::slice::from_raw_parts(start as *const Elf64_Rela, bytes / size_of::<Elf64_Rela>()) };
        all.iter().filter_map(|r| std::num::NonZeroUsize::new((r.r_info >> 32) as usize)).any(|symbol| {
            // SAFETY: the symbols that relocations name lie in the object's table of symbols, and the names of those in its
            // table of strings. Both tables stay, by the contract of this function.
            unsafe {
                let symbol = &*(tables.symbols as *const Elf64_Sym).add(symbol.get());
                CStr::from_ptr((tables.strings as *const libc::c_char).add(symbol.st_name as usize)) == name
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_is_called_is_found_and_another_is_not() {
        // This test program calls malloc in libc; libc calls its own by names that are hidden.
        let here = is_interposable as *const () as usize;
        assert!(is_interposable(here, c"malloc"));
        assert!(!is_interposable(here, c"ggml_cpu_extra_compute_forward"));
        assert!(!is_interposable(libc::qsort as *const () as usize, c"qsort"));
        assert!(!is_interposable(0, c"malloc"));
    }
}
