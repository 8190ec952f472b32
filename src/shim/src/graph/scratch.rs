//! Memory for packed panels and quantised activations.

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
        // SAFETY: the old mapping is ours and no thread uses it: a plan is made before its graph.
        unsafe {
            if !self.start.is_null() {
                libc::munmap(self.start.cast(), self.bytes);
            }
            let p = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if p == libc::MAP_FAILED {
                *self = Scratch::new();
                return false;
            }
            *self = Scratch { start: p.cast(), bytes };
        }
        true
    }
}
