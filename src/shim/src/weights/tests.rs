//! Checks copies of weights while everything changes. Readers compare every byte of the pages that are marked as
//! copied, as the threads of graphs read them. Meanwhile, in random order, the mapping is cut, unmapped and mapped
//! again, the process forks, and copies are made and given back.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, RwLock};

use libc::c_int;
use zen5turbo_host::memory::Budget;
use zen5turbo_host::memory::map::{HUGE_PAGE, SMALL_PAGE};

use super::sources::{self, Pin};
use super::{copier, copies, counters, reader};
use crate::exports::mapping;

const BYTES: usize = 12 * HUGE_PAGE + 5 * SMALL_PAGE;
const PAGES: usize = BYTES / SMALL_PAGE;

/// The tests of this file share the table of sources, as the mappings of a process do.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A model file: the magic bytes, then words whose values depend on their position.
fn model() -> std::fs::File {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("zen5turbo-fire-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
    let path = std::env::temp_dir().join(name);
    let mut file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut bytes: Vec<u8> = (0..BYTES / 8).flat_map(|i| word(i).to_le_bytes()).collect();
    bytes[..4].copy_from_slice(b"GGUF");
    // Written in small pages, so that the page cache has no huge pages, which would not be copied.
    bytes.chunks(SMALL_PAGE).for_each(|page| file.write_all(page).unwrap());
    file
}

fn word(i: usize) -> u64 {
    (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A random range of pages of the mapping: mostly few, sometimes many.
fn some_pages(random: &mut fastrand::Rng) -> std::ops::Range<usize> {
    let first = random.usize(..PAGES);
    let most = [3, 600, PAGES][random.usize(..3)];
    first..(first + 1 + random.usize(..most)).min(PAGES)
}

/// A mapped model, and which of its small pages are still mapped.
struct Space {
    start: usize,
    mapped: Vec<bool>,
}

impl Space {
    fn map(fd: c_int, flags: c_int) -> Self {
        // SAFETY: the kernel chooses the address of the new mapping, so nothing is replaced.
        let p = unsafe { mapping::mmap(std::ptr::null_mut(), BYTES, libc::PROT_READ, flags, fd, 0) };
        assert_ne!(p, libc::MAP_FAILED);
        Space { start: p as usize, mapped: vec![true; PAGES] }
    }

    fn range(&self, pages: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        self.start + pages.start * SMALL_PAGE..self.start + pages.end * SMALL_PAGE
    }

    /// Compares some pages as a graph would read them: the copy if they are copied, else the program's own. Returns
    /// whether they were copied.
    fn check(&self, pages: std::ops::Range<usize>, pin: Option<&Pin>) -> bool {
        if !self.mapped[pages.clone()].iter().all(|&m| m) {
            return false;
        }
        let range = self.range(&pages);
        let distance = pin.and_then(|pin| pin.find(&range)?.distance(pin, &range));
        let at = range.start.wrapping_add(distance.unwrap_or(0));
        let first = pages.start * SMALL_PAGE / 8;
        // SAFETY: the pages are mapped, as checked above. If they are copied, the pin keeps the copy.
        let words = unsafe { std::slice::from_raw_parts(at as *const u64, range.len() / 8) };
        for (i, &w) in words.iter().enumerate().skip(usize::from(first == 0)) {
            assert_eq!(w, word(first + i), "page {}, word {i}, copy {distance:?}", pages.start);
        }
        distance.is_some()
    }

    /// Unmaps pages, and maps memory with other bytes there.
    fn unmap(&mut self, pages: std::ops::Range<usize>) {
        let range = self.range(&pages);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the pages belong to this space. No reader uses them, because the space is borrowed mutably.
        unsafe {
            assert_eq!(mapping::munmap(range.start as *mut _, range.len()), 0);
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::syscall(libc::SYS_mmap, range.start, range.len(), prot, flags, -1, 0);
            assert_eq!(at, range.start as i64);
            std::ptr::write_bytes(range.start as *mut u8, 0x55, range.len());
        }
        self.mapped[pages].fill(false);
    }

    /// Checks that the memory that `unmap` has put there still has its bytes.
    fn check_others(&self) {
        for i in (0..PAGES).filter(|&i| !self.mapped[i]) {
            let range = self.range(&(i..i + 1));
            // SAFETY: `unmap` has mapped this page.
            let bytes = unsafe { std::slice::from_raw_parts(range.start as *const u8, SMALL_PAGE) };
            assert!(bytes.iter().all(|&b| b == 0x55), "page {i}");
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this space, which nobody else uses any more.
        assert_eq!(unsafe { mapping::munmap(self.start as *mut _, BYTES) }, 0);
    }
}

/// Checks that a forked child sees the same bytes and no copies.
fn fork(space: &Space, random: &mut fastrand::Rng) {
    // SAFETY: the child only compares memory and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        sources::forget_in_child();
        copier::forget_in_child();
        reader::forget_in_child();
        let pin = Pin::for_graph();
        let all_right = (0..200).all(|_| {
            let page = random.usize(..PAGES);
            let range = space.range(&(page..page + 1));
            let copied = pin.as_ref().is_some_and(|pin| pin.find(&range).is_some());
            // SAFETY: the page is read only if it is still mapped.
            !copied
                && (!space.mapped[page]
                    || unsafe { *((range.start + 8) as *const u64) } == word(page * SMALL_PAGE / 8 + 1))
        });
        // SAFETY: _exit has no preconditions.
        unsafe { libc::_exit(i32::from(!all_right)) };
    }
    let mut status = 0;
    // SAFETY: `child` is the process that was just forked, and `status` lives during the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child saw other bytes");
}

/// The budget of a machine with plenty of memory, where no process waits for memory.
pub fn plenty() -> Budget {
    let root = std::env::temp_dir().join(format!("zen5turbo-plenty-{}", std::process::id()));
    std::fs::create_dir_all(root.join("proc")).unwrap();
    std::fs::write(root.join("proc/meminfo"), "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n").unwrap();
    Budget::below(&root)
}

/// Does what a graph of one thread does that uses these pages.
fn graph(space: &Space, pages: &std::ops::Range<usize>) {
    let pin = Pin::for_graph();
    if let Some(pin) = &pin {
        copies::want(pin, std::iter::once(space.range(pages)), |_| None);
    }
    space.check(pages.clone(), pin.as_ref());
    drop(pin);
    copies::graph_ended();
}

#[test]
fn whatever_the_program_does_every_byte_is_right() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = model();
    let mut random = fastrand::Rng::with_seed(0x5eed_2026_1121);
    let space = RwLock::new(Space::map(file.as_raw_fd(), libc::MAP_SHARED));
    let (done, copied) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in 1..=3 {
            let (space, done, copied) = (&space, &done, &copied);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                while !done.load(Relaxed) {
                    let space = space.read().unwrap();
                    let pin = Pin::for_graph();
                    for _ in 0..16 {
                        let first = random.usize(..PAGES);
                        let pages = first..(first + 1 + random.usize(..8)).min(PAGES);
                        copied.fetch_add(usize::from(space.check(pages, pin.as_ref())), Relaxed);
                    }
                }
            });
        }
        // The readers must end even when an assertion fails here.
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let _ends = Ends(&done);
        for round in 0..3000 {
            let pages = some_pages(&mut random);
            match random.u32(..16) {
                0..=8 => graph(&space.read().unwrap(), &pages),
                9 if round % 50 == 0 => space.write().unwrap().unmap(pages),
                10 => space.write().unwrap().unmap(pages.start..(pages.start + 2).min(pages.end)),
                11 => {
                    sources::give_back(4 * HUGE_PAGE);
                    sources::sweep();
                }
                12 if round % 4 == 0 => fork(&space.read().unwrap(), &mut random),
                13 => std::thread::sleep(std::time::Duration::from_micros(500)),
                _ => {}
            }
            if round % 100 == 0 {
                let space = space.read().unwrap();
                space.check_others();
                for i in 0..PAGES {
                    space.check(i..i + 1, None);
                }
            }
            if round % 200 == 199 {
                let flags = if round % 400 == 199 { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
                let mut space = space.write().unwrap();
                *space = Space::map(file.as_raw_fd(), flags);
            }
        }
    });
    let [all, freed] = counters::totals();
    // If transparent huge pages are off on this machine, nothing must be copied.
    if crate::pages::thp_available() {
        assert!(all > 20 * HUGE_PAGE as u64 && freed > HUGE_PAGE as u64, "{all} {freed}");
        assert!(copied.load(Relaxed) > 100, "{}", copied.load(Relaxed));
    }
    drop(space);
    nothing_is_left();
}

/// Waits until nobody has a pin.
fn nothing_is_left() {
    for _ in 0..1000 {
        sources::sweep();
        let [copied, freed] = counters::totals();
        if Pin::new().sources().next().is_none() && sources::copied() == [0; 2] && copied == freed {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("something is still registered, or is not counted as freed: {:?}", counters::totals());
}

/// Programs unmap the length of the file, which is not a multiple of the page size.
#[test]
fn a_model_that_ends_inside_a_page_is_forgotten_when_it_is_unmapped() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = model();
    let len = BYTES - 1000;
    // SAFETY: the kernel chooses the address of the new mapping, and only this test uses it.
    unsafe {
        let p = mapping::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert!(p != libc::MAP_FAILED && Pin::new().find(&(p as usize..p as usize + 1)).is_some());
        assert_eq!(mapping::munmap(p, len), 0);
    }
    nothing_is_left();
}

#[test]
fn only_large_models_mapped_for_reading_are_placed() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let is = |addr, len, prot, flags, fd| super::mapping::may_be_model(addr, len, prot, flags, fd);
    let large = 64 << 20;
    assert!(is(0, large, libc::PROT_READ, libc::MAP_SHARED, 3));
    assert!(!is(0, large, libc::PROT_READ, libc::MAP_SHARED, -1));
    assert!(!is(4096, large, libc::PROT_READ, libc::MAP_SHARED, 3));
    assert!(!is(0, 1 << 20, libc::PROT_READ, libc::MAP_SHARED, 3));
    assert!(!is(0, large, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, 3));
    let other = std::fs::File::open("/proc/self/exe").unwrap();
    assert_eq!(super::mapping::map(large, libc::MAP_SHARED, other.as_raw_fd(), 0), None);
}
