//! The table of the memory in which the program's weights lie: mappings of model files, and ggml's buffers.
//!
//! The table has a fixed size and uses neither a lock nor memory of the C library. The hooks of `munmap` and `mremap`
//! read it, and an allocator may call these functions while it holds its own lock. So the hooks must not wait for a
//! thread that might allocate.
//!
//! A slot is free, claimed, or holds a source. A source whose range is empty is void: the program has unmapped it.
//! [`sweep`] frees a void source and its copy when nobody has a [`Pin`]. A graph has a pin while it runs, so the copies
//! that it reads stay where they are.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};

use zen5turbo_host::memory::map::{self, HUGE_PAGE, Pages, Region, SMALL_PAGE};
use zen5turbo_host::memory::{MarkedFile, page_cache};

use super::counters;
use crate::reason::Reason;
use crate::stats;

/// Slots of the table. A program has about ten models, parts of models and buffers.
const SLOTS: usize = 256;

const FREE: u64 = 0;
const CLAIMED: u64 = 1;

/// The state of a page of a source, which is 2 MiB. Its word has the state in the low bits. Above them, the word of a
/// wanted page has its number in the order in which the graphs use pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// No planned product reads it.
    Unused,
    /// A product reads it, and it is to be copied.
    Wanted(u32),
    /// Copied, to memory of this kind.
    Copied(Pages),
    /// Not to be copied any more: the program has unmapped a part of it, or it lies on a huge page already.
    Left,
    /// Its addresses in the copy were lost to another mapping of the program.
    Lost,
}

const KIND: u32 = 7;

impl Page {
    const fn word(self) -> u32 {
        match self {
            Self::Unused => 0,
            Self::Wanted(number) => 1 | number << 3,
            Self::Copied(Pages::Transparent) => 2,
            Self::Copied(Pages::Huge) => 3,
            Self::Copied(Pages::Giant) => 4,
            Self::Left => 5,
            Self::Lost => 6,
        }
    }

    const fn of(word: u32) -> Self {
        match word & KIND {
            0 => Self::Unused,
            1 => Self::Wanted(word >> 3),
            2 => Self::Copied(Pages::Transparent),
            3 => Self::Copied(Pages::Huge),
            4 => Self::Copied(Pages::Giant),
            5 => Self::Left,
            _ => Self::Lost,
        }
    }
}

/// The kind of memory of a source.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// A file, mapped read-only.
    File {
        file: MarkedFile,
        /// The offset of the source's first byte in the file.
        offset: u64,
        /// Bytes that the program asked for. The mapping goes on to the end of the last page.
        bytes: usize,
        /// The kernel was asked for huge pages of the page cache.
        asks_huge: bool,
    },
    /// A large buffer that this library gave to ggml.
    Buffer,
}

/// The parts of a source that do not change while it is in its slot.
pub struct Fixed {
    /// The address of its first byte at registration.
    pub start: usize,
    /// The address of page 0: `start`, rounded down to a multiple of 2 MiB.
    pub base: usize,
    /// A word for each page, see [`Page`].
    pages: &'static [AtomicU32],
    pub origin: Origin,
}

/// A slot of the table.
pub struct Source {
    /// [`FREE`], [`CLAIMED`], or the number of the source. No two sources of a process have the same number.
    number: AtomicU64,
    /// The range that is still mapped; empty when the source is void. llama.cpp unmaps parts at both ends that it does
    /// not need.
    start: AtomicUsize,
    end: AtomicUsize,
    fixed: UnsafeCell<Option<Fixed>>,
    /// The address of page 0 in the copy, whether that page is copied or not; 0 without a copy.
    copy: AtomicUsize,
    /// The model does not fit in memory.
    is_too_large: AtomicBool,
}

// SAFETY: `fixed` is read only by holders of a pin. It is written by the thread that claimed the slot, before it
// publishes the number, and by `sweep`, which runs only while nobody has a pin.
unsafe impl Sync for Source {}

static TABLE: [Source; SLOTS] = [const {
    Source {
        number: AtomicU64::new(FREE),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        fixed: UnsafeCell::new(None),
        copy: AtomicUsize::new(0),
        is_too_large: AtomicBool::new(false),
    }
}; SLOTS];

/// Slots from this index on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);

static NUMBERS: AtomicU64 = AtomicU64::new(CLAIMED + 1);

/// The range of addresses in which all sources lie or have lain. It is read without a pin: while the program changes a
/// mapping, no other thread registers the same range.
static LOW: AtomicUsize = AtomicUsize::new(usize::MAX);
static HIGH: AtomicUsize = AtomicUsize::new(0);

/// The number of pins; [`SWEEPING`] during a sweep, when nobody can take one.
static PINS: AtomicIsize = AtomicIsize::new(0);
const SWEEPING: isize = -1;

/// Counts forks, so that a pin that the parent took does not count in a child.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Set while there is something to sweep. Graphs that begin meanwhile use no copies.
static TO_SWEEP: AtomicBool = AtomicBool::new(false);

/// Bytes of copies that the next sweep gives back.
static TO_GIVE_BACK: AtomicUsize = AtomicUsize::new(0);

/// The number of threads that are calling `madvise` on the program's own memory.
static ADVISING: AtomicUsize = AtomicUsize::new(0);

/// Whether a range may contain bytes of a source. This costs two loads and two compares.
#[inline]
pub fn may_concern(range: &Range<usize>) -> bool {
    range.start < HIGH.load(Relaxed) && range.end > LOW.load(Relaxed)
}

/// Whether there was any source.
#[inline]
pub fn any() -> bool {
    HIGH.load(Relaxed) != 0
}

/// The numbers of graphs with a pin that have begun and that have ended since the start.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// While a pin exists, sources stay in their slots and copies keep their addresses.
pub struct Pin {
    process: u32,
    is_graph: bool,
}

/// How many graphs have begun.
pub fn graphs_begun() -> u64 {
    BEGUN.load(SeqCst)
}

/// Whether at least this many graphs have ended.
pub fn have_ended(graphs: u64) -> bool {
    ENDED.load(SeqCst) >= graphs
}

impl Pin {
    /// A pin. Waits while a sweep runs, which takes a few system calls.
    pub fn new() -> Self {
        loop {
            if let Some(pin) = Self::try_new() {
                return pin;
            }
            std::thread::yield_now();
        }
    }

    fn try_new() -> Option<Self> {
        let add = |pins: isize| (pins >= 0).then_some(pins + 1);
        PINS.fetch_update(SeqCst, SeqCst, add).ok().map(|_| Self { process: PROCESS.load(Relaxed), is_graph: false })
    }

    /// A pin for a graph, held until the graph ends. `None` while something waits to be swept; the graph uses no copies
    /// then.
    pub fn for_graph() -> Option<Self> {
        if TO_SWEEP.load(SeqCst) {
            return None;
        }
        let mut pin = Self::try_new()?;
        BEGUN.fetch_add(1, SeqCst);
        pin.is_graph = true;
        Some(pin)
    }

    /// The sources that are not void.
    pub fn sources(&self) -> impl Iterator<Item = &'static Source> {
        TABLE[..USED.load(SeqCst)].iter().filter(|s| s.number.load(SeqCst) > CLAIMED && !s.range().is_empty())
    }

    /// The source in which a range begins.
    pub fn find(&self, range: &Range<usize>) -> Option<&'static Source> {
        if !may_concern(range) {
            return None;
        }
        self.sources().find(|s| s.range().contains(&range.start))
    }

    /// The source with this number, unless it is void.
    pub fn numbered(&self, number: u64) -> Option<&'static Source> {
        self.sources().find(|s| s.number() == number)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.process == PROCESS.load(Relaxed) {
            PINS.fetch_sub(1, SeqCst);
            ENDED.fetch_add(u64::from(self.is_graph), SeqCst);
        }
    }
}

/// Adds a source to the table. Returns its number, or `None` when the table is full or no memory is left.
pub fn register(range: Range<usize>, origin: Origin) -> Option<u64> {
    let base = range.start & !(HUGE_PAGE - 1);
    let count = (range.end - base).div_ceil(HUGE_PAGE);
    let words = Region::small((count * size_of::<AtomicU32>()).next_multiple_of(SMALL_PAGE)).ok()?.into_range();
    // SAFETY: the region is new, all zeros, and as long as the slice. `sweep` unmaps it only while nobody has a pin.
    let pages = unsafe { std::slice::from_raw_parts(words.start as *const AtomicU32, count) };
    let claim = |s: &&Source| s.number.compare_exchange(FREE, CLAIMED, SeqCst, Relaxed).is_ok();
    let Some((i, slot)) = TABLE.iter().enumerate().find(|(_, s)| claim(s)) else {
        // SAFETY: the region was made above, and no slot refers to it.
        unsafe { map::unmap(words) };
        stats::event_once(Reason::MappingNotPlaced);
        return None;
    };
    // SAFETY: this thread has claimed the slot, and nobody reads it before its number is published.
    unsafe { *slot.fixed.get() = Some(Fixed { start: range.start, base, pages, origin }) };
    slot.start.store(range.start, Relaxed);
    slot.end.store(range.end, Relaxed);
    slot.copy.store(0, Relaxed);
    slot.is_too_large.store(false, Relaxed);
    LOW.fetch_min(range.start, SeqCst);
    HIGH.fetch_max(range.end, SeqCst);
    USED.fetch_max(i + 1, SeqCst);
    let number = NUMBERS.fetch_add(1, Relaxed);
    slot.number.store(number, SeqCst);
    Some(number)
}

impl Source {
    pub fn number(&self) -> u64 {
        self.number.load(SeqCst)
    }

    /// The range that is still mapped; empty when the source is void.
    pub fn range(&self) -> Range<usize> {
        self.start.load(SeqCst)..self.end.load(SeqCst)
    }

    /// The parts that do not change.
    pub fn fixed<'a>(&self, _pinned: &'a Pin) -> &'a Fixed {
        // SAFETY: `sources` gives out only slots that hold a source, and the pin keeps it there; see `Sync`.
        unsafe { (*self.fixed.get()).as_ref().unwrap_unchecked() }
    }

    pub fn is_too_large(&self) -> bool {
        self.is_too_large.load(Relaxed)
    }

    pub fn set_too_large(&self) {
        self.is_too_large.store(true, Relaxed);
    }

    /// The address of page 0 in the copy; 0 without a copy.
    pub fn copy(&self) -> usize {
        self.copy.load(SeqCst)
    }

    /// Sets the address of page 0 in the copy.
    pub fn set_copy(&self, at: usize) {
        self.copy.store(at, SeqCst);
    }

    /// The distance from the program's addresses to those of the copy; `None` unless all pages of the range are copied.
    pub fn distance(&self, pinned: &Pin, range: &Range<usize>) -> Option<usize> {
        let (copy, fixed) = (self.copy(), self.fixed(pinned));
        let all = || fixed.indices(range).all(|i| matches!(fixed.page(i), Page::Copied(_)));
        (copy != 0 && range.end <= self.range().end && all()).then(|| copy.wrapping_sub(fixed.base))
    }

    /// The addresses of the source in these pages that are still mapped.
    pub fn bytes_of(&self, pinned: &Pin, pages: &Range<usize>) -> Range<usize> {
        let (range, base) = (self.range(), self.fixed(pinned).base);
        (base + pages.start * HUGE_PAGE).max(range.start)..(base + pages.end * HUGE_PAGE).min(range.end)
    }

    /// The file of these pages, and their bytes in it. `None` for a buffer, and when the program has unmapped the
    /// pages.
    pub fn in_file(&self, pinned: &Pin, pages: &Range<usize>) -> Option<(MarkedFile, Range<u64>)> {
        let fixed = self.fixed(pinned);
        let Origin::File { file, offset, .. } = fixed.origin else { return None };
        let bytes = self.bytes_of(pinned, pages);
        let at = |address: usize| offset + (address - fixed.start) as u64;
        (!bytes.is_empty()).then(|| (file, at(bytes.start)..at(bytes.end)))
    }

    /// Takes these pages of the file out of the page cache, unless a process has them mapped. Returns whether that was
    /// tried.
    pub fn release_cache(&self, pinned: &Pin, pages: &Range<usize>) -> bool {
        let Some((file, bytes)) = self.in_file(pinned, pages) else { return false };
        file.get().is_some_and(|fd| {
            page_cache::release_cache(fd, bytes.start, bytes.end - bytes.start);
            true
        })
    }

    /// The program unmaps a range: updates what is left of the source. A page of which only a part is unmapped keeps
    /// the rest.
    fn cut(&self, pinned: &Pin, gone: &Range<usize>) {
        let part = |a: usize, b: usize| gone.start <= a && b <= gone.end;
        let _ = self.start.fetch_update(SeqCst, SeqCst, |start| part(start, start + 1).then_some(gone.end));
        let _ = self.end.fetch_update(SeqCst, SeqCst, |end| (end > 0 && part(end - 1, end)).then_some(gone.start));
        let range = self.range();
        if range.is_empty() {
            TO_SWEEP.store(true, SeqCst);
        }
        let fixed = self.fixed(pinned);
        let mut copied = 0;
        for i in fixed.indices(gone) {
            let page = fixed.base + i * HUGE_PAGE..fixed.base + (i + 1) * HUGE_PAGE;
            let is_cut_within = gone.start > range.start && gone.end < range.end;
            if (part(page.start, page.end) || is_cut_within) && fixed.leave(i) {
                copied += HUGE_PAGE;
            }
        }
        counters::freed(copied); // `free` unmaps these pages later, and no longer knows that they were copied
    }
}

impl Fixed {
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    pub fn page(&self, i: usize) -> Page {
        Page::of(self.pages[i].load(SeqCst))
    }

    /// The pages that contain a byte of `range`.
    pub fn indices(&self, range: &Range<usize>) -> Range<usize> {
        let first = range.start.saturating_sub(self.base) / HUGE_PAGE;
        let end = range.end.saturating_sub(self.base).div_ceil(HUGE_PAGE);
        first.min(self.count())..end.min(self.count())
    }

    /// Changes a page from one state to another. Returns false, and changes nothing, when it has another state.
    pub fn change(&self, i: usize, from: Page, to: Page) -> bool {
        self.pages[i].compare_exchange(from.word(), to.word(), SeqCst, SeqCst).is_ok()
    }

    /// Marks a page as not to be copied any more. Returns whether it was copied.
    pub fn leave(&self, i: usize) -> bool {
        let old = self.pages[i].fetch_update(SeqCst, SeqCst, |word| match Page::of(word) {
            Page::Lost => None,
            _ => Some(Page::Left.word()),
        });
        old.is_ok_and(|word| matches!(Page::of(word), Page::Copied(_)))
    }

    /// Marks a page whose addresses in the copy were lost.
    pub fn lose(&self, i: usize) {
        self.pages[i].store(Page::Lost.word(), SeqCst);
    }
}

/// Called before the program unmaps a range, moves it, or maps something over it. Takes no lock and allocates nothing.
#[cold]
pub fn gone(range: &Range<usize>) {
    let pin = Pin::new();
    let mut any = false;
    for source in pin.sources().filter(|s| s.range().start < range.end && range.start < s.range().end) {
        source.cut(&pin, range);
        any = true;
    }
    drop(pin);
    if any {
        // A thread in `let_go` may have read the range before it was cut. It must end its `madvise` before the program
        // unmaps the range, which may get other content then.
        while ADVISING.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
        sweep();
    }
}

/// Takes the program's own pages of a file out of the process (`MADV_DONTNEED`). A later read gets the bytes from the
/// file again. Leaves out pages of which the program has unmapped a part. Returns an error when the program has locked
/// the pages.
pub fn let_go(source: &Source, pinned: &Pin, pages: &Range<usize>) -> std::io::Result<()> {
    pages.clone().try_for_each(|i| {
        ADVISING.fetch_add(1, SeqCst);
        let bytes = source.bytes_of(pinned, &(i..i + 1));
        let is_cut = matches!(source.fixed(pinned).page(i), Page::Left | Page::Lost);
        let result = if bytes.is_empty() || is_cut {
            Ok(())
        } else {
            // SAFETY: the range is a file mapping of the program, which is still mapped: `gone` waits until this has
            // ended.
            unsafe { map::advise(bytes, libc::MADV_DONTNEED) }
        };
        ADVISING.fetch_sub(1, SeqCst);
        result
    })
}

/// Lets the next sweep give this many bytes of copies back, beginning with the last pages of the last source.
pub fn give_back(bytes: usize) {
    TO_GIVE_BACK.store(bytes, SeqCst);
    TO_SWEEP.store(true, SeqCst);
}

/// Frees void sources, and the copies that are to be given back. Does nothing while anybody has a pin; a later call
/// does it then. Takes no lock and allocates nothing.
pub fn sweep() {
    if !TO_SWEEP.load(SeqCst) || PINS.compare_exchange(0, SWEEPING, SeqCst, SeqCst).is_err() {
        return;
    }
    TO_SWEEP.store(false, SeqCst);
    for slot in &TABLE[..USED.load(SeqCst)] {
        if slot.number.load(SeqCst) > CLAIMED && slot.range().is_empty() {
            slot.free();
        }
    }
    let bytes = TO_GIVE_BACK.swap(0, SeqCst);
    let given =
        TABLE[..USED.load(SeqCst)].iter().rev().fold(0, |given, slot| given + slot.give_back(bytes - bytes.min(given)));
    PINS.store(0, SeqCst);
    if given > 0 {
        counters::freed(given);
        stats::event(Reason::MemoryPressure);
    }
}

impl Source {
    /// Frees a slot and its copy. Called only during a sweep.
    fn free(&self) {
        // SAFETY: a sweep runs, so nobody has a pin, and nobody reads `fixed`.
        let Some(fixed) = (unsafe { (*self.fixed.get()).take() }) else { return };
        let mut bytes = 0;
        if self.copy() != 0 {
            let at = |i: usize| self.copy() + i * HUGE_PAGE;
            let mut first = 0;
            for i in 0..=fixed.count() {
                if i < fixed.count() && fixed.page(i) != Page::Lost {
                    bytes += if matches!(fixed.page(i), Page::Copied(_)) { HUGE_PAGE } else { 0 };
                    continue;
                }
                // SAFETY: these addresses are reserved for this copy and not lost. A sweep runs, so no graph reads it.
                unsafe { map::unmap(at(first)..at(i)) };
                first = i + 1;
            }
        }
        if let Origin::File { file, .. } = fixed.origin {
            file.close();
        }
        let words = fixed.pages.as_ptr() as usize;
        let len = size_of_val(fixed.pages).next_multiple_of(SMALL_PAGE);
        // SAFETY: `register` has mapped these words. `fixed`, the only reference to them, was taken out of the slot.
        unsafe { map::unmap(words..words + len) };
        self.number.store(FREE, SeqCst);
        counters::freed(bytes);
    }

    /// Gives about this many bytes of copies back, and returns how many. Keeps copies on pages of the hugetlb pool,
    /// which no other process can use. Called only during a sweep.
    fn give_back(&self, bytes: usize) -> usize {
        // SAFETY: a sweep runs, so nobody has a pin, and only this thread uses `fixed`.
        let Some(fixed) = (unsafe { (*self.fixed.get()).as_ref() }) else { return 0 };
        let mut given = 0;
        for i in (0..fixed.count()).rev().take_while(|_| self.copy() != 0) {
            if given >= bytes {
                break;
            }
            if fixed.change(i, Page::Copied(Pages::Transparent), Page::Unused) {
                let at = self.copy() + i * HUGE_PAGE;
                // SAFETY: the range is a page of this copy. A sweep runs, so no graph reads it.
                unsafe { map::unback(at..at + HUGE_PAGE) };
                given += HUGE_PAGE;
            }
        }
        given
    }
}

/// The bytes of all copies, and of the copies that can be given back. Both are 0 during a sweep: this may be called in
/// a signal handler, so it does not wait.
pub fn copied() -> [usize; 2] {
    let mut bytes = [0; 2];
    let Some(pin) = Pin::try_new() else { return bytes };
    for source in pin.sources().filter(|s| s.copy() != 0) {
        let fixed = source.fixed(&pin);
        for i in 0..fixed.count() {
            match fixed.page(i) {
                Page::Copied(Pages::Transparent) => bytes = bytes.map(|b| b + HUGE_PAGE),
                Page::Copied(_) => bytes[0] += HUGE_PAGE,
                _ => {}
            }
        }
    }
    bytes
}

/// In a child made by `fork`: empties the table. The child has no threads of this library and uses no copies; it reads
/// the program's own memory. The files are closed here and stay open in the parent.
pub fn forget_in_child() {
    PROCESS.fetch_add(1, Relaxed);
    ADVISING.store(0, SeqCst);
    ENDED.store(BEGUN.load(SeqCst), SeqCst);
    for slot in &TABLE[..USED.load(SeqCst)] {
        if slot.number.load(SeqCst) > CLAIMED {
            // SAFETY: this is the only thread of the child. If another thread of the parent was freeing a slot, a few
            // pages of it stay mapped.
            if let Some(Fixed { origin: Origin::File { file, .. }, .. }) = unsafe { (*slot.fixed.get()).take() } {
                file.close();
            }
        }
        slot.number.store(FREE, SeqCst);
    }
    LOW.store(usize::MAX, SeqCst);
    HIGH.store(0, SeqCst);
    TO_SWEEP.store(false, SeqCst);
    TO_GIVE_BACK.store(0, SeqCst);
    PINS.store(0, SeqCst);
}
