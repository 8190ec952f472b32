//! Cycles and multiply-adds per second.

use std::arch::asm;
use std::io;
use std::time::{Duration, Instant};

use zen5turbo_host::cpuset::{CpuSet, set_affinity};
use zen5turbo_kernels::mix::Mix;

use crate::together::together;

/// How long one repetition of a rate takes.
const SLICE: Duration = Duration::from_millis(4);
/// Repetitions; the best counts.
const SLICES: usize = 20;
/// Additions of a round of [`additions`].
const ADDITIONS: f64 = 16.0;

fn time(n: u64, work: impl Fn(u64)) -> f64 {
    let start = Instant::now();
    work(n);
    start.elapsed().as_secs_f64()
}

/// How many rounds of `work` take a slice.
fn rounds(work: impl Fn(u64)) -> u64 {
    let mut n = 1000;
    while time(n, &work) < SLICE.as_secs_f64() {
        n *= 2;
    }
    n
}

/// Units per second of `work`, which does `unit` units in each of `n` rounds when called with `n`.
fn rate(unit: f64, work: impl Fn(u64)) -> f64 {
    let n = rounds(&work);
    (0..SLICES).map(|_| unit * n as f64 / time(n, &work)).fold(0.0, f64::max)
}

/// The same by one thread on each of `places` at once: the best sum of their rates in a repetition.
fn rate_at(places: &[CpuSet], unit: f64, work: impl Fn(u64) + Sync) -> io::Result<f64> {
    let n = rounds(&work);
    let work = &work;
    let passes = together(places.len(), SLICES, |i| {
        set_affinity(&places[i])?;
        Ok(move |_: usize| work(n))
    })?;
    let sum = |each: &Vec<f64>| each.iter().map(|seconds| unit * n as f64 / seconds).sum::<f64>();
    Ok(passes.iter().map(|pass| sum(&pass.each)).fold(0.0, f64::max))
}

/// Additions that wait for one another take a cycle each, on every x86-64. (Between registers: some cores
/// merge additions of constants.)
fn additions(n: u64) {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:",
            ".rept 16", "add {x}, {y}", ".endr",
            "dec {n}",
            "jnz 2b",
            x = inout(reg) 1u64 => _, y = in(reg) 3u64, n = inout(reg) n => _,
            options(nomem, nostack),
        );
    }
}

/// Cycles per second of one thread, in scalar code.
#[must_use]
pub fn clock_rate() -> f64 {
    rate(ADDITIONS, additions)
}

/// Cycles per second while one thread on each of `places` is busy, the mean over them.
///
/// # Errors
/// A place where a thread may not run.
pub fn clock_rate_at(places: &[CpuSet]) -> io::Result<f64> {
    Ok(rate_at(places, ADDITIONS, additions)? / places.len().max(1) as f64)
}

/// Multiply-adds per second of one thread; `None` where the CPU does not have the instructions.
#[must_use]
pub fn mac_rate(mix: Mix) -> Option<f64> {
    mix.isa().available().then(|| rate(mix.per_round() as f64, |n| mix.run(n)))
}

/// Multiply-adds per second of one thread on each of `places`, all together.
///
/// # Errors
/// A place where a thread may not run, or a CPU without the instructions.
pub fn mac_rate_at(places: &[CpuSet], mix: Mix) -> io::Result<f64> {
    if !mix.isa().available() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    rate_at(places, mix.per_round() as f64, |n| mix.run(n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_host::cpuset::affinity;

    #[test]
    fn rates_are_those_of_a_real_machine() {
        let clock = clock_rate();
        assert!((1e6..2e10).contains(&clock), "{clock} Hz");
        for mix in Mix::ALL {
            if let Some(rate) = mac_rate(mix) {
                // Four of the widest instructions per cycle, and far below what an emulator makes of them.
                assert!((1e-3..256.0).contains(&(rate / clock)), "{mix:?}: {} per cycle", rate / clock);
            }
        }
    }

    #[test]
    fn several_threads_add_up() {
        let here = affinity().unwrap();
        assert!((1e6..2e10).contains(&clock_rate_at(&[here, here]).unwrap()));
        assert!(mac_rate_at(&[here], Mix::Sse2).unwrap() > 1e6);
    }
}
