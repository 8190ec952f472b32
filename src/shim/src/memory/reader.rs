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
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use libc::c_int;
use zen5turbo_host::memory::map::{self, HUGE_PAGE};
use zen5turbo_host::memory::{Budget, page_cache};
use zen5turbo_host::thread;

use super::counters;
use super::laps::{Laps, PageId, Step};
use super::mapping::{Mapping, ModelFile, Page};
use super::registry::{self, Locked, Registry};
use crate::log::log;
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

/// What is to be read ahead; part of the registry, and locked with it.
#[derive(Debug)]
pub struct Ahead {
    /// Pages of models that are being loaded.
    todo: VecDeque<PageId>,
    /// `todo` is in the order of a graph.
    is_ordered: bool,
    laps: Laps,
    is_running: bool,
}

impl Ahead {
    pub const fn new() -> Self {
        Ahead { todo: VecDeque::new(), is_ordered: false, laps: Laps::new(), is_running: false }
    }

    /// Nothing is read any more: reading was refused, or this is a forked child, without the thread.
    pub fn forget(&mut self) {
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

/// Has at most `bytes` of a registered mapping read, from its beginning on. The registry is not locked.
pub fn begin(number: u64, bytes: u64) {
    let mut locked = registry::lock();
    let Some(mapping) = locked.by_number(number) else { return };
    let pages = mapping.range.len().min(bytes as usize).div_ceil(HUGE_PAGE);
    locked.ahead.todo.extend((0..pages).map(|i| (number, i)));
    locked.ahead.is_ordered = false;
    run(locked);
}

/// Starts the thread, or wakes it.
fn run(mut locked: Locked) {
    if std::mem::replace(&mut locked.ahead.is_running, true) {
        drop(locked);
        return changed();
    }
    drop(locked); // a new thread's stack is a mapping, too
    if !thread::spawn_in_background("zen5turbo-read", || guarded((), work)) {
        fail(Reason::ReaderNotStarted);
    }
}

fn fail(reason: Reason) {
    stats::event_once(reason);
    log!(info, "pages are not read ahead any more: {}", reason.as_str());
    registry::lock().ahead.forget();
}

/// Nothing that is known now is read any more. The thread ends when it finds that out.
pub fn stop(registry: &mut Registry) {
    FOLLOWS.store(false, Ordering::Relaxed);
    registry.ahead.todo = VecDeque::new();
    registry.ahead.laps = Laps::new();
    changed();
}

fn changed() {
    CHANGES.fetch_add(1, Ordering::Release);
    thread::wake(&CHANGES);
}

/// A graph is about to use these weights, in this order: while a model is loaded, the pages that are
/// missing of them come first.
pub fn order(registry: &mut Registry, weights: impl Iterator<Item = Range<usize>>) {
    if registry.ahead.todo.is_empty() || registry.ahead.is_ordered {
        return;
    }
    let mappings = &registry.mappings;
    let pages = weights.filter_map(|range| {
        let mapping = mappings.iter().find(|m| m.range.contains(&range.start))?;
        Some(mapping.pages_of(&range).map(|i| (mapping.number, i)))
    });
    registry.ahead.put_first(pages.flatten());
}

/// Whether [`follow`] is to be called for graphs, and [`reached`] for products: one load.
#[inline]
pub fn follows() -> bool {
    FOLLOWS.load(Ordering::Relaxed)
}

/// A graph begins: gives each product, by the range of its weights, its place in the order of pages;
/// none when they do not lie in a model that is larger than memory.
pub fn follow<'a>(products: impl Iterator<Item = (Range<usize>, &'a mut Option<u32>)>) {
    let mut locked = registry::lock();
    let Registry { mappings, ahead, .. } = &mut *locked;
    if ahead.laps.first().is_some_and(|(number, _)| mappings.iter().all(|m| m.number != number)) {
        ahead.laps = Laps::new(); // that model is gone
    }
    if mappings.iter().all(|m| !m.is_too_large) {
        FOLLOWS.store(false, Ordering::Relaxed);
        return;
    }
    let (mut any, mut next) = (false, 0);
    for (range, place) in products {
        let Some(m) = mappings.iter().find(|m| m.is_too_large && m.range.contains(&range.start)) else { continue };
        let here = next;
        for i in m.pages_of(&range) {
            next = ahead.laps.uses(here, (m.number, i)).max(next);
        }
        *place = Some(here);
        any = true;
    }
    if any {
        let lap = (POSITION.load(Ordering::Relaxed) >> 32) + 1;
        POSITION.store(lap << 32, Ordering::Relaxed);
        run(locked);
    }
}

/// The product at this place begins; to be called by one thread.
#[inline]
pub fn reached(place: u32) {
    let lap = POSITION.load(Ordering::Relaxed) >> 32;
    POSITION.store(lap << 32 | u64::from(place), Ordering::Relaxed);
    changed();
}

/// A mapping is larger than the memory it may take.
pub fn too_large(mapping: &mut Mapping) {
    mapping.is_too_large = true;
    FOLLOWS.store(true, Ordering::Relaxed);
    stats::event_once(Reason::ModelLargerThanMemory);
}

fn work() {
    let budget = Budget::of_this_process();
    let mut known_lap = 0;
    loop {
        let seen = CHANGES.load(Ordering::Acquire);
        let position = POSITION.load(Ordering::Relaxed);
        let (lap, place) = (position >> 32, position as u32);
        let room = (lap != known_lap).then(|| budget.spare() as usize / HUGE_PAGE);
        known_lap = lap;
        let mut locked = registry::lock();
        if let Some(room) = room {
            locked.ahead.laps.set_room(room, lap);
        }
        let done = match locked.ahead.laps.next(lap, place) {
            Some(Step::Release(page)) => {
                release(&mut locked, page);
                true
            }
            Some(Step::Read(page)) => {
                let part = part_of(&locked, page, page.1 + 1);
                drop(locked);
                read(part)
            }
            None => match next_part(&mut locked) {
                Some(part) => {
                    drop(locked);
                    read(Some(part))
                }
                None if locked.ahead.laps.is_empty() => {
                    locked.ahead.is_running = false;
                    return;
                }
                None => {
                    drop(locked);
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

/// A part of a file.
struct Part {
    file: Arc<ModelFile>,
    bytes: Range<u64>,
    /// In huge pages, if the page cache can.
    huge: bool,
}

/// The file under the pages from `page` to `end`; none when the program has unmapped it.
fn part_of(registry: &Registry, page: PageId, end: usize) -> Option<Part> {
    let mapping = registry.mappings.iter().find(|m| m.number == page.0)?;
    let bytes = mapping.file_range(page.1).start..mapping.file_range(end - 1).end;
    (!bytes.is_empty()).then(|| Part { file: mapping.file.clone(), bytes, huge: mapping.asks_huge })
}

/// The next pages of a model that is being loaded, as far as they lie side by side.
fn next_part(registry: &mut Registry) -> Option<Part> {
    loop {
        let first = registry.ahead.todo.pop_front()?;
        let mut end = first.1 + 1;
        while end - first.1 < AT_ONCE && registry.ahead.todo.front() == Some(&(first.0, end)) {
            registry.ahead.todo.pop_front();
            end += 1;
        }
        if let Some(part) = part_of(registry, first, end) {
            return Some(part);
        }
    }
}

/// Reads; false when that is refused.
fn read(part: Option<Part>) -> bool {
    let Some(Part { file, bytes, huge }) = part else { return true };
    let len = (bytes.end - bytes.start) as usize;
    let started = Instant::now();
    if !file.is_the_same() || page_cache::read_in(file.fd.as_fd(), bytes.start, len, huge).is_err() {
        return false;
    }
    counters::read_ahead(len, started.elapsed().as_micros() as u64);
    true
}

/// Takes a page out of memory, unless the program has changed its mapping or locked it. What another
/// process has mapped stays.
fn release(locked: &mut Locked, (number, index): PageId) {
    let Some(mapping) = locked.by_number(number) else { return };
    if mapping.page(index) != Page::File || mapping.locked || !mapping.file.is_the_same() {
        return;
    }
    let at = mapping.address(index);
    let bytes = mapping.file_range(index);
    // SAFETY: the registry is locked, so these are the file's pages in a mapping of the program's that
    // nobody writes to: whoever reads there gets them from the file again.
    if unsafe { map::advise(at..at + HUGE_PAGE, libc::MADV_DONTNEED) }.is_ok() {
        page_cache::release_cache(mapping.file.fd.as_fd(), bytes.start, bytes.end - bytes.start);
        counters::released(HUGE_PAGE);
    }
}
