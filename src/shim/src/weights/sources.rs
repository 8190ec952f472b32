//! The memory of the program that weights lie in: mappings of model files, and ggml's buffers.
//!
//! A table of fixed size, without a lock and without memory of the C library: the hooks of `munmap` and its kin read
//! it, and an allocator may call those while it holds a lock of its own. So these hooks wait for nobody who might
//! allocate.
//!
//! A slot is free, claimed, or holds a source; a source whose range is empty is void (the program has unmapped it), and
//! [`sweep`] frees it with its copy as soon as nobody has a [`Pin`]. A graph is pinned while it runs, so what it was told
//! of copies stays true.

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

/// Models and their parts, and buffers: a program has some ten.
const SLOTS: usize = 256;

const FREE: u64 = 0;
const CLAIMED: u64 = 1;

/// What became of 2 MiB of a source, in the low bits of its word; above them, of a wanted page, its number in the order in which
/// the graphs use pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// No product has been seen that reads it.
    Unused,
    /// To be copied.
    Wanted(u32),
    /// Copied, to pages of this kind.
    Copied(Pages),
    /// Not to be copied any more: cut by the program, or huge already.
    Left,
    /// Its place in the copy belongs to somebody else.
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

/// What is behind a source.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// A file, mapped read-only.
    File {
        file: MarkedFile,
        /// Of the source's first byte, in the file.
        offset: u64,
        /// Bytes that the program asked for; the mapping ends with the page.
        bytes: usize,
        /// The kernel was asked for huge pages of the page cache.
        asks_huge: bool,
    },
    /// A buffer of ours that ggml uses.
    Buffer,
}

/// What does not change while a slot holds a source.
pub struct Fixed {
    /// Its first byte at registration.
    pub start: usize,
    /// The address of page 0: `start`, or what lies before it in the same 2 MiB.
    pub base: usize,
    /// A word for each 2 MiB.
    pages: &'static [AtomicU32],
    pub origin: Origin,
}

/// A slot of the table.
pub struct Source {
    /// [`FREE`], [`CLAIMED`], or a number that tells it from another one at the same place later.
    number: AtomicU64,
    /// What is still there of it: none when it is void. llama.cpp unmaps what it does not need at both ends.
    start: AtomicUsize,
    end: AtomicUsize,
    fixed: UnsafeCell<Option<Fixed>>,
    /// Where the copy of page 0 is, or would be; 0 without a copy.
    copy: AtomicUsize,
    /// Larger than the memory that it may take.
    is_too_large: AtomicBool,
}

// SAFETY: `fixed` is written by the thread that claimed the slot, before its number is published, and by `sweep`, which runs
// only while nobody has a pin; whoever reads it has one.
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

/// Slots beyond this one were never used.
static USED: AtomicUsize = AtomicUsize::new(0);

static NUMBERS: AtomicU64 = AtomicU64::new(CLAIMED + 1);

/// All sources lie, or lay, in here. Read without a pin: a range that the calling program is changing was not registered
/// by another thread at the same time.
static LOW: AtomicUsize = AtomicUsize::new(usize::MAX);
static HIGH: AtomicUsize = AtomicUsize::new(0);

/// Pins; [`SWEEPING`] while there is none and may be none.
static PINS: AtomicIsize = AtomicIsize::new(0);
const SWEEPING: isize = -1;

/// Counts forks: pins of the parent's threads are none of the child's.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// There is something to sweep: graphs that begin use no copies until it is done.
static TO_SWEEP: AtomicBool = AtomicBool::new(false);

/// Bytes of copies that are to be given back.
static TO_GIVE_BACK: AtomicUsize = AtomicUsize::new(0);

/// Threads that are about to give advice on the program's own memory.
static ADVISING: AtomicUsize = AtomicUsize::new(0);

/// Whether a range may have bytes of a source: two loads and two compares.
#[inline]
pub fn may_concern(range: &Range<usize>) -> bool {
    range.start < HIGH.load(Relaxed) && range.end > LOW.load(Relaxed)
}

/// Whether there was any source.
#[inline]
pub fn any() -> bool {
    HIGH.load(Relaxed) != 0
}

/// Graphs with a pin, since the start, that have begun and that have ended.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// As long as it lives, sources stay in their slots and copies where they are.
pub struct Pin {
    process: u32,
    is_graph: bool,
}

/// How many graphs have begun.
pub fn graphs_begun() -> u64 {
    BEGUN.load(SeqCst)
}

/// Whether as many graphs have ended.
pub fn have_ended(graphs: u64) -> bool {
    ENDED.load(SeqCst) >= graphs
}

impl Pin {
    /// A pin; waits for a sweep, which is a few system calls.
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

    /// A pin for a graph, to be held until it has ended; `None` while something waits to be swept: it uses no copies then.
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

    /// The source that a range begins in.
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

/// Takes a new source; its number, or `None` when the table is full or there is no memory.
pub fn register(range: Range<usize>, origin: Origin) -> Option<u64> {
    let base = range.start & !(HUGE_PAGE - 1);
    let count = (range.end - base).div_ceil(HUGE_PAGE);
    let words = Region::small((count * size_of::<AtomicU32>()).next_multiple_of(SMALL_PAGE)).ok()?.into_range();
    // SAFETY: zeros of our own, as many as the slice has, which `sweep` gives back when nobody has a pin.
    let pages = unsafe { std::slice::from_raw_parts(words.start as *const AtomicU32, count) };
    let claim = |s: &&Source| s.number.compare_exchange(FREE, CLAIMED, SeqCst, Relaxed).is_ok();
    let Some((i, slot)) = TABLE.iter().enumerate().find(|(_, s)| claim(s)) else {
        // SAFETY: ours, and nobody knows it.
        unsafe { map::unmap(words) };
        stats::event_once(Reason::MappingNotPlaced);
        return None;
    };
    // SAFETY: the slot is this thread's, and nobody reads it before the number is published.
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

    /// What is still there of it.
    pub fn range(&self) -> Range<usize> {
        self.start.load(SeqCst)..self.end.load(SeqCst)
    }

    /// What does not change.
    pub fn fixed<'a>(&self, _pinned: &'a Pin) -> &'a Fixed {
        // SAFETY: of a slot with a source, by the pin; see `Sync`.
        unsafe { (*self.fixed.get()).as_ref().unwrap_unchecked() }
    }

    pub fn is_too_large(&self) -> bool {
        self.is_too_large.load(Relaxed)
    }

    pub fn set_too_large(&self) {
        self.is_too_large.store(true, Relaxed);
    }

    /// Where the copy of page 0 would be; 0 without a copy.
    pub fn copy(&self) -> usize {
        self.copy.load(SeqCst)
    }

    /// Says where the copy will lie.
    pub fn set_copy(&self, at: usize) {
        self.copy.store(at, SeqCst);
    }

    /// What the copy's addresses are away from the program's, when all pages of the range are copied.
    pub fn distance(&self, pinned: &Pin, range: &Range<usize>) -> Option<usize> {
        let (copy, fixed) = (self.copy(), self.fixed(pinned));
        let all = || fixed.indices(range).all(|i| matches!(fixed.page(i), Page::Copied(_)));
        (copy != 0 && range.end <= self.range().end && all()).then(|| copy.wrapping_sub(fixed.base))
    }

    /// Bytes of the source in these pages that are still there.
    pub fn bytes_of(&self, pinned: &Pin, pages: &Range<usize>) -> Range<usize> {
        let (range, base) = (self.range(), self.fixed(pinned).base);
        (base + pages.start * HUGE_PAGE).max(range.start)..(base + pages.end * HUGE_PAGE).min(range.end)
    }

    /// The file under these pages, and its bytes there; none of a buffer, and none where the program has unmapped them.
    pub fn in_file(&self, pinned: &Pin, pages: &Range<usize>) -> Option<(MarkedFile, Range<u64>)> {
        let fixed = self.fixed(pinned);
        let Origin::File { file, offset, .. } = fixed.origin else { return None };
        let bytes = self.bytes_of(pinned, pages);
        let at = |address: usize| offset + (address - fixed.start) as u64;
        (!bytes.is_empty()).then(|| (file, at(bytes.start)..at(bytes.end)))
    }

    /// Takes these pages of the file out of the page cache, as far as nobody has them mapped; whether that was tried.
    pub fn release_cache(&self, pinned: &Pin, pages: &Range<usize>) -> bool {
        let Some((file, bytes)) = self.in_file(pinned, pages) else { return false };
        file.get().is_some_and(|fd| {
            page_cache::release_cache(fd, bytes.start, bytes.end - bytes.start);
            true
        })
    }

    /// The program takes a range away: notes what is left. Pages that are cut keep what is left of them.
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
        counters::freed(copied); // `free` takes the memory, and sees no more what these were
    }
}

impl Fixed {
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    pub fn page(&self, i: usize) -> Page {
        Page::of(self.pages[i].load(SeqCst))
    }

    /// The pages that have a byte of `range`.
    pub fn indices(&self, range: &Range<usize>) -> Range<usize> {
        let first = range.start.saturating_sub(self.base) / HUGE_PAGE;
        let end = range.end.saturating_sub(self.base).div_ceil(HUGE_PAGE);
        first.min(self.count())..end.min(self.count())
    }

    /// Changes a page that is still what it was; whether it was.
    pub fn change(&self, i: usize, from: Page, to: Page) -> bool {
        self.pages[i].compare_exchange(from.word(), to.word(), SeqCst, SeqCst).is_ok()
    }

    /// The page is not to be copied any more; whether it was.
    pub fn leave(&self, i: usize) -> bool {
        let old = self.pages[i].fetch_update(SeqCst, SeqCst, |word| match Page::of(word) {
            Page::Lost => None,
            _ => Some(Page::Left.word()),
        });
        old.is_ok_and(|word| matches!(Page::of(word), Page::Copied(_)))
    }

    /// The page's place in the copy is somebody else's.
    pub fn lose(&self, i: usize) {
        self.pages[i].store(Page::Lost.word(), SeqCst);
    }
}

/// The program is about to unmap a range, to move it, or to map something over it; to be called before the system call. Takes no
/// lock, allocates nothing.
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
        // Whoever looked before gives advice on what will be somebody else's memory a moment later.
        while ADVISING.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
        sweep();
    }
}

/// Tells the kernel that the program's own pages of a file are not needed now (`MADV_DONTNEED`): whoever reads there gets the bytes from
/// the file again. Not where the program has unmapped a part of a page. An error where the program has locked them.
pub fn let_go(source: &Source, pinned: &Pin, pages: &Range<usize>) -> std::io::Result<()> {
    pages.clone().try_for_each(|i| {
        ADVISING.fetch_add(1, SeqCst);
        let bytes = source.bytes_of(pinned, &(i..i + 1));
        let is_cut = matches!(source.fixed(pinned).page(i), Page::Left | Page::Lost);
        let result = if bytes.is_empty() || is_cut {
            Ok(())
        } else {
            // SAFETY: a file mapping of the program's, still there: `gone` waits before it is unmapped.
            unsafe { map::advise(bytes, libc::MADV_DONTNEED) }
        };
        ADVISING.fetch_sub(1, SeqCst);
        result
    })
}

/// Has so many bytes of copies given back by the next sweep: those whose weights are used last.
pub fn give_back(bytes: usize) {
    TO_GIVE_BACK.store(bytes, SeqCst);
    TO_SWEEP.store(true, SeqCst);
}

/// Frees what is void and what is to be given back, unless a graph or somebody else has a pin: then the last one's end, or the
/// next call, will do it. Takes no lock, allocates nothing.
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
    /// Only while sweeping.
    fn free(&self) {
        // SAFETY: nobody has a pin.
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
                // SAFETY: reserved for this copy, and not lost; no graph that uses it runs.
                unsafe { map::unmap(at(first)..at(i)) };
                first = i + 1;
            }
        }
        if let Origin::File { file, .. } = fixed.origin {
            file.close();
        }
        let words = fixed.pages.as_ptr() as usize;
        let len = size_of_val(fixed.pages).next_multiple_of(SMALL_PAGE);
        // SAFETY: mapped by `register`; nobody refers to it any more.
        unsafe { map::unmap(words..words + len) };
        self.number.store(FREE, SeqCst);
        counters::freed(bytes);
    }

    /// Gives back at most about so many bytes on pages that others could use; not those of the hugetlb pool. Only while sweeping.
    fn give_back(&self, bytes: usize) -> usize {
        // SAFETY: nobody has a pin.
        let Some(fixed) = (unsafe { (*self.fixed.get()).as_ref() }) else { return 0 };
        let mut given = 0;
        for i in (0..fixed.count()).rev().take_while(|_| self.copy() != 0) {
            if given >= bytes {
                break;
            }
            if fixed.change(i, Page::Copied(Pages::Transparent), Page::Unused) {
                let at = self.copy() + i * HUGE_PAGE;
                // SAFETY: a part of this copy, which nobody uses.
                unsafe { map::unback(at..at + HUGE_PAGE) };
                given += HUGE_PAGE;
            }
        }
        given
    }
}

/// Bytes of copies now, and of those the ones that can be given back; none are told of during a sweep, for which nobody waits here, as
/// this may be called in a signal handler.
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

/// In a child made by `fork`: it has none of our threads and no copies; the program's own memory is all that it needs. The files stay
/// open in the parent; here they are closed.
pub fn forget_in_child() {
    PROCESS.fetch_add(1, Relaxed);
    ADVISING.store(0, SeqCst);
    ENDED.store(BEGUN.load(SeqCst), SeqCst);
    for slot in &TABLE[..USED.load(SeqCst)] {
        if slot.number.load(SeqCst) > CLAIMED {
            // SAFETY: this is the only thread. What another one was about to free is not freed: a few pages.
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
