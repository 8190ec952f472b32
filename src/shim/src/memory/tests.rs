//! Promotion under fire: readers compare every byte while the mapping is promoted, given back, cut,
//! advised, locked, protected, forked and mapped anew, in random order, against a model of what the
//! address space should hold.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, RwLock};

use libc::c_int;
use zen5turbo_host::memory::Budget;
use zen5turbo_host::memory::map::{HUGE_PAGE, SMALL_PAGE};

use super::promoter::{self, relieve};
use super::{counters, registry, weights};
use crate::exports::mapping;

const BYTES: usize = 12 * HUGE_PAGE + 5 * SMALL_PAGE;
const PAGES: usize = BYTES / SMALL_PAGE;

/// The tests of this file share the registry, as the mappings of a process do.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A model file: the magic, then words that tell where they are. Written so that the page cache may have huge pages at
/// its beginning, which stay, and small ones behind, which are promoted.
fn model() -> std::fs::File {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("zen5turbo-fire-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
    let path = std::env::temp_dir().join(name);
    let mut file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut bytes: Vec<u8> = (0..BYTES / 8).flat_map(|i| word(i).to_le_bytes()).collect();
    bytes[..4].copy_from_slice(b"GGUF");
    let (begin, rest) = bytes.split_at(3 * HUGE_PAGE);
    file.write_all(begin).unwrap();
    rest.chunks(SMALL_PAGE).for_each(|page| file.write_all(page).unwrap());
    file
}

fn word(i: usize) -> u64 {
    (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// xorshift64
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// Pages of the mapping: mostly few, sometimes many.
    fn pages(&mut self) -> std::ops::Range<usize> {
        let first = self.below(PAGES);
        let most = [3, 600, PAGES][self.below(3)];
        first..(first + 1 + self.below(most)).min(PAGES)
    }
}

/// What the address space should hold.
struct Space {
    start: usize,
    mapped: Vec<bool>,
}

impl Space {
    fn map(fd: c_int, flags: c_int) -> Self {
        // SAFETY: a new mapping, through the hook that programs call.
        let p = unsafe { mapping::mmap(std::ptr::null_mut(), BYTES, libc::PROT_READ, flags, fd, 0) };
        assert_ne!(p, libc::MAP_FAILED);
        assert!((p as usize).is_multiple_of(HUGE_PAGE), "placed where huge pages can lie");
        Space { start: p as usize, mapped: vec![true; PAGES] }
    }

    fn address(&self, page: usize) -> usize {
        self.start + page * SMALL_PAGE
    }

    /// Compares a page that is mapped.
    fn check(&self, page: usize) {
        let first = page * SMALL_PAGE / 8;
        // SAFETY: the page is mapped, readable, by the model.
        let words = unsafe { std::slice::from_raw_parts(self.address(page) as *const u64, SMALL_PAGE / 8) };
        for (i, &w) in words.iter().enumerate().skip(usize::from(page == 0)) {
            assert_eq!(w, word(first + i), "page {page}, word {i}");
        }
    }

    /// Compares everything; what is not mapped must be the reservation that `unmap` left.
    fn check_all(&self) {
        (0..PAGES).filter(|&i| self.mapped[i]).for_each(|i| self.check(i));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        for line in maps.lines() {
            let (range, rest) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let [from, to] = [from, to].map(|a| usize::from_str_radix(a, 16).unwrap());
            for i in 0..PAGES {
                if (from..to).contains(&self.address(i)) {
                    assert_eq!(rest.starts_with("r--"), self.mapped[i], "page {i}: {line}");
                }
            }
        }
    }

    /// Unmaps pages and reserves their place, so that nobody else comes to lie there.
    fn unmap(&mut self, pages: std::ops::Range<usize>) {
        let (at, len) = (self.address(pages.start) as *mut _, pages.len() * SMALL_PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: pages of ours, which no reader looks at while the space is borrowed mutably.
        unsafe {
            assert_eq!(mapping::munmap(at, len), 0);
            assert_eq!(libc::syscall(libc::SYS_mmap, at, len, libc::PROT_NONE, flags, -1, 0), at as i64);
        }
        self.mapped[pages].fill(false);
    }

    /// Takes all rights away and gives them back, where every page is mapped. Nobody may read meanwhile.
    fn protect_and_back(&mut self, pages: std::ops::Range<usize>) {
        let (at, len) = (self.address(pages.start) as *mut _, pages.len() * SMALL_PAGE);
        if self.mapped[pages].iter().all(|&m| m) {
            // SAFETY: no reader while the space is borrowed mutably.
            unsafe {
                assert_eq!(mapping::mprotect(at, len, libc::PROT_NONE), 0);
                assert_eq!(mapping::mprotect(at, len, libc::PROT_READ), 0);
            }
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // SAFETY: as in `unmap`.
        assert_eq!(unsafe { mapping::munmap(self.start as *mut _, BYTES) }, 0);
    }
}

/// Anything else on the same range, with readers at work.
fn call(random: &mut Random, space: &Space, pages: std::ops::Range<usize>) {
    let (at, len) = (space.address(pages.start) as *mut libc::c_void, pages.len() * SMALL_PAGE);
    let advice = [
        libc::MADV_DONTNEED,
        libc::MADV_DONTNEED,
        libc::MADV_COLD,
        libc::MADV_PAGEOUT,
        libc::MADV_WILLNEED,
        libc::MADV_RANDOM,
        libc::MADV_HUGEPAGE,
        libc::MADV_DOFORK,
        libc::MADV_DODUMP,
    ];
    // SAFETY: nothing here changes what a reader sees. Failures (a hole in the range) are normal.
    unsafe {
        match random.below(4) {
            0 | 1 => mapping::madvise(at, len, advice[random.below(advice.len())]),
            2 => mapping::mlock(at, len),
            _ => mapping::munlock(at, len),
        };
    }
}

/// A child sees the same bytes, whatever was going on.
fn fork(space: &Space, random: &mut Random) {
    registry::before_fork();
    // SAFETY: the child only compares memory and ends.
    let child = unsafe { libc::fork() };
    registry::after_fork(child == 0);
    if child == 0 {
        for _ in 0..200 {
            let page = random.below(PAGES);
            let first = page * SMALL_PAGE / 8 + 1;
            // SAFETY: mapped, by the model.
            let seen = space.mapped[page].then(|| unsafe { *((space.address(page) + 8) as *const u64) });
            if seen.is_some_and(|w| w != word(first)) {
                // SAFETY: ends the child.
                unsafe { libc::_exit(1) };
            }
        }
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child saw other bytes");
}

fn short_of_memory() -> Budget {
    let root = std::env::temp_dir().join(format!("zen5turbo-short-{}", std::process::id()));
    std::fs::create_dir_all(root.join("proc")).unwrap();
    std::fs::write(root.join("proc/meminfo"), "MemTotal: 1000000 kB\nMemAvailable: 1 kB\n").unwrap();
    Budget::below(&root)
}

#[test]
fn whatever_the_program_does_every_byte_stays_right() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = model();
    let mut random = Random(0x5eed_2026_1121);
    let short = short_of_memory();
    let space = RwLock::new(Space::map(file.as_raw_fd(), libc::MAP_SHARED));
    let (done, compared) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in 1..=3 {
            let (space, done, compared) = (&space, &done, &compared);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !done.load(Relaxed) {
                    let space = space.read().unwrap();
                    for _ in 0..64 {
                        let page = random.below(PAGES);
                        if space.mapped[page] {
                            space.check(page);
                            compared.fetch_add(1, Relaxed);
                        }
                    }
                }
            });
        }
        // Also when an assertion fails here: the readers must end.
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let _ends = Ends(&done);
        for round in 0..4000 {
            let pages = random.pages();
            match random.below(20) {
                0..=8 => {
                    let at = |page| space.read().unwrap().address(page);
                    weights::used(std::iter::once(at(pages.start)..at(pages.end)));
                    weights::graph_ended();
                }
                9..=13 => call(&mut random, &space.read().unwrap(), pages),
                14 => space.write().unwrap().unmap(pages.start..pages.end.min(pages.start + 700)),
                15 => drop(relieve(&mut registry::lock(), &short)),
                16 if round % 4 == 0 => fork(&space.read().unwrap(), &mut random),
                17 => space.write().unwrap().protect_and_back(pages),
                18 => std::thread::sleep(std::time::Duration::from_micros(300)),
                _ => {}
            }
            if round % 100 == 0 {
                space.read().unwrap().check_all();
            }
            if round % 200 == 199 {
                let flags = if round % 400 == 199 { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
                let mut space = space.write().unwrap();
                *space = Space::map(file.as_raw_fd(), flags);
            }
        }
    });
    space.read().unwrap().check_all();
    assert!(compared.load(Relaxed) > 10_000);
    let [promoted, demoted] = counters::totals();
    // Transparent huge pages may be switched off on this machine; then nothing was promoted, rightly.
    if crate::pages::thp_available() {
        assert!(promoted > 20 * HUGE_PAGE as u64 && demoted > HUGE_PAGE as u64, "{promoted} {demoted}");
    }
    drop(space);
    assert!(!registry::any(), "nothing is left registered");
}

/// Programs unmap what they asked for: the length of the file, not of its pages.
#[test]
fn a_model_that_ends_inside_a_page_is_forgotten_when_it_is_unmapped() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = model();
    let len = BYTES - 1000;
    // SAFETY: a new mapping, locked and unmapped again as a program does it.
    unsafe {
        let p = mapping::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert!(p != libc::MAP_FAILED && registry::any());
        assert_eq!(mapping::munmap(p, len), 0);
    }
    assert!(!registry::any());
}

/// What the limit of locked memory refuses is not locked, and may be promoted.
#[test]
fn a_model_counts_as_locked_when_the_kernel_has_locked_it() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = model();
    let space = Space::map(file.as_raw_fd(), libc::MAP_SHARED);
    let locked = || registry::lock().mappings[0].locked;
    // SAFETY: locks change nothing that is read.
    unsafe {
        // More than there is address space.
        assert_ne!(mapping::mlock(space.start as *mut _, usize::MAX / 2), 0);
        assert!(!locked());
        assert_eq!(mapping::mlock(space.start as *mut _, 2 * SMALL_PAGE), 0);
        assert!(locked());
        assert_eq!(mapping::munlock(space.start as *mut _, 2 * SMALL_PAGE), 0);
        assert!(!locked());
    }
}

#[test]
fn only_large_models_mapped_for_reading_are_placed() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let is = |addr, len, prot, flags, fd| weights::may_be_model(addr, len, prot, flags, fd);
    let large = 64 << 20;
    assert!(is(0, large, libc::PROT_READ, libc::MAP_SHARED, 3));
    assert!(!is(0, large, libc::PROT_READ, libc::MAP_SHARED, -1));
    assert!(!is(4096, large, libc::PROT_READ, libc::MAP_SHARED, 3));
    assert!(!is(0, 1 << 20, libc::PROT_READ, libc::MAP_SHARED, 3));
    assert!(!is(0, large, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, 3));
    let other = std::fs::File::open("/proc/self/exe").unwrap();
    assert_eq!(weights::map(large, libc::MAP_SHARED, other.as_raw_fd(), 0), None);
    assert!(!promoter::is_paused() && !registry::any());
}
