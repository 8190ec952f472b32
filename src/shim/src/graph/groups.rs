//! Orders the columns of a MUL_MAT_ID by the expert that they picked.

/// One result column: a token, and the slot that names one of its experts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    pub slot: u32,
    pub token: u32,
}

/// The ids of a MUL_MAT_ID.
#[derive(Clone, Copy)]
pub struct Ids {
    pub data: *const u8,
    pub nb: [usize; 4],
    /// How many experts a token picks.
    pub used: usize,
    pub tokens: usize,
    /// Number of experts.
    pub experts: usize,
}

/// The picks of a node, ordered by expert.
pub struct Groups<'a> {
    /// For each expert, the index of its first pick; at the end, the number of all picks.
    starts: &'a [u32],
    /// The experts that were picked, in the order in which they lie in memory.
    active: &'a [u32],
    picks: &'a [Pick],
}

impl Ids {
    /// The number of result columns.
    pub fn picks(&self) -> usize {
        self.used * self.tokens
    }

    /// Bytes that [`Self::group`] needs.
    pub fn group_bytes(&self) -> usize {
        size_of::<u32>() * (1 + 2 * self.experts + 2) + size_of::<Pick>() * self.picks()
    }

    /// Orders the picks by expert in `memory`. With `done`, they lie there already. A pick of an expert that does not
    /// exist is left out.
    ///
    /// # Safety
    /// - `memory` is used by this thread only, is aligned to 4 bytes, and has [`Self::group_bytes`] bytes.
    /// - The ids are computed.
    /// - With `done`, the last call for this memory had the same ids.
    pub unsafe fn group<'a>(&self, memory: *mut u8, done: bool) -> Groups<'a> {
        let words = 1 + 2 * self.experts + 2;
        // SAFETY: `memory` is this thread's own and has room for both lists, by the contract of this function. Any bits
        // are a valid `u32` and a valid `Pick`.
        let (words, picks) = unsafe {
            let memory = memory.cast::<u32>();
            let picks = memory.add(words).cast::<Pick>();
            (std::slice::from_raw_parts_mut(memory, words), std::slice::from_raw_parts_mut(picks, self.picks()))
        };
        let [count, words @ ..] = words else { unreachable!("there is at least one word") };
        let (starts, active) = words.split_at_mut(self.experts + 2);
        if !done {
            // SAFETY: the ids are computed, by the contract of this function.
            *count = unsafe { self.sort(starts, active, picks) };
        }
        Groups { starts: &starts[..=self.experts], active: &active[..*count as usize], picks }
    }

    /// Fills the lists; returns how many experts were picked.
    unsafe fn sort(&self, starts: &mut [u32], active: &mut [u32], picks: &mut [Pick]) -> u32 {
        starts.fill(0);
        // The picks of `e` are counted in `starts[e + 2]`. After the sums below, `starts[e + 1]` is the index of the
        // first pick of `e`. After all picks are placed, `starts[e]` is this index.
        // SAFETY: the ids are computed, by the contract of `group`.
        unsafe { self.each(|e, _| starts[e + 2] += 1) };
        let mut count = 0;
        for e in 0..self.experts {
            if starts[e + 2] > 0 {
                active[count] = e as u32;
                count += 1;
            }
            starts[e + 2] += starts[e + 1];
        }
        // SAFETY: the ids are computed, by the contract of `group`.
        unsafe {
            self.each(|e, pick| {
                picks[starts[e + 1] as usize] = pick;
                starts[e + 1] += 1;
            });
        }
        count as u32
    }

    /// Calls `f` with the expert and the pick, for every pick of an expert that exists, token by token.
    #[inline(always)]
    unsafe fn each(&self, mut f: impl FnMut(usize, Pick)) {
        for token in 0..self.tokens {
            let row = self.data.wrapping_add(token * self.nb[1]);
            for slot in 0..self.used {
                // SAFETY: `token` and `slot` are below the sizes of the tensor of ids, which `policy` has checked.
                let id = unsafe { row.add(slot * self.nb[0]).cast::<i32>().read_unaligned() };
                if let Some(e) = usize::try_from(id).ok().filter(|&e| e < self.experts) {
                    f(e, Pick { slot: slot as u32, token: token as u32 });
                }
            }
        }
    }
}

impl Groups<'_> {
    /// The experts that were picked.
    pub fn active(&self) -> &[u32] {
        self.active
    }

    /// The index of the first pick of expert `e`, and its picks.
    #[inline]
    pub fn of(&self, e: usize) -> (usize, &[Pick]) {
        let (from, to) = (self.starts[e] as usize, self.starts[e + 1] as usize);
        (from, &self.picks[from..to])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(token: u32, slot: u32) -> Pick {
        Pick { slot, token }
    }

    #[test]
    fn picks_are_grouped_by_expert_and_bad_ids_left_out() {
        let ids: [i32; 8] = [2, 0, 2, 1, 7, -1, 0, 2];
        let x = Ids { data: ids.as_ptr().cast(), nb: [4, 8, 0, 0], used: 2, tokens: 4, experts: 4 };
        let mut memory = vec![u32::MAX; x.group_bytes() / 4];
        for done in [false, true] {
            // SAFETY: the memory has the size asked for.
            let g = unsafe { x.group(memory.as_mut_ptr().cast(), done) };
            assert_eq!(g.active(), [0, 1, 2]);
            assert_eq!(g.of(0), (0, &[pick(0, 1), pick(3, 0)][..]));
            assert_eq!(g.of(1), (2, &[pick(1, 1)][..]));
            assert_eq!(g.of(2), (3, &[pick(0, 0), pick(1, 0), pick(3, 1)][..]));
            assert_eq!(g.of(3), (6, &[][..]));
        }
    }
}
