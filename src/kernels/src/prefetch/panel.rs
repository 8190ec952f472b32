//! Prefetch of the rows that are packed next.

use super::Cache;
use crate::formats::LINE;
use crate::isa::LANES;

/// Most lines of one burst, as far as the work can be cut. More than 16 loses with q4_K, fewer than 32 with q2_K and q3_K,
/// whose small chunks this number leaves uncut (`kernel-choices`).
const AT_ONCE: usize = 25;

/// The rows that are packed next, prefetched a few lines at a time.
///
/// Rows are packed sixteen in parallel, which no hardware prefetcher follows. So all of them are prefetched, in the order
/// of memory, into the level-2 cache: lines on their way to the level-1 cache wait in few buffers. AVX2 packs q4_K at
/// 30 GMAC/s so, and at 14 with a prefetch along the rows (`kernel-choices`).
///
/// A burst of lines holds up the loads behind it. So some lines come with every tile, and with few tiles some with every
/// few packed records: sixteen columns of q4_K gain from 108 to 135 GMAC/s (`kernel-choices`).
pub struct PanelPrefetch {
    /// Chunks of a row that are prefetched together.
    unit: usize,
    chunks: usize,
    chunk_bytes: usize,
    stride: usize,
    /// Calls of [`Self::pull`] in a chunk by tiles.
    tiles: usize,
    /// Records of a chunk.
    records: usize,
    /// Records that are packed between two calls of [`Self::pull`].
    pub piece: usize,
    /// Lines that a call prefetches.
    lines: usize,
    /// The next line, and the end of the run of memory that it is part of.
    line: *const u8,
    end: *const u8,
    /// Bytes of a run, and the number of runs behind this one. Runs begin `stride` bytes apart.
    run: usize,
    runs: usize,
}

impl PanelPrefetch {
    /// For rows `stride` bytes apart, of `chunks` chunks of `records` records and `chunk_bytes` bytes, and `tiles` tiles.
    /// At most `most` bytes of sixteen rows are prefetched at a time; 0: no prefetch.
    pub fn new(
        stride: usize,
        chunks: usize,
        (records, chunk_bytes): (usize, usize),
        tiles: usize,
        most: usize,
    ) -> Self {
        let unit = if most == 0 { 0 } else { (most / (LANES * chunk_bytes)).clamp(1, chunks) };
        let (line, end) = (core::ptr::null(), core::ptr::null());
        PanelPrefetch {
            unit,
            chunks,
            chunk_bytes,
            stride,
            tiles,
            records,
            piece: records,
            lines: 0,
            line,
            end,
            run: 0,
            runs: 0,
        }
    }

    /// Chunk `i` of the rows of `panels` panels at `src` is packed next. The first chunk of a unit begins the prefetch of
    /// the next unit, or of the first unit of the rows at `next`.
    #[inline(always)]
    pub fn chunk(&mut self, i: usize, panels: usize, src: *const u8, next: *const u8) {
        if self.unit == 0 || !i.is_multiple_of(self.unit) {
            return;
        }
        let turns = self.unit.min(self.chunks - i);
        let from = i + turns;
        let (at, from) = if from < self.chunks { (src.wrapping_add(from * self.chunk_bytes), from) } else { (next, 0) };
        let bytes = self.unit.min(self.chunks - from) * self.chunk_bytes;
        let rows = panels * LANES;
        // rows without a gap between them are one run
        (self.run, self.runs) = if bytes >= self.stride { (rows * self.stride, 1) } else { (bytes, rows) };
        let lines = (self.runs * (self.run / LINE + 1)).div_ceil(turns);
        let cuts = lines.div_ceil(AT_ONCE).saturating_sub(self.tiles).div_ceil(panels).max(1);
        self.piece = self.records.div_ceil(cuts);
        let calls = self.tiles + panels * self.records.div_ceil(self.piece);
        self.lines = lines.div_ceil(calls);
        self.begin(at);
    }

    /// Begins the run at `at`.
    #[inline(always)]
    fn begin(&mut self, at: *const u8) {
        self.line = at.map_addr(|a| a & !(LINE - 1));
        self.end = at.wrapping_add(self.run);
        self.runs -= 1;
    }

    /// Prefetches the lines that fall to one tile or piece.
    #[inline(always)]
    pub fn pull(&mut self) {
        let mut lines = self.lines;
        while lines > 0 {
            if self.line >= self.end {
                if self.runs == 0 {
                    return;
                }
                self.begin(self.end.wrapping_sub(self.run).wrapping_add(self.stride));
            }
            let n = lines.min((self.end.addr() - self.line.addr()).div_ceil(LINE));
            Cache::Level2.fetch(self.line, n * LINE);
            self.line = self.line.wrapping_add(n * LINE);
            lines -= n;
        }
    }
}
