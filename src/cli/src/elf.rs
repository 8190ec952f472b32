//! What one ELF file says about itself: what it needs, which of the given symbols it exports, keeps
//! to itself or calls through the loader, and what would make the loader ignore a preload.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::read::{Object, ObjectSymbol, ReadCache, ReadRef, RelocationTarget};
use object::{LittleEndian, RelocationFlags, SymbolSection};

type Header = elf::FileHeader64<LittleEndian>;

/// How a file and a symbol relate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Defined in .dynsym with default visibility: others can find it.
    pub exported: bool,
    /// Defined in .symtab but not exported: linked in and hidden.
    pub internal: bool,
    /// Undefined in .dynsym: another file must bring it.
    pub needed: bool,
    /// Called through the loader (a JUMP_SLOT, GLOB_DAT or 64-bit relocation): a preload can take it.
    pub relocated: bool,
}

/// How a file and ggml relate, by the names of all its symbols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ggml {
    /// Functions of ggml are linked into it.
    pub defined: bool,
    /// It calls functions of ggml in another file.
    pub imported: bool,
}

/// One ELF file, 64-bit x86.
#[derive(Clone, Debug)]
pub struct Elf {
    pub path: PathBuf,
    /// A program, as opposed to a library.
    pub executable: bool,
    /// The loader it asks for (PT_INTERP).
    pub interpreter: Option<String>,
    pub soname: Option<String>,
    /// DT_NEEDED.
    pub needed: Vec<String>,
    /// DT_RPATH, split at colons.
    pub rpath: Vec<String>,
    /// DT_RUNPATH, split at colons.
    pub runpath: Vec<String>,
    /// Linked with -Bsymbolic: it looks for symbols in itself first.
    pub symbolic: bool,
    /// The address that the file gives to its first byte; in memory all addresses are moved alike.
    pub first_address: u64,
    /// Where the loader writes the addresses of the symbols asked for, as addresses of the file: a
    /// call through it goes to what stands there.
    pub slots: Vec<(&'static str, u64)>,
    /// The symbols asked for, where the file has anything to say on them.
    pub uses: BTreeMap<&'static str, Use>,
    /// What it has to do with ggml.
    pub ggml: Ggml,
}

impl Elf {
    /// Reads `path` and looks for `symbols` in it.
    pub fn read(path: &Path, symbols: &[&'static str]) -> Result<Elf> {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut start = Vec::new();
        file.by_ref().take(20).read_to_end(&mut start).with_context(|| format!("cannot read {}", path.display()))?;
        check_start(path, &start)?;
        let cache = ReadCache::new(file);
        Elf::parse(path, &cache, symbols).with_context(|| format!("{} is a damaged ELF file", path.display()))
    }

    /// Reads a file that is in memory.
    #[cfg(feature = "fuzzing")]
    pub fn of_bytes(bytes: &[u8], symbols: &[&'static str]) -> Result<Elf> {
        let path = Path::new("file");
        check_start(path, &bytes[..bytes.len().min(20)])?;
        Ok(Elf::parse(path, bytes, symbols)?)
    }

    fn parse<'data, R: ReadRef<'data>>(path: &Path, data: R, symbols: &[&'static str]) -> object::Result<Elf> {
        let file = ElfFile64::<LittleEndian, R>::parse(data)?;
        let endian = file.endian();
        let header: &Header = file.elf_header();
        let mut interpreter = None;
        let mut first_address = 0;
        for segment in file.elf_program_headers() {
            if segment.p_type(endian) == elf::PT_LOAD && segment.p_offset(endian) == 0 {
                first_address = segment.p_vaddr(endian);
            }
            if let Some(name) = segment.interpreter(endian, data)? {
                interpreter = Some(String::from_utf8_lossy(name).into_owned());
            }
        }

        let table = file.elf_dynamic_table()?;
        let text = |entry| table.string(entry).map(|s| String::from_utf8_lossy(s).into_owned());
        let split = |list: String| list.split(':').map(str::to_owned).collect::<Vec<_>>();
        let (mut needed, mut rpath, mut runpath) = (Vec::new(), Vec::new(), Vec::new());
        let (mut soname, mut symbolic, mut pie) = (None, false, false);
        for entry in table.iter() {
            match entry.tag {
                elf::DT_NEEDED => needed.push(text(entry)?),
                elf::DT_SONAME => soname = Some(text(entry)?),
                elf::DT_RPATH => rpath = split(text(entry)?),
                elf::DT_RUNPATH => runpath = split(text(entry)?),
                elf::DT_SYMBOLIC => symbolic = true,
                elf::DT_FLAGS => symbolic |= entry.val & DF_SYMBOLIC != 0,
                elf::DT_FLAGS_1 => pie = entry.val & DF_1_PIE != 0,
                _ => {}
            }
        }
        let executable = header.e_type(endian) == elf::ET_EXEC || pie || (interpreter.is_some() && soname.is_none());

        let mut uses: BTreeMap<&'static str, Use> = BTreeMap::new();
        let mut dynamic_index = HashMap::new();
        let mut ggml = Ggml::default();
        for symbol in file.dynamic_symbols() {
            if is_of_ggml(&symbol) {
                *(if symbol.is_undefined() { &mut ggml.imported } else { &mut ggml.defined }) = true;
            }
            let Some(&name) = symbols.iter().find(|s| symbol.name_bytes() == Ok(s.as_bytes())) else {
                continue;
            };
            dynamic_index.insert(symbol.index(), name);
            let entry = uses.entry(name).or_default();
            if symbol.is_undefined() {
                entry.needed = true;
            } else if visibility(&symbol) == elf::STV_DEFAULT {
                entry.exported = true;
            } else {
                entry.internal = true;
            }
        }
        for symbol in file.symbols() {
            ggml.defined |= !symbol.is_undefined() && is_of_ggml(&symbol);
            let Some(&name) = symbols.iter().find(|s| symbol.name_bytes() == Ok(s.as_bytes())) else {
                continue;
            };
            if symbol.is_undefined() || symbol.section() == SymbolSection::Undefined {
                continue;
            }
            let entry = uses.entry(name).or_default();
            entry.internal |= !entry.exported;
        }
        let mut slots = Vec::new();
        if !dynamic_index.is_empty() {
            for (address, relocation) in file.dynamic_relocations().into_iter().flatten() {
                let RelocationTarget::Symbol(index) = relocation.target() else { continue };
                let Some(&name) = dynamic_index.get(&index) else { continue };
                if let RelocationFlags::Elf { r_type } = relocation.flags()
                    && matches!(r_type, elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT | elf::R_X86_64_64)
                {
                    uses.entry(name).or_default().relocated = true;
                    slots.push((name, address));
                }
            }
        }

        Ok(Elf {
            path: path.to_owned(),
            executable,
            interpreter,
            soname,
            needed,
            rpath,
            runpath,
            symbolic,
            first_address,
            slots,
            uses,
            ggml,
        })
    }

    /// The use of `symbol`; all false when the file does not mention it.
    pub fn symbol(&self, symbol: &str) -> Use {
        self.uses.get(symbol).copied().unwrap_or_default()
    }

    /// Whether the loader is glibc's; musl's takes LD_PRELOAD too, but the shim needs glibc.
    pub fn musl(&self) -> bool {
        self.interpreter.as_deref().is_some_and(|i| i.contains("ld-musl"))
    }
}

/// `DF_SYMBOLIC` of DT_FLAGS and `DF_1_PIE` of DT_FLAGS_1, elf.h.
const DF_SYMBOLIC: u64 = 0x2;
const DF_1_PIE: u64 = 0x0800_0000;

fn is_of_ggml<'data, S: ObjectSymbol<'data>>(symbol: &S) -> bool {
    symbol.name_bytes().is_ok_and(|name| name.starts_with(b"ggml_"))
}

fn visibility<'data, S: ObjectSymbol<'data>>(symbol: &S) -> elf::SymbolVisibility {
    match symbol.flags() {
        object::SymbolFlags::Elf { st_other, .. } => st_other.visibility(),
        _ => elf::STV_DEFAULT,
    }
}

/// Refuses what is not a 64-bit little-endian x86 ELF file, by its first 20 bytes.
fn check_start(path: &Path, start: &[u8]) -> Result<()> {
    let name = path.display();
    if start.starts_with(b"#!") {
        let line = String::from_utf8_lossy(start);
        let line = line.lines().next().unwrap_or_default();
        bail!(
            "{name} is a script ({line}...); expected a program or a library (ELF): name the program that the script starts, or the folder that holds its libraries"
        );
    }
    if start.starts_with(b"MZ") {
        bail!(
            "{name} is an \"actually portable\" or Windows executable; expected an ELF program: such a program is linked statically and cannot be reached, use a shared build of llama.cpp"
        );
    }
    let arch = |at: usize| start.get(at).copied().unwrap_or(0);
    if !start.starts_with(b"\x7fELF") || start.len() < 20 {
        bail!("{name} is not a program or a library; expected an ELF file");
    }
    // EI_CLASS 2 is 64-bit, EI_DATA 1 little-endian, e_machine 62 x86-64.
    if arch(4) != 2 || arch(5) != 1 || u16::from_le_bytes([arch(18), arch(19)]) != 62 {
        bail!(
            "{name} is an ELF file for another machine (class {}, e_machine {}); expected 64-bit x86-64",
            arch(4),
            u16::from_le_bytes([arch(18), arch(19)])
        );
    }
    Ok(())
}

/// Why the loader would drop LD_PRELOAD when `path` is started: the privileges it gains.
pub fn privileges(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    let mode = meta.permissions().mode();
    // The set-group-ID bit without group execution means mandatory locking, not privilege.
    if mode & 0o4000 != 0 {
        return Some(format!("set-user-ID (owner {})", meta.uid()));
    }
    if mode & 0o2010 == 0o2010 {
        return Some(format!("set-group-ID (group {})", meta.gid()));
    }
    let c_path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: both strings are NUL-terminated; size 0 asks for the length and writes nothing.
    let length = unsafe { libc::getxattr(c_path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    (length > 0).then(|| "file capabilities (setcap)".to_owned())
}

/// The folders whose absolute paths are texts in `path`, such as the one that a ggml was compiled with as `GGML_BACKEND_DIR`.
pub fn folders_named_in(path: &Path) -> Vec<PathBuf> {
    /// The library that opens backends takes half a megabyte.
    const MOST: u64 = 8 << 20;
    let Ok(mut file) = File::open(path) else { return Vec::new() };
    let mut bytes = Vec::new();
    if file.metadata().map_or(u64::MAX, |meta| meta.len()) > MOST || file.read_to_end(&mut bytes).is_err() {
        return Vec::new();
    }
    let texts = bytes.split(|&byte| byte == 0).filter(|text| text.starts_with(b"/") && (2..256).contains(&text.len()));
    let paths = texts.filter_map(|text| std::str::from_utf8(text).ok()).map(PathBuf::from);
    paths.filter(|path| path.is_dir()).collect()
}

/// Whether the bytes of `path` hold any of `needles`; read in pieces, for files of any size.
pub fn holds_text(path: &Path, needles: &[&[u8]]) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let overlap = needles.iter().map(|n| n.len()).max().unwrap_or(1).saturating_sub(1);
    let mut piece = vec![0; (1 << 20) + overlap];
    let mut kept = 0;
    loop {
        match file.read(&mut piece[kept..]) {
            Ok(0) | Err(_) => return false,
            Ok(n) => {
                let filled = kept + n;
                let hay = &piece[..filled];
                if needles.iter().any(|needle| contains(hay, needle)) {
                    return true;
                }
                kept = overlap.min(filled);
                piece.copy_within(filled - kept..filled, 0);
            }
        }
    }
}

/// Substring search that skips to the first byte with the vectorised `position` of iterators.
fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let Some((&first, _)) = needle.split_first() else { return true };
    let mut at = 0;
    while let Some(step) = hay[at..].iter().position(|&b| b == first) {
        at += step;
        if hay[at..].starts_with(needle) {
            return true;
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_is_read_as_what_it_is() {
        let elf = Elf::read(Path::new("/proc/self/exe"), &["write", "main", "no_such_symbol"]).unwrap();
        assert!(elf.executable && !elf.symbolic && !elf.musl());
        assert!(elf.interpreter.as_deref().is_some_and(|i| i.contains("ld-linux")), "{elf:?}");
        assert!(elf.needed.iter().any(|n| n == "libc.so.6"), "{:?}", elf.needed);
        let write = elf.symbol("write");
        assert!(write.needed && write.relocated && !write.exported, "{write:?}");
        assert!(elf.slots.iter().any(|(name, address)| *name == "write" && *address > 0), "{:?}", elf.slots);
        assert_eq!(elf.symbol("no_such_symbol"), Use::default());
        let main = elf.symbol("main");
        assert!(main.internal && !main.relocated && !main.exported, "{main:?}");
    }

    #[test]
    fn libc_exports_what_it_defines() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.lines().find_map(|l| l.split_whitespace().nth(5).filter(|p| p.contains("libc.so")));
        let elf = Elf::read(Path::new(libc.unwrap()), &["malloc"]).unwrap();
        assert!(!elf.executable, "libc has an interpreter of its own and is a library all the same");
        assert!(elf.symbol("malloc").exported && !elf.symbol("malloc").needed);
    }

    #[test]
    fn other_files_are_refused_by_what_they_are() {
        let refused = |start: &[u8]| check_start(Path::new("x"), start).unwrap_err().to_string();
        assert!(refused(b"#!/bin/sh\necho 1234567890").contains("script (#!/bin/sh"));
        assert!(refused(b"MZqFpD=....................").contains("shared build"));
        assert!(refused(b"text").contains("expected an ELF"));
        let mut arm = [0; 20];
        arm[..6].copy_from_slice(b"\x7fELF\x02\x01");
        arm[18] = 183;
        assert!(refused(&arm).contains("e_machine 183"));
    }

    #[test]
    fn ordinary_programs_gain_no_privileges() {
        assert_eq!(privileges(Path::new("/proc/self/exe")), None);
    }

    #[test]
    fn text_is_found_across_pieces() {
        let path = std::env::temp_dir().join(format!("zen5turbo-text-{}", std::process::id()));
        let mut bytes = vec![b'g'; (1 << 20) + 3];
        bytes.extend_from_slice(b"ggml-cpu.c");
        fs::write(&path, &bytes).unwrap();
        assert!(holds_text(&path, &[b"absent", b"gml-cpu.c"]));
        assert!(!holds_text(&path, &[b"gml-gpu.c"]));
        fs::remove_file(&path).unwrap();
    }
}
