//! Memory for packed panels and quantised activations.

use zen5turbo_host::memory::map;

/// Memory that is aligned to pages and only grows.
pub struct Scratch {
    pub start: *mut u8,
    bytes: usize,
}

impl Scratch {
    /// Without memory.
    pub const fn new() -> Self {
        Scratch { start: std::ptr::null_mut(), bytes: 0 }
    }

    /// Makes room for `bytes`. Returns false when no memory is left. When the memory grows, its content is lost.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        let bytes = bytes.next_multiple_of(64 << 10);
        let old = self.start.addr()..self.start.addr() + self.bytes;
        *self = Scratch::new();
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the old mapping was made here, or is empty. No thread uses it, because a plan is made before its
        // graph runs. The kernel chooses the address of the new mapping.
        let new = unsafe {
            map::unmap(old);
            map::mmap(0, bytes, access, flags, -1, 0)
        };
        let Ok(start) = new else { return false };
        *self = Scratch { start: start as *mut u8, bytes };
        true
    }
}
