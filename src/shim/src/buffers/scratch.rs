//! Memory for packed panels and quantised activations.

use zen5turbo_host::memory::map;

/// Memory of our own, aligned to pages, that only grows.
pub struct Scratch {
    pub start: *mut u8,
    bytes: usize,
}

impl Scratch {
    /// Nothing yet.
    pub const fn new() -> Self {
        Scratch { start: std::ptr::null_mut(), bytes: 0 }
    }

    /// Makes room for `bytes`; false when there is none. The contents are lost.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        let bytes = bytes.next_multiple_of(64 << 10);
        let old = self.start.addr()..self.start.addr() + self.bytes;
        *self = Scratch::new();
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the old mapping is ours, or empty, and no thread uses it: a plan is made before its graph. The new one lies at a
        // place of the kernel's choice.
        let new = unsafe {
            map::unmap(old);
            map::mmap(0, bytes, access, flags, -1, 0)
        };
        let Ok(start) = new else { return false };
        *self = Scratch { start: start as *mut u8, bytes };
        true
    }
}
