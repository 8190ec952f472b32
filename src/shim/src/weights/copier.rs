//! The thread that copies weights, in the order in which the graphs use them.
//!
//! It reads the model file into memory of this library and marks the pages as copied. The next graph reads them there.
//! The results do not depend on it: when the kernel refuses something, the copying ends, the reason is counted, and the
//! products read the program's own memory.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use zen5turbo_host::memory::map::{self, GIANT_PAGE, HUGE_PAGE, NotBacked, Pages, Region};
use zen5turbo_host::memory::page_cache::PageTable;
use zen5turbo_host::memory::{Budget, MarkedFile};
use zen5turbo_host::{proc, thread};

use super::counters;
use super::pace::Pace;
use super::sources::{self, Fixed, Origin, Page, Pin, Source};
use crate::config::config;
use crate::gate::guard::guarded;
use crate::log::log;
use crate::pages::{HugePages, thp_available};
use crate::placement;
use crate::reason::Reason;
use crate::stats;

/// Bytes of a run at most: they are copied together, and the graphs see them at the same moment.
const RUN: usize = 32 << 20;

/// Pages of a run at most.
const PAGES: usize = RUN / HUGE_PAGE;

/// Pages of 2 MiB in one of 1 GiB.
const GIANT: usize = GIANT_PAGE / HUGE_PAGE;

/// How often the thread checks whether memory is short, while there are copies.
const TICK: Duration = Duration::from_secs(2);

/// How often the thread checks whether the graphs that began before the last copy have ended.
const SOON: Duration = Duration::from_millis(20);

/// How long the copying pauses after memory was short.
const PAUSE: Duration = Duration::from_secs(60);

/// Bytes of copies that are given back together when memory is short. Copying also leaves this much memory free.
const RELIEF: usize = 256 << 20;

/// Set while the copying pauses because memory was short.
static PAUSED: AtomicBool = AtomicBool::new(false);

/// Set when the copying has ended for good: the kernel refused something, or no kind of pages is left.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Set when the process ends.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Whether the thread runs.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Changes when something happens that the thread may be waiting for. It is not a lock, because a child made by `fork`
/// could find a lock taken for ever.
static CHANGES: AtomicU32 = AtomicU32::new(0);

/// Whether no pages may be marked as wanted now.
pub fn is_paused() -> bool {
    PAUSED.load(Relaxed) || STOPPED.load(Relaxed)
}

/// Has the wanted pages copied. The first call starts the thread, later calls wake it.
pub fn start() {
    if STOPPED.load(Relaxed) {
        return;
    }
    if RUNNING.swap(true, SeqCst) {
        return signal();
    }
    // Not in the thread: a child that is forked while the thread finds this out would wait for the answer for ever.
    let ladder = ladder();
    if !thread::spawn_in_background("zen5turbo", || guarded((), || work(ladder))) {
        RUNNING.store(false, SeqCst);
        stop(Reason::CopierNotStarted);
    }
}

/// At exit: lets the thread end after its present step. May be called in a signal handler.
pub fn stop_at_exit() {
    ENDING.store(true, Relaxed);
    signal();
}

/// In a child made by `fork`: it does not have this thread.
pub fn forget_in_child() {
    RUNNING.store(false, SeqCst);
    PAUSED.store(false, Relaxed);
}

fn signal() {
    CHANGES.fetch_add(1, SeqCst);
    thread::wake(&CHANGES);
}

/// Ends the copying for good. The copies that exist stay until memory is short.
fn stop(reason: Reason) {
    let reason =
        if reason == Reason::CopyOutOfMemory && mappings_are_exhausted() { Reason::TooManyMappings } else { reason };
    STOPPED.store(true, Relaxed);
    stats::event(reason);
    log!(info, "weights are not copied any more: {}", reason.as_str());
}

fn work(mut ladder: Vec<Pages>) {
    let budget = budget();
    let pace = Pace::new();
    let mut most = PAGES;
    let mut calm_from = Instant::now();
    let mut copied_pages = VecDeque::new();
    loop {
        let seen = CHANGES.load(SeqCst);
        let now = Instant::now();
        if ladder.is_empty() {
            STOPPED.store(true, Relaxed);
        }
        let [copied, returnable] = sources::copied();
        if ENDING.load(Relaxed) || STOPPED.load(Relaxed) && returnable == 0 && copied_pages.is_empty() {
            // A page that is wanted after this starts another thread.
            RUNNING.store(false, SeqCst);
            return;
        }
        PAUSED.store(now < calm_from, Relaxed);
        if returnable > 0 && is_short(&budget) {
            log!(
                info,
                "memory is short: {} MiB of {} MiB of copies are given back",
                RELIEF.min(returnable) >> 20,
                copied >> 20
            );
            sources::give_back(RELIEF);
            calm_from = now + PAUSE;
        }
        sources::sweep();
        let pin = Pin::new();
        while let Some(pages) = copied_pages.pop_front_if(|pages: &mut CopiedPages| sources::have_ended(pages.graphs)) {
            let_go(&pin, &pages, &budget);
        }
        let run = if now >= calm_from && !STOPPED.load(Relaxed) { next_run(&pin, &ladder, most) } else { None };
        let Some(run) = run else {
            drop(pin);
            thread::sleep_while_at_most(&CHANGES, seen, if copied_pages.is_empty() { TICK } else { SOON });
            continue;
        };
        if !has_room(&budget, &run, &pin) {
            stats::event(Reason::MemoryBudget);
            calm_from = now + PAUSE;
            continue;
        }
        match copy(&pin, &run, &pace) {
            Ok(()) => {
                let (source, graphs) = (run.source.number(), sources::graphs_begun());
                copied_pages.push_back(CopiedPages { source, pages: run.pages, graphs });
            }
            // The pool has fewer pages left: smaller runs use it up to its last page.
            Err(Refusal::Missing(_)) if run.kind == Pages::Huge && run.pages.len() > 1 => most = run.pages.len() / 2,
            Err(Refusal::Missing(reason)) => {
                stats::event(reason);
                ladder.retain(|kind| *kind != run.kind && (*kind != Pages::Transparent || thp_available()));
                most = PAGES;
            }
            Err(Refusal::Gone) => {}
            Err(Refusal::Stop(reason)) => stop(reason),
        }
    }
}

/// The memory limits of this process; in tests, the limits of a machine with plenty of memory.
fn budget() -> Budget {
    #[cfg(test)]
    return super::tests::plenty();
    #[cfg(not(test))]
    Budget::of_this_process()
}

/// The kinds of pages for copies, the largest first.
fn ladder() -> Vec<Pages> {
    match config().huge_pages {
        HugePages::One => vec![Pages::Giant, Pages::Huge, Pages::Transparent],
        HugePages::Two => vec![Pages::Huge, Pages::Transparent],
        HugePages::Auto | HugePages::Thp if thp_available() => vec![Pages::Transparent],
        HugePages::Auto | HugePages::Thp | HugePages::Off => Vec::new(),
    }
}

/// Pages that are copied together.
struct Run {
    source: &'static Source,
    pages: Range<usize>,
    kind: Pages,
}

/// The wanted pages that a graph uses next, as far as they lie side by side. When at least seven eighths of a page of 1
/// GiB are wanted, the run is that whole page.
fn next_run(pin: &Pin, ladder: &[Pages], most: usize) -> Option<Run> {
    let first_of = |source: &'static Source| {
        let fixed = source.fixed(pin);
        let wanted = (0..fixed.count()).filter_map(|i| match fixed.page(i) {
            Page::Wanted(number) => Some((number, i)),
            _ => None,
        });
        wanted.min().map(|(number, i)| (number, i, source))
    };
    let (number, first, source) = pin.sources().filter_map(first_of).min_by_key(|(number, ..)| *number)?;
    let fixed = source.fixed(pin);
    if let Origin::Buffer = fixed.origin {
        return Some(Run { source, pages: first..first + 1, kind: Pages::Transparent });
    }
    if ladder.contains(&Pages::Giant) {
        let giant = first / GIANT * GIANT..(first / GIANT + 1) * GIANT;
        let is = |test: fn(Page) -> bool| giant.clone().filter(|&i| i < fixed.count() && test(fixed.page(i))).count();
        let is_free = is(|page| matches!(page, Page::Wanted(_) | Page::Unused)) == GIANT;
        if is_free && is(|page| matches!(page, Page::Wanted(_))) * 8 >= GIANT * 7 {
            return Some(Run { source, pages: giant, kind: Pages::Giant });
        }
        stats::event_once(Reason::Weights1gInPart);
    }
    let kind = ladder.iter().copied().find(|kind| *kind != Pages::Giant)?;
    let follows = |i: &usize| fixed.page(*i) == Page::Wanted(number + (*i - first) as u32);
    let end = (first + 1..fixed.count().min(first + most)).take_while(follows).last().map_or(first + 1, |i| i + 1);
    Some(Run { source, pages: first..end, kind })
}

fn is_short(budget: &Budget) -> bool {
    budget.pressure().is_high() || budget.spare() == Some(0)
}

/// Whether memory is left for a run. Pages of the hugetlb pool are reserved in any case, and moving a page takes no
/// memory, so these always have room.
fn has_room(budget: &Budget, run: &Run, pin: &Pin) -> bool {
    let is_moved = matches!(run.source.fixed(pin).origin, Origin::Buffer);
    if run.kind != Pages::Transparent || is_moved {
        return true;
    }
    // While other processes wait for memory, a new copy would have to be given back at once.
    budget.spare().is_some_and(|spare| spare >= (run.pages.len() * HUGE_PAGE + RELIEF) as u64)
        && !budget.pressure().is_high()
}

/// Why a run was not copied.
enum Refusal {
    /// The program has unmapped the weights, or ends.
    Gone,
    /// There are not enough pages of this kind.
    Missing(Reason),
    /// The copying cannot go on.
    Stop(Reason),
}

fn copy(pin: &Pin, run: &Run, pace: &Pace) -> Result<(), Refusal> {
    let started = Instant::now();
    let (source, fixed) = (run.source, run.source.fixed(pin));
    let Origin::File { file, offset, bytes, .. } = &fixed.origin else { return place(pin, run) };
    if is_huge_already(pin, run) {
        return Ok(());
    }
    if source.copy() == 0 {
        let align = if config().huge_pages == HugePages::One { GIANT_PAGE } else { HUGE_PAGE };
        let region = Region::reserve(fixed.count() * HUGE_PAGE, align);
        let copy = region.map_err(|_| Refusal::Stop(Reason::CopyOutOfMemory))?.into_range().start;
        log!(debug, "copies of what is mapped at {:#x} lie at {copy:#x}", fixed.base);
        source.set_copy(copy);
    }
    let to = source.copy() + run.pages.start * HUGE_PAGE..source.copy() + run.pages.end * HUGE_PAGE;
    let done = back(&to, run, pin).and_then(|()| {
        let file = Content { file, offset: *offset, end: fixed.start + bytes };
        fill(pin, run, &file, to.start, pace)
    });
    if let Err(refusal) = done {
        if run.pages.clone().all(|i| fixed.page(i) != Page::Lost) {
            // SAFETY: this part of the copy is not marked as copied yet, so no graph reads it.
            unsafe { map::unback(to) };
        }
        return Err(refusal);
    }
    if placement::is_active() {
        // One call for the whole run: a policy for each page would make a mapping of each page.
        placement::keep(to.start, to.len());
    }
    lock_if_the_program_locks(&to)?;
    let copied = |i: &usize| match fixed.page(*i) {
        page @ (Page::Wanted(_) | Page::Unused) => fixed.change(*i, page, Page::Copied(run.kind)),
        _ => false, // the program has unmapped a part meanwhile
    };
    let bytes = run.pages.clone().filter(copied).count() * HUGE_PAGE;
    let [all, rested] = [started.elapsed(), pace.take_rested()].map(|time| time.as_micros() as u64);
    counters::copied(run.kind, bytes, all.saturating_sub(rested), rested);
    Ok(())
}

/// Pages that were just copied.
struct CopiedPages {
    /// Number of the source.
    source: u64,
    pages: Range<usize>,
    /// The number of graphs that had begun by then. These do not know the copy, and still read the program's pages.
    graphs: u64,
}

/// Takes the program's own pages out of the process, since the graphs read the copies now. Another reader gets them
/// from the page cache again. When page cache and copies do not fit in memory together, the pages also leave the page
/// cache.
fn let_go(pin: &Pin, copied: &CopiedPages, budget: &Budget) {
    let Some(source) = pin.numbered(copied.source) else { return };
    if sources::let_go(source, pin, &copied.pages).is_err() {
        stats::event_once(Reason::MemoryLocked);
    }
    let fixed: &Fixed = source.fixed(pin);
    let still = (0..fixed.count()).filter(|&i| matches!(fixed.page(i), Page::Wanted(_))).count() * HUGE_PAGE;
    if budget.spare().is_some_and(|spare| spare < (still + RELIEF) as u64) {
        source.release_cache(pin, &copied.pages);
    }
}

/// The model file of a source.
struct Content<'a> {
    file: &'a MarkedFile,
    /// The offset of the source's first byte in the file.
    offset: u64,
    /// The address behind the last byte of the file.
    end: usize,
}

/// Puts memory at the addresses to which a run is copied.
fn back(to: &Range<usize>, run: &Run, pin: &Pin) -> Result<(), Refusal> {
    if map::count().is_some_and(|n| n > map_count_limit() / 4 * 3) {
        return Err(Refusal::Stop(Reason::TooManyMappings));
    }
    // SAFETY: the addresses are reserved for this copy, and the pages are not marked as copied, so no graph reads them.
    if let Err(NotBacked { error, is_lost }) = unsafe { map::back(to.clone(), run.kind) } {
        log!(debug, "{} MiB at {:#x}: {error}", to.len() >> 20, to.start);
        if is_lost {
            run.pages.clone().for_each(|i| run.source.fixed(pin).lose(i));
        }
        return Err(missing(
            run.kind,
            match run.kind {
                Pages::Giant => Reason::Hugetlb1gMissing,
                _ => Reason::Hugetlb2mMissing,
            },
        ));
    }
    // SAFETY: the range is memory of this copy, which was mapped above.
    if run.kind == Pages::Transparent && unsafe { map::advise(to.clone(), libc::MADV_HUGEPAGE) }.is_err() {
        return Err(Refusal::Stop(Reason::ThpRefused));
    }
    Ok(())
}

fn missing(kind: Pages, reason: Reason) -> Refusal {
    match kind {
        Pages::Transparent => Refusal::Stop(Reason::CopyOutOfMemory),
        Pages::Huge | Pages::Giant => Refusal::Missing(reason),
    }
}

/// Reads a run of pages to `to`, in small steps, so that it does not delay the graphs much.
fn fill(pin: &Pin, run: &Run, content: &Content<'_>, to: usize, pace: &Pace) -> Result<(), Refusal> {
    let (source, fixed) = (run.source, run.source.fixed(pin));
    let not_populated = || missing(run.kind, Reason::HugetlbNotPopulated);
    for i in run.pages.clone() {
        let at = to + (i - run.pages.start) * HUGE_PAGE;
        // The page gets its memory and its content in one step. After a rest, NUMA balancing may move a page to the
        // NUMA node of this thread when it is touched.
        let step = || {
            if (i - run.pages.start).is_multiple_of(run.kind.bytes() / HUGE_PAGE) {
                populate(fixed.base + i * HUGE_PAGE, at..at + run.kind.bytes()).map_err(|_| not_populated())?;
            }
            let wanted = source.bytes_of(pin, &(i..i + 1));
            let wanted = wanted.start..wanted.end.min(content.end);
            if wanted.is_empty() {
                return Ok(());
            }
            let file = content.file.get().ok_or(Refusal::Stop(Reason::FileChanged))?;
            let from = at + (wanted.start - (fixed.base + i * HUGE_PAGE));
            let offset = content.offset + (wanted.start - fixed.start) as u64;
            // SAFETY: the range is memory of this copy. It is not marked as copied yet, so no graph reads it.
            unsafe { map::read_into(from..from + wanted.len(), file.as_raw_fd(), offset) }.map_err(|e| {
                match e.raw_os_error() {
                    Some(libc::EFAULT) => not_populated(),
                    _ => Refusal::Stop(Reason::FileUnreadable),
                }
            })
        };
        pace.step(step, rest)?;
        if ENDING.load(Relaxed) || source.range().is_empty() {
            return Err(Refusal::Gone);
        }
    }
    Ok(())
}

/// Gives a page of the copy its memory, on the NUMA node to which the weights at `address` belong.
fn populate(address: usize, page: Range<usize>) -> std::io::Result<()> {
    // SAFETY: the page is memory of this copy, which `back` has mapped.
    let touch = || unsafe { map::populate(page.clone()) };
    let done = if placement::is_active() { placement::on_its_node(address, &page, touch) } else { touch() };
    match done {
        // Before Linux 5.14 the pages get their memory when they are filled. A failure is an error there too.
        Err(e) if e.kind() == std::io::ErrorKind::Unsupported => Ok(()),
        other => other,
    }
}

/// Moves pages of a buffer of this library to their NUMA node. Their addresses stay the same.
fn place(pin: &Pin, run: &Run) -> Result<(), Refusal> {
    let fixed = run.source.fixed(pin);
    for i in run.pages.clone() {
        placement::move_to_its_node(run.source.bytes_of(pin, &(i..i + 1)));
        fixed.leave(i);
    }
    Ok(())
}

/// Whether the pages of a run are huge pages of the page cache already, and placement would gain nothing either. Such
/// pages are marked, and get no copy.
fn is_huge_already(pin: &Pin, run: &Run) -> bool {
    if run.kind != Pages::Transparent || placement::is_active() {
        return false;
    }
    let (fixed, range) = (run.source.fixed(pin), run.source.bytes_of(pin, &run.pages));
    let huge = PageTable::open().and_then(|table| table.huge_file_pages(range.clone()));
    let bytes = huge.map_or(0, |parts| parts.iter().map(Range::len).sum());
    if bytes == 0 || bytes < range.len() - HUGE_PAGE.min(range.len()) {
        return false;
    }
    counters::cached(run.pages.len() * HUGE_PAGE);
    run.pages.clone().for_each(|i| _ = fixed.leave(i));
    true
}

/// Locks the copy when the program locks memory: such a program wants that its weights are not swapped out. If the
/// process has a limit of locked memory, the copying ends instead, because memory locked here could be missing for the
/// program later.
fn lock_if_the_program_locks(copy: &Range<usize>) -> Result<(), Refusal> {
    if proc::locked_bytes().is_none_or(|bytes| bytes == 0) {
        return Ok(());
    }
    if proc::may_lock_without_limit() && map::lock(copy.clone()).is_ok() {
        return Ok(());
    }
    // SAFETY: this part of the copy is not marked as copied yet, so no graph reads it.
    unsafe { map::unback(copy.clone()) };
    Err(Refusal::Stop(Reason::MemoryLocked))
}

/// Whether the process has nearly as many mappings as it may have. The kernel then answers `ENOMEM` to every call that
/// makes another mapping.
fn mappings_are_exhausted() -> bool {
    map::count().is_some_and(|n| n + 16 >= map_count_limit())
}

fn map_count_limit() -> usize {
    let text = proc::read_text("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(65_530) // the kernel's default
}

/// Waits for this time, or until the process ends.
fn rest(time: Duration) {
    let until = Instant::now() + time;
    loop {
        let seen = CHANGES.load(SeqCst);
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || ENDING.load(Relaxed) {
            return;
        }
        thread::sleep_while_at_most(&CHANGES, seen, left);
    }
}
