//! How many pieces threads can take from a queue without waiting for each other.
//!
//! All threads take their pieces from one number in memory. Its cache line goes from core to core, one claim after the
//! other: between cores that do not share an L3, this takes about [`CLAIM_NS`] each time. With two threads this is
//! nothing. 64 threads that read 400 GB/s compute a product of 4096 x 4096 q4_K in 24 us, in which the line can move 240
//! times: with eight pieces each they would wait for the line. So the more threads there are, the more work a piece has,
//! down to one piece for each thread, which is known without a claim.
//!
//! `scaling_tests` computes what this gives for 8 to 128 threads. It is derived: no machine with so many cores has been
//! measured.

/// Nanoseconds from one claim to the next, when cores that do not share an L3 claim. (`zen5turbo bios`, AMD EPYC, Zen 4,
/// 2026-11-21: half a round trip between two cores took 36 to 171 ns.)
pub const CLAIM_NS: usize = 100;

/// Bytes of weights that a thread reads in a nanosecond when all cores read. (16 cores of a desktop share 85 GB/s, 64
/// cores of a server about 400.)
pub const BYTES_PER_NS: usize = 5;

/// The queue is busy for one part of the time in so many.
const TIME_OVER_CLAIMS: usize = 4;

/// The work of a panel beyond its first column, in columns that cost as much as reading and unpacking the weights.
/// (Products of 768 x 2048 q4_K from memory, AMD EPYC, Zen 4, 2026-11-30: 84 us with one column, 152 with 8, 456 with
/// 32, 618 with 48.)
pub const WEIGHTS_IN_COLUMNS: usize = 10;

/// The work of weights of so many bytes, with so many columns, in bytes of weights with one column.
pub fn work(bytes: usize, columns: usize) -> usize {
    bytes * (columns + WEIGHTS_IN_COLUMNS) / (1 + WEIGHTS_IN_COLUMNS)
}

/// How many pieces each of `threads` threads can take, one at least, if a product has so much [`work`]. While a thread
/// computes a piece, all others take one as well.
pub fn pieces_per_thread(work: usize, threads: usize) -> usize {
    let least = threads * CLAIM_NS * BYTES_PER_NS * TIME_OVER_CLAIMS;
    (work / threads / least).max(1)
}
