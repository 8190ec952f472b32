//! The keys that a mask leaves visible, and the part of a mask that a tile of keys needs.

use super::Query;
use super::online_softmax::Mask;
use crate::isa::LANES;

/// Fewer than sixteen halves, or others of their size, filled up with zeros.
pub(super) unsafe fn filled(halves: *const u8, n: usize) -> [u8; 2 * LANES] {
    let mut all = [0; 2 * LANES];
    core::ptr::copy_nonoverlapping(halves, all.as_mut_ptr(), 2 * n);
    all
}

/// The mask of a query for these keys.
pub(super) unsafe fn mask(query: &Query, keys: &core::ops::Range<usize>) -> Mask {
    let Query { mask, slope, .. } = *query;
    if mask.is_null() {
        return Mask { halves: mask, last: [0; 2 * LANES], slope };
    }
    let halves = mask.add(2 * keys.start);
    let whole = keys.len() / LANES * LANES;
    Mask { halves, last: filled(halves.add(2 * whole), keys.len() - whole), slope }
}

/// The keys from the first to the last one that a query with any of these masks, see [`Query::mask`], sees; `None` if none
/// sees any.
///
/// # Safety
/// The masks are null or readable for these keys.
pub unsafe fn seen(
    keys: core::ops::Range<usize>,
    masks: impl Iterator<Item = *const u8>,
) -> Option<core::ops::Range<usize>> {
    let mut found: Option<core::ops::Range<usize>> = None;
    let mut last = core::ptr::null();
    for mask in masks {
        if mask.is_null() {
            return Some(keys);
        }
        if core::ptr::eq(mask, last) {
            continue; // heads share it
        }
        last = mask;
        // keys that another mask shows need no look
        let (start, end) = found.as_ref().map_or((keys.end, keys.start), |f| (f.start, f.end));
        let first = first_seen(mask, keys.start..start);
        let behind = behind_seen(mask, end.max(first)..keys.end);
        if first < behind {
            found = Some(first..behind);
        }
    }
    found
}

/// The mask of a key that is not seen: negative infinity, as a half.
const UNSEEN: u16 = 0xfc00;

/// The mask of eight keys that are not seen.
const EIGHT_UNSEEN: u128 = (UNSEEN as u128) * (u128::MAX / 0xffff);

/// The first key of the range that is seen, else its end.
unsafe fn first_seen(mask: *const u8, keys: core::ops::Range<usize>) -> usize {
    let mut key = keys.start;
    while key + 8 <= keys.end && mask.add(2 * key).cast::<u128>().read_unaligned() == EIGHT_UNSEEN {
        key += 8;
    }
    while key < keys.end && mask.add(2 * key).cast::<u16>().read_unaligned() == UNSEEN {
        key += 1;
    }
    key
}

/// The key behind the last one of the range that is seen, else its start.
unsafe fn behind_seen(mask: *const u8, keys: core::ops::Range<usize>) -> usize {
    let mut end = keys.end;
    while keys.start + 8 <= end && mask.add(2 * (end - 8)).cast::<u128>().read_unaligned() == EIGHT_UNSEEN {
        end -= 8;
    }
    while keys.start < end && mask.add(2 * (end - 1)).cast::<u16>().read_unaligned() == UNSEEN {
        end -= 1;
    }
    end
}
