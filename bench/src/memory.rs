//! Memory whose pages are known: what reading costs depends on them as much as on the bytes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a huge page on x86-64.
const HUGE: usize = 2 << 20;

/// The pages under a [`Memory`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Anonymous, 4 KiB.
    Small,
    /// Anonymous, 2 MiB where the kernel grants them (transparent huge pages).
    #[default]
    Huge,
    /// A private, read-only mapping of a file in the page cache, as llama.cpp maps a model.
    File,
}

impl Pages {
    /// All kinds.
    pub const ALL: [Pages; 3] = [Pages::Small, Pages::Huge, Pages::File];

    /// The name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Pages::Small => "small",
            Pages::Huge => "huge",
            Pages::File => "file",
        }
    }
}

/// A private mapping, aligned to 2 MiB (a file: to 4 KiB), with every page present.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    len: usize,
    mapping: (NonNull<u8>, usize),
}

// SAFETY: plain memory with one owner, of no thread in particular.
unsafe impl Send for Memory {}
// SAFETY: shared references only give out the address.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` bytes, all zero, in huge pages where there are any.
    pub fn zeroed(len: usize) -> io::Result<Memory> {
        let memory = Memory::anonymous(len, Pages::Huge)?;
        for at in (0..memory.len).step_by(4096) {
            // SAFETY: inside the mapping, which is writable and ours alone. Volatile: the page has
            // to be touched though it holds a zero already.
            unsafe { memory.start.as_ptr().add(at).write_volatile(0) };
        }
        Ok(memory)
    }

    /// `times` copies of `pattern`, one after the other.
    pub fn repeat(pattern: &[u8], times: usize, pages: Pages) -> io::Result<Memory> {
        if pages == Pages::File {
            return Memory::file(pattern, times);
        }
        let memory = Memory::anonymous(pattern.len() * times, pages)?;
        for i in 0..times {
            // SAFETY: the mapping is writable for `times` patterns and ours alone.
            unsafe {
                let to = memory.start.as_ptr().add(i * pattern.len());
                to.copy_from_nonoverlapping(pattern.as_ptr(), pattern.len());
            }
        }
        Ok(memory)
    }

    /// An unwritten mapping.
    fn anonymous(len: usize, pages: Pages) -> io::Result<Memory> {
        let whole = len.max(1).next_multiple_of(HUGE) + HUGE; // room to align
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let mapping = map(whole, libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
        // SAFETY: aligning up moves by less than the room that was added.
        let start = unsafe { mapping.add(mapping.as_ptr().align_offset(HUGE)) };
        let advice = if pages == Pages::Small { libc::MADV_NOHUGEPAGE } else { libc::MADV_HUGEPAGE };
        // A kernel without huge pages refuses the advice, and gives small ones either way.
        // SAFETY: the range lies in the mapping just made; the advice does not change its content.
        unsafe { libc::madvise(start.as_ptr().cast(), len, advice) };
        Ok(Memory { start, len, mapping: (mapping, whole) })
    }

    /// A file that exists only as long as the mapping, and so is hardly ever written to a disk.
    fn file(pattern: &[u8], times: usize) -> io::Result<Memory> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("zen5turbo-bench-{}-{}.tmp", name.0, name.1));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        for _ in 0..times {
            file.write_all(pattern)?;
        }
        let len = pattern.len() * times;
        let start = map(len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd())?;
        for at in (0..len).step_by(4096) {
            // SAFETY: inside the mapping. Volatile: the page has to be touched.
            unsafe { start.as_ptr().add(at).read_volatile() };
        }
        Ok(Memory { start, len, mapping: (start, len) })
    }

    /// First byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// First byte. Not for memory made with [`Pages::File`], which is read-only.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` readable bytes, which the kernel or `repeat` has initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The share of the bytes that lies in anonymous huge pages.
    pub fn huge_share(&self) -> f64 {
        let start = self.start.as_ptr() as usize;
        zen5turbo_peaks::memory::huge_share(start..start + self.len)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` returned, and its owner is going.
        unsafe { libc::munmap(self.mapping.0.as_ptr().cast(), self.mapping.1) };
    }
}

fn map(len: usize, protection: i32, flags: i32, fd: i32) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len.max(1), protection, flags, fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_holds_the_pattern_as_often_as_asked() {
        let pattern: Vec<u8> = (0..5000u32).map(|i| (i % 251) as u8).collect();
        for pages in Pages::ALL {
            let memory = Memory::repeat(&pattern, 3, pages).unwrap();
            assert!(memory.bytes() == pattern.repeat(3), "{pages:?}");
        }
    }

    #[test]
    fn small_pages_are_not_huge() {
        let memory = Memory::repeat(&vec![1; 8 << 20], 1, Pages::Small).unwrap();
        assert_eq!(memory.huge_share(), 0.0);
    }
}
