//! Cache prefetch: a thread that has finished its part of a product fetches the beginning of its part of
//! the next one, instead of only waiting for the others.
//!
//! Off by default (`ZEN5TURBO_PREFETCH=cache` switches it on), because what it gains is within the noise
//! nearly everywhere. An EPYC of the Zen 4 family, 2026-11-21, tg, weights in a file mapping, the rate
//! with it over that without, by alternate tokens of the same process, median of 5 to 7 processes;
//! "control" compares nothing with nothing, single processes from 0.93 to 1.05:
//!
//! | weights, threads | control | 32 KiB | 128 KiB | 512 KiB |
//! |---|---|---|---|---|
//! | q4_K, one | 0.998 | 0.995 | 1.006 | 1.013 |
//! | q6_K, one | 1.000 | 0.993 | 0.998 | 1.006 |
//! | q8_0, one | 0.996 | 0.998 | 1.000 | 0.998 |
//! | q4_K, two | 1.007 | 0.999 | 1.015 | 1.006 |
//! | q6_K, two | 0.991 | 0.992 | 0.998 | 1.020 |
//! | q8_0, two | 0.998 | 0.995 | 0.997 | 0.992 |
//!
//! Again with 512 KiB, two threads: q6_K 1.018 (control 1.004, 9 processes; 1 MiB 1.015), q4_K 1.003 (0.998,
//! 13 processes); q6_K on huge pages 1.007 (1.000, 11 processes from 1.001 to 1.015). At 128 KiB the hints T0
//! and NTA instead of T1, only threads that are not the last to finish, or only while another thread does
//! an operation of one row: 0.98 to 1.015, in no order. A likely cause, not measured: a prefetch needs a
//! free miss buffer as a load does, so it moves the reading to another place and saves little.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

use zen5turbo_kernels::isa::LANES;

use super::dense::{Columns, Pieces};
use super::policy::Selection;

/// Most columns of a product whose weights are fetched ahead: with more, computing takes longer than reading.
const MOST_COLUMNS: usize = 8;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Prefetches these bytes, counted from `start`, into the level-2 cache.
#[inline]
pub fn fetch_lines(start: *const u8, bytes: Range<usize>) {
    for line in bytes.step_by(LINE) {
        // SAFETY: a prefetch changes nothing that the program can see, and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line).cast()) };
    }
}

/// The weights that each thread reads first in a product.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    weights: *const u8,
    /// Bytes of the matrix, its last row without padding.
    matrix: usize,
    /// Bytes from piece to piece.
    piece: usize,
    /// Bytes to be fetched of a piece.
    bytes: usize,
    /// Pieces of the first slice.
    pieces: usize,
}

impl Ahead {
    /// The first `bytes` of the piece that each thread begins with. `None` when there is nothing to gain.
    pub fn new(columns: &Columns, pieces: &Pieces, selection: &Selection, bytes: usize) -> Option<Self> {
        if bytes == 0 || columns.per_slice > MOST_COLUMNS {
            return None;
        }
        let product = columns.product(0, selection, std::ptr::null());
        let piece = pieces.panels_per_piece * LANES * product.stride;
        Some(Ahead {
            weights: product.weights,
            matrix: (selection.rows - 1) * product.stride + selection.kernel.weight.row_bytes(selection.k),
            piece,
            bytes: bytes.min(piece),
            pieces: selection.rows.div_ceil(pieces.panels_per_piece * LANES),
        })
    }

    /// The part of thread `ith`, as offsets into the matrix; empty when it has none.
    fn part(&self, ith: usize) -> Range<usize> {
        let from = if ith < self.pieces { ith * self.piece } else { self.matrix };
        from..(from + self.bytes).min(self.matrix)
    }

    /// Prefetches the part of thread `ith` into the level-2 cache. Names no address outside of the matrix.
    pub fn fetch(&self, ith: usize) {
        fetch_lines(self.weights, self.part(ith));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_lies_in_its_piece_and_in_the_matrix() {
        // five pieces of 1000 bytes, the last one shorter
        let ahead = Ahead { weights: std::ptr::null(), matrix: 4100, piece: 1000, bytes: 300, pieces: 5 };
        assert_eq!(ahead.part(0), 0..300);
        assert_eq!(ahead.part(3), 3000..3300);
        assert_eq!(ahead.part(4), 4000..4100);
        assert!(ahead.part(5).is_empty() && ahead.part(usize::MAX).is_empty());
    }
}
