//! The thread that reads pages of a model file before the products need them.
//!
//! At a cold start a program maps its model with `MAP_POPULATE` and waits until all of it has been
//! read. Here the mapping comes back at once, and this thread reads the file while the program goes
//! on: in the order of the file, and from the first graph on in the order in which its products use
//! the weights. Of a model that is larger than memory it reads no more than fits, and then keeps a
//! window ahead of the products (see [`super::laps`]). It reads into the page cache and touches no memory
//! of the program's; a file that is in the cache already is mapped as the program asked for.
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
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use libc::c_int;
use zen5turbo_host::memory::map::HUGE_PAGE;
use zen5turbo_host::memory::{Budget, MarkedFile, page_cache};
use zen5turbo_host::thread;

use super::counters;
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

/// Counts what the reader may be waiting for.
static CHANGES: AtomicU32 = AtomicU32::new(0);

/// Which product is computed: its lap in the upper half, its place in the lower one.
static POSITION: AtomicU64 = AtomicU64::new(0);

/// Whether products tell where they are: a model is larger than memory.
static FOLLOWS: AtomicBool = AtomicBool::new(false);

/// What is to be read ahead.
static AHEAD: Mutex<Ahead> = Mutex::new(Ahead::new());

/// The lock is never held by a hook that an allocator may call, so whoever has it may allocate.
fn lock() -> MutexGuard<'static, Ahead> {
    AHEAD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Ahead {
    /// Pages of models that are being loaded.
    todo: VecDeque<PageId>,
    /// `todo` is in the order of a graph.
    is_ordered: bool,
    laps: Laps,
    is_running: bool,
}

impl Ahead {
    const fn new() -> Self {
        Ahead { todo: VecDeque::new(), is_ordered: false, laps: Laps::new(), is_running: false }
    }

    /// Nothing is read any more: reading was refused.
    fn forget(&mut self) {
        *self = Self::new();
        FOLLOWS.store(false, Ordering::Relaxed);
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

impl Default for Ahead {
    fn default() -> Self {
        Self::new()
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

/// Looks whether these bytes of a file, whole small pages, are in memory, and else whether they have room in the
/// `spare` bytes.
pub fn start_of(fd: c_int, bytes: Range<u64>, spare: u64) -> Start {
    let len = bytes.end - bytes.start;
    // SAFETY: the program's descriptor, which it is mapping from while this is called.
    if page_cache::is_cached(unsafe { BorrowedFd::borrow_raw(fd) }, bytes, HUGE_PAGE) {
        return Start::Populate;
    }
    if spare < len { Start::ReadPart(spare / 2) } else { Start::Read }
}

/// Has at most `bytes` of a source read, from its beginning on.
pub fn begin(number: u64, bytes: u64) {
    let pin = Pin::new();
    let Some(source) = pin.numbered(number) else { return };
    let pages = source.range().len().min(bytes as usize).div_ceil(HUGE_PAGE);
    drop(pin);
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

fn fail(reason: Reason) {
    stats::event_once(reason);
    log!(info, "pages are not read ahead any more: {}", reason.as_str());
    lock().forget();
}

/// In a child made by `fork`, which has no such thread, and may have a lock that nobody gives back: nothing is read ahead in it.
static CHILD: AtomicBool = AtomicBool::new(false);

/// To be called in a child made by `fork`.
pub fn forget_in_child() {
    CHILD.store(true, Ordering::Relaxed);
    FOLLOWS.store(false, Ordering::Relaxed);
}

fn changed() {
    CHANGES.fetch_add(1, Ordering::Release);
    thread::wake(&CHANGES);
}

/// A graph is about to use these weights, in this order: while a model is loaded, the pages that are
/// missing of them come first.
pub fn order(pin: &Pin, weights: impl Iterator<Item = Range<usize>>) {
    if CHILD.load(Ordering::Relaxed) || !sources::any() {
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

/// Whether [`follow`] is to be called for graphs, and [`reached`] for products: one load.
#[inline]
pub fn follows() -> bool {
    FOLLOWS.load(Ordering::Relaxed)
}

/// A graph begins: gives each product, by the range of its weights, its place in the order of pages;
/// none when they do not lie in a model that is larger than memory.
pub fn follow<'a>(pin: &Pin, products: impl Iterator<Item = (Range<usize>, &'a mut Option<u32>)>) {
    let mut ahead = lock();
    if ahead.laps.first().is_some_and(|(number, _)| pin.numbered(number).is_none()) {
        ahead.laps = Laps::new(); // that model is gone
    }
    if pin.sources().all(|s| !s.is_too_large()) {
        FOLLOWS.store(false, Ordering::Relaxed);
        return;
    }
    let (mut any, mut next) = (false, 0);
    for (range, place) in products {
        let Some(source) = pin.find(&range).filter(|s| s.is_too_large()) else { continue };
        let here = next;
        for i in source.fixed(pin).indices(&range) {
            next = ahead.laps.uses(here, (source.number(), i)).max(next);
        }
        *place = Some(here);
        any = true;
    }
    if any {
        let lap = (POSITION.load(Ordering::Relaxed) >> 32) + 1;
        POSITION.store(lap << 32, Ordering::Relaxed);
        run(ahead);
    }
}

/// The product at this place begins; to be called by one thread.
#[inline]
pub fn reached(place: u32) {
    let lap = POSITION.load(Ordering::Relaxed) >> 32;
    POSITION.store(lap << 32 | u64::from(place), Ordering::Relaxed);
    changed();
}

/// A source is larger than the memory it may take.
pub fn too_large(source: &Source) {
    source.set_too_large();
    FOLLOWS.store(true, Ordering::Relaxed);
    stats::event_once(Reason::ModelLargerThanMemory);
}

fn work() {
    placement::place_thread();
    let budget = Budget::of_this_process();
    let mut known_lap = 0;
    loop {
        let seen = CHANGES.load(Ordering::Acquire);
        let position = POSITION.load(Ordering::Relaxed);
        let (lap, place) = (position >> 32, position as u32);
        let room = (lap != known_lap).then(|| budget.spare() as usize / HUGE_PAGE);
        known_lap = lap;
        let mut ahead = lock();
        if let Some(room) = room {
            ahead.laps.set_room(room, lap);
        }
        let done = match ahead.laps.next(lap, place) {
            Some(Step::Release(page)) => {
                drop(ahead);
                release(page);
                true
            }
            Some(Step::Read(page)) => {
                drop(ahead);
                read(&[page])
            }
            None => match next_part(&mut ahead) {
                part if !part.is_empty() => {
                    drop(ahead);
                    read(&part)
                }
                _ if ahead.laps.is_empty() => {
                    ahead.is_running = false;
                    return;
                }
                _ => {
                    drop(ahead);
                    thread::sleep_while(&CHANGES, seen);
                    true
                }
            },
        };
        if !done {
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

/// Of the file under some pages: it, the bytes, and whether it is asked for in huge pages.
fn file_under(pin: &Pin, source: &Source, pages: &Range<usize>) -> Option<(MarkedFile, Range<u64>, bool)> {
    let fixed = source.fixed(pin);
    let Origin::File { file, offset, asks_huge, .. } = fixed.origin else { return None };
    let bytes = source.bytes_of(pin, pages);
    let at = |address: usize| offset + (address - fixed.start) as u64;
    (!bytes.is_empty()).then(|| (file, at(bytes.start)..at(bytes.end), asks_huge))
}

/// Reads pages that lie side by side, unless the program has unmapped them; false when that is refused.
fn read(pages: &[PageId]) -> bool {
    let (Some(&(number, first)), Some(&(_, last))) = (pages.first(), pages.last()) else { return true };
    let pin = Pin::new();
    let part = pin.numbered(number).and_then(|source| file_under(&pin, source, &(first..last + 1)));
    drop(pin); // a slow disk shall not keep copies from being freed
    let Some((file, bytes, huge)) = part else { return true };
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
    if sources::let_go(source, &pin, &pages).is_err() {
        return;
    }
    if let Some((file, bytes, _)) = file_under(&pin, source, &pages)
        && let Some(fd) = file.get()
    {
        page_cache::release_cache(fd, bytes.start, bytes.end - bytes.start);
        counters::released(HUGE_PAGE);
    }
}
