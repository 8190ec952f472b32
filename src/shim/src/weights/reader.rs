//! The thread that reads pages of a model file before the products need them.
//!
//! At a cold start, a program maps its model with `MAP_POPULATE` and waits until the whole file is read. With this
//! library the mapping is ready at once, and this thread reads the file while the program goes on. It reads in the
//! order of the file, and from the first graph on in the order in which the products use the weights.
//!
//! If the models, all parts together, are larger than memory (see [`super::fit`]), the thread reads only as much as
//! fits. Then it keeps a window ahead of the products (see [`super::laps`]).
//!
//! The thread reads into the page cache and touches no memory of the program. A file that is in the page cache already
//! is mapped as the program asked. A file that lies in memory itself (tmpfs) is left alone.
//!
//! Zen 4, 2 CPUs, 2026-11-21, q4_K, 269 MB, cold, a short prompt and one token, start to exit: stock 441 ms, without
//! this thread 406, with it 251 (`bench/records/2026-11-21-amd-epyc-background.md`).

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
use crate::gate::guard::guarded;
use crate::log::log;
use crate::placement;
use crate::reason::Reason;
use crate::stats;

/// Pages that one call reads while a model is loaded: 8 MiB, so that the thread can soon change to the order of the
/// first graph.
const AT_ONCE: usize = 4;

/// If memory has room for this many times the models, they count as fitting without a look at the first graphs.
const PLENTY: u64 = 2;

/// Changes when something happens that the reader may be waiting for.
static CHANGES: AtomicU32 = AtomicU32::new(0);

/// The place of the product that is computed now, see [`Laps`].
static PLACE: AtomicU32 = AtomicU32::new(0);

/// What graphs report to the reader.
static TELLS: AtomicU8 = AtomicU8::new(NOTHING);
/// Nothing: no model can be too large.
const NOTHING: u8 = 0;
/// The pages that they use, once the process has read [`ENOUGH`] bytes: the models seem to fit.
const IF_READ_AGAIN: u8 = 1;
/// The pages that they use: a model is too large, or it is not known whether it fits.
const PAGES: u8 = 2;

/// When the process has read this many bytes from disks, the kernel must be reading pages of the models again.
static ENOUGH: AtomicU64 = AtomicU64::new(u64::MAX);

/// The time of the last check of [`ENOUGH`], counted in [`fit::PERIOD`]s.
static LOOKED: AtomicU64 = AtomicU64::new(0);

/// The pages that are to be read ahead.
static QUEUE: Mutex<ReadQueue> = Mutex::new(ReadQueue::new());

/// No hook that an allocator may call takes this lock, so its holder may allocate.
fn lock() -> MutexGuard<'static, ReadQueue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Set in a child made by `fork`. The child has no reader thread, and the lock may be taken for ever.
static CHILD: AtomicBool = AtomicBool::new(false);

/// Called in a child made by `fork`: nothing is read ahead there.
pub fn forget_in_child() {
    CHILD.store(true, Relaxed);
    TELLS.store(NOTHING, Relaxed);
}

#[derive(Debug)]
struct ReadQueue {
    /// Pages of models that are being loaded.
    todo: VecDeque<PageId>,
    /// Whether `todo` is in the order of a graph.
    is_ordered: bool,
    /// The numbers of the sources that are models on a disk.
    followed: Vec<u64>,
    watch: Watch,
    laps: Laps,
    is_running: bool,
}

impl ReadQueue {
    const fn new() -> Self {
        ReadQueue {
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

    /// Notes that the models seem to fit.
    fn fits(&mut self, pages: u64, read: u64) {
        self.watch.set(Fit::Fits);
        self.laps.resume();
        ENOUGH.store(read.saturating_add(fit::is_of_note(pages)), Relaxed);
        TELLS.store(IF_READ_AGAIN, Relaxed);
    }

    /// Moves the pages of `first` that are still to be read to the front.
    fn put_first(&mut self, first: impl Iterator<Item = PageId>) {
        self.is_ordered = true;
        let mut rest: BTreeSet<PageId> = self.todo.iter().copied().collect();
        let mut order: VecDeque<PageId> = first.filter(|page| rest.remove(page)).collect();
        order.extend(self.todo.iter().filter(|page| rest.contains(page)));
        self.todo = order;
    }
}

/// How a model file that the program maps with `MAP_POPULATE` gets its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As the program asked: all pages are in memory already.
    Populate,
    /// The reader reads all of them.
    Read,
    /// The reader reads only this many bytes, because memory is too small.
    ReadPart(u64),
}

/// Decides how these bytes of a file, which are whole small pages, get into memory: they may be there already, they may
/// fit together with all mapped models, or not. `room` is the number of bytes of files that have room in memory.
pub fn start_of(file: BorrowedFd<'_>, bytes: Range<u64>, budget: &Budget, room: u64) -> Start {
    let len = bytes.end - bytes.start;
    match page_cache::is_cached(file, bytes, HUGE_PAGE) {
        Some(true) => return Start::Populate,
        Some(false) => {}
        // Reading pages that are in memory already costs little.
        None => stats::event_once(Reason::PageCacheUnknown),
    }
    let most = budget.most_of_files();
    if CHILD.load(Relaxed) {
        return Start::Populate;
    }
    let pin = Pin::new();
    let mut queue = lock();
    let others = queue.bytes(&pin);
    // An unknown limit is no reason to read less than the program asks for.
    if most.is_none_or(|most| others + len <= most) {
        return Start::Read;
    }
    // The parts that were mapped before must fit into the same room.
    let all = room as usize / 2 / HUGE_PAGE;
    queue.todo.truncate(all);
    let rest = all - queue.todo.len();
    Start::ReadPart((rest * HUGE_PAGE) as u64)
}

/// A model was mapped: the source with this number.
///
/// - `is_too_large`: with this model, the models do not fit in memory, whatever the kernel evicts.
/// - `room`: the number of bytes of files that have room in memory.
pub fn mapped(number: u64, is_too_large: bool, room: u64) {
    if CHILD.load(Relaxed) {
        return;
    }
    let pin = Pin::new();
    let mut queue = lock();
    queue.keep_what_is_mapped(&pin);
    queue.followed.push(number);
    let all = queue.bytes(&pin);
    if is_too_large {
        queue.watch.set(Fit::TooLarge(all));
        mark_too_large(&pin, &queue);
    } else if !queue.streams() {
        if room / PLENTY >= all {
            // The bytes that loading reads do not count as read again.
            queue.fits(all, Usage::of_this_process().read.saturating_add(all));
        } else {
            queue.watch.set(Fit::Unknown);
            TELLS.store(PAGES, Relaxed);
        }
    }
}

impl ReadQueue {
    fn keep_what_is_mapped(&mut self, pin: &Pin) {
        self.followed.retain(|&number| pin.numbered(number).is_some());
    }

    /// Bytes of all mapped models, except files that lie in memory.
    fn bytes(&self, pin: &Pin) -> u64 {
        let followed = self.followed.iter().filter_map(|&number| pin.numbered(number));
        followed.map(|source| source.range().len() as u64).sum()
    }
}

fn mark_too_large(pin: &Pin, queue: &ReadQueue) {
    queue.followed.iter().filter_map(|&number| pin.numbered(number)).for_each(Source::set_too_large);
    TELLS.store(PAGES, Relaxed);
    stats::event_once(Reason::ModelLargerThanMemory);
}

/// Has the first `bytes` of a source read.
pub fn begin(number: u64, bytes: u64) {
    let pin = Pin::new();
    let Some(source) = pin.numbered(number) else { return };
    let pages = source.range().len().min(bytes as usize).div_ceil(HUGE_PAGE);
    drop(pin);
    if pages == 0 || CHILD.load(Relaxed) {
        return;
    }
    let mut queue = lock();
    queue.todo.extend((0..pages).map(|i| (number, i)));
    queue.is_ordered = false;
    run(queue);
}

/// Starts the thread if it does not run, else wakes it.
fn run(mut queue: MutexGuard<'_, ReadQueue>) {
    if std::mem::replace(&mut queue.is_running, true) {
        drop(queue);
        return changed();
    }
    drop(queue);
    if !thread::spawn_in_background("zen5turbo-read", || guarded((), work)) {
        fail(Reason::ReaderNotStarted);
    }
}

/// Ends the reading for good.
fn fail(reason: Reason) {
    stats::event_once(reason);
    log!(info, "pages are not read ahead any more: {}", reason.as_str());
    *lock() = ReadQueue::new();
    TELLS.store(NOTHING, Relaxed);
}

fn changed() {
    CHANGES.fetch_add(1, Ordering::Release);
    thread::wake(&CHANGES);
}

/// A graph is about to use these weights in this order. While a model is loaded, their pages are read first.
pub fn order(pin: &Pin, weights: impl Iterator<Item = Range<usize>>) {
    if CHILD.load(Relaxed) || !sources::any() {
        return;
    }
    // A graph does not wait for the lock: the next graph calls this again.
    let Ok(mut queue) = QUEUE.try_lock() else { return };
    if queue.todo.is_empty() || queue.is_ordered {
        return;
    }
    let pages = weights.filter_map(|range| {
        let source = pin.find(&range)?;
        Some(source.fixed(pin).indices(&range).map(|i| (source.number(), i)))
    });
    queue.put_first(pages.flatten());
}

/// Whether [`follow`] must be called for a graph. This costs one load, and sometimes a system call while the models
/// seem to fit.
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

/// A graph begins: notes the pages that each product uses, by the range of its weights. Gives each product its place in
/// the order of pages, or none when its weights do not lie in a model that is larger than memory.
pub fn follow<'a>(pin: &Pin, products: impl Iterator<Item = (Range<usize>, &'a mut Option<u32>)>) {
    let read = Usage::of_this_process().read;
    let mut queue = lock();
    queue.keep_what_is_mapped(pin);
    if queue.followed.is_empty() {
        TELLS.store(NOTHING, Relaxed);
        queue.laps = Laps::new();
        return;
    }
    if queue.laps.first().is_some_and(|(number, _)| !queue.followed.contains(&number)) {
        queue.laps = Laps::new(); // the program has unmapped the model with the first page
    }
    match queue.watch.fit {
        Fit::LeftAlone => return TELLS.store(NOTHING, Relaxed),
        Fit::Fits => {
            queue.watch.set(Fit::Unknown);
            queue.laps.resume();
            TELLS.store(PAGES, Relaxed);
        }
        Fit::Unknown | Fit::TooLarge(_) => {}
    }
    let streams = queue.streams();
    let (lap, grew) = (queue.laps.lap(), queue.laps.has_grown());
    let mut first = None;
    queue.laps.begin_graph();
    for (range, place) in products {
        let Some(source) = pin.find(&range) else { continue };
        let number = source.number();
        if !queue.followed.contains(&number) {
            continue;
        }
        let here = queue.laps.product(range.start, source.fixed(pin).indices(&range).map(|i| (number, i)));
        first.get_or_insert(here);
        *place = streams.then_some(here);
    }
    let Some(first) = first else { return };
    if queue.laps.lap() != lap {
        let pages = (queue.laps.pages() * HUGE_PAGE) as u64;
        let is_loaded = queue.todo.is_empty();
        let verdict = queue.watch.lap_ended(read, pages, is_loaded && !grew);
        log!(debug, "lap {lap} ends, {} MiB read so far: {:?}, {verdict:?}", read >> 20, queue.watch.fit);
        if !is_loaded {
            queue.watch.skip_lap();
        }
        match verdict {
            Verdict::Open => {}
            Verdict::Fits => queue.fits(pages, read),
            Verdict::ReadAgain(bytes) => {
                drop(queue);
                return read_again(pin, bytes, pages, read);
            }
            Verdict::NoGain => {
                log!(info, "releasing pages gains nothing here: it is left to the kernel");
                stats::event(Reason::ReleasingGainsNothing);
                queue.watch.set(Fit::LeftAlone);
                queue.laps = Laps::new();
            }
        }
    }
    if streams {
        PLACE.store(first, Relaxed);
        run(queue);
    }
}

/// The kernel has read `bytes` again in the lap that has ended, of `pages` bytes that a lap uses. Begins to read ahead
/// and release pages if memory is too small for the models and if that reads less.
fn read_again(pin: &Pin, bytes: u64, pages: u64, read: u64) {
    let room = room(&Budget::of_this_process());
    let mut queue = lock();
    let Some(room) = room else {
        stats::event_once(Reason::MemoryUnknown);
        return queue.fits(pages, read);
    };
    let streamed = (queue.laps.read_with(room) * HUGE_PAGE) as u64;
    log!(debug, "{} MiB were read again in a lap; streaming would read {}", bytes >> 20, streamed >> 20);
    // There is room: the process has read something else, or another process needed memory for a short time.
    if streamed == 0 {
        return queue.fits(pages, read);
    }
    if streamed >= bytes {
        return; // the next lap is compared again
    }
    queue.watch.set(Fit::TooLarge(bytes));
    mark_too_large(pin, &queue);
}

/// The number of pages that can stay in memory: the room for files, without a small part for other files, such as
/// libraries, and for memory that the program takes next.
fn room(budget: &Budget) -> Option<usize> {
    let room = budget.room_for_files()?;
    Some(room.saturating_sub((room / 16).clamp(8 << 20, 1 << 30)) as usize / HUGE_PAGE)
}

/// The product at this place begins. One thread of the graph calls this.
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
        let mut queue = lock();
        if queue.streams() && known_lap != Some(queue.laps.lap()) {
            known_lap = Some(queue.laps.lap());
            drop(queue);
            let room = room(&budget).unwrap_or(usize::MAX);
            queue = lock();
            log!(debug, "room for {room} pages of {}", queue.laps.pages());
            queue.laps.set_room(room);
        }
        let place = PLACE.load(Relaxed);
        let step = if queue.streams() { queue.laps.next(place) } else { None };
        let part = match step {
            Some(Step::Release(page)) => {
                drop(queue);
                release(page);
                continue;
            }
            Some(Step::Read(page)) => vec![page],
            None => next_part(&mut queue),
        };
        if part.is_empty() {
            if !queue.streams() || queue.laps.pages() == 0 {
                queue.is_running = false;
                return;
            }
            drop(queue);
            thread::sleep_while(&CHANGES, seen);
            continue;
        }
        drop(queue);
        if !read(&part) {
            return fail(Reason::ReadAheadRefused);
        }
    }
}

/// The next pages of a model that is being loaded, up to the first one that does not lie beside the one before.
fn next_part(queue: &mut ReadQueue) -> Vec<PageId> {
    let mut part = Vec::with_capacity(AT_ONCE);
    while part.len() < AT_ONCE
        && let Some(&next) = queue.todo.front()
        && part.last().is_none_or(|last: &PageId| next == (last.0, last.1 + 1))
    {
        part.push(next);
        queue.todo.pop_front();
    }
    part
}

/// Reads pages that lie side by side, unless the program has unmapped them. Returns false when the kernel refuses.
fn read(pages: &[PageId]) -> bool {
    let (Some(&(number, first)), Some(&(_, last))) = (pages.first(), pages.last()) else { return true };
    let pin = Pin::new();
    let part = pin.numbered(number).and_then(|source| {
        let huge = matches!(source.fixed(&pin).origin, Origin::File { asks_huge: true, .. });
        Some((source.in_file(&pin, &(first..last + 1))?, huge))
    });
    drop(pin); // copies cannot be freed while there is a pin, and a slow disk may take long
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

/// Takes a page out of memory, unless the program has unmapped or locked it. A page that another process has mapped
/// stays.
fn release((number, index): PageId) {
    let pin = Pin::new();
    let pages = index..index + 1;
    let Some(source) = pin.numbered(number) else { return };
    if sources::let_go(source, &pin, &pages).is_ok() && source.release_cache(&pin, &pages) {
        counters::released(HUGE_PAGE);
    }
}
