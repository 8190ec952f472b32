//! Whether a library calls a function by way of the dynamic linker, so that a preloaded one can stand in for it.

use std::ffi::CStr;

use libc::{Elf64_Rela, Elf64_Sym};

use super::copies::find_loaded;

/// An entry of the dynamic section; elf.h, which the libc crate leaves out for this one.
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

/// What the dynamic section says about symbols and relocations.
#[derive(Default)]
struct Tables {
    strings: usize,
    symbols: usize,
    /// Start and bytes of the relocations of the procedure linkage table, and of the others.
    relocations: [(usize, usize); 2],
    symbolic: bool,
}

/// Whether the library that `address` lies in refers to `name` by a relocation, and was not linked with `-Bsymbolic`, with
/// which it would find its own. False where the call is inside the library (`-Bsymbolic-functions`, hidden visibility,
/// link-time optimisation).
pub fn reaches_others(address: usize, name: &CStr) -> bool {
    let found = find_loaded(|loaded| {
        if !loaded.parts(libc::PT_LOAD).any(|(_, part)| part.contains(&address)) {
            return None;
        }
        let dynamic = loaded.parts(libc::PT_DYNAMIC).next();
        // SAFETY: the dynamic section of a loaded object, and its tables.
        Some(
            dynamic
                .is_some_and(|(_, part)| unsafe { refers(&tables(part.start as *const Dynamic, loaded.base), name) }),
        )
    });
    found == Some(true)
}

/// # Safety
/// `entry` is the dynamic section of an object that is loaded at `base`.
unsafe fn tables(mut entry: *const Dynamic, base: usize) -> Tables {
    let mut tables = Tables::default();
    // The dynamic linker has made addresses of the offsets, except in objects that it did not load.
    let address = |value: u64| if (value as usize) < base { base + value as usize } else { value as usize };
    loop {
        // SAFETY: the section ends with DT_NULL.
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
        // SAFETY: as above.
        entry = unsafe { entry.add(1) };
    }
}

/// # Safety
/// The tables of a loaded object.
unsafe fn refers(tables: &Tables, name: &CStr) -> bool {
    if tables.symbolic || tables.strings == 0 || tables.symbols == 0 {
        return false;
    }
    tables.relocations.iter().filter(|(start, _)| *start != 0).any(|&(start, bytes)| {
        // SAFETY: a table of relocations.
        let all = unsafe { std::slice::from_raw_parts(start as *const Elf64_Rela, bytes / size_of::<Elf64_Rela>()) };
        all.iter().filter_map(|r| std::num::NonZeroUsize::new((r.r_info >> 32) as usize)).any(|symbol| {
            // SAFETY: relocations name symbols of the table, whose names lie in the table of strings.
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
        let here = reaches_others as *const () as usize;
        assert!(reaches_others(here, c"malloc"));
        assert!(!reaches_others(here, c"ggml_cpu_extra_compute_forward"));
        assert!(!reaches_others(libc::qsort as *const () as usize, c"qsort"));
        assert!(!reaches_others(0, c"malloc"));
    }
}
