//! The order of the numbers of a row, for routers: the place of a number is the count of those before it.
//!
//! The comparisons are as many as the square of the length, and need no branch: 128 numbers take 1024 comparisons of sixteen.

use crate::isa::{LANES, Lanes};
use core::mem::MaybeUninit;

/// The longest row: the keys of a row lie on the stack. Sorting takes fewer steps for longer rows.
pub const ORDERED: usize = 512;

/// Writes the numbers of the `n` elements of `x` to `to`, the smallest element first, or the largest one. Of equal ones the
/// first comes first. `n` is at most [`ORDERED`]; `to` is not `x`.
///
/// # Safety
/// Both are valid for `n` elements, and nobody else writes `to`.
pub type OrderFn = unsafe fn(x: *const f32, to: *mut i32, n: usize, largest_first: bool);

/// From `15 - j` on: ones in the lanes behind lane `j`.
static BEHIND: [i32; 2 * LANES] =
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1];

/// The numbers of lanes.
static NUMBERS: [i32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// See [`OrderFn`].
#[inline(always)]
pub(super) unsafe fn order<S: Lanes>(x: *const f32, to: *mut i32, n: usize, largest_first: bool) {
    let mut memory = MaybeUninit::<[i32; ORDERED]>::uninit();
    let keys = memory.as_mut_ptr().cast::<i32>();
    let flip = if largest_first { -1 } else { 0 };
    let mut i = 0;
    while i < n {
        // floats as integers of the same order, whatever they are
        let bits = (*x.add(i)).to_bits() as i32;
        *keys.add(i) = bits ^ ((bits >> 31) & i32::MAX) ^ flip;
        i += 1;
    }
    while !i.is_multiple_of(LANES) {
        *keys.add(i) = i32::MAX; // behind all others
        i += 1;
    }
    let padded = i;
    let mut block = 0;
    while block < padded {
        let own = S::load(keys.add(block).cast());
        // of equal keys, those in blocks before this one count: all but those above
        let mut above = S::splat(0);
        let mut j = 0;
        while j < block {
            above = S::count_above(above, S::bcast(keys.add(j).cast()), own);
            j += 1;
        }
        let mut before = S::sub(S::add(S::splat(block as i32), S::load(NUMBERS.as_ptr().cast())), above);
        while j < block + LANES {
            let other = S::bcast(keys.add(j).cast());
            let behind = S::load(BEHIND.as_ptr().add(LANES - 1 - (j - block)).cast());
            // in lanes behind this one all but those above count, and `NUMBERS` has counted all
            let above = S::and(behind, S::count_above(S::splat(0), other, own));
            let ahead = S::count_above(S::splat(0), own, other);
            before = S::add(before, S::sub(S::sub(ahead, S::and(behind, ahead)), above));
            j += 1;
        }
        while j < padded {
            before = S::count_above(before, own, S::bcast(keys.add(j).cast()));
            j += 1;
        }
        let mut places = [0i32; LANES];
        S::store(places.as_mut_ptr().cast(), before);
        let mut l = 0;
        // each place occurs once, and the first `n` belong to numbers of the row
        while l < LANES && block + l < n {
            *to.add(places[l] as usize) = (block + l) as i32;
            l += 1;
        }
        block += LANES;
    }
}
