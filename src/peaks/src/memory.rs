//! Memory to measure with.

use std::io;
use std::ops::Range;

use zen5turbo_host::Caches;
use zen5turbo_host::memory::Pages;
use zen5turbo_host::memory::map::{HUGE_PAGE, Region, SMALL_PAGE};
use zen5turbo_host::proc::field_kib;

/// Bytes that do not fit the caches: twice the last level, between 128 MiB and 768 MiB (hosts lend a
/// virtual machine a part of a cache that reports its whole size).
#[must_use]
pub fn uncached_bytes() -> usize {
    (2 * Caches::detect().l3).clamp(128 << 20, 768 << 20).next_multiple_of(HUGE_PAGE)
}

/// Anonymous memory in transparent huge pages, where there are any, every page of it touched by the
/// thread that made it: without a policy of its own it lies on that thread's node.
#[derive(Debug)]
pub struct Buffer {
    region: Region,
    len: usize,
}

impl Buffer {
    /// `len` bytes, at least one, not all zero.
    ///
    /// # Errors
    /// No address space, too many mappings.
    pub fn new(len: usize) -> io::Result<Buffer> {
        let region = Region::new(len.max(1).next_multiple_of(HUGE_PAGE), Pages::Transparent)?;
        for at in region.range().step_by(SMALL_PAGE) {
            // SAFETY: inside the region, which is writable and ours alone. Volatile: the page has to be touched.
            unsafe { (at as *mut u8).write_volatile(1) };
        }
        Ok(Buffer { region, len: len.max(1) })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the region is readable and initialised, and lent as long as `self`.
        unsafe { std::slice::from_raw_parts(self.region.range().start as *const u8, self.len) }
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the region is readable, writable and initialised, and lent as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.region.range().start as *mut u8, self.len) }
    }

    /// The share of the bytes that lies in huge pages.
    #[must_use]
    pub fn huge_share(&self) -> f64 {
        let start = self.region.range().start;
        huge_share(start..start + self.len)
    }
}

/// The share of the bytes of `range` that lies in anonymous huge pages, by `/proc/self/smaps`; mappings that
/// reach beyond it count as a whole.
#[must_use]
pub fn huge_share(range: Range<usize>) -> f64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let (mut inside, mut huge) = (false, 0);
    for line in smaps.lines() {
        let ends = line.split(' ').next().and_then(|r| r.split_once('-'));
        let address = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((from, to)) = ends.and_then(|(from, to)| Some((address(from)?, address(to)?))) {
            inside = from < range.end && to > range.start;
        } else if inside {
            huge += field_kib(line, "AnonHugePages").unwrap_or(0);
        }
    }
    (huge as f64 / range.len().max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_its_length_and_can_be_written() {
        let mut buffer = Buffer::new(3 * SMALL_PAGE + 5).unwrap();
        assert_eq!(buffer.bytes().len(), 3 * SMALL_PAGE + 5);
        buffer.bytes_mut().fill(7);
        assert!(buffer.bytes().iter().all(|&b| b == 7));
        assert!((0.0..=1.0).contains(&buffer.huge_share()));
        assert!(Buffer::new(1 << 60).is_err());
    }

    #[test]
    fn uncached_memory_is_whole_huge_pages() {
        let bytes = uncached_bytes();
        assert!(bytes.is_multiple_of(HUGE_PAGE) && (128 << 20..=768 << 20).contains(&bytes));
    }
}
