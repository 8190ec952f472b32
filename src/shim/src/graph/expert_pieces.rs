//! Cuts the rows of the picked experts into pieces, which threads take one by one.
//!
//! Experts have very different numbers of columns, so the pieces are cut by work and not by expert. Later pieces are
//! smaller, so that the others do not wait long for a thread that is held up. With many threads there are fewer pieces, of
//! equal size: see [`claims`]. Pieces are numbered in the order in which the rows lie in memory, and every thread makes
//! the same cut.

use std::ops::Range;

use super::claims::{self, WEIGHTS_IN_COLUMNS};
use super::groups::Groups;

/// The size of a piece is the rest of the work, divided by this and by the number of threads (guided self-scheduling).
const REST_PER_THREAD: usize = 4;

/// The smallest piece is the whole work, divided by this and by the number of threads. (One token, 8 of 256 experts of
/// 512 x 2048 q4_K, two threads, AMD EPYC, Zen 4, 2026-11-30: 160 us with 8 equal pieces for each thread; 164 us with
/// the rest divided by 8 and the smallest piece a 64th; with 4 and 16 no difference. Prefetching the first 16 KiB of
/// the next piece before the last panel of the present one cost 2 to 4 % there, prefetching 2 KiB cost 1 %, and neither
/// gained anything certain in prompts.)
const FINEST_PER_THREAD: usize = 16;

/// The cut of a product of experts: the panels of every expert (all panels, or the panels of one NUMA node), and the
/// number of threads.
#[derive(Clone, Copy)]
pub struct Cut {
    first: usize,
    panels: usize,
    /// Bytes of a panel.
    panel_bytes: usize,
    threads: usize,
}

/// Finds pieces by their numbers. A number must not be smaller than the one before.
pub struct Cursor<'a> {
    cut: Cut,
    groups: &'a Groups<'a>,
    /// Work of all experts.
    total: usize,
    /// Pieces that each thread can take without waiting for the queue.
    each: usize,
    /// Work of the experts before the current one.
    before: usize,
    /// The current expert: its index among the picked experts.
    active: usize,
    /// The number of the first piece of the current expert.
    number: usize,
}

impl Cut {
    pub fn new(panels: Range<usize>, panel_bytes: usize, threads: usize) -> Self {
        Cut { first: panels.start, panels: panels.len(), panel_bytes, threads }
    }

    pub fn cursor<'a>(self, groups: &'a Groups<'a>) -> Cursor<'a> {
        let total = groups.active().iter().map(|&e| self.work(groups, e)).sum();
        let bytes = total * self.panel_bytes / (1 + WEIGHTS_IN_COLUMNS);
        let each = claims::pieces_per_thread(bytes, self.threads).min(FINEST_PER_THREAD);
        Cursor { cut: self, groups, total, each, before: 0, active: 0, number: 0 }
    }

    /// The work of expert `e`.
    fn work(&self, groups: &Groups<'_>, e: u32) -> usize {
        self.panels * (groups.of(e as usize).1.len() + WEIGHTS_IN_COLUMNS)
    }
}

impl Cursor<'_> {
    /// Expert and panels of piece `i`; `None` after the last one.
    pub fn piece(&mut self, i: usize) -> Option<(usize, Range<usize>)> {
        let Cut { first, panels, threads, .. } = self.cut;
        while let Some(&e) = self.groups.active().get(self.active) {
            let work = self.cut.work(self.groups, e);
            let count = if threads == 1 {
                // A single thread takes each expert whole.
                panels.min(1)
            } else if self.each < FINEST_PER_THREAD {
                // Claims cost time here, so no more pieces than that. All are alike if the experts have the same work.
                (work * threads * self.each / self.total.max(1)).clamp(1, panels.max(1)).min(panels)
            } else {
                let rest = self.total - self.before;
                let target = (rest / (threads * REST_PER_THREAD)).max(self.total / (threads * FINEST_PER_THREAD));
                work.div_ceil(target.max(1)).min(panels)
            };
            if i < self.number + count {
                let j = i - self.number;
                return Some((e as usize, first + j * panels / count..first + (j + 1) * panels / count));
            }
            self.number += count;
            self.before += work;
            self.active += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::groups::Ids;

    /// Picks of one slot: expert `e` of `counts` is picked `counts[e]` times.
    fn with_groups(counts: &[usize], f: impl FnOnce(&Groups<'_>)) {
        let ids: Vec<i32> = counts.iter().enumerate().flat_map(|(e, &n)| vec![e as i32; n]).collect();
        let nb = [4, 4, 0, 0];
        let x = Ids { data: ids.as_ptr().cast(), nb, used: 1, tokens: ids.len(), experts: counts.len() };
        let mut memory = vec![0_u32; x.group_bytes() / 4];
        // SAFETY: the memory has the size asked for.
        f(&unsafe { x.group(memory.as_mut_ptr().cast(), false) });
    }

    const COUNTS: [&[usize]; 5] = [&[1], &[0, 1, 1, 0, 1, 1], &[3, 0, 500, 1], &[0, 0], &[7; 40]];

    #[test]
    fn pieces_of_all_nodes_cover_every_picked_expert_once_in_order() {
        for counts in COUNTS {
            with_groups(counts, |groups| {
                for (panels, bytes, threads) in
                    [(1, 64, 2), (2, 1 << 20, 3), (7, 9, 1), (48, 9000, 2), (48, 9000, 96), (48, 1 << 20, 96)]
                {
                    for cut in [0, 1, panels / 2, panels] {
                        let mut once = vec![0; counts.len() * panels];
                        for (range, threads) in [(0..cut, 1), (cut..panels, threads)] {
                            let mut cursor = Cut::new(range, bytes, threads).cursor(groups);
                            let mut last = None;
                            for i in 0.. {
                                let Some((e, mine)) = cursor.piece(i) else { break };
                                assert!(!mine.is_empty() && last.is_none_or(|l| l < (e, mine.start)));
                                last = Some((e, mine.start));
                                mine.for_each(|panel| once[e * panels + panel] += 1);
                            }
                            assert!(cursor.piece(usize::MAX).is_none());
                        }
                        let wanted: Vec<_> = counts.iter().flat_map(|&n| vec![n.min(1); panels]).collect();
                        assert_eq!(once, wanted, "{counts:?} {panels} {threads} {cut}");
                    }
                }
            });
        }
    }

    #[test]
    fn a_cursor_that_skips_pieces_finds_the_same_ones() {
        with_groups(&[3, 0, 500, 1, 20], |groups| {
            let cut = Cut::new(2..50, 1 << 20, 4);
            let mut each = cut.cursor(groups);
            let all: Vec<_> = (0..).map_while(|i| each.piece(i)).collect();
            for step in [2, 3, 7] {
                let mut cursor = cut.cursor(groups);
                for i in (0..all.len()).step_by(step) {
                    assert_eq!(cursor.piece(i).as_ref(), Some(&all[i]));
                }
            }
        });
    }

    #[test]
    fn no_piece_is_more_than_its_share_of_the_work() {
        with_groups(&[1, 900, 3, 3, 30, 200], |groups| {
            for threads in [2, 5, 16] {
                let cut = Cut::new(0..400, 1 << 20, threads);
                let mut cursor = cut.cursor(groups);
                for i in 0.. {
                    let Some((e, panels)) = cursor.piece(i) else { break };
                    let work = panels.len() * (groups.of(e).1.len() + WEIGHTS_IN_COLUMNS);
                    assert!(work <= cursor.total / (threads * REST_PER_THREAD) + cursor.total / 400);
                }
            }
        });
    }
}
