//! The thread that reads pages of a model file before the products need them.
//!
//! At a cold start a program maps its model with `MAP_POPULATE` and waits until all of it has been
//! read. Here the mapping comes back at once, and this thread reads the file while the program goes
//! on: in the order of the file, and from the first graph on in the order in which its products use
//! the weights. Of models that are larger than memory, all parts together (see [`super::fit`]), it reads no more than fits, and
//! then keeps a window ahead of the products (see [`super::laps`]). It reads into the page cache and touches no memory
//! of the program's; a file that is in the cache already is mapped as the program asked for, and one that lies in memory
//! itself (tmpfs) is left alone.
//!
//! Measured on an EPYC of the Zen 4 family, two cores, 2026-11-21, a virtual disk that reads 2.1 GB/s
//! once its host has the file (0.4 GB/s the first time); synthetic models, two threads, a prompt of 9
//! tokens and one more, `--no-warmup --no-repack`, medians of 7 interleaved rounds, from the start of the
//! program to its end, in ms:
//!
//! | | stock | off | pages |
//! |---|---|---|---|
//! | q8_0, 507 MB, cold cache | 547 (500-672) | 605 (467-801) | 361 (337-540) |
//! | q4_K, 269 MB, cold cache | 441 (393-478) | 406 (287-648) | 251 (242-287) |
//! | q8_0, warm | 326 (310-361) | 172 (167-213) | 174 (168-307) |
//! | q4_K, warm | 311 (299-537) | 206 (171-344) | 164 (162-528) |
//!
//! The q8_0 model in a memory group of 384 MiB, ms a token, three rounds: stock 314, 328, 446; off 390,
//! 390, 392; pages 170, 193, 173. Reading ahead alone, before the order of releasing followed the last use
//! of a page, gave 309 and 324 where stock took 336 and 348.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use zen5turbo_host::memory::map::HUGE_PAGE;
use zen5turbo_host::memory::{Budget, page_cache};
use zen5turbo_host::{Usage, thread};

use super::counters;
use super::fit::{self, Fit, Verdict, Watch};
use super::laps::{Laps, PageId, Step};
use super::sources::{self, Origin, Pin, Source};
use crate::log::log;
use crate::placement;
use crate::reason::Reason;
use crate::startup::guarded;
use crate::stats;

/// Pages read with one call while a model is loaded: 8 MiB, so that the order of the first graph
/// is followed soon.
const AT_ONCE: usize = 4;

/// Where there is room for the models so many times, the first graphs need not tell whether they fit.
const PLENTY: u64 = 2;

/// Counts what the reader may be waiting for.
static CHANGES: AtomicU32 = AtomicU32::new(0);

/// The place of the product that is computed.
static PLACE: AtomicU32 = AtomicU32::new(0);

/// What graphs are to tell.
static TELLS: AtomicU8 = AtomicU8::new(NOTHING);
/// No model can be too large.
const NOTHING: u8 = 0;
/// The models seem to fit: whether the kernel reads much more than it has ([`ENOUGH`]).
const IF_READ_AGAIN: u8 = 1;
/// Which pages they use: a model is too large, or not known to fit.
const PAGES: u8 = 2;

/// When this process has read so many bytes, the kernel reads pages of the models again.
static ENOUGH: AtomicU64 = AtomicU64::new(u64::MAX);

/// When that was looked at last, in [`fit::PERIOD`]s.
static LOOKED: AtomicU64 = AtomicU64::new(0);

/// What is to be read ahead.
static AHEAD: Mutex<Ahead> = Mutex::new(Ahead::new());

/// No hook that an allocator may call takes this lock, so whoever has it may allocate.
fn lock() -> MutexGuard<'static, Ahead> {
    AHEAD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This is a child made by `fork`: it has no thread that reads, and maybe a lock that nobody gives back.
static CHILD: AtomicBool = AtomicBool::new(false);

/// To be called in a child made by `fork`: nothing is read ahead in it.
pub fn forget_in_child() {
    CHILD.store(true, Relaxed);
    TELLS.store(NOTHING, Relaxed);
}

#[derive(Debug)]
struct Ahead {
    /// Pages of models that are being loaded.
    todo: VecDeque<PageId>,
    /// `todo` is in the order of a graph.
    is_ordered: bool,
    /// Numbers of the sources that could be too large: not those of files in memory.
    followed: Vec<u64>,
    watch: Watch,
    laps: Laps,
    is_running: bool,
}

impl Ahead {
    const fn new() -> Self {
        Ahead {
            todo: VecDeque::new(),
            is_ordered: false,
            followed: Vec::new(),
            watch: Watch::new(),
            laps: Laps::new(),
            is_running: false,
        }
    }

    /// Whether pages are read ahead of the products and released behind them.
    fn streams(&self) -> bool {
        matches!(self.watch.fit, Fit::TooLarge(_))
    }

    /// The models fit, as far as is known now.
    fn fits(&mut self, pages: u64, read: u64) {
        self.watch.set(Fit::Fits);
        self.laps.resume();
        ENOUGH.store(read.saturating_add(fit::is_of_note(pages)), Relaxed);
        TELLS.store(IF_READ_AGAIN, Relaxed);
    }

    /// Puts what is still to be read of `first` before all else.
    fn put_first(&mut self, first: impl Iterator<Item = PageId>) {
        self.is_ordered = true;
        let mut rest: BTreeSet<PageId> = self.todo.iter().copied().collect();
        let mut order: VecDeque<PageId> = first.filter(|page| rest.remove(page)).collect();
        order.extend(self.todo.iter().filter(|page| rest.contains(page)));
        self.todo = order;
    }
}

/// How a model file that is to be populated gets its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As the program asked for: they are in memory.
    Populate,
    /// By the reader, all of them.
    Read,
    /// By the reader, only so many bytes: memory is too small.
    ReadPart(u64),
}

/// Looks whether these bytes of a file, whole small pages, are in memory, and else whether they can be together with all
/// models that are mapped; `room`: so many bytes of files have room.
pub fn start_of(file: BorrowedFd<'_>, bytes: Range<u64>, budget: &Budget, room: u64) -> Start {
    let len = bytes.end - bytes.start;
    match page_cache::is_cached(file, bytes, HUGE_PAGE) {
        Some(true) => return Start::Populate,
        Some(false) => {}
        // Reading what is there already costs little.
        None => stats::event_once(Reason::PageCacheUnknown),
    }
    let most = budget.most_of_files();
    if CHILD.load(Relaxed) {
        return Start::Populate;
    }
    let pin = Pin::new();
    let mut ahead = lock();
    let others = ahead.bytes(&pin);
    // What is not known is no reason to read otherwise than the program wants it.
    if most.is_none_or(|most| others + len <= most) {
        return Start::Read;
    }
    // Of the parts that were mapped before no more is read, either.
    let all = room as usize / 2 / HUGE_PAGE;
    ahead.todo.truncate(all);
    let rest = all - ahead.todo.len();
    Start::ReadPart((rest * HUGE_PAGE) as u64)
}

/// A model was mapped: the source with this number. `is_too_large`: with it the models are larger than memory, whatever is evicted;
/// `room`: so many bytes of files have room.
pub fn mapped(number: u64, is_too_large: bool, room: u64) {
    if CHILD.load(Relaxed) {
        return;
    }
    let pin = Pin::new();
    let mut ahead = lock();
    ahead.keep_what_is_mapped(&pin);
    ahead.followed.push(number);
    let all = ahead.bytes(&pin);
    if is_too_large {
        ahead.watch.set(Fit::TooLarge(all));
        mark_too_large(&pin, &ahead);
    } else if !ahead.streams() {
        if room / PLENTY >= all {
            // Loading is no reading again.
            ahead.fits(all, Usage::of_this_process().read.saturating_add(all));
        } else {
            ahead.watch.set(Fit::Unknown);
            TELLS.store(PAGES, Relaxed);
        }
    }
}

impl Ahead {
    fn keep_what_is_mapped(&mut self, pin: &Pin) {
        self.followed.retain(|&number| pin.numbered(number).is_some());
    }

    /// Bytes of all models that are mapped, but for files in memory.
    fn bytes(&self, pin: &Pin) -> u64 {
        let followed = self.followed.iter().filter_map(|&number| pin.numbered(number));
        followed.map(|source| source.range().len() as u64).sum()
    }
}

fn mark_too_large(pin: &Pin, ahead: &Ahead) {
    ahead.followed.iter().filter_map(|&number| pin.numbered(number)).for_each(Source::set_too_large);
    TELLS.store(PAGES, Relaxed);
    stats::event_once(Reason::ModelLargerThanMemory);
}

/// Has at most `bytes` of a source read, from its beginning on.
pub fn begin(number: u64, bytes: u64) {
    let pin = Pin::new();
    let Some(source) = pin.numbered(number) else { return };
    let pages = source.range().len().min(bytes as usize).div_ceil(HUGE_PAGE);
    drop(pin);
    if pages == 0 || CHILD.load(Relaxed) {
        return;
    }
    let mut ahead = lock();
    ahead.todo.extend((0..pages).map(|i| (number, i)));
    ahead.is_ordered = false;
    run(ahead);
}

/// Starts the thread, or wakes it.
fn run(mut ahead: MutexGuard<'_, Ahead>) {
    if std::mem::replace(&mut ahead.is_running, true) {
        drop(ahead);
        return changed();
    }
    drop(ahead);
    if !thread::spawn_in_background("zen5turbo-read", || guarded((), work)) {
        fail(Reason::ReaderNotStarted);
    }
}

/// Nothing is read any more.
fn fail(reason: Reason) {
    stats::event_once(reason);
    log!(info, "pages are not read ahead any more: {}", reason.as_str());
    *lock() = Ahead::new();
    TELLS.store(NOTHING, Relaxed);
}

fn changed() {
    CHANGES.fetch_add(1, Ordering::Release);
    thread::wake(&CHANGES);
}

/// A graph is about to use these weights, in this order: while a model is loaded, the pages that are
/// missing of them come first.
pub fn order(pin: &Pin, weights: impl Iterator<Item = Range<usize>>) {
    if CHILD.load(Relaxed) || !sources::any() {
        return;
    }
    // Nobody waits here for the thread that reads: the next graph says it again.
    let Ok(mut ahead) = AHEAD.try_lock() else { return };
    if ahead.todo.is_empty() || ahead.is_ordered {
        return;
    }
    let pages = weights.filter_map(|range| {
        let source = pin.find(&range)?;
        Some(source.fixed(pin).indices(&range).map(|i| (source.number(), i)))
    });
    ahead.put_first(pages.flatten());
}

/// Whether [`follow`] is to be called for graphs: one load, and a system call where models seem to fit.
#[inline]
pub fn follows() -> bool {
    match TELLS.load(Relaxed) {
        NOTHING => false,
        PAGES => true,
        _ => has_read_again(),
    }
}

#[cold]
fn has_read_again() -> bool {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    let now = (STARTED.elapsed().as_nanos() / fit::PERIOD.as_nanos()) as u64 + 1;
    LOOKED.swap(now, Relaxed) != now && Usage::of_this_process().read >= ENOUGH.load(Relaxed)
}

/// A graph begins: takes note of the pages that each product uses, by the range of its weights, and gives it its place in
/// the order of pages; none when they do not lie in a model that is larger than memory.
pub fn follow<'a>(pin: &Pin, products: impl Iterator<Item = (Range<usize>, &'a mut Option<u32>)>) {
    let read = Usage::of_this_process().read;
    let mut ahead = lock();
    ahead.keep_what_is_mapped(pin);
    if ahead.followed.is_empty() {
        TELLS.store(NOTHING, Relaxed);
        ahead.laps = Laps::new();
        return;
    }
    if ahead.laps.first().is_some_and(|(number, _)| !ahead.followed.contains(&number)) {
        ahead.laps = Laps::new(); // that model is gone
    }
    match ahead.watch.fit {
        Fit::LeftAlone => return TELLS.store(NOTHING, Relaxed),
        Fit::Fits => {
            ahead.watch.set(Fit::Unknown);
            ahead.laps.resume();
            TELLS.store(PAGES, Relaxed);
        }
        Fit::Unknown | Fit::TooLarge(_) => {}
    }
    let streams = ahead.streams();
    let (lap, grew) = (ahead.laps.lap(), ahead.laps.has_grown());
    let mut first = None;
    ahead.laps.begin_graph();
    for (range, place) in products {
        let Some(source) = pin.find(&range) else { continue };
        let number = source.number();
        if !ahead.followed.contains(&number) {
            continue;
        }
        let here = ahead.laps.product(range.start, source.fixed(pin).indices(&range).map(|i| (number, i)));
        first.get_or_insert(here);
        *place = streams.then_some(here);
    }
    let Some(first) = first else { return };
    if ahead.laps.lap() != lap {
        let pages = (ahead.laps.pages() * HUGE_PAGE) as u64;
        let is_loaded = ahead.todo.is_empty();
        let verdict = ahead.watch.lap_ended(read, pages, is_loaded && !grew);
        log!(debug, "lap {lap} ends, {} MiB read so far: {:?}, {verdict:?}", read >> 20, ahead.watch.fit);
        if !is_loaded {
            ahead.watch.skip_lap();
        }
        match verdict {
            Verdict::Open => {}
            Verdict::Fits => ahead.fits(pages, read),
            Verdict::ReadAgain(bytes) => {
                drop(ahead);
                return read_again(pin, bytes, pages, read);
            }
            Verdict::NoGain => {
                log!(info, "releasing pages gains nothing here: it is left to the kernel");
                stats::event(Reason::ReleasingGainsNothing);
                ahead.watch.set(Fit::LeftAlone);
                ahead.laps = Laps::new();
            }
        }
    }
    if streams {
        PLACE.store(first, Relaxed);
        run(ahead);
    }
}

/// In the lap that has ended the kernel has read `bytes` again, of `pages` bytes that a lap uses. Is memory too small for
/// them, and would streaming read less?
fn read_again(pin: &Pin, bytes: u64, pages: u64, read: u64) {
    let room = room(&Budget::of_this_process());
    let mut ahead = lock();
    let Some(room) = room else {
        stats::event_once(Reason::MemoryUnknown);
        return ahead.fits(pages, read);
    };
    let streamed = (ahead.laps.read_with(room) * HUGE_PAGE) as u64;
    log!(debug, "{} MiB were read again in a lap; streaming would read {}", bytes >> 20, streamed >> 20);
    // There is room: something else was read, or somebody else needed memory for a moment.
    if streamed == 0 {
        return ahead.fits(pages, read);
    }
    if streamed >= bytes {
        return; // the next laps may tell more
    }
    ahead.watch.set(Fit::TooLarge(bytes));
    mark_too_large(pin, &ahead);
}

/// Pages that can stay: what is left for files, less a little for other files that are in use, as libraries are, and for
/// what the program takes next.
fn room(budget: &Budget) -> Option<usize> {
    let room = budget.room_for_files()?;
    Some(room.saturating_sub((room / 16).clamp(8 << 20, 1 << 30)) as usize / HUGE_PAGE)
}

/// The product at this place begins; to be called by one thread.
#[inline]
pub fn reached(place: u32) {
    PLACE.store(place, Relaxed);
    changed();
}

fn work() {
    placement::place_thread();
    let budget = Budget::of_this_process();
    let mut known_lap = None;
    loop {
        let seen = CHANGES.load(Ordering::Acquire);
        let mut ahead = lock();
        if ahead.streams() && known_lap != Some(ahead.laps.lap()) {
            known_lap = Some(ahead.laps.lap());
            drop(ahead);
            let room = room(&budget).unwrap_or(usize::MAX);
            ahead = lock();
            log!(debug, "room for {room} pages of {}", ahead.laps.pages());
            ahead.laps.set_room(room);
        }
        let place = PLACE.load(Relaxed);
        let step = if ahead.streams() { ahead.laps.next(place) } else { None };
        let part = match step {
            Some(Step::Release(page)) => {
                drop(ahead);
                release(page);
                continue;
            }
            Some(Step::Read(page)) => vec![page],
            None => next_part(&mut ahead),
        };
        if part.is_empty() {
            if !ahead.streams() || ahead.laps.pages() == 0 {
                ahead.is_running = false;
                return;
            }
            drop(ahead);
            thread::sleep_while(&CHANGES, seen);
            continue;
        }
        drop(ahead);
        if !read(&part) {
            return fail(Reason::ReadAheadRefused);
        }
    }
}

/// The next pages of a model that is being loaded, as far as they lie side by side.
fn next_part(ahead: &mut Ahead) -> Vec<PageId> {
    let mut part = Vec::with_capacity(AT_ONCE);
    while part.len() < AT_ONCE
        && let Some(&next) = ahead.todo.front()
        && part.last().is_none_or(|last: &PageId| next == (last.0, last.1 + 1))
    {
        part.push(next);
        ahead.todo.pop_front();
    }
    part
}

/// Reads pages that lie side by side, unless the program has unmapped them; false when that is refused.
fn read(pages: &[PageId]) -> bool {
    let (Some(&(number, first)), Some(&(_, last))) = (pages.first(), pages.last()) else { return true };
    let pin = Pin::new();
    let part = pin.numbered(number).and_then(|source| {
        let huge = matches!(source.fixed(&pin).origin, Origin::File { asks_huge: true, .. });
        Some((source.in_file(&pin, &(first..last + 1))?, huge))
    });
    drop(pin); // a slow disk shall not keep copies from being freed
    let Some(((file, bytes), huge)) = part else { return true };
    let len = (bytes.end - bytes.start) as usize;
    let started = Instant::now();
    let Some(fd) = file.get() else { return false };
    if page_cache::read_in(fd, bytes.start, len, huge).is_err() {
        return false;
    }
    counters::read_ahead(len, started.elapsed().as_micros() as u64);
    true
}

/// Takes a page out of memory, unless the program has unmapped or locked it. What another process has mapped stays.
fn release((number, index): PageId) {
    let pin = Pin::new();
    let pages = index..index + 1;
    let Some(source) = pin.numbered(number) else { return };
    if sources::let_go(source, &pin, &pages).is_ok() && source.release_cache(&pin, &pages) {
        counters::released(HUGE_PAGE);
    }
}
