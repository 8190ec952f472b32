//! What the program does to a mapping whose pages may have been replaced.
//!
//! A promoted page holds the file's bytes, but it is no longer the file's: dropping it
//! (`MADV_DONTNEED`) would leave zeros, writing to it would not reach the file, and it can be given
//! back only whole. So before such a call the file is mapped back over the pages
//! concerned, and they stay the file's from then on. The call is then made with the registry locked,
//! so that the promoter does not put a page where the program has just unmapped one.

use std::ops::Range;

use super::counters;
use super::mapping::{Mapping, Page};
use super::reader;
use super::registry::{self, Locked, may_concern};
use crate::reason::Reason;
use crate::stats;
use libc::c_int;

/// What is about to be done to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `munmap`, `mremap` or a new mapping on top.
    Unmap,
    /// `mprotect` to these rights.
    Protect(c_int),
    /// `madvise`.
    Advise(c_int),
    /// `mlock`, `mlock2`; `mlockall(MCL_CURRENT)` of everything.
    Lock,
    /// `munlock`; `munlockall` of everything.
    Unlock,
}

/// A change in progress: the registry stays locked until this is dropped.
pub struct Changing {
    locked: Locked,
    range: Range<usize>,
    change: Change,
}

/// Prepares the mappings in `range` for `change`; to be called before the system call. `None`, after
/// a few compares, when no mapping of a model is concerned.
#[inline]
pub fn begin(range: Range<usize>, change: Change) -> Option<Changing> {
    may_concern(&range).then(|| begin_slowly(range, change)).flatten()
}

#[cold]
fn begin_slowly(range: Range<usize>, change: Change) -> Option<Changing> {
    let mut locked = registry::lock();
    let mut concerned = false;
    for mapping in &mut locked.mappings {
        if mapping.overlaps(&range) {
            concerned = true;
            prepare(mapping, &range, change);
        }
    }
    concerned.then_some(Changing { locked, range, change })
}

impl Changing {
    /// To be called after the system call succeeded.
    pub fn succeeded(mut self) {
        let range = self.range;
        match self.change {
            Change::Unmap => {
                self.locked.mappings.retain_mut(|m| !m.unmapped(&range));
                self.locked.update_bounds();
            }
            // Not before: what the limit of locked memory refused is not locked, and may be promoted.
            Change::Lock => {
                self.locked.mappings.iter_mut().filter(|m| m.overlaps(&range)).for_each(|m| m.locked = true)
            }
            Change::Protect(_) | Change::Advise(_) | Change::Unlock => {}
        }
    }
}

/// The program has called `mlockall`, which succeeded; `future`: with `MCL_FUTURE`. What the kernel then maps counts
/// against the limit of locked memory before it takes the place of something else, so copies and mappings of
/// ours could be what makes the program's own ones fail: there are no more of them.
pub fn locked_all(future: bool) {
    let mut locked = registry::lock();
    locked.locks_future = future;
    if future && !locked.mappings.is_empty() {
        stats::event_once(Reason::MemoryLocked);
        locked.stop();
        reader::stop(&mut locked);
        registry::signal();
    }
}

/// The program has called `munlockall`.
pub fn unlocked_all() {
    registry::lock().locks_future = false;
}

fn prepare(mapping: &mut Mapping, range: &Range<usize>, change: Change) {
    let pages = mapping.pages_of(range);
    match change {
        Change::Unmap => {
            give_back_cut_pages(mapping, range);
            mapping.set(pages, Page::Left);
        }
        Change::Protect(libc::PROT_READ) => {}
        Change::Protect(_) => give_back(mapping, pages),
        Change::Advise(advice) => match effect_of(advice) {
            Effect::None => {}
            Effect::DropsPages => give_back(mapping, pages),
            Effect::MarksPages => {
                give_back_cut_pages(mapping, range);
                leave_unpromoted(mapping, pages);
            }
        },
        Change::Lock => {}
        Change::Unlock => mapping.locked = false,
    }
}

/// What `madvise` does, as far as it matters here.
enum Effect {
    /// Nothing that a promoted page would not take as well.
    None,
    /// Takes memory away; a page of a file would be read again.
    DropsPages,
    /// Marks the mapping: what replaces a page later would not have the mark.
    MarksPages,
}

fn effect_of(advice: c_int) -> Effect {
    match advice {
        libc::MADV_NORMAL
        | libc::MADV_RANDOM
        | libc::MADV_SEQUENTIAL
        | libc::MADV_WILLNEED
        | libc::MADV_HUGEPAGE
        | libc::MADV_POPULATE_READ => Effect::None,
        libc::MADV_DONTNEED
        | libc::MADV_FREE
        | libc::MADV_REMOVE
        | libc::MADV_COLD
        | libc::MADV_PAGEOUT
        | libc::MADV_DONTNEED_LOCKED => Effect::DropsPages,
        _ => Effect::MarksPages,
    }
}

/// Makes pages the file's for good.
fn give_back(mapping: &mut Mapping, pages: Range<usize>) {
    // SAFETY: the registry is locked, and its mappings are this process's.
    let bytes = unsafe { mapping.demote(pages.clone(), Page::Left) };
    if bytes > 0 {
        counters::demoted(bytes);
        stats::event(Reason::MappingChanged);
    }
    leave_unpromoted(mapping, pages);
}

/// Pages that are the file's now stay so.
fn leave_unpromoted(mapping: &mut Mapping, pages: Range<usize>) {
    for i in pages {
        if !matches!(mapping.page(i), Page::Promoted(_)) {
            mapping.set(i..i + 1, Page::Left);
        }
    }
}

/// Gives back the pages that the range begins or ends inside of: what is left of a page is no page
/// that could be given back later, and one of the hugetlb pool cannot be cut at all.
fn give_back_cut_pages(mapping: &mut Mapping, range: &Range<usize>) {
    for edge in [range.start, range.end] {
        let page = mapping.pages_of(&(edge..edge.saturating_add(1)));
        if page.is_empty() {
            continue;
        }
        if let Page::Promoted(pages) = mapping.page(page.start)
            && !edge.is_multiple_of(pages.bytes())
        {
            give_back(mapping, page);
        }
    }
}
