//! Bytes per second: streaming reads and copies.

use std::arch::asm;
use std::io;

use zen5turbo_host::cpuset::{CpuSet, set_affinity};
use zen5turbo_kernels::copy;
use zen5turbo_kernels::isa::avx2::Avx2;

use crate::memory::Buffer;
use crate::together::{Pass, together};

/// Passes of a measurement. Every second one of reading prefetches: hardware prefetchers alone stop at the
/// end of each 4 KiB page.
const PASSES: usize = 6;

/// Bytes that one round of [`read`] loads.
const LOADED: usize = 128;

/// Bytes that the prefetching passes are ahead.
const AHEAD: usize = 2048;

/// Bytes per second that `threads` threads read together, each from its own part of `memory`, and the bytes
/// that they read in a pass.
#[must_use]
pub fn read_rate(memory: &[u8], threads: usize) -> (f64, usize) {
    let part = memory.len() / threads / LOADED * LOADED;
    let passes = together(threads, PASSES, |i| {
        let mine = &memory[i * part..(i + 1) * part];
        Ok(move |pass: usize| read(mine, if pass.is_multiple_of(2) { 0 } else { AHEAD }))
    });
    let bytes = part * threads;
    (best(bytes, &passes.unwrap_or_default()), bytes)
}

/// The same for one thread on each of `places`, which reads `bytes` of its own that lie near it.
///
/// # Errors
/// No memory, or a place where a thread may not run.
pub fn read_rate_at(places: &[CpuSet], bytes: usize) -> io::Result<f64> {
    let passes = together(places.len(), PASSES, |i| {
        set_affinity(&places[i])?;
        let memory = Buffer::new(bytes)?;
        Ok(move |pass: usize| read(memory.bytes(), if pass.is_multiple_of(2) { 0 } else { AHEAD }))
    })?;
    Ok(best(bytes / LOADED * LOADED * places.len(), &passes))
}

/// Bytes per second that one thread on each of `places` copies, all together, from `bytes` of its own to
/// as many others, past the caches where the CPU has AVX2. Each byte is read once and written once, and
/// counts once.
///
/// # Errors
/// As [`read_rate_at`].
pub fn copy_rate_at(places: &[CpuSet], bytes: usize) -> io::Result<f64> {
    let passes = together(places.len(), PASSES, |i| {
        set_affinity(&places[i])?;
        let (from, mut to) = (Buffer::new(bytes)?, Buffer::new(bytes)?);
        let avx2 = Avx2::new();
        Ok(move |_: usize| {
            let (from, to) = (from.bytes(), to.bytes_mut());
            match avx2 {
                // SAFETY: two buffers of `bytes` bytes.
                Some(avx2) => unsafe { copy::stream(avx2, to.as_mut_ptr(), from.as_ptr(), to.len()) },
                None => to.copy_from_slice(from),
            }
        })
    })?;
    Ok(best(bytes * places.len(), &passes))
}

fn best(bytes: usize, passes: &[Pass]) -> f64 {
    passes.iter().map(|pass| bytes as f64 / pass.wall).fold(0.0, f64::max)
}

/// Loads every byte of `memory` but a rest below [`LOADED`]. 16 bytes at a time are fast enough on every
/// x86-64: two such loads per cycle are above the bandwidth of any memory.
fn read(memory: &[u8], ahead: usize) {
    let len = memory.len() / LOADED * LOADED;
    if len == 0 {
        return;
    }
    // SAFETY: reads the bytes of the slice; a prefetch may name any address.
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
            x = out(xmm_reg) _, at = inout(reg) memory.as_ptr() => _, end = in(reg) memory.as_ptr().add(len), ahead = in(reg) ahead,
            options(readonly, nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_host::cpuset::affinity;

    #[test]
    fn memory_is_read_by_any_number_of_threads() {
        let memory = vec![7; 1 << 20];
        for threads in [1, 2, 3] {
            let (rate, bytes) = read_rate(&memory, threads);
            assert!(rate > 1e5 && bytes <= memory.len() && bytes > memory.len() - 3 * LOADED);
        }
        assert_eq!(read_rate(&[], 2).1, 0);
    }

    #[test]
    fn threads_read_and_copy_memory_of_their_own() {
        let here = affinity().unwrap();
        for places in [vec![here], vec![here, here]] {
            assert!(read_rate_at(&places, 1 << 20).unwrap() > 1e5);
            assert!(copy_rate_at(&places, 1 << 20).unwrap() > 1e5);
        }
        assert!(read_rate_at(&[CpuSet::default()], 1 << 20).is_err(), "no place is no place");
    }
}
