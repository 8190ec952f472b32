//! Which pages large memory is asked to lie on.

use std::sync::OnceLock;

use zen5turbo_host::memory::Thp;

pub use crate::config::HugePages;
use crate::reason::Reason;
use crate::stats;

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
