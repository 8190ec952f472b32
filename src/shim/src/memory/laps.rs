//! Which pages of a model that does not fit in memory stay, and which are read ahead and released.
//!
//! Every graph reads all weights in the same order, a lap. The kernel evicts what was used longest ago,
//! which is what the next graph reads first: with a little less memory than weights, every page is read
//! again in every lap. So the first pages of the order stay, as many as there is room for, and the
//! others pass through a window: read shortly before their products, released behind them.

use std::collections::BTreeMap;

/// A page: number of the mapping, and index in it.
pub type PageId = (u64, usize);

/// Most pages of the window: 64 MiB, 30 ms of a disk that reads 2 GB/s.
const MOST_AHEAD: usize = 32;

/// The share of the room that the window takes.
const SHARE_AHEAD: usize = 8;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Read(PageId),
    Release(PageId),
}

/// The pages in the order of their use, and how far reading and releasing have come.
#[derive(Debug)]
pub struct Laps {
    order: Vec<PageId>,
    places: BTreeMap<PageId, u32>,
    /// So many pages of `order` stay.
    keep: usize,
    /// So many pages are read ahead.
    window: usize,
    /// Passing pages that were asked for and released, counted over all laps.
    asked: u64,
    released: u64,
}

impl Laps {
    pub const fn new() -> Self {
        Laps { order: Vec::new(), places: BTreeMap::new(), keep: 0, window: 0, asked: 0, released: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The first page of the order.
    pub fn first(&self) -> Option<PageId> {
        self.order.first().copied()
    }

    /// The place of a page in the order; at its end when it is new.
    pub fn place(&mut self, page: PageId) -> u32 {
        *self.places.entry(page).or_insert_with(|| {
            self.order.push(page);
            self.order.len() as u32 - 1
        })
    }

    /// Says how many pages there is room for, at the beginning of lap `lap`.
    pub fn set_room(&mut self, room: usize, lap: u64) {
        let (mut window, mut keep) = (0, self.order.len());
        if room < self.order.len() {
            window = (room / SHARE_AHEAD).clamp(1, MOST_AHEAD);
            keep = room.saturating_sub(window);
            window = window.min((self.order.len() - keep) / 2);
        }
        // A little more or less room would only disturb the pages that stay.
        let fits = room >= self.order.len() && self.keep == self.order.len();
        if fits || (window > 0 && self.window > 0 && self.keep.abs_diff(keep) <= window / 2) {
            return;
        }
        (self.keep, self.window) = (keep, window);
        self.asked = lap * self.passing() as u64;
        self.released = self.asked;
    }

    /// How many pages pass.
    fn passing(&self) -> usize {
        self.order.len() - self.keep.min(self.order.len())
    }

    /// The next step while the product at `place` of lap `lap` is computed.
    pub fn next(&mut self, lap: u64, place: usize) -> Option<Step> {
        let passing = self.passing();
        if passing == 0 || self.window == 0 {
            return None;
        }
        let page = |count: u64| self.order[self.keep + (count % passing as u64) as usize];
        let now = lap * passing as u64 + place.saturating_sub(self.keep) as u64;
        // What was passed more than a lap ago has been passed since.
        self.released = self.released.max(now.saturating_sub(passing as u64));
        if self.released < now {
            let page = page(self.released);
            self.released += 1;
            return Some(Step::Release(page));
        }
        self.asked = self.asked.max(now);
        if self.asked < now + self.window as u64 {
            let page = page(self.asked);
            self.asked += 1;
            return Some(Step::Read(page));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn laps(pages: usize, room: usize) -> Laps {
        let mut laps = Laps::new();
        (0..pages).for_each(|i| assert_eq!(laps.place((1, i)), i as u32));
        laps.set_room(room, 0);
        laps
    }

    #[test]
    fn with_room_for_all_nothing_is_read_or_released() {
        let mut laps = laps(100, 100);
        assert!((0..100).all(|i| laps.next(0, i).is_none()));
        assert!((0..100).all(|i| laps.next(1, i).is_none()));
    }

    #[test]
    fn what_passes_is_read_before_it_is_used_and_never_more_than_the_room_is_taken() {
        for (pages, room) in [(100, 40), (100, 99), (1000, 500), (10, 1), (3, 2)] {
            let mut laps = laps(pages, room);
            let mut held: BTreeSet<usize> = (0..laps.keep).collect();
            for lap in 0..4 {
                laps.set_room(room, lap);
                for place in 0..pages {
                    while let Some(step) = laps.next(lap, place) {
                        match step {
                            Step::Read((_, i)) => assert!(held.insert(i), "{i} is read twice"),
                            Step::Release((_, i)) => {
                                assert!(i >= laps.keep && held.remove(&i), "{i}");
                            }
                        }
                        assert!(held.len() <= room.max(2), "{} of {room}", held.len());
                    }
                    let ahead = laps.window > 0 || place < laps.keep;
                    assert!(held.contains(&place) || !ahead, "{place} in lap {lap} of {pages}, {room}");
                }
            }
        }
    }

    #[test]
    fn when_the_products_were_faster_reading_goes_on_in_front_of_them() {
        let mut laps = laps(100, 20);
        let first = laps.next(0, 60);
        assert!(matches!(first, Some(Step::Release(_))));
        let read = std::iter::from_fn(|| laps.next(0, 60)).find(|s| matches!(s, Step::Read(_)));
        assert_eq!(read, Some(Step::Read((1, 60))));
    }

    #[test]
    fn a_little_more_room_changes_nothing_and_much_more_does() {
        let mut laps = laps(100, 40);
        let keep = laps.keep;
        laps.set_room(41, 1);
        assert_eq!(laps.keep, keep);
        laps.set_room(60, 2);
        assert!(laps.keep > keep);
        laps.set_room(200, 3);
        assert_eq!((laps.keep, laps.next(3, 5)), (100, None));
    }
}
