//! Which pages large memory is asked to lie on.

use std::sync::OnceLock;

use zen5turbo_host::memory::Thp;

use crate::reason::Reason;
use crate::stats;

/// Which pages copies of weights and ggml's large buffers lie on. Every kind falls back to the
/// smaller ones where the kernel refuses; the statistics hold the reason of each step down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Transparent huge pages (2 MiB), where `/sys/kernel/mm/transparent_hugepage/enabled` is
    /// `madvise` or `always`. Buffers get them when the program has loaded, in the background (see [`crate::buffers::large`]).
    #[default]
    Auto,
    /// The same, buffers from the first touch on.
    Thp,
    /// Pages of 2 MiB reserved by the administrator (hugetlb), else transparent ones.
    Two,
    /// Pages of 1 GiB reserved by the administrator for weights, of 2 MiB for everything else.
    One,
    /// Whatever the program would have got by itself.
    Off,
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
