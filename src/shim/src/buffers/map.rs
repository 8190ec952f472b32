//! Maps large buffers on the largest pages that the settings and the kernel allow.

use std::sync::OnceLock;

use zen5turbo_host::memory::map::{HUGE_PAGE, SMALL_PAGE, can_collapse, keep_errno};
use zen5turbo_host::memory::{Pages, Region};

use crate::config::config;
use crate::pages::{HugePages, thp_available};
use crate::placement;
use crate::reason::Reason;
use crate::stats;

/// A mapping for a large buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its address, a multiple of 2 MiB.
    pub start: usize,
    /// Its bytes, whole pages of its kind.
    pub len: usize,
    /// Whether it lies on pages of 2 MiB of the hugetlb pool. If not, it lies on transparent huge pages or small pages.
    pub hugetlb: bool,
    /// Whether it lies on small pages now, and moves to transparent huge pages later.
    pub later: bool,
}

/// Maps at least `size` bytes of zeros on the largest pages that the settings and the kernel allow:
///
/// - pages of 2 MiB of the hugetlb pool, which are resident at once;
/// - transparent huge pages, which become resident when they are touched.
///
/// The pages are interleaved over several NUMA nodes if [`placement`] decides so. Each step down is counted with its
/// reason. `None` when the program's own memory would be as good.
#[must_use]
pub fn map_buffer(size: usize) -> Option<Buffer> {
    keep_errno(|| match config().huge_pages {
        HugePages::Off => None,
        HugePages::Auto | HugePages::Thp => transparent(size),
        HugePages::Two | HugePages::One => reserved(size).or_else(|| transparent(size)),
    })
}

fn reserved(size: usize) -> Option<Buffer> {
    let len = size.checked_next_multiple_of(HUGE_PAGE)?;
    let Ok(region) = Region::new(len, Pages::Huge) else {
        stats::event(Reason::Hugetlb2mMissing);
        return None;
    };
    placement::place_buffer(region.range().start, len);
    // Touching a page that the pool does not have would raise SIGBUS.
    if region.populate().is_err() {
        stats::event(Reason::HugetlbNotPopulated);
        return None;
    }
    Some(Buffer { start: region.into_range().start, len, hugetlb: true, later: false })
}

fn transparent(size: usize) -> Option<Buffer> {
    if !thp_available() {
        return None;
    }
    let len = size.checked_next_multiple_of(SMALL_PAGE)?;
    let later = config().huge_pages == HugePages::Auto && collapses_later();
    let Ok(region) = (if later { Region::small(len) } else { Region::new(len, Pages::Transparent) }) else {
        stats::event(Reason::BufferNotMapped);
        return None;
    };
    if !later && region.advise(libc::MADV_HUGEPAGE).is_err() {
        stats::event(Reason::ThpRefused);
        return None;
    }
    placement::place_buffer(region.range().start, len);
    Some(Buffer { start: region.into_range().start, len, hugetlb: false, later })
}

/// Whether buffers move to huge pages only after the program has loaded its model. With huge pages from the first touch
/// on, the start of the program waits until the kernel has found and zeroed them. (Zen 4, 2 CPUs of a virtual machine,
/// 2026-11-30, llama-server with 366 MiB of such buffers, medians of eight runs, time to the first answer to `/health`
/// and time in the kernel: huge pages 1.53 s and 0.58 s, small pages 1.17 and 0.29, stock 1.20 and 0.30.) Not with
/// several NUMA nodes, because the kernel would choose the NUMA node of each huge page anew.
fn collapses_later() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| !placement::places_buffers() && can_collapse())
}
