//! Threads that must not get into the program's way.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use crate::cpuset::{self, CpuSet};
use crate::seccomp;

static ALLOWED: OnceLock<CpuSet> = OnceLock::new();

/// Remembers on which CPUs the process may run; to be called before the program pins its threads.
pub fn remember_allowed_cpus() {
    if let Ok(set) = cpuset::affinity() {
        let _ = ALLOWED.set(set);
    }
}

/// What was remembered, else the CPUs of the calling thread; `None` when the kernel does not tell.
#[must_use]
pub fn allowed_cpus() -> Option<CpuSet> {
    ALLOWED.get().copied().or_else(|| cpuset::affinity().ok())
}

/// Niceness added to background threads: they wait where all CPUs are busy, and run at once where one is idle.
///
/// The threads of a graph wait for each other at every operation, so what one of them loses to a
/// background thread all of them lose. Zen 4, 2 CPUs, 2 threads, Q8_0, the first 32 tokens while 480 MiB
/// were moved to huge pages, 2026-11-21: without moving 60 to 64 tokens/s; niceness 0: 19 and 22; 5: 52
/// and 52, moved after 0.5 s; 10: 52 and 58, after 1.1 s; 19: 52 and 62, not finished after 4 s.
const NICENESS: libc::c_int = 5;

fn yield_to_the_program() {
    // SAFETY: no memory is accessed. Linux has a niceness for each thread; a refusal changes nothing.
    unsafe {
        let thread = libc::syscall(libc::SYS_gettid) as libc::id_t;
        let now = libc::getpriority(libc::PRIO_PROCESS, thread);
        libc::setpriority(libc::PRIO_PROCESS, thread, (now + NICENESS).min(19));
    }
}

/// Starts a thread that takes no signal of the program's, runs on any CPU that the process had at
/// the start, even when the thread that starts it is pinned, and has a higher niceness. False when it could not be started.
///
/// Under a seccomp filter the thread has no name, and the CPUs and the niceness of the one that starts it: a filter may
/// kill at the calls that would change them.
pub fn spawn_in_background(name: &str, work: impl FnOnce() + Send + 'static) -> bool {
    let filtered = seccomp::is_filtered();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are filled by libc before they are read; the mask is this thread's own, and a
    // new thread inherits it.
    unsafe {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let mut builder = std::thread::Builder::new();
    if !filtered {
        builder = builder.name(name.to_owned());
    }
    let started = builder
        .spawn(move || {
            if !filtered {
                // A refusal leaves the thread where it is.
                let _ = ALLOWED.get().map(cpuset::set_affinity);
                yield_to_the_program();
            }
            work();
        })
        .is_ok();
    // SAFETY: the first call filled `before`; the mask is this thread's own.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    started
}

/// Sleeps. By the call that also waits for locks, where the standard library makes another one, which a filter may kill.
pub fn sleep(time: Duration) {
    let nobody = AtomicU32::new(0);
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        sleep_while_at_most(&nobody, 0, left);
    }
}

/// Sleeps until [`wake`] is called for `word`; not at all when its value is not `seen` any more.
pub fn sleep_while(word: &AtomicU32, seen: u32) {
    wait(word, seen, None);
}

/// The same, at most for so long.
pub fn sleep_while_at_most(word: &AtomicU32, seen: u32, limit: Duration) {
    let limit = libc::timespec { tv_sec: limit.as_secs() as _, tv_nsec: limit.subsec_nanos().into() };
    wait(word, seen, Some(&limit));
}

fn wait(word: &AtomicU32, seen: u32, limit: Option<&libc::timespec>) {
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let limit = limit.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: word and limit live as long as the borrows. Whatever ends the wait, the caller looks at the word, or the
    // clock, again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, seen, limit) };
}

/// Wakes the thread that sleeps at `word`; to be called after its value was changed.
pub fn wake(word: &AtomicU32) {
    wake_at_most(word, 1);
}

/// Wakes all threads that sleep at `word`; to be called after its value was changed.
pub fn wake_all(word: &AtomicU32) {
    wake_at_most(word, libc::c_int::MAX);
}

fn wake_at_most(word: &AtomicU32, threads: libc::c_int) {
    // SAFETY: the word lives as long as the borrow; waking writes nothing.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, threads) };
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_sleeper_wakes_when_the_word_changes_and_does_not_sleep_when_it_has() {
        static WORD: AtomicU32 = AtomicU32::new(0);
        super::sleep_while(&WORD, 7);
        let sleeper = std::thread::spawn(|| {
            while WORD.load(Ordering::Acquire) == 0 {
                super::sleep_while(&WORD, 0);
            }
        });
        WORD.store(1, Ordering::Release);
        super::wake(&WORD);
        sleeper.join().unwrap();
    }

    #[test]
    fn a_sleep_lasts_as_long_as_asked_for() {
        let from = std::time::Instant::now();
        super::sleep(std::time::Duration::from_millis(20));
        assert!(from.elapsed() >= std::time::Duration::from_millis(20));
        super::sleep(std::time::Duration::ZERO);
    }

    #[test]
    fn a_thread_starts_with_signals_blocked_and_leaves_those_of_its_starter_alone() {
        super::remember_allowed_cpus();
        let blocked = || {
            let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: the set is filled before it is read.
            unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr());
                libc::sigismember(set.as_ptr(), libc::SIGTERM) == 1
            }
        };
        let (tell, told) = std::sync::mpsc::channel();
        assert!(super::spawn_in_background("test", move || tell.send(blocked()).unwrap()));
        assert!(told.recv().unwrap());
        assert!(!blocked());
    }
}
