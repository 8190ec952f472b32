//! How fast this machine reads memory: what the weights read per second are compared with.

mod kept;

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use zen5turbo_host::Caches;
use zen5turbo_host::memory::map::{self, HUGE_PAGE};
use zen5turbo_host::memory::{Budget, Pages};

pub use kept::Kept;

/// A measurement: the best of [`PASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Threads, each reading its own part.
    pub threads: usize,
    /// Bytes per second, all together.
    pub rate: f64,
    /// Bytes that were read in a pass.
    pub bytes: usize,
}

/// A pass with the hardware's prefetchers alone, and one with instructions, in turn: the former stop at
/// the end of each small page.
const PASSES: usize = 6;

/// Bytes that the instructions are ahead.
const AHEAD: usize = 2048;

/// Words of a cache line.
const LINE: usize = 8;

/// Streams through anonymous memory, huge pages where there are any, with one thread and with as many
/// as this process may run at once. A quarter of a second. `None` where memory is too short for it.
pub fn measure() -> Option<Vec<Bandwidth>> {
    let memory = uncached()?;
    let all = thread::available_parallelism().map_or(1, usize::from);
    let counts = if all > 1 { vec![1, all] } else { vec![1] };
    Some(counts.into_iter().map(|threads| rate(&memory, threads)).collect())
}

/// Memory that does not fit the caches: twice the last level, between 128 and 512 MiB (a virtual
/// machine is lent a part of a cache that reports its whole size), and no more than can be spared.
fn uncached() -> Option<Vec<u64>> {
    let bytes = (2 * Caches::detect().l3).clamp(128 << 20, 512 << 20).next_multiple_of(HUGE_PAGE);
    if Budget::below(Path::new("/")).spare() < bytes as u64 {
        return None;
    }
    let mut memory: Vec<u64> = Vec::with_capacity(bytes / 8);
    let start = (memory.as_ptr() as usize).next_multiple_of(Pages::Transparent.bytes());
    let end = (memory.as_ptr() as usize + bytes) / HUGE_PAGE * HUGE_PAGE;
    // SAFETY: inside the allocation; the advice changes no contents. A refusal leaves small pages.
    let _ = unsafe { map::advise(start..end, libc::MADV_HUGEPAGE) };
    memory.resize(bytes / 8, 1);
    Some(memory)
}

fn rate(memory: &[u64], threads: usize) -> Bandwidth {
    let part = memory.len() / threads / LINE * LINE;
    let gate = Barrier::new(threads);
    let passes: Vec<[(Instant, Instant); PASSES]> = thread::scope(|scope| {
        let readers: Vec<_> = memory
            .chunks_exact(part.max(1))
            .take(threads)
            .map(|part| {
                let gate = &gate;
                scope.spawn(move || {
                    std::array::from_fn(|pass| {
                        gate.wait();
                        let start = Instant::now();
                        black_box(read(part, if pass % 2 == 0 { 0 } else { AHEAD }));
                        (start, Instant::now())
                    })
                })
            })
            .collect();
        readers.into_iter().filter_map(|reader| reader.join().ok()).collect()
    });
    let bytes = part * threads * 8;
    let of_pass = |n: usize| {
        let first = passes.iter().map(|p| p[n].0).min()?;
        let last = passes.iter().map(|p| p[n].1).max()?;
        Some(bytes as f64 / last.duration_since(first).as_secs_f64())
    };
    Bandwidth { threads, rate: (0..PASSES).filter_map(of_pass).fold(0.0, f64::max), bytes }
}

/// Adds up every word, which takes far fewer cycles than any memory.
fn read(memory: &[u64], ahead: usize) -> u64 {
    let mut sums = [0u64; LINE];
    for line in memory.chunks_exact(LINE) {
        if ahead > 0 {
            // SAFETY: a prefetch may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast::<i8>().wrapping_add(ahead)) };
        }
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        let memory: Vec<u64> = (0..4096).collect();
        assert_eq!(read(&memory, 0), 4095 * 4096 / 2);
        assert_eq!(read(&memory, AHEAD), 4095 * 4096 / 2);
    }

    #[test]
    fn any_number_of_threads_has_a_rate() {
        let memory = vec![1u64; 1 << 16];
        for threads in [1, 2, 3] {
            let measured = rate(&memory, threads);
            assert!(measured.rate > 1e6 && measured.bytes <= 1 << 19 && measured.threads == threads, "{measured:?}");
        }
    }
}
