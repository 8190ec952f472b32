//! One mapping of a model file.

use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use libc::c_int;
use zen5turbo_host::memory::map::{self, FileId, GIANT_PAGE, HUGE_PAGE, Pages};
use zen5turbo_host::memory::page_cache;

/// What became of 2 MiB of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The file's pages; no product has been seen that reads them.
    File,
    /// The file's pages, to be replaced.
    Wanted,
    /// The file's, one huge page of the page cache: nothing would be gained by a copy.
    Cached,
    /// Anonymous pages with the file's bytes.
    Promoted(Pages),
    /// The file's pages, for good: unmapped in part, or changed by the program.
    Left,
}

/// The file under a mapping, by a descriptor of our own.
#[derive(Debug)]
pub struct ModelFile {
    pub fd: OwnedFd,
    id: FileId,
}

impl ModelFile {
    /// A second descriptor for the file behind `fd`.
    pub fn new(fd: c_int) -> std::io::Result<Self> {
        let fd = map::duplicate(fd)?;
        let id = FileId::of(fd.as_raw_fd())?;
        Ok(Self { fd, id })
    }

    /// Whether the descriptor is still this file: a program may close descriptors that it did not
    /// open, and the number may be another file's now.
    pub fn is_the_same(&self) -> bool {
        FileId::of(self.fd.as_raw_fd()).is_ok_and(|id| id == self.id)
    }
}

/// A read-only mapping of a model file at an address that huge pages can lie at.
#[derive(Debug)]
pub struct Mapping {
    /// Tells it from another one at the same place later.
    pub number: u64,
    pub range: Range<usize>,
    pub file: Arc<ModelFile>,
    /// Of the byte at `range.start`, in the file.
    pub offset: u64,
    /// `MAP_SHARED` or `MAP_PRIVATE`.
    pub flags: c_int,
    /// The whole huge pages of `range`, in order.
    pages: Vec<Page>,
    /// What the program has not unmapped.
    extents: Vec<Range<usize>>,
    /// The program locked (a part of) it in memory.
    pub locked: bool,
    /// Runs of pages that were promoted: each is a mapping to the kernel.
    pub runs: usize,
    /// It is larger than the memory that it may take.
    pub is_too_large: bool,
    /// The kernel was asked for huge pages of the page cache.
    pub asks_huge: bool,
}

impl Mapping {
    /// A new mapping of `range`, which begins at a multiple of [`HUGE_PAGE`].
    pub fn new(number: u64, range: Range<usize>, file: ModelFile, offset: u64, flags: c_int) -> Self {
        let pages = vec![Page::File; range.len() / HUGE_PAGE];
        let extents = vec![range.clone()];
        Mapping {
            number,
            range,
            file: Arc::new(file),
            offset,
            flags,
            pages,
            extents,
            locked: false,
            runs: 0,
            is_too_large: false,
            asks_huge: false,
        }
    }

    /// Address of a page.
    pub fn address(&self, index: usize) -> usize {
        self.range.start + index * HUGE_PAGE
    }

    /// Bytes of the file under a page, or under the rest behind the last whole one.
    pub fn file_range(&self, index: usize) -> Range<u64> {
        let start = (index * HUGE_PAGE).min(self.range.len()) as u64;
        let end = ((index + 1) * HUGE_PAGE).min(self.range.len()) as u64;
        self.offset + start..self.offset + end
    }

    /// The pages that have a byte of `range`; of the mapping's last, incomplete page: none.
    pub fn pages_of(&self, range: &Range<usize>) -> Range<usize> {
        if range.start >= self.range.end || range.end <= self.range.start {
            return 0..0;
        }
        let first = range.start.saturating_sub(self.range.start) / HUGE_PAGE;
        let end = (range.end - self.range.start).div_ceil(HUGE_PAGE);
        first.min(self.pages.len())..end.min(self.pages.len())
    }

    /// The pages that a page of 1 GiB would replace together with this one; `None` when it would begin before the
    /// mapping. May end behind it.
    pub fn giant_page_of(&self, index: usize) -> Option<Range<usize>> {
        let at = self.address(index) & !(GIANT_PAGE - 1);
        let first = at.checked_sub(self.range.start)? / HUGE_PAGE;
        Some(first..first + GIANT_PAGE / HUGE_PAGE)
    }

    /// Whether `range` has a byte of it.
    pub fn overlaps(&self, range: &Range<usize>) -> bool {
        range.start < self.range.end && range.end > self.range.start
    }

    /// What a page is.
    pub fn page(&self, index: usize) -> Page {
        self.pages[index]
    }

    /// Says what pages are from now on.
    pub fn set(&mut self, indices: Range<usize>, page: Page) {
        self.pages[indices].fill(page);
    }

    /// Whether all these pages are to be replaced.
    pub fn all_wanted(&self, indices: Range<usize>) -> bool {
        self.pages.get(indices).is_some_and(|pages| pages.iter().all(|p| *p == Page::Wanted))
    }

    /// Maps the file over the promoted pages of `indices`, and over those that one page of the
    /// hugetlb pool holds together with them; they are `then` afterwards. What cannot be mapped stays
    /// promoted. Returns the bytes that are the file's again.
    ///
    /// # Safety
    /// The registry is locked, and the pages belong to this mapping in this process.
    pub unsafe fn demote(&mut self, indices: Range<usize>, then: Page) -> usize {
        let mut bytes = 0;
        let mut i = indices.start;
        while i < indices.end {
            let Page::Promoted(pages) = self.pages[i] else {
                i += 1;
                continue;
            };
            let unit = pages.bytes() / HUGE_PAGE;
            // The mapping is aligned to the largest page in it.
            let first = (self.address(i) & !(pages.bytes() - 1)).saturating_sub(self.range.start) / HUGE_PAGE;
            // SAFETY: by contract.
            if unsafe { self.map_file(first..first + unit) } {
                self.set(first..first + unit, then);
                bytes += pages.bytes();
            }
            i = first + unit;
        }
        bytes
    }

    /// Maps the file over whole pages; false when that is refused or the file is another one.
    ///
    /// # Safety
    /// As for [`Self::demote`].
    pub unsafe fn map_file(&self, indices: Range<usize>) -> bool {
        let range = self.address(indices.start)..self.address(indices.end);
        let offset = self.offset + (range.start - self.range.start) as u64;
        let map_over = if self.asks_huge { page_cache::map_huge } else { map::map_file_over };
        let map = |flags| {
            let fd = self.file.fd.as_raw_fd();
            // SAFETY: by contract; readers see the same bytes before and after.
            unsafe { map_over(range.clone(), libc::PROT_READ, flags, fd, offset) }.is_ok()
        };
        if !self.file.is_the_same() {
            return false;
        }
        if self.locked {
            // What lies there would count against the limit of locked memory a second time.
            map::unlock(range.clone());
            // If it is refused all the same: the bytes matter more.
            if map(self.flags | libc::MAP_LOCKED) {
                return true;
            }
        }
        map(self.flags)
    }

    /// Bytes of promoted pages.
    pub fn promoted(&self) -> usize {
        self.pages.iter().filter(|p| matches!(p, Page::Promoted(_))).count() * HUGE_PAGE
    }

    /// Index of the last page that was promoted to memory which others could use: not to the hugetlb pool.
    pub fn last_transparent(&self) -> Option<usize> {
        self.pages.iter().rposition(|p| *p == Page::Promoted(Pages::Transparent))
    }

    /// Takes note that `gone` was unmapped; true when nothing is left.
    pub fn unmapped(&mut self, gone: &Range<usize>) -> bool {
        let pieces = self.extents.iter().flat_map(|e| {
            [e.start..e.end.min(gone.start), e.start.max(gone.end)..e.end] //
        });
        self.extents = pieces.filter(|e| !e.is_empty()).collect();
        self.extents.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: usize = 1 << 40;

    fn mapping(len: usize) -> Mapping {
        let file = ModelFile::new(std::os::fd::AsRawFd::as_raw_fd(&std::fs::File::open("/proc/self/exe").unwrap()));
        Mapping::new(1, AT..AT + len, file.unwrap(), 0, libc::MAP_SHARED)
    }

    #[test]
    fn pages_are_those_that_lie_whole_in_the_mapping() {
        let m = mapping(3 * HUGE_PAGE + 4096);
        assert_eq!(m.pages_of(&(AT + 5..AT + 6)), 0..1);
        assert_eq!(m.pages_of(&(AT + HUGE_PAGE - 1..AT + HUGE_PAGE + 1)), 0..2);
        assert_eq!(m.pages_of(&(AT + 2 * HUGE_PAGE..AT + 4 * HUGE_PAGE)), 2..3);
        assert!(m.pages_of(&(AT + 3 * HUGE_PAGE..AT + 3 * HUGE_PAGE + 1)).is_empty());
        assert!(m.pages_of(&(0..AT)).is_empty() && m.pages_of(&(AT * 2..AT * 3)).is_empty());
    }

    #[test]
    fn what_is_unmapped_in_pieces_is_gone_with_the_last_one() {
        let mut m = mapping(3 * HUGE_PAGE);
        assert!(!m.unmapped(&(AT + HUGE_PAGE..AT + HUGE_PAGE + 4096)));
        assert!(!m.unmapped(&(AT..AT + HUGE_PAGE)));
        assert!(!m.unmapped(&(AT..AT + HUGE_PAGE)));
        assert_eq!(m.extents.len(), 1);
        assert_eq!(m.extents[0], AT + HUGE_PAGE + 4096..AT + 3 * HUGE_PAGE);
        assert!(m.unmapped(&(0..usize::MAX)));
    }

    #[test]
    fn wanted_is_said_of_whole_pages_only() {
        let mut m = mapping(2 * HUGE_PAGE);
        m.set(0..1, Page::Wanted);
        assert!(m.all_wanted(0..1) && !m.all_wanted(0..2) && !m.all_wanted(0..3));
        assert_eq!((m.promoted(), m.last_transparent()), (0, None));
        m.set(0..1, Page::Promoted(Pages::Transparent));
        m.set(1..2, Page::Promoted(Pages::Huge));
        assert_eq!((m.promoted(), m.last_transparent()), (2 * HUGE_PAGE, Some(0)));
    }

    #[test]
    fn a_giant_page_begins_at_its_own_boundary_and_not_before_the_mapping() {
        let mut m = mapping(3 * HUGE_PAGE);
        m.range = AT - HUGE_PAGE..AT + 2 * HUGE_PAGE;
        assert_eq!(m.giant_page_of(0), None);
        assert_eq!(m.giant_page_of(1), Some(1..513));
        assert_eq!(m.giant_page_of(2), Some(1..513));
    }
}
