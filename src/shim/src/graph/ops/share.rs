//! How an operation is divided among threads.

use std::ops::Range;

use zen5turbo_kernels::isa::LANES;

/// This thread's number, and the number of threads.
#[derive(Clone, Copy)]
pub struct Threads {
    pub ith: usize,
    pub nth: usize,
}

impl Threads {
    /// This thread's part of `count` things. The first threads have one more where the number cannot be divided.
    #[inline]
    pub fn part(self, count: usize) -> Range<usize> {
        let start = |ith: usize| (count * ith).div_ceil(self.nth);
        start(self.ith)..start(self.ith + 1)
    }
}

/// The fewest elements that a row is cut into: below, a thread would wait longer for the memory of another one than it
/// computes. 2 KiB take about 50 ns.
const FEWEST: usize = 512;

/// With as many rows for each thread, no row is cut.
const WHOLE_ROWS: usize = 4;

/// Rows of elements that are computed one by one, cut where there are few rows.
#[derive(Clone, Copy)]
pub struct Elements {
    /// Elements of a row.
    pub n: usize,
    pub rows: Counts,
}

/// The numbers of rows in three dimensions.
pub type Counts = [usize; 3];

impl Elements {
    /// Calls `f` for each of this thread's rows or parts of rows, with the place of the row and its elements.
    #[inline]
    pub fn each(&self, threads: Threads, mut f: impl FnMut(Counts, Range<usize>)) {
        let count: usize = self.rows.iter().product();
        let step = self.step(count, threads.nth);
        let parts = self.n.div_ceil(step);
        let mine = threads.part(count * parts);
        if mine.is_empty() {
            return;
        }
        let mut place = place(mine.start / parts, self.rows);
        let mut part = mine.start % parts;
        for _ in mine {
            let from = part * step;
            f(place, from..(from + step).min(self.n));
            part += 1;
            if part == parts {
                part = 0;
                next(&mut place, self.rows);
            }
        }
    }

    /// The elements of a part of a row: whole vectors.
    fn step(&self, rows: usize, threads: usize) -> usize {
        if rows >= WHOLE_ROWS * threads || self.n <= FEWEST {
            return self.n.max(1);
        }
        let parts = (WHOLE_ROWS * threads).div_ceil(rows).min(self.n / FEWEST).max(1);
        self.n.div_ceil(parts).next_multiple_of(LANES)
    }
}

/// Row `i` as its place in three dimensions.
#[inline]
pub fn place(i: usize, counts: Counts) -> Counts {
    [i % counts[0], i / counts[0] % counts[1], i / counts[0] / counts[1]]
}

/// The place after this one.
#[inline]
pub fn next(place: &mut Counts, counts: Counts) {
    place[0] += 1;
    if place[0] == counts[0] {
        place[0] = 0;
        place[1] += 1;
        if place[1] == counts[1] {
            place[1] = 0;
            place[2] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_compute_every_element_once() {
        for nth in [1, 2, 3, 8, 96] {
            for rows in [[1, 1, 1], [2, 1, 1], [3, 2, 1], [1, 5, 3], [64, 2, 2], [1, 1, 700]] {
                for n in [1, 15, 16, 512, 513, 1024, 2048, 5000, 40_001] {
                    let all = Elements { n, rows };
                    let mut counts = vec![0u8; n * rows.iter().product::<usize>()];
                    for ith in 0..nth {
                        all.each(Threads { ith, nth }, |[i1, i2, i3], range| {
                            assert!(range.start.is_multiple_of(LANES) && i1 < rows[0] && i2 < rows[1] && i3 < rows[2]);
                            let row = (i3 * rows[1] + i2) * rows[0] + i1;
                            counts[row * n..][range].iter_mut().for_each(|count| *count += 1);
                        });
                    }
                    assert!(counts.iter().all(|&count| count == 1), "{nth} {rows:?} {n}");
                }
            }
        }
    }

    #[test]
    fn a_long_row_is_cut_evenly_and_a_short_one_is_not() {
        let longest = |n: usize, nth: usize| {
            let of = |ith: usize| {
                let mut sum = 0;
                Elements { n, rows: [1; 3] }.each(Threads { ith, nth }, |_, range| sum += range.len());
                sum
            };
            (0..nth).map(of).max()
        };
        assert_eq!(longest(512, 2), Some(512));
        assert_eq!(longest(4096, 2), Some(2048));
        assert_eq!(longest(16 << 10, 8), Some(2048));
    }
}
