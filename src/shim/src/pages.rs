//! Which pages large memory is asked to lie on: the one place of the huge-page policy.

use std::sync::OnceLock;

use zen5turbo_host::memory::map::{HUGE_PAGE, SMALL_PAGE, can_collapse, keep_errno};
use zen5turbo_host::memory::{Pages, Region, Thp};

pub use crate::config::HugePages;
use crate::config::config;
use crate::placement;
use crate::reason::Reason;
use crate::stats;
use crate::tuning;

/// Whether weights get copies: on pages that the user asks for, placed on several memory nodes, or where `zen5turbo tune` measured that
/// huge pages are worth it.
pub fn copies_weights() -> bool {
    match config().huge_pages {
        HugePages::Off => false,
        HugePages::Thp | HugePages::Two | HugePages::One => true,
        HugePages::Auto => placement::is_active() || tuning::copies_pay(),
    }
}

/// A mapping for a large buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its address, a multiple of 2 MiB.
    pub start: usize,
    /// Its bytes, whole pages of its kind.
    pub len: usize,
    /// Whether it lies on reserved pages of 2 MiB; on transparent ones otherwise.
    pub hugetlb: bool,
    /// Whether it lies on small pages, to be put onto transparent ones later.
    pub later: bool,
}

/// Maps at least `size` bytes of zeros on the largest pages that the configuration and the kernel
/// give: reserved pages of 2 MiB, all resident from now on, or transparent ones, resident as they
/// are touched; on several memory nodes in turn, if so decided. Each step down is counted with its reason; `None` when there is nothing better than
/// what the program gets by itself.
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
    // Touching a page that is missing would be SIGBUS.
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

/// Whether buffers are to be put onto huge pages when the program has loaded: with huge pages from the first touch on, the start
/// waits for them to be found and zeroed. (Zen 4, 2 CPUs of a virtual machine, 2026-11-30, llama-server with 366 MiB of such
/// buffers, medians of eight: 1.53 s to the first answer to `/health` and 0.58 s in the kernel, small pages 1.17 and 0.29, stock
/// 1.20 and 0.30.) On several memory nodes the kernel would choose the node of a huge page anew.
fn collapses_later() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| !placement::places_buffers() && can_collapse())
}

/// Whether transparent huge pages may be asked for, found out once; the reason why not is counted
/// once as well.
pub fn thp_available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| match Thp::detect() {
        Thp::Available => true,
        Thp::Never => {
            stats::event(Reason::ThpNever);
            false
        }
        Thp::OffForProcess => {
            stats::event(Reason::ThpOffForProcess);
            false
        }
    })
}
