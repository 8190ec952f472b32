//! Large copies by non-temporal stores, if this was measured to be faster than libc's copy.
//!
//! The measurement uses copies that the program makes anyway. Its first large copies are split into chunks, which libc
//! and the streaming copy make in turn, and the medians of their times decide. Chunks with page faults do not count.
//! The answer is kept in a file for the next process.

use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::time::Instant;

use zen5turbo_host::{Caches, usage};
use zen5turbo_kernels::copy::stream;
use zen5turbo_kernels::isa::avx2::Avx2;

use crate::config::{Threshold, config};
use crate::gate::guard;
use crate::gate::state;
use crate::loader::symbols::{function, next, next_version};
use crate::log::log;
use crate::reason::Reason;
use crate::stats;

/// The values that the trampolines read, in one cache line that holds nothing else.
#[repr(C, align(64))]
pub struct FastPath {
    /// Copies of at least this many bytes go to the functions here: 0 at first, `usize::MAX` for none.
    pub large: AtomicUsize,
    /// The original `memcpy`, null until the constructor has run; the next fields are the other originals.
    pub memcpy: AtomicPtr<c_void>,
    pub memmove: AtomicPtr<c_void>,
    /// `__memmove_chk`.
    checked: AtomicPtr<c_void>,
}

const fn unknown() -> AtomicPtr<c_void> {
    AtomicPtr::new(std::ptr::null_mut())
}

/// See [`FastPath`].
pub static FAST_PATH: FastPath =
    FastPath { large: AtomicUsize::new(0), memcpy: unknown(), memmove: unknown(), checked: unknown() };

/// Whether large copies are streamed. While this is false, they are measured.
static DECIDED: AtomicBool = AtomicBool::new(false);

/// Whether this process has measured the answer, so that it must be written to the file.
static NEW: AtomicBool = AtomicBool::new(false);

type Copy = unsafe extern "C-unwind" fn(*mut c_void, *const c_void, usize) -> *mut c_void;

/// Finds the originals. From then on the trampolines jump to them.
pub fn init_once() {
    let (Some(memcpy), Some(memmove)) = (next(c"memcpy"), next(c"memmove")) else { return };
    // A program may be bound to the first version of memcpy (GLIBC_2.2.5), which behaves as memmove. So if memcpy is
    // glibc's, memmove serves both; it is the same code on x86-64. The first version itself is not used: it is a
    // fallback without wide registers (glibc 2.36: 1 KiB in 17.7 ns, memmove 11.4 ns).
    let newest = next_version(c"memcpy", c"GLIBC_2.14");
    let memcpy = if newest == Some(memcpy) { memmove } else { memcpy };
    FAST_PATH.checked.store(next(c"__memmove_chk").unwrap_or_default(), Relaxed);
    FAST_PATH.memcpy.store(memcpy, Relaxed);
    FAST_PATH.memmove.store(memmove, Release);
    FAST_PATH.large.store(usize::MAX, Release);
}

/// Lets large copies be streamed or, if no answer is known yet, measured; as the configuration says.
pub fn activate() {
    if FAST_PATH.large.load(Acquire) == 0 || Avx2::new().is_none() {
        return;
    }
    match config().memcpy {
        Threshold::Off => {}
        Threshold::Bytes(bytes) => {
            DECIDED.store(true, Relaxed);
            FAST_PATH.large.store(bytes, Release);
        }
        Threshold::Auto => match recall() {
            Some(true) => {
                DECIDED.store(true, Relaxed);
                FAST_PATH.large.store(worth_trying(), Release);
            }
            Some(false) => stats::event(Reason::LibcCopyIsFaster),
            None => {
                extern "C" fn at_exit() {
                    guard::guarded((), remember);
                }
                // SAFETY: `at_exit` stays loaded, because this library is never unloaded (`-z nodelete`).
                unsafe { libc::atexit(at_exit) };
                FAST_PATH.large.store(worth_trying(), Release);
            }
        },
    }
}

/// The smallest copy that `auto` streams: half of the last-level cache, so that source and destination together fill
/// it. The data of a smaller copy may be in the cache, and streaming is slower then. EPYC (Zen 4, L3 32 MiB),
/// 2026-11-21, GB/s of one block that is copied and read repeatedly, by libc and streamed: 8 MiB 20.7 and 15.5, 16 MiB
/// 10.5 and 11.7, 32 MiB 7.0 and 8.4.
fn worth_trying() -> usize {
    (Caches::detect().l3 / 2).max(2 * CHUNK)
}

/// A copy of [`FastPath::large`] bytes or more.
///
/// # Safety
/// The conditions of `memmove`.
pub unsafe extern "C-unwind" fn copy(dst: *mut c_void, src: *const c_void, n: usize) -> *mut c_void {
    // SAFETY: the address is that of the original `memmove`. The trampoline has checked that it is not null.
    let original: Copy = unsafe { function(FAST_PATH.memmove.load(Relaxed)) };
    let distance = (dst as usize).abs_diff(src as usize);
    let large = FAST_PATH.large.load(Acquire);
    let avx2 = if distance < n || n < large || large == 0 { None } else { Avx2::new() };
    let Some(avx2) = avx2 else {
        // SAFETY: the original is called with its own arguments.
        return unsafe { original(dst, src, n) };
    };
    if DECIDED.load(Relaxed) {
        // SAFETY: both ranges hold `n` bytes, by the contract of this function. They do not overlap: `distance` is `n`
        // at least.
        guard::committed(|| unsafe { stream(avx2, dst.cast(), src.cast(), n) });
        let [count, bytes] = &stats::counters().copies.streamed;
        count.fetch_add(1, Relaxed);
        bytes.fetch_add(n as u64, Relaxed);
    } else {
        // SAFETY: both ranges hold `n` bytes, by the contract of this function. They do not overlap: `distance` is `n`
        // at least.
        guard::committed(|| unsafe { measure(avx2, original, dst.cast(), src.cast(), n) });
    }
    dst
}

/// A checked copy whose destination is too small: the original `__memmove_chk` ends the program.
///
/// # Safety
/// The conditions of the original.
pub unsafe extern "C-unwind" fn overflow(dst: *mut c_void, src: *const c_void, n: usize, room: usize) -> *mut c_void {
    let original = FAST_PATH.checked.load(Relaxed);
    if !original.is_null() {
        type Checked = unsafe extern "C-unwind" fn(*mut c_void, *const c_void, usize, usize) -> *mut c_void;
        // SAFETY: the original with its own arguments.
        unsafe { function::<Checked>(original)(dst, src, n, room) };
    }
    // SAFETY: abort has no preconditions.
    unsafe { libc::abort() }
}

/// Bytes of a chunk, which is timed by itself: about 0.4 ms.
const CHUNK: usize = 4 << 20;

/// How many chunks without page faults are timed for each of the two copies.
const SAMPLES: usize = 7;

struct Samples {
    count: AtomicUsize,
    ns: [AtomicU64; SAMPLES],
}

static LIBC: Samples = Samples { count: AtomicUsize::new(0), ns: [const { AtomicU64::new(0) }; SAMPLES] };
static STREAM: Samples = Samples { count: AtomicUsize::new(0), ns: [const { AtomicU64::new(0) }; SAMPLES] };

impl Samples {
    fn add(&self, ns: u64) {
        if let Some(slot) = self.ns.get(self.count.load(Relaxed)) {
            slot.store(ns, Relaxed);
            self.count.fetch_add(1, Release);
        }
    }

    /// The median; `None` before there are [`SAMPLES`] times.
    fn median(&self) -> Option<u64> {
        let mut ns = [0; SAMPLES];
        if self.count.load(Acquire) < SAMPLES {
            return None;
        }
        for (to, from) in ns.iter_mut().zip(&self.ns) {
            *to = from.load(Relaxed);
        }
        ns.sort_unstable();
        Some(ns[SAMPLES / 2])
    }
}

/// Copies in chunks, by libc and streamed in turn. Decides when both have enough times.
unsafe fn measure(avx2: Avx2, original: Copy, dst: *mut u8, src: *const u8, n: usize) {
    stats::counters().copies.measured.fetch_add(1, Relaxed);
    let mut at = 0;
    let mut streaming = false;
    while at < n {
        let len = CHUNK.min(n - at);
        let (faults, start) = (usage::thread_faults(), Instant::now());
        // SAFETY: the next part of two ranges that do not overlap.
        unsafe {
            if streaming {
                stream(avx2, dst.add(at), src.add(at), len);
            } else {
                original(dst.add(at).cast(), src.add(at).cast(), len);
            }
        }
        let ns = start.elapsed().as_nanos() as u64;
        if len == CHUNK && faults == usage::thread_faults() {
            if streaming { &STREAM } else { &LIBC }.add(ns);
        }
        streaming = !streaming;
        at += len;
    }
    if let (Some(libc), Some(streamed)) = (LIBC.median(), STREAM.median()) {
        decide(libc, streamed);
    }
}

/// Whether streaming is faster by a tenth at least. It must be, because the next reader of the data does not find it in
/// a cache.
fn wins(libc: u64, streamed: u64) -> bool {
    streamed * 10 <= libc * 9
}

fn decide(libc: u64, streamed: u64) {
    if NEW.swap(true, Relaxed) {
        return; // another thread was first
    }
    log!(debug, "{} MiB are copied in {libc} ns by libc and in {streamed} ns past the cache", CHUNK >> 20);
    if wins(libc, streamed) {
        DECIDED.store(true, Release);
    } else {
        stats::event(Reason::LibcCopyIsFaster);
        FAST_PATH.large.store(usize::MAX, Release);
    }
}

/// The file with the answer, beside the calibration file of the kernels.
fn file() -> Option<PathBuf> {
    config().cache.as_ref().map(|cache| cache.join("zen5turbo/copies.txt"))
}

/// The machine for which an answer is valid.
fn machine() -> String {
    format!("{}, L3 {} KiB", state::cpu().describe(), Caches::detect().l3 >> 10)
}

fn format_answer(machine: &str, streaming: bool) -> String {
    format!("zen5turbo copies 1\nmachine {machine}\nstreaming {}\n", if streaming { "yes" } else { "no" })
}

/// The answer in `text`, if it is this machine's.
fn parse_answer(text: &str, machine: &str) -> Option<bool> {
    [true, false].into_iter().find(|&streaming| text == format_answer(machine, streaming))
}

/// The answer of an earlier process.
fn recall() -> Option<bool> {
    let text = std::fs::read_to_string(file()?).ok()?;
    let answer = parse_answer(&text, &machine());
    if answer.is_none() {
        stats::event(Reason::CopyFileUnusable);
    }
    answer
}

/// Writes a new answer to the file. If the folder cannot be written, the next process measures again.
fn remember() {
    if !NEW.load(Acquire) || state::is_forked_child() {
        return;
    }
    let Some(path) = file() else { return };
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let text = format_answer(&machine(), DECIDED.load(Acquire));
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if folder.and_then(|()| std::fs::write(&temporary, text)).and_then(|()| std::fs::rename(&temporary, &path)).is_err()
    {
        stats::event(Reason::CopyFileUnusable);
        let _ = std::fs::remove_file(&temporary);
    }
}

/// How large copies are made now, for the statistics.
pub fn status() -> &'static str {
    match (FAST_PATH.large.load(Acquire), DECIDED.load(Relaxed)) {
        (0 | usize::MAX, _) => "libc",
        (_, true) => "streaming",
        (_, false) => "measuring",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_back_on_its_machine_only() {
        for streaming in [true, false] {
            let text = format_answer("a CPU", streaming);
            assert_eq!(parse_answer(&text, "a CPU"), Some(streaming));
            assert_eq!(parse_answer(&text, "another"), None);
        }
        assert_eq!(parse_answer("", "a CPU"), None);
    }

    #[test]
    fn streaming_must_win_by_a_tenth_in_the_median() {
        assert!(wins(100, 90) && !wins(100, 91) && !wins(100, 200));
        let samples = Samples { count: AtomicUsize::new(0), ns: [const { AtomicU64::new(0) }; SAMPLES] };
        for (i, ns) in [9, 1000, 7, 5, 8, 6, 3].into_iter().enumerate() {
            assert_eq!(samples.median(), None, "{i}");
            samples.add(ns);
        }
        samples.add(1);
        assert_eq!(samples.median(), Some(7));
    }
}
