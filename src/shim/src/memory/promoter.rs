//! The thread that moves weights onto huge pages while the program reads them.
//!
//! A run of pages is copied from the file into an anonymous region, which then takes the place of
//! the file's pages in one system call: who reads there sees the old pages or the new ones, with the
//! same bytes. Nothing here is needed for a right answer; whatever is refused ends the promotion and
//! is counted, and the program reads the file as before.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use zen5turbo_host::memory::map::{HUGE_PAGE, Pages, Region};
use zen5turbo_host::memory::page_cache::{self, PageTable};
use zen5turbo_host::memory::{Budget, map};

use super::counters;
use super::mapping::{ModelFile, Page};
use super::pace::Pace;
use super::registry::{self, Locked, Registry};
use crate::config::config;
use crate::log::log;
use crate::pages::{HugePages, thp_available};
use crate::placement;
use crate::reason::Reason;
use crate::startup::guarded;
use crate::stats;

/// Most bytes that are moved at once: what the promotion needs beside its result.
const RUN: usize = if cfg!(test) { 4 << 20 } else { 32 << 20 };

/// Most runs, as a share of the mappings a process may have (`vm.max_map_count`): each is one.
const SHARE_OF_MAPPINGS: usize = 4;

/// How often the pressure on memory is looked at while pages are promoted or waiting.
const TICK: Duration = Duration::from_secs(2);

/// How long nothing is promoted after memory was short.
const PAUSE: Duration = Duration::from_secs(60);

/// Given back at once when memory is short.
const RELIEF: usize = 256 << 20;

/// Memory was short a moment ago.
static PAUSED: AtomicBool = AtomicBool::new(false);

/// The thread is to end: the process does, or pages cannot be given back. No lock is needed to say
/// so, since `exit` may be called in a signal handler, above a hook that holds it.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Whether no pages are to be queued now.
pub fn is_paused() -> bool {
    PAUSED.load(Relaxed)
}

/// Has the queue worked off, by a thread that is started the first time.
pub fn start() {
    let mut locked = registry::lock();
    if locked.stopped || locked.running {
        registry::signal();
        return;
    }
    locked.running = true;
    drop(locked);
    // Here and not in the thread: a child forked while that asks the kernel would wait for its answer for ever.
    let ladder = ladder();
    if !zen5turbo_host::thread::spawn_in_background("zen5turbo", || guarded((), || work(ladder))) {
        stop(Reason::PromoterNotStarted);
    }
}

/// Ends the promotion for good. What is promoted stays so until memory is short.
fn stop(reason: Reason) {
    let refused = matches!(reason, Reason::PromotionOutOfMemory | Reason::MoveRefused);
    let reason = if refused && mappings_are_exhausted() { Reason::TooManyMappings } else { reason };
    stats::event(reason);
    log!(info, "weights are not moved to huge pages any more: {}", reason.as_str());
    registry::lock().stop();
}

/// At exit: the thread ends after the run that it is working on.
pub fn stop_at_exit() {
    ENDING.store(true, Relaxed);
    registry::signal();
}

/// A run of pages to be replaced.
struct Run {
    mapping: u64,
    pages: Range<usize>,
    file: Arc<ModelFile>,
    /// In the file.
    offset: u64,
    target: usize,
    kind: Pages,
}

impl Run {
    fn bytes(&self) -> usize {
        self.pages.len() * HUGE_PAGE
    }
}

fn work(mut ladder: Vec<Pages>) {
    let budget = Budget::of_this_process();
    let pace = Pace::new();
    let most_runs = map_count_limit() / SHARE_OF_MAPPINGS;
    let page_table = PageTable::open().ok();
    let mut most = RUN;
    let mut calm_from = Instant::now();
    let mut locked = registry::lock();
    loop {
        if ENDING.load(Relaxed) {
            locked.running = false;
            return;
        }
        if ladder.is_empty() {
            locked.stop();
        }
        let now = Instant::now();
        PAUSED.store(now < calm_from, Relaxed);
        if relieve(&mut locked, &budget) {
            calm_from = now + PAUSE;
        }
        let calm = now >= calm_from;
        let run = if calm { next_run(&mut locked, &ladder, most, page_table.as_ref()) } else { None };
        let Some(run) = run else {
            let nothing_to_give_back = locked.mappings.iter().all(|m| m.last_transparent().is_none());
            if locked.stopped && nothing_to_give_back {
                locked.running = false;
                return;
            }
            let idle = calm && locked.queue.is_empty() && nothing_to_give_back;
            locked = registry::wait(locked, (!idle).then_some(TICK));
            continue;
        };
        let runs: usize = locked.mappings.iter().map(|m| m.runs).sum();
        drop(locked);
        // The memory of the pool is nobody else's, taken or not.
        let is_shared = run.kind == Pages::Transparent;
        let spare = if is_shared { budget.spare().unwrap_or(0) } else { u64::MAX };
        // While somebody waits for memory, what is taken now would have to be given back at once.
        if spare < (run.bytes() + RELIEF) as u64 || is_shared && budget.pressure().is_high() {
            put_back(&run);
            stats::event(Reason::MemoryBudget);
            calm_from = now + PAUSE;
        } else if runs >= most_runs {
            stop(Reason::TooManyMappings);
        } else {
            match promote(&run, &pace) {
                Ok(()) => release_cache(&run, spare),
                // The rest of the pool, down to its last page.
                Err(Refusal::Missing(_)) if run.kind == Pages::Huge && run.pages.len() > 1 => {
                    put_back(&run);
                    most = run.bytes() / 2;
                }
                Err(Refusal::Missing(reason) | Refusal::Unusable(reason)) => {
                    put_back(&run);
                    stats::event(reason);
                    step_down(&mut ladder, run.kind);
                    most = RUN;
                }
                Err(Refusal::Changed) => {}
                Err(Refusal::Stop(reason)) => stop(reason),
            }
        }
        locked = registry::lock();
    }
}

/// The kinds of pages to be used, the largest first; none when there are none to be had.
fn ladder() -> Vec<Pages> {
    match config().huge_pages {
        HugePages::One => vec![Pages::Giant, Pages::Huge, Pages::Transparent],
        HugePages::Two => vec![Pages::Huge, Pages::Transparent],
        HugePages::Auto | HugePages::Thp if thp_available() => vec![Pages::Transparent],
        HugePages::Auto | HugePages::Thp | HugePages::Off => Vec::new(),
    }
}

/// Takes a kind off the ladder that there is no more of. The other ones stay: with no page of 2 MiB left, 1 GiB still
/// has pages of its own.
fn step_down(ladder: &mut Vec<Pages>, kind: Pages) {
    ladder.retain(|k| *k != kind && (*k != Pages::Transparent || kind != Pages::Huge || thp_available()));
}

/// Whether the process has about as many mappings as it may have: then the kernel says `ENOMEM` to
/// whatever makes one more.
fn mappings_are_exhausted() -> bool {
    map::count().is_some_and(|n| n + 16 >= map_count_limit())
}

fn map_count_limit() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(65_530) // the kernel's default
}

/// Takes the next run off the queue: consecutive pages, of at most about so many bytes. Of 1 GiB
/// pages: whole ones, and where only a part of one is wanted, smaller pages, if there are any.
fn next_run(registry: &mut Registry, ladder: &[Pages], most: usize, page_table: Option<&PageTable>) -> Option<Run> {
    let giants = ladder.first()? == &Pages::Giant;
    let small = ladder.iter().find(|kind| **kind != Pages::Giant);
    loop {
        let (number, first) = registry.queue.pop_front()?;
        let Some(mapping) = registry.mappings.iter().find(|m| m.number == number) else { continue };
        if mapping.page(first) != Page::Wanted {
            continue;
        }
        let mut run = Run {
            mapping: number,
            pages: first..first + 1,
            file: mapping.file.clone(),
            offset: 0,
            target: 0,
            kind: Pages::Giant,
        };
        let giant = mapping.giant_page_of(first).filter(|pages| giants && mapping.all_wanted(pages.clone()));
        if let Some(pages) = giant {
            run.pages = pages;
        } else {
            if giants {
                stats::event_once(Reason::Weights1gInPart);
            }
            let Some(&kind) = small else { continue };
            run.kind = kind;
            while run.bytes() < most
                && registry.queue.front() == Some(&(number, run.pages.end))
                && mapping.page(run.pages.end) == Page::Wanted
            {
                registry.queue.pop_front();
                run.pages.end += 1;
            }
        }
        if run.kind == Pages::Transparent && !placement::is_active() {
            leave_cached(registry, &mut run, page_table);
            if run.pages.is_empty() {
                continue;
            }
        }
        let mapping = registry.by_number(number)?;
        run.target = mapping.address(run.pages.start);
        run.offset = mapping.offset + (run.target - mapping.range.start) as u64;
        return Some(run);
    }
}

/// Cuts a run down to its first pages that are not huge pages of the page cache already: those are left, and what
/// follows waits again.
fn leave_cached(registry: &mut Registry, run: &mut Run, page_table: Option<&PageTable>) {
    let Some(mapping) = registry.by_number(run.mapping) else { return };
    let range = mapping.address(run.pages.start)..mapping.address(run.pages.end);
    let Some(Ok(huge)) = page_table.map(|table| table.huge_file_pages(range)) else { return };
    let is_huge = |i: &usize| huge.iter().any(|part| part.contains(&mapping.address(*i)));
    let (cached, others): (Vec<usize>, Vec<usize>) = run.pages.clone().partition(is_huge);
    counters::cached(cached.len() * HUGE_PAGE);
    cached.iter().for_each(|&i| mapping.set(i..i + 1, Page::Cached));
    let first = others.first().copied().unwrap_or(run.pages.end);
    let end = cached.into_iter().find(|&i| i > first).unwrap_or(run.pages.end);
    run.pages = first..end;
    for i in others.into_iter().rev().take_while(|&i| i >= end) {
        registry.queue.push_front((run.mapping, i));
    }
}

/// The pages of a run wait again.
fn put_back(run: &Run) {
    let mut locked = registry::lock();
    for i in run.pages.clone().rev() {
        locked.queue.push_front((run.mapping, i));
    }
}

/// Why a run was not promoted.
enum Refusal {
    /// The program has changed the mapping meanwhile, or ends.
    Changed,
    /// There are not so many pages of this kind (any more).
    Missing(Reason),
    /// Pages of this kind cannot be used here.
    Unusable(Reason),
    /// It is no use to go on.
    Stop(Reason),
}

fn promote(run: &Run, pace: &Pace) -> Result<(), Refusal> {
    let started = Instant::now();
    if !run.file.is_the_same() {
        return Err(Refusal::Stop(Reason::FileChanged));
    }
    let region = filled(run, pace)?;
    let mut locked = registry::lock();
    let Some(mapping) = locked.by_number(run.mapping) else { return Err(Refusal::Changed) };
    if !mapping.all_wanted(run.pages.clone()) {
        return Err(Refusal::Changed);
    }
    if mapping.locked && region.lock().is_err() {
        return Err(Refusal::Stop(Reason::LockRefused));
    }
    // SAFETY: the registry is locked, so the program has these pages mapped, read-only and as the
    // file's; the region holds the same bytes.
    match unsafe { region.move_to(run.target) } {
        Ok(()) => {
            mapping.set(run.pages.clone(), Page::Promoted(run.kind));
            mapping.runs += 1;
        }
        Err((error, region)) => {
            // The kernel may have made room already: the readers need the file's pages back.
            // SAFETY: as above.
            if !unsafe { mapping.map_file(run.pages.clone()) } {
                // Nothing but the copy is left to read from.
                // SAFETY: as above.
                let moved = unsafe { region.move_to(run.target) }.is_ok();
                log!(info, "moving {:#x} failed twice, the second time {moved}", run.target);
            }
            log!(info, "mremap to {:#x}: {error}", run.target);
            // Before Linux 5.16 pages of the pool cannot be moved.
            let refusal = if run.kind == Pages::Transparent { Refusal::Stop } else { Refusal::Unusable };
            return Err(refusal(Reason::MoveRefused));
        }
    }
    drop(locked);
    let [all, rested] = [started.elapsed(), pace.take_rested()].map(|time| time.as_micros() as u64);
    counters::promoted(run.kind, run.bytes(), all.saturating_sub(rested), rested);
    Ok(())
}

/// A region with the run's bytes, made in steps that the graphs can bear.
fn filled(run: &Run, pace: &Pace) -> Result<Region, Refusal> {
    let missing = |reason| match run.kind {
        Pages::Transparent => Refusal::Stop(Reason::PromotionOutOfMemory),
        Pages::Huge | Pages::Giant => Refusal::Missing(reason),
    };
    let not_populated = || missing(Reason::HugetlbNotPopulated);
    let Ok(mut region) = Region::new(run.bytes(), run.kind) else {
        let giant = run.kind == Pages::Giant;
        return Err(missing(if giant { Reason::Hugetlb1gMissing } else { Reason::Hugetlb2mMissing }));
    };
    if run.kind == Pages::Transparent && region.advise(libc::MADV_HUGEPAGE).is_err() {
        return Err(Refusal::Stop(Reason::ThpRefused));
    }
    // A file's pages are not in a core dump; these would be.
    let _ = region.advise(libc::MADV_DONTDUMP);
    for page in parts(0..run.bytes(), run.kind.bytes()) {
        for part in parts(page.clone(), HUGE_PAGE) {
            // Filled at once: what is touched after a rest, NUMA balancing may move to where this thread runs.
            let step = || {
                if part.start == page.start {
                    populate(&region, run, page.clone()).or_else(not_needed).map_err(|_| not_populated())?;
                }
                let filled = region.fill(part.clone(), run.file.fd.as_fd(), run.offset + part.start as u64);
                filled.map_err(|e| match e.raw_os_error() {
                    Some(libc::EFAULT) => not_populated(),
                    _ => Refusal::Stop(Reason::FileUnreadable),
                })
            };
            pace.step(step, rest)?;
            if ENDING.load(Relaxed) {
                return Err(Refusal::Changed);
            }
        }
    }
    // Once for all of it: by parts the region would be several mappings, which cannot be moved together, and the
    // attempt would unmap the target first.
    if placement::is_active() {
        placement::keep(region.range().start, run.bytes());
    }
    Ok(region)
}

/// Before Linux 5.14 the pages get their memory as they are filled, which fails as cleanly.
fn not_needed(e: std::io::Error) -> std::io::Result<()> {
    if e.kind() == std::io::ErrorKind::Unsupported { Ok(()) } else { Err(e) }
}

/// A range cut into parts of `bytes`, of which it is a multiple.
fn parts(range: Range<usize>, bytes: usize) -> impl Iterator<Item = Range<usize>> {
    range.step_by(bytes).map(move |at| at..at + bytes)
}

/// Gives a part of the run its memory, on the node that it belongs to.
fn populate(region: &Region, run: &Run, part: Range<usize>) -> std::io::Result<()> {
    if !placement::is_active() {
        return region.populate_part(part);
    }
    placement::on_its_node(run.target + part.start, part.len(), || region.populate_part(part))
}

/// Waits, unless the process ends meanwhile.
fn rest(time: Duration) {
    let until = Instant::now() + time;
    let mut locked = registry::lock();
    while !ENDING.load(Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        locked = registry::wait(locked, Some(left));
    }
}

/// When the rest of the queue and the page cache do not fit in memory together, the kernel is told
/// that these pages of the file are not needed here any more.
fn release_cache(run: &Run, spare: u64) {
    let rest = registry::lock().queue.len() * HUGE_PAGE;
    if spare < (rest + RELIEF) as u64 {
        page_cache::release_cache(run.file.fd.as_fd(), run.offset, run.bytes() as u64);
    }
}

/// Gives pages back when memory is short; true when it is. Those of the hugetlb pool would help nobody.
pub fn relieve(locked: &mut Locked, budget: &Budget) -> bool {
    if locked.mappings.iter().all(|m| m.last_transparent().is_none()) {
        return false;
    }
    if !budget.pressure().is_high() && budget.spare() != Some(0) {
        return false;
    }
    let mut bytes = 0;
    while bytes < RELIEF {
        // Those promoted last are used last in a graph.
        let last = locked.mappings.iter_mut().rev().find_map(|m| m.last_transparent().map(|i| (m, i)));
        let Some((mapping, i)) = last else { break };
        // SAFETY: the registry is locked, and its mappings are this process's.
        let given = unsafe { mapping.demote(i..i + 1, Page::File) };
        if given == 0 {
            ENDING.store(true, Relaxed); // the file cannot be mapped: leave everything as it is
            break;
        }
        bytes += given;
    }
    counters::demoted(bytes);
    stats::event(Reason::MemoryPressure);
    log!(info, "memory is short: {} MiB of weights are the file's again", bytes >> 20);
    true
}
