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

/// The pages in the order of their first use, and how far reading and releasing have come.
///
/// The place of a product is the number of pages that the products before it use; a page that two
/// tensors share is released behind the last product that uses it.
#[derive(Debug)]
pub struct Laps {
    order: Vec<PageId>,
    numbers: BTreeMap<PageId, u32>,
    /// Of each page, the place of the last product that uses it.
    last: Vec<u32>,
    /// So many pages of `order` stay.
    keep: usize,
    /// So many pages are read ahead.
    window: usize,
    /// The pages that pass, by their numbers, in the order in which they are released.
    leaving: Vec<u32>,
    /// Passing pages that were asked for and released, counted over all laps.
    asked: u64,
    released: u64,
}

impl Laps {
    pub const fn new() -> Self {
        Laps {
            order: Vec::new(),
            numbers: BTreeMap::new(),
            last: Vec::new(),
            keep: 0,
            window: 0,
            leaving: Vec::new(),
            asked: 0,
            released: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The first page of the order.
    pub fn first(&self) -> Option<PageId> {
        self.order.first().copied()
    }

    /// Takes note that the product at `place` uses a page. Returns the place of a product behind it,
    /// if it used no other page.
    pub fn uses(&mut self, place: u32, page: PageId) -> u32 {
        let number = *self.numbers.entry(page).or_insert_with(|| {
            self.order.push(page);
            self.last.push(0);
            self.order.len() as u32 - 1
        });
        let last = &mut self.last[number as usize];
        *last = place.max(*last);
        place.max(number + 1)
    }

    /// Says how many pages there is room for, at the beginning of lap `lap`.
    pub fn set_room(&mut self, room: usize, lap: u64) {
        let pages = self.order.len();
        let (mut window, mut keep) = (0, pages);
        if room < pages {
            window = (room / SHARE_AHEAD).clamp(1, MOST_AHEAD);
            keep = room.saturating_sub(window);
            window = window.min((pages - keep) / 2);
        }
        // A little more or less room would only disturb the pages that stay.
        let is_near = self.window > 0 && window > 0 && self.keep.abs_diff(keep) <= window;
        if self.keep + self.leaving.len() == pages && (is_near || self.keep == keep) {
            return;
        }
        (self.keep, self.window) = (keep, window);
        self.leaving = (keep as u32..pages as u32).collect();
        self.leaving.sort_by_key(|&i| self.last[i as usize]);
        self.asked = lap * self.leaving.len() as u64;
        self.released = self.asked;
    }

    /// The next step while the product at `place` of lap `lap` is computed.
    pub fn next(&mut self, lap: u64, place: u32) -> Option<Step> {
        let passing = self.leaving.len() as u64;
        if passing == 0 || self.window == 0 {
            return None;
        }
        let left = self.leaving.partition_point(|&i| self.last[i as usize] < place);
        let to_release = lap * passing + left as u64;
        // What was passed more than a lap ago has been passed since.
        self.released = self.released.max(to_release.saturating_sub(passing));
        if self.released < to_release {
            let number = self.leaving[(self.released % passing) as usize];
            self.released += 1;
            return Some(Step::Release(self.order[number as usize]));
        }
        let used = lap * passing + (place as usize).saturating_sub(self.keep) as u64;
        self.asked = self.asked.max(used);
        if self.asked < used + self.window as u64 {
            let number = self.keep + (self.asked % passing) as usize;
            self.asked += 1;
            return Some(Step::Read(self.order[number]));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Products of `each` pages; the last page of one is the first one of the next.
    fn products(pages: usize, each: usize) -> Vec<std::ops::Range<usize>> {
        (0..pages - 1).step_by(each - 1).map(|i| i..(i + each).min(pages)).collect()
    }

    /// A graph: the places of its products.
    fn lap(laps: &mut Laps, products: &[std::ops::Range<usize>]) -> Vec<u32> {
        let mut next = 0;
        let mut place = |pages: &std::ops::Range<usize>| {
            let place = next;
            next = pages.clone().map(|i| laps.uses(place, (1, i))).max().unwrap().max(place);
            place
        };
        products.iter().map(&mut place).collect()
    }

    #[test]
    fn with_room_for_all_nothing_is_read_or_released() {
        let mut laps = Laps::new();
        let places = lap(&mut laps, &products(100, 4));
        assert_eq!(places[..3], [0, 4, 7]);
        laps.set_room(100, 0);
        assert!((0..200).all(|i| laps.next(i / 100, places[i as usize % places.len()]).is_none()));
    }

    #[test]
    fn what_passes_is_there_when_it_is_used_and_no_more_than_the_room_is_taken() {
        for (pages, each, room) in [(100, 4, 40), (100, 2, 99), (1000, 10, 500), (100, 3, 10)] {
            let mut laps = Laps::new();
            let products = products(pages, each);
            let mut held: BTreeSet<usize> = BTreeSet::new();
            for number in 0..4 {
                let places = lap(&mut laps, &products);
                laps.set_room(room, number);
                held.extend(0..laps.keep); // those that stay come by being used
                for (product, &place) in products.iter().zip(&places) {
                    while let Some(step) = laps.next(number, place) {
                        match step {
                            Step::Read((_, i)) => assert!(held.insert(i), "{i} is read twice"),
                            Step::Release((_, i)) => assert!(i >= laps.keep && held.remove(&i), "{i}"),
                        }
                        assert!(held.len() <= room + each, "{} of {room}", held.len());
                    }
                    // Of a product larger than the window, the rest is read as it is touched.
                    let there = product.clone().take(laps.window).filter(|i| held.contains(i)).count();
                    assert_eq!(there, product.len().min(laps.window), "{product:?} in lap {number}");
                    held.extend(product.clone());
                }
            }
        }
    }

    #[test]
    fn when_the_products_were_faster_reading_goes_on_in_front_of_them() {
        let mut laps = Laps::new();
        let _ = lap(&mut laps, &products(100, 2));
        laps.set_room(20, 0);
        assert!(matches!(laps.next(0, 60), Some(Step::Release(_))));
        let read = std::iter::from_fn(|| laps.next(0, 60)).find(|s| matches!(s, Step::Read(_)));
        assert_eq!(read, Some(Step::Read((1, 60))));
    }

    #[test]
    fn a_little_more_room_changes_nothing_and_much_more_does() {
        let mut laps = Laps::new();
        let _ = lap(&mut laps, &products(100, 2));
        laps.set_room(40, 0);
        let keep = laps.keep;
        laps.set_room(41, 1);
        assert_eq!(laps.keep, keep);
        laps.set_room(60, 2);
        assert!(laps.keep > keep);
        laps.set_room(200, 3);
        assert_eq!((laps.keep, laps.next(3, 5)), (100, None));
    }
}
