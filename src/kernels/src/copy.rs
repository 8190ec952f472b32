//! A copy that streams past the caches: for blocks so large that neither their source nor their
//! destination would still be in the cache when the copy ends.

use crate::isa::avx2::Avx2;
use core::arch::x86_64::*;

/// Bytes of a turn of the loop: two cache lines.
const TURN: usize = 128;

/// Bytes from a load to its prefetch: sixteen cache lines. The only value that was tried (Zen 4, bench `copies`).
const AHEAD: usize = 1024;

/// Copies `n` bytes by stores that do not allocate cache lines.
///
/// # Safety
/// `src` is readable and `dst` writable for `n` bytes, and the two ranges do not overlap.
pub unsafe fn stream(_: Avx2, dst: *mut u8, src: *const u8, n: usize) {
    stream_avx2(dst, src, n);
}

#[target_feature(enable = "avx2")]
unsafe fn stream_avx2(dst: *mut u8, src: *const u8, n: usize) {
    // Up to a cache line of the destination: streaming stores must be aligned.
    let head = dst.align_offset(64).min(n);
    core::ptr::copy_nonoverlapping(src, dst, head);
    let mut at = head;
    while n - at >= TURN {
        let (s, d) = (src.add(at), dst.add(at));
        // A prefetch beyond the end reads nothing and cannot fault.
        _mm_prefetch::<_MM_HINT_T0>(s.wrapping_add(AHEAD).cast());
        _mm_prefetch::<_MM_HINT_T0>(s.wrapping_add(AHEAD + 64).cast());
        let a = _mm256_loadu_si256(s.cast());
        let b = _mm256_loadu_si256(s.add(32).cast());
        let c = _mm256_loadu_si256(s.add(64).cast());
        let e = _mm256_loadu_si256(s.add(96).cast());
        _mm256_stream_si256(d.cast(), a);
        _mm256_stream_si256(d.add(32).cast(), b);
        _mm256_stream_si256(d.add(64).cast(), c);
        _mm256_stream_si256(d.add(96).cast(), e);
        at += TURN;
    }
    // Streaming stores are not ordered with later ones, by which another thread may be told of the copy.
    _mm_sfence();
    core::ptr::copy_nonoverlapping(src.add(at), dst.add(at), n - at);
}
