//! What this machine can do at most: the rates that a product is set against.
//!
//! All are measured, in the run that uses them: clock rates and memory bandwidth of one machine
//! differ from day to day (boost, neighbours on a shared host), and data sheets give neither the
//! bandwidth of one thread nor that of a file mapping.

use std::arch::asm;
use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use zen5turbo_host::Caches;
use zen5turbo_kernels::formats::Codes;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::kernel::Kernel;

use crate::memory::{Memory, Pages};

/// The instructions that a product is made of, which bound its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// `pmaddwd` + `paddd`, 128 bits: 8 multiply-adds in two instructions; any x86-64.
    Sse2,
    /// `vpmaddubsw` + `vpaddw`, 256 bits: 32 multiply-adds in two instructions. For codes whose
    /// products may be summed in 16 bits.
    Avx2Narrow,
    /// `vpmaddubsw` + `vpmaddwd` + `vpaddd`: 32 multiply-adds in three instructions. For 8-bit codes,
    /// whose products have to be widened at once.
    Avx2Wide,
    /// `vpdpbusd`, 256 bits: 32 multiply-adds in one instruction.
    Vnni256,
    /// `vpdpbusd`, 512 bits: 64 multiply-adds in one instruction.
    Vnni512,
}

impl Mix {
    /// All mixes.
    pub const ALL: [Mix; 5] = [Mix::Sse2, Mix::Avx2Narrow, Mix::Avx2Wide, Mix::Vnni256, Mix::Vnni512];

    /// The mix that bounds the inner loop of `kernel`.
    pub fn of(kernel: &Kernel) -> Mix {
        match kernel.isa {
            Isa::Scalar => Mix::Sse2,
            Isa::Avx2 if matches!(kernel.shape.codes, Codes::Signed) => Mix::Avx2Wide,
            Isa::Avx2 => Mix::Avx2Narrow,
            Isa::Vnni256 => Mix::Vnni256,
            Isa::Avx512 => Mix::Vnni512,
        }
    }

    /// The instructions, for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Mix::Sse2 => "pmaddwd+paddd xmm",
            Mix::Avx2Narrow => "vpmaddubsw+vpaddw ymm",
            Mix::Avx2Wide => "vpmaddubsw+vpmaddwd+vpaddd ymm",
            Mix::Vnni256 => "vpdpbusd ymm",
            Mix::Vnni512 => "vpdpbusd zmm",
        }
    }

    /// The tier whose instructions these are.
    pub const fn isa(self) -> Isa {
        match self {
            Mix::Sse2 => Isa::Scalar,
            Mix::Avx2Narrow | Mix::Avx2Wide => Isa::Avx2,
            Mix::Vnni256 => Isa::Vnni256,
            Mix::Vnni512 => Isa::Avx512,
        }
    }
}

/// Streaming read of one kind of memory by a number of threads at a time.
#[derive(Clone, Copy, Debug)]
pub struct Bandwidth {
    /// The kind of memory.
    pub pages: Pages,
    /// The share of it that really was in huge pages.
    pub huge_share: f64,
    /// Threads reading, each its own part.
    pub threads: usize,
    /// Bytes per second, all threads together.
    pub rate: f64,
}

/// The peaks of this machine, as measured now.
#[derive(Clone, Debug)]
pub struct Peaks {
    /// Clock cycles per second of scalar code. Parts that lower their clock for wide vectors run
    /// those at fewer; nothing without performance counters can tell.
    pub clock: f64,
    /// Multiply-adds per second of one thread, for the mixes this CPU has.
    pub mac: Vec<(Mix, f64)>,
    /// Memory, by kind and number of threads.
    pub bandwidth: Vec<Bandwidth>,
    /// Bytes that the bandwidth was measured over.
    pub bandwidth_bytes: usize,
}

impl Peaks {
    /// Measures for two to three seconds. The numbers of threads are 1, 2, 4, ... and all.
    pub fn measure() -> io::Result<Peaks> {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let mut threads: Vec<usize> =
            std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < all).collect();
        threads.push(all);

        let bandwidth_bytes = uncached_bytes();
        let mut bandwidth = Vec::new();
        for pages in Pages::ALL {
            let memory = Memory::repeat(&vec![0x5a; 1 << 20], bandwidth_bytes >> 20, pages)?;
            let huge_share = memory.huge_share();
            for &threads in &threads {
                let rate = read_rate(&memory, threads);
                bandwidth.push(Bandwidth { pages, huge_share, threads, rate });
            }
        }
        let mac = Mix::ALL.into_iter().filter_map(|mix| Some((mix, mac_rate(mix)?))).collect();
        Ok(Peaks { clock: clock_rate(), mac, bandwidth, bandwidth_bytes })
    }

    /// Multiply-adds per second that one thread could do at most in the inner loop of `kernel`.
    pub fn mac_of(&self, kernel: &Kernel) -> f64 {
        let mix = Mix::of(kernel);
        self.mac.iter().find(|(m, _)| *m == mix).map_or(f64::NAN, |&(_, rate)| rate)
    }

    /// Bytes per second that one thread reads from memory of that kind.
    pub fn read_by_one(&self, pages: Pages) -> f64 {
        self.bandwidth.iter().find(|b| b.pages == pages && b.threads == 1).map_or(f64::NAN, |b| b.rate)
    }
}

/// Bytes that do not fit the caches: twice the last level, between 128 MiB and 768 MiB (hosts lend a
/// virtual machine a part of a cache that reports its whole size).
pub fn uncached_bytes() -> usize {
    (2 * Caches::detect().l3).clamp(128 << 20, 768 << 20).next_multiple_of(1 << 20)
}

/// How long one repetition of a rate takes.
const SLICE: Duration = Duration::from_millis(4);
/// Repetitions; the best counts, for a peak is what the machine reaches undisturbed.
const SLICES: usize = 20;

/// Units per second of `work`, which does `units(n)` units when called with `n`.
fn rate(unit: f64, mut work: impl FnMut(u64)) -> f64 {
    let mut time = |n: u64| {
        let start = Instant::now();
        work(n);
        start.elapsed().as_secs_f64()
    };
    let mut n = 1000;
    while time(n) < SLICE.as_secs_f64() {
        n *= 2;
    }
    (0..SLICES).map(|_| unit * n as f64 / time(n)).fold(0.0, f64::max)
}

/// Cycles per second: additions that wait for one another take one each, on every x86-64. (Between
/// registers: some cores merge additions of constants.)
pub fn clock_rate() -> f64 {
    rate(16.0, |n| {
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
    })
}

/// A loop of `n` rounds of `$step` for every accumulator (`\\acc`). The inputs are registers 30 and 31
/// (below AVX-512: 14 and 15), whatever they hold: integer arithmetic takes the same time for all values.
macro_rules! rounds {
    ($n:ident, $accumulators:literal, $($step:literal),*) => {
        // SAFETY: registers only, all declared lost; the function's features cover the instructions.
        unsafe {
            asm!(
                "2:",
                concat!(".irp acc, ", $accumulators),
                $($step,)*
                ".endr",
                "dec rcx",
                "jnz 2b",
                inout("rcx") $n => _,
                clobber_abi("C"),
                options(nomem, nostack),
            )
        }
    };
}

/// Multiply-adds per second of one thread; `None` where the CPU does not have the instructions.
pub fn mac_rate(mix: Mix) -> Option<f64> {
    if !mix.isa().available() {
        return None;
    }
    Some(match mix {
        Mix::Sse2 => rate(8.0 * 8.0, sse2),
        // SAFETY: the tier is available, so the CPU has the features of this function.
        Mix::Avx2Narrow => rate(8.0 * 32.0, |n| unsafe { avx2_narrow(n) }),
        // SAFETY: the tier is available, so the CPU has the features of this function.
        Mix::Avx2Wide => rate(8.0 * 32.0, |n| unsafe { avx2_wide(n) }),
        // SAFETY: the tier is available, so the CPU has the features of this function.
        Mix::Vnni256 => rate(14.0 * 32.0, |n| unsafe { vnni256(n) }),
        // SAFETY: the tier is available, so the CPU has the features of this function.
        Mix::Vnni512 => rate(14.0 * 64.0, |n| unsafe { vnni512(n) }),
    })
}

fn sse2(n: u64) {
    rounds!(n, "0, 1, 2, 3, 4, 5, 6, 7", "movdqa xmm8, xmm14", "pmaddwd xmm8, xmm15", "paddd xmm\\acc, xmm8");
}

#[target_feature(enable = "avx2")]
fn avx2_narrow(n: u64) {
    rounds!(n, "0, 1, 2, 3, 4, 5, 6, 7", "vpmaddubsw ymm8, ymm14, ymm15", "vpaddw ymm\\acc, ymm\\acc, ymm8");
}

#[target_feature(enable = "avx2")]
fn avx2_wide(n: u64) {
    rounds!(
        n,
        "0, 1, 2, 3, 4, 5, 6, 7",
        "vpmaddubsw ymm8, ymm14, ymm15",
        "vpmaddwd ymm8, ymm8, ymm13",
        "vpaddd ymm\\acc, ymm\\acc, ymm8"
    );
}

#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn vnni256(n: u64) {
    rounds!(n, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13", "vpdpbusd ymm\\acc, ymm30, ymm31");
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni512(n: u64) {
    rounds!(n, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13", "vpdpbusd zmm\\acc, zmm30, zmm31");
}

/// Bytes per second that `threads` threads read together, each from its own part of `memory`: the
/// best of six passes.
/// Every second one prefetches: hardware prefetchers alone stop at the end of each 4 KiB page.
pub fn read_rate(memory: &Memory, threads: usize) -> f64 {
    const PASSES: usize = 6;
    let part = memory.len() / threads / LOADED * LOADED;
    let gate = Barrier::new(threads);
    let passes: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|i| {
                let gate = &gate;
                scope.spawn(move || {
                    let mut passes = Vec::new();
                    for pass in 0..PASSES {
                        // No distance: the line that is loaded anyway.
                        let ahead = if pass % 2 == 0 { 0 } else { AHEAD };
                        gate.wait();
                        let start = Instant::now();
                        // SAFETY: thread `i` of `threads`, so part `i` lies inside the memory.
                        unsafe { read(memory.as_ptr().add(i * part), part, ahead) };
                        passes.push((start, Instant::now()));
                    }
                    passes
                })
            })
            .collect();
        started.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let pass = |n: usize| {
        let first = passes.iter().map(|p| p[n].0).min()?;
        let last = passes.iter().map(|p| p[n].1).max()?;
        Some((part * threads) as f64 / last.duration_since(first).as_secs_f64())
    };
    (0..PASSES).filter_map(pass).fold(0.0, f64::max)
}

/// Bytes that one round of [`read`] loads.
const LOADED: usize = 128;

/// Bytes that the prefetching passes are ahead.
const AHEAD: usize = 2048;

/// Loads `len` bytes, a multiple of [`LOADED`]. 16 bytes at a time are fast enough on every x86-64:
/// two such loads per cycle are above the bandwidth of any memory.
///
/// # Safety
/// `at` must be readable for `len` bytes.
unsafe fn read(at: *const u8, len: usize, ahead: usize) {
    if len == 0 {
        return;
    }
    // SAFETY: reads the bytes that the caller promises; a prefetch may name any address.
    unsafe {
        asm!(
            "2:",
            "prefetcht0 [{at} + {ahead}]", "prefetcht0 [{at} + {ahead} + 64]",
            ".irp offset, 0, 16, 32, 48, 64, 80, 96, 112",
            "movups {x}, [{at} + \\offset]",
            ".endr",
            "add {at}, 128",
            "cmp {at}, {end}",
            "jb 2b",
            x = out(xmm_reg) _, at = inout(reg) at => _, end = in(reg) at.add(len), ahead = in(reg) ahead,
            options(readonly, nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn memory_is_read_by_any_number_of_threads() {
        let memory = Memory::repeat(&[7; 4096], 300, Pages::Small).unwrap();
        for threads in [1, 2, 3] {
            assert!(read_rate(&memory, threads) > 1e5);
        }
    }
}
