//! What to fetch from memory while rows are packed and multiplied.

use crate::fetch::Cache;
use crate::formats::LINE;
use crate::isa::LANES;

/// Most lines that are fetched at once, as far as the work can be cut. (AMD EPYC, Zen 4, 2026-11-30, weights in memory,
/// K=2048, GMAC/s with 16 and 32: q4_K N=16 136, 127; q8_0 N=12 113, 107; q2_K N=12 118, 126; q3_K N=12 123, 131. With
/// this many, q4_K is cut as with 16, and the small chunks of q2_K and q3_K, which lose by it, are not cut.)
const AT_ONCE: usize = 25;

/// The rows that are packed next, fetched a few lines at a time.
///
/// Rows are packed sixteen in parallel, which no hardware prefetcher follows. So all of them are fetched in advance, in
/// the order in which they lie in memory, into the level-2 cache: what is fetched into the level-1 cache waits in few
/// line buffers. (AMD EPYC, Zen 4, 2026-11-21, weights in memory, one column, GMAC/s along the rows into level 1, in
/// order into level 1, in order into level 2: AVX2 q8_0 11, 11, 18; q4_K 14, 17, 30; q6_K 9, 10, 21.)
///
/// Some lines come with every tile, and with few tiles some with every few packed records, because a burst holds up what
/// follows it. (AMD EPYC, Zen 4, 2026-11-30, weights in memory, K=2048, GMAC/s with a burst after each packed chunk, with a
/// part for each tile, and so: q4_K N=8 117, 113, 120, N=16 108, 123, 135, N=64 153, 167, 168; q8_0 N=12 85, 92, 113. Into
/// the level-1 cache, for each tile: q4_K N=16 91, q8_0 N=16 90.)
pub struct NextRows {
    /// Chunks of a row that are fetched together.
    unit: usize,
    chunks: usize,
    chunk_bytes: usize,
    stride: usize,
    /// Calls of [`Self::pull`] in a chunk by tiles.
    tiles: usize,
    /// Records of a chunk.
    records: usize,
    /// Records that are packed between two calls.
    pub piece: usize,
    /// Lines that a call fetches.
    lines: usize,
    /// The next line, and the end of the run of memory that it is part of.
    line: *const u8,
    end: *const u8,
    /// Bytes of a run, and runs behind this one. They begin `stride` bytes apart.
    run: usize,
    runs: usize,
}

impl NextRows {
    /// For rows `stride` bytes apart, of `chunks` chunks of `records` records and `chunk_bytes` bytes, by `tiles` tiles; at
    /// most `most` bytes of sixteen rows are fetched in advance: 0 fetches nothing.
    pub fn new(
        stride: usize,
        chunks: usize,
        (records, chunk_bytes): (usize, usize),
        tiles: usize,
        most: usize,
    ) -> Self {
        let unit = if most == 0 { 0 } else { (most / (LANES * chunk_bytes)).clamp(1, chunks) };
        let (line, end) = (core::ptr::null(), core::ptr::null());
        NextRows {
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

    /// Chunk `i` of the rows of `panels` panels at `src` is next to be packed. With the first chunk of a unit begins what
    /// is fetched during this unit: the unit behind it, or the first one of the rows at `next`. Addresses need not be
    /// valid: a prefetch does not fault.
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

    /// Fetches the lines that fall to one tile or piece.
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
