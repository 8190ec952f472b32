//! Load-to-use latency: loads that wait for one another, each from a line that the last one names.

use std::arch::asm;
use std::io;
use std::time::{Duration, Instant};

use crate::memory::Buffer;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Loads of a round.
const UNROLLED: usize = 16;

/// The loads that bring what fits a cache into it; the rest of a larger ring is not in a cache anyway.
const WARM: usize = 1 << 19;

/// How long one repetition takes at least, and how many there are; the best counts.
const SLICE: Duration = Duration::from_millis(2);
const SLICES: usize = 5;

/// Memory for rings of lines.
#[derive(Debug)]
pub struct Chase(Buffer);

impl Chase {
    /// For rings of up to `bytes` bytes, near the calling thread.
    ///
    /// # Errors
    /// No memory.
    pub fn new(bytes: usize) -> io::Result<Chase> {
        Ok(Chase(Buffer::new(bytes.max(LINE))?))
    }

    /// The share of the memory in huge pages: without them the latency holds that of the page tables.
    #[must_use]
    pub fn huge_share(&self) -> f64 {
        self.0.huge_share()
    }

    /// Nanoseconds per load from a ring of `bytes` bytes, no more than the memory has, in an order that no
    /// prefetcher can guess.
    pub fn latency(&mut self, bytes: usize, random: &mut fastrand::Rng) -> f64 {
        let lines = bytes.min(self.0.bytes().len()) / LINE;
        let start = self.link(lines.max(1), random);
        let mut at = follow(start, WARM.min(lines) / UNROLLED + 1);
        let mut rounds = 64;
        let mut best = f64::MAX;
        let mut slices = 0;
        while slices < SLICES {
            let begin = Instant::now();
            at = follow(at, rounds);
            let took = begin.elapsed();
            if took < SLICE {
                rounds *= 2;
                continue;
            }
            best = best.min(took.as_secs_f64() * 1e9 / (rounds * UNROLLED) as f64);
            slices += 1;
        }
        best
    }

    /// Makes one ring of the first lines: every line begins with the address of its follower.
    fn link(&mut self, lines: usize, random: &mut fastrand::Rng) -> *const u8 {
        let mut order: Vec<u32> = (0..lines as u32).collect();
        random.shuffle(&mut order);
        let base = self.0.bytes_mut().as_mut_ptr();
        // SAFETY: a line's number is below `lines`, which the buffer has room for.
        let line = |n: u32| unsafe { base.add(n as usize * LINE) };
        for (i, &from) in order.iter().enumerate() {
            let to = line(order[(i + 1) % lines]);
            // SAFETY: inside the buffer, which is ours; a line is aligned for an address.
            unsafe { line(from).cast::<*const u8>().write(to) };
        }
        line(order[0])
    }
}

/// Follows `rounds * UNROLLED` addresses from `at`; returns where it came to.
fn follow(at: *const u8, rounds: usize) -> *const u8 {
    let mut at = at;
    // SAFETY: `at` lies in a ring that [`Chase::link`] made, which outlives the call.
    unsafe {
        asm!(
            "2:",
            ".rept 16", "mov {at}, [{at}]", ".endr",
            "dec {n}",
            "jnz 2b",
            at = inout(reg) at, n = inout(reg) rounds.max(1) => _,
            options(readonly, nostack),
        );
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_holds_every_line_once() {
        let mut chase = Chase::new(1000 * LINE).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let start = chase.link(1000, &mut random);
        let (mut at, mut seen) = (start, std::collections::HashSet::new());
        loop {
            assert!(seen.insert(at));
            // SAFETY: a line of the ring.
            at = unsafe { *at.cast::<*const u8>() };
            if at == start {
                break;
            }
        }
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn a_load_takes_a_time() {
        let mut chase = Chase::new(1 << 20).unwrap();
        let mut random = fastrand::Rng::with_seed(2);
        for bytes in [0, LINE, 16 << 10, 1 << 20, 1 << 30] {
            let ns = chase.latency(bytes, &mut random);
            assert!((0.01..1e6).contains(&ns), "{bytes}: {ns}");
        }
    }
}
