//! Whether transparent huge pages may be asked for.

use std::sync::OnceLock;

use zen5turbo_host::memory::Thp;

pub use crate::config::HugePages;
use crate::reason::Reason;
use crate::stats;

/// Whether transparent huge pages may be asked for. This is found out once; if not, the reason is counted once.
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
