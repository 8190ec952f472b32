//! Decides which pages of a model that does not fit in memory stay there, and which are read ahead and released.
//!
//! Graphs read all weights in the same order, again and again; one pass through them is a lap. The kernel evicts the
//! pages that were used longest ago, and these are the pages that the next lap reads first. So with a little less
//! memory than weights, the kernel reads every page again in every lap. This file does it better: the first pages of
//! the order stay, as many as memory has room for. The others pass through a window: they are read shortly before their
//! products, and released after them.
//!
//! A lap is one graph in most programs, and many graphs in some: `llama-imatrix` looks at the result of every product,
//! and has each one computed as its own graph. So a lap ends when a graph begins with weights that the lap has used
//! before. A page is behind when a product has used it, and not when a graph has ended.

use std::collections::{BTreeMap, VecDeque};

/// A page: number of the mapping, and index in it.
pub type PageId = (u64, usize);

/// Most pages of the window: 64 MiB, 30 ms of a disk that reads 2 GB/s.
const MOST_AHEAD: usize = 32;

/// The share of the room that the window takes.
const SHARE_AHEAD: usize = 8;

/// The largest share of the room that is kept free for the pages of the product that runs. A larger product, such as
/// the output matrix of a small model, gets no room; the kernel evicts its pages in any case.
const SHARE_IN_USE: usize = 6;

/// What the reader does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Read(PageId),
    Release(PageId),
}

/// The state of a page that passes through the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passing {
    /// Probably not in memory.
    Out,
    /// Read ahead, and not used yet.
    Ahead,
    /// Used, and not released yet.
    Used,
}

/// The pages in the order of their first use, and how far products, reading and releasing have come in it.
///
/// The place of a product is the number of pages that the products before it use in a lap. A page that two tensors
/// share is released after the last product that uses it.
#[derive(Debug)]
pub struct Laps {
    order: Vec<PageId>,
    numbers: BTreeMap<PageId, u32>,
    /// For each page, the place of the last product that uses it.
    last: Vec<u32>,
    passing: Vec<Passing>,
    /// How many pages at the beginning of `order` stay.
    keep: usize,
    /// How many pages are read ahead.
    window: usize,
    /// The numbers of the pages that pass, in the order in which they are released.
    leaving: Vec<u32>,
    /// How many of `leaving` were handled in this lap.
    looked_at: usize,
    /// Pages that were used in laps that have ended.
    behind: Vec<u32>,
    /// Pages of the products of the graph that runs, with the products' places, in order.
    running: VecDeque<(u32, u32)>,
    /// The most pages that one product uses. All of them are in memory until the product has ended.
    largest: usize,
    /// The lap that last used the weights at each address.
    used_in: BTreeMap<usize, u64>,
    /// The place after all products of the lap that are known.
    next: Option<u32>,
    /// Whether the next product is the first one of its graph.
    is_first: bool,
    lap: u64,
    /// Whether this lap uses pages that no lap before it used.
    has_grown: bool,
}

impl Laps {
    pub const fn new() -> Self {
        Laps {
            order: Vec::new(),
            numbers: BTreeMap::new(),
            last: Vec::new(),
            passing: Vec::new(),
            keep: 0,
            window: 0,
            leaving: Vec::new(),
            looked_at: 0,
            behind: Vec::new(),
            running: VecDeque::new(),
            largest: 0,
            used_in: BTreeMap::new(),
            next: None,
            is_first: true,
            lap: 0,
            has_grown: false,
        }
    }

    /// The first page of the order.
    pub fn first(&self) -> Option<PageId> {
        self.order.first().copied()
    }

    /// Pages that are used in a lap.
    pub fn pages(&self) -> usize {
        self.order.len()
    }

    /// The number of the lap. Each lap has another number.
    pub fn lap(&self) -> u64 {
        self.lap
    }

    /// Whether this lap uses pages that no lap before it used.
    pub fn has_grown(&self) -> bool {
        self.has_grown
    }

    /// Graphs were not followed for a time, so the next graph begins a lap.
    pub fn resume(&mut self) {
        self.next = None;
        self.running.clear();
    }

    /// A graph begins. The graph before it has ended, and has used its pages.
    pub fn begin_graph(&mut self) {
        self.used_before(u32::MAX);
        self.is_first = true;
    }

    /// Notes the next product of the graph, with the address and the pages of its weights. Returns its place.
    pub fn product(&mut self, weights: usize, pages: impl Iterator<Item = PageId>) -> u32 {
        let mut pages = pages.peekable();
        let is_used = self.used_in.get(&weights) == Some(&self.lap);
        if std::mem::take(&mut self.is_first) && (is_used || self.next.is_none()) {
            let known = pages.peek().and_then(|page| self.numbers.get(page)).copied();
            self.begin_lap(known.unwrap_or(self.order.len() as u32));
        }
        self.used_in.insert(weights, self.lap);
        let place = self.next.unwrap_or(0);
        let mut next = place;
        let others = self.running.len();
        for page in pages {
            let number = *self.numbers.entry(page).or_insert_with(|| {
                self.order.push(page);
                self.last.push(0);
                self.passing.push(Passing::Out);
                self.has_grown = true;
                self.order.len() as u32 - 1
            });
            let last = &mut self.last[number as usize];
            *last = place.max(*last);
            next = next.max(number + 1);
            self.running.push_back((place, number));
        }
        self.largest = self.largest.max(self.running.len() - others);
        self.next = Some(next);
        place
    }

    fn begin_lap(&mut self, first: u32) {
        self.lap += 1;
        self.has_grown = false;
        self.next = Some(first);
        self.looked_at = 0;
        let soon: Vec<u32> = self.in_window(first).collect();
        for number in self.keep..self.keep + self.leaving.len() {
            if self.passing[number] == Passing::Used {
                let is_soon = soon.contains(&(number as u32));
                self.passing[number] = if is_soon { Passing::Ahead } else { Passing::Out };
                if !is_soon {
                    self.behind.push(number as u32);
                }
            }
        }
    }

    /// The pages that pass next when the product at `place` runs.
    fn in_window(&self, place: u32) -> impl Iterator<Item = u32> + use<> {
        let (keep, passing) = (self.keep, self.leaving.len());
        let first = (place as usize).saturating_sub(keep);
        (first..first + self.window).map(move |i| (keep + i % passing) as u32)
    }

    /// The products before `place` have used their pages.
    fn used_before(&mut self, place: u32) {
        let managed = self.keep..self.keep + self.leaving.len();
        while let Some((_, number)) = self.running.pop_front_if(|(at, _)| *at < place) {
            if managed.contains(&(number as usize)) {
                self.passing[number as usize] = Passing::Used;
            }
        }
    }

    /// How many pages stay and how many are read ahead, if memory has room for `room` pages.
    fn division(&self, room: usize) -> (usize, usize) {
        let pages = self.order.len();
        if room >= pages {
            return (pages, 0);
        }
        let window = (room / SHARE_AHEAD).clamp(1, MOST_AHEAD);
        let in_use = if self.largest <= room / SHARE_IN_USE { self.largest } else { 0 };
        let keep = room.saturating_sub(window + in_use);
        (keep, window.min((pages - keep) / 2))
    }

    /// How many pages each lap reads, if memory has room for `room` pages.
    pub fn read_with(&self, room: usize) -> usize {
        self.order.len() - self.division(room).0
    }

    /// Sets for how many pages memory has room.
    pub fn set_room(&mut self, room: usize) {
        let pages = self.order.len();
        let (keep, window) = self.division(room);
        // A small change of the room changes nothing: moving the limit would cost reads.
        let is_near = self.window > 0 && window > 0 && self.keep.abs_diff(keep) <= window;
        if self.keep + self.leaving.len() == pages && (is_near || self.keep == keep) {
            return;
        }
        let before = self.keep..self.keep + self.leaving.len();
        (self.keep, self.window) = (keep, window);
        self.leaving = (keep as u32..pages as u32).collect();
        self.leaving.sort_by_key(|&i| self.last[i as usize]);
        self.looked_at = 0;
        (0..pages).filter(|i| !before.contains(i)).for_each(|i| self.passing[i] = Passing::Out);
        self.behind.retain(|&i| i as usize >= keep);
    }

    /// The next step while the product at `place` is computed.
    pub fn next(&mut self, place: u32) -> Option<Step> {
        self.used_before(place);
        if self.leaving.is_empty() || self.window == 0 {
            return None;
        }
        while let Some(number) = self.behind.pop() {
            // It may have been used, or read, again meanwhile.
            if self.passing[number as usize] == Passing::Out {
                return Some(Step::Release(self.order[number as usize]));
            }
        }
        while let Some(&number) = self.leaving.get(self.looked_at)
            && self.last[number as usize] < place
        {
            self.looked_at += 1;
            // A page that no product has used in this lap is still needed.
            if self.passing[number as usize] == Passing::Used {
                self.passing[number as usize] = Passing::Out;
                return Some(Step::Release(self.order[number as usize]));
            }
        }
        let number = self.in_window(place).find(|&i| self.passing[i as usize] == Passing::Out)?;
        self.passing[number as usize] = Passing::Ahead;
        Some(Step::Read(self.order[number as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::ops::Range;

    /// Products of `each` pages; the last page of one is the first one of the next.
    fn products(pages: usize, each: usize) -> Vec<Range<usize>> {
        (0..pages - 1).step_by(each - 1).map(|i| i..(i + each).min(pages)).collect()
    }

    /// A graph: the places of its products.
    fn graph(laps: &mut Laps, products: &[Range<usize>]) -> Vec<u32> {
        laps.begin_graph();
        products.iter().map(|pages| laps.product(pages.start, pages.clone().map(|i| (1, i)))).collect()
    }

    /// Memory: what is held, and how often a page had to be read.
    #[derive(Default)]
    struct Memory {
        held: BTreeSet<usize>,
        reads: usize,
    }

    impl Memory {
        fn hold(&mut self, page: usize) {
            self.reads += usize::from(self.held.insert(page));
        }

        /// Does all steps while a product runs, which then uses its pages.
        fn run(&mut self, laps: &mut Laps, product: &Range<usize>, place: u32) {
            while let Some(step) = laps.next(place) {
                match step {
                    Step::Read((_, i)) => self.hold(i),
                    Step::Release((_, i)) => assert!(i >= laps.keep && self.held.remove(&i), "{i}"),
                }
            }
            let there = product.clone().take(laps.window).filter(|i| self.held.contains(i)).count();
            assert!(laps.window == 0 || there == product.len().min(laps.window), "{product:?}");
            product.clone().for_each(|i| self.hold(i));
        }
    }

    #[test]
    fn with_room_for_all_nothing_is_read_or_released() {
        let mut laps = Laps::new();
        let products = products(100, 4);
        for _ in 0..3 {
            let places = graph(&mut laps, &products);
            assert_eq!(places[..3], [0, 4, 7]);
            laps.set_room(100);
            assert!(places.iter().all(|&place| laps.next(place).is_none()));
        }
        assert_eq!(laps.lap(), 3);
    }

    #[test]
    fn what_passes_is_there_when_it_is_used_and_no_more_than_the_room_is_taken() {
        // Graphs of all products, and of one each.
        for (pages, each, room, of) in
            [(100, 4, 40, 99), (100, 2, 99, 99), (1000, 10, 500, 999), (100, 3, 10, 1), (400, 5, 200, 1)]
        {
            let mut laps = Laps::new();
            let mut memory = Memory::default();
            let products = products(pages, each);
            for lap in 0..5 {
                let before = memory.reads;
                for part in products.chunks(of) {
                    let places = graph(&mut laps, part);
                    if laps.lap() == 2 && laps.window == 0 {
                        memory.held.retain(|&i| i < laps.division(room).0); // the kernel has evicted them
                        laps.set_room(room);
                    }
                    for (product, &place) in part.iter().zip(&places) {
                        memory.run(&mut laps, product, place);
                        assert!(lap == 0 || memory.held.len() <= room + each, "{} of {room}", memory.held.len());
                    }
                }
                let read = memory.reads - before;
                assert!(lap < 2 || read <= laps.read_with(room) + laps.window, "{read} in lap {lap}");
                assert!(lap < 3 || read == laps.read_with(room), "{read} in lap {lap}");
            }
            assert_eq!(laps.lap(), 5);
        }
    }

    /// A draft model computes many graphs between two of the model's: nothing of the model's is behind meanwhile.
    #[test]
    fn what_was_read_and_not_used_yet_is_neither_released_nor_read_again() {
        let mut laps = Laps::new();
        let mut memory = Memory::default();
        let [draft, model]: [Vec<Range<usize>>; 2] = [vec![0..5, 5..10], (10..100).map(|i| i..i + 1).collect()];
        for round in 0..4 {
            for part in [&draft, &draft, &draft, &model] {
                let before = memory.reads;
                let places = graph(&mut laps, part);
                if round == 1 && laps.window == 0 {
                    memory.held.retain(|&i| i < laps.division(40).0);
                    laps.set_room(40);
                }
                part.iter().zip(&places).for_each(|(product, &place)| memory.run(&mut laps, product, place));
                assert!(round == 0 || memory.reads - before <= laps.read_with(40), "round {round}");
            }
        }
        assert!(memory.reads <= 100 + 3 * laps.read_with(40) + laps.window, "{}", memory.reads);
    }

    /// Small tensors lie in one page, and the order of the file is not that of the graph.
    #[test]
    fn a_step_back_in_the_file_is_no_new_lap() {
        let mut laps = Laps::new();
        let tensors = [(7, 3..5), (5, 2..4), (1, 0..1), (2, 0..3), (9, 5..9)];
        for lap in 1..4 {
            for (address, pages) in &tensors {
                laps.begin_graph();
                let _ = laps.product(*address, pages.clone().map(|i| (1, i)));
                assert_eq!(laps.lap(), lap);
            }
        }
    }

    #[test]
    fn when_the_products_were_faster_reading_goes_on_in_front_of_them() {
        let mut laps = Laps::new();
        let products = products(100, 2);
        let _ = graph(&mut laps, &products);
        laps.set_room(20);
        assert!(matches!(laps.next(60), Some(Step::Release(_))));
        let read = std::iter::from_fn(|| laps.next(60)).find(|s| matches!(s, Step::Read(_)));
        assert_eq!(read, Some(Step::Read((1, 60))));
    }

    #[test]
    fn a_little_more_room_changes_nothing_and_much_more_does() {
        let mut laps = Laps::new();
        let _ = graph(&mut laps, &products(100, 2));
        laps.set_room(40);
        let keep = laps.keep;
        laps.set_room(41);
        assert_eq!(laps.keep, keep);
        laps.set_room(60);
        assert!(laps.keep > keep);
        laps.set_room(200);
        assert_eq!((laps.keep, laps.next(5)), (100, None));
    }
}
