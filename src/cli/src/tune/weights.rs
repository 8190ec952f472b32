//! Memory for weights: anonymous, on huge pages, or the page cache of a file, as a mapped model's.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use zen5turbo_host::memory::Pages;
use zen5turbo_host::memory::map::Region;
use zen5turbo_host::numa::{self, Policy};

/// Memory that weights are written into and read from.
pub enum Memory {
    /// Transparent huge pages where there are any.
    Huge(Region),
    /// Small pages of the page cache.
    File(MappedFile),
}

impl Memory {
    /// Huge pages, in turn on all NUMA nodes.
    pub fn huge(bytes: usize) -> Result<Region> {
        let region = Region::new(bytes, Pages::Transparent).with_context(|| no_room(bytes))?;
        spread(region.range().start, bytes);
        Ok(region)
    }

    /// Where it lies.
    pub fn range(&self) -> Range<usize> {
        match self {
            Self::Huge(region) => region.range(),
            Self::File(file) => file.range.clone(),
        }
    }

    /// Fills its beginning with `copies` copies of `sample`, while nothing reads it.
    ///
    /// # Errors
    /// They do not fit, or the file cannot be written: its disk is full.
    pub fn fill(&mut self, sample: &[u8], copies: usize) -> Result<()> {
        let range = self.range();
        ensure!(sample.len() * copies <= range.len(), "the weights do not fit into the memory for them");
        match self {
            Self::Huge(_) => {
                let start = range.start as *mut u8;
                for copy in 0..copies {
                    // SAFETY: inside the region, which is ours and writable; nothing reads it meanwhile.
                    unsafe { start.add(copy * sample.len()).copy_from_nonoverlapping(sample.as_ptr(), sample.len()) };
                }
                Ok(())
            }
            Self::File(file) => file.fill(sample, copies).context("the file for weights cannot be written"),
        }
    }
}

/// A file without a name, mapped shared and for reading only, as llama.cpp maps a model.
pub struct MappedFile {
    file: File,
    range: Range<usize>,
}

impl MappedFile {
    /// A file of `bytes` bytes in `folder`. It is gone with the process, however that ends.
    pub fn new(folder: &Path, bytes: usize) -> Result<Self> {
        let refused = || format!("no file of {} can be made in {}", crate::text::bytes(bytes as u64), folder.display());
        let file = tempfile::tempfile_in(folder).with_context(refused)?;
        file.set_len(bytes as u64).with_context(refused)?;
        let (prot, fd) = (libc::PROT_READ, file.as_raw_fd());
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, libc::MAP_SHARED, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).with_context(|| no_room(bytes));
        }
        // Some kernels put files that were just written on huge pages. A model that was read from a disk seldom lies so,
        // and where it does, a copy gains nothing anyway. Refused, the pages are what they are.
        // SAFETY: the mapping just made; advice changes no contents.
        unsafe { libc::madvise(at, bytes, libc::MADV_NOHUGEPAGE) };
        let start = at as usize;
        Ok(Self { file, range: start..start + bytes })
    }

    fn fill(&self, sample: &[u8], copies: usize) -> io::Result<()> {
        // Over all NUMA nodes, as the huge pages: what differs is to be the size of pages alone. A policy of the mapping
        // does not reach the page cache, that of the writing thread does.
        let spread = nodes().is_some_and(|nodes| {
            numa::thread_policy_is_default().unwrap_or(false)
                && numa::set_thread_policy(Policy::Interleave(nodes)).is_ok()
        });
        let written = (0..copies).try_for_each(|copy| self.file.write_all_at(sample, (copy * sample.len()) as u64));
        if spread {
            let _ = numa::set_thread_policy(Policy::Default);
        }
        written
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: the mapping of this object, which nothing reads any more.
        unsafe { libc::munmap(self.range.start as *mut libc::c_void, self.range.len()) };
    }
}

/// The first of `folders` in which a file of `bytes` bytes lies on a file system with a page cache and room.
///
/// # Errors
/// None is: why not.
pub fn folder<'a>(folders: &[&'a Path], bytes: u64) -> Result<&'a Path> {
    let mut why = String::new();
    for folder in folders {
        match suits(folder, bytes) {
            Ok(()) => return Ok(folder),
            Err(error) => {
                let separator = if why.is_empty() { "" } else { "; " };
                why += &format!("{separator}{} {error}", folder.display());
            }
        }
    }
    bail!("{why}")
}

/// Whether a file in `folder` has pages like a model's. Errors are the end of a sentence about the folder.
fn suits(folder: &Path, bytes: u64) -> Result<(), String> {
    let file = tempfile::tempfile_in(folder).map_err(|error| format!("cannot hold a file: {error}"))?;
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel writes the structure, which all zeros are valid for, too.
    let found = unsafe {
        if libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) != 0 {
            return Err(format!("does not tell its file system: {}", io::Error::last_os_error()));
        }
        found.assume_init()
    };
    // Their files are memory already: other pages than those of a model on a disk.
    if [libc::TMPFS_MAGIC, RAMFS_MAGIC, libc::HUGETLBFS_MAGIC].contains(&found.f_type) {
        return Err("lies in memory (tmpfs)".to_owned());
    }
    let free = found.f_bavail.saturating_mul(found.f_bsize as u64);
    if free < bytes + SPARE { Err(format!("has only {} free", crate::text::bytes(free))) } else { Ok(()) }
}

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS_MAGIC: libc::c_long = 0x8584_58f6;

/// Bytes that stay free beside the file.
const SPARE: u64 = 64 << 20;

/// What to do where there is no room.
pub fn no_room(bytes: usize) -> String {
    format!(
        "found no room for {} of weights; free memory, or lift a limit (ulimit -v)",
        crate::text::bytes(bytes as u64)
    )
}

/// Spreads whole pages over all NUMA nodes, before they are touched.
pub fn spread(start: usize, bytes: usize) {
    if let Some(nodes) = nodes() {
        // Where it is refused, memory lies where it is touched first.
        let _ = numa::apply(start, bytes, Policy::Interleave(nodes));
    }
}

/// The NUMA nodes that may be used, if there are several.
fn nodes() -> Option<numa::NodeMask> {
    numa::allowed_nodes().filter(|nodes| nodes.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contents of memory.
    fn bytes(memory: &Memory) -> Vec<u8> {
        let range = memory.range();
        // SAFETY: mapped and readable as long as `memory` lives; the tests have filled all of it.
        unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) }.to_vec()
    }

    #[test]
    fn both_kinds_of_memory_hold_the_copies() {
        const BYTES: usize = 2 << 20;
        let sample: Vec<u8> = (0..BYTES / 4).map(|i| i as u8).collect();
        let folder = tempfile::tempdir().unwrap();
        let file = MappedFile::new(folder.path(), BYTES).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
        for mut memory in [Memory::Huge(Memory::huge(BYTES).unwrap()), Memory::File(file)] {
            memory.fill(&vec![9; BYTES], 1).unwrap();
            memory.fill(&sample, 4).unwrap();
            assert_eq!(bytes(&memory), sample.repeat(4));
            assert!(memory.fill(&sample, 5).is_err());
        }
    }

    #[test]
    fn a_folder_in_memory_or_without_room_is_passed_over() {
        let here = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let nowhere = here.path().join("nowhere");
        let error = folder(&[&nowhere], 0).unwrap_err().to_string();
        assert!(error.contains("nowhere cannot hold a file"), "{error}");
        let error = folder(&[&nowhere, here.path()], 1 << 60).unwrap_err().to_string();
        assert!(error.contains("; ") && (error.contains("free") || error.contains("tmpfs")), "{error}");
        let shm = Path::new("/dev/shm");
        if suits(shm, 0).is_err_and(|why| why.contains("tmpfs")) && suits(here.path(), 0).is_ok() {
            assert_eq!(folder(&[shm, here.path()], 0).unwrap(), here.path());
        }
    }
}
