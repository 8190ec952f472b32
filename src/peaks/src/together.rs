//! Threads that begin every pass at the same time.

use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a pass took, seconds.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// From the first thread's start to the last one's end.
    pub(crate) wall: f64,
    /// Each thread by itself.
    pub(crate) each: Vec<f64>,
}

/// Runs `passes` passes on `threads` threads at once. `set_up` is called in thread `i`, so that memory it
/// touches first lies near it, and returns the work, which is called with the pass's number.
///
/// # Errors
/// The first one of `set_up`; then no pass is run.
pub(crate) fn together<W: FnMut(usize)>(
    threads: usize,
    passes: usize,
    set_up: impl Fn(usize) -> io::Result<W> + Sync,
) -> io::Result<Vec<Pass>> {
    let gate = Barrier::new(threads);
    let failed = AtomicBool::new(false);
    let one = |i: usize| -> io::Result<Vec<(Instant, Instant)>> {
        let work = set_up(i);
        failed.fetch_or(work.is_err(), Ordering::Relaxed);
        gate.wait();
        let mut work = work?;
        if failed.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        Ok((0..passes)
            .map(|pass| {
                gate.wait();
                let start = Instant::now();
                work(pass);
                (start, Instant::now())
            })
            .collect())
    };
    let times: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|i| {
                scope.spawn({
                    let one = &one;
                    move || one(i)
                })
            })
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a measuring thread panicked"))))
            .collect::<io::Result<_>>()
    })?;
    let pass = |n: usize| {
        let first = times.iter().map(|t| t[n].0).min()?;
        let last = times.iter().map(|t| t[n].1).max()?;
        let each = times.iter().map(|t| (t[n].1 - t[n].0).as_secs_f64()).collect();
        Some(Pass { wall: (last - first).as_secs_f64(), each })
    };
    Ok((0..passes).filter_map(pass).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_thread_works_in_every_pass() {
        let done = AtomicUsize::new(0);
        let count = |_: usize| {
            Ok(|pass: usize| {
                done.fetch_add(1 + pass, Ordering::Relaxed);
            })
        };
        let passes = together(3, 4, count).unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 3 * (1 + 2 + 3 + 4));
        assert!(passes.len() == 4 && passes.iter().all(|pass| pass.each.len() == 3));
        assert!(passes.iter().all(|pass| pass.each.iter().all(|&one| one <= pass.wall)));
    }

    #[test]
    fn what_cannot_be_set_up_ends_all_threads() {
        let set_up = |i: usize| if i == 1 { Err(io::Error::other("no")) } else { Ok(|_: usize| ()) };
        assert_eq!(together(3, 2, set_up).unwrap_err().to_string(), "no");
    }
}
