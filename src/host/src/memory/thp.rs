//! Transparent huge pages: whether this kernel gives them.

use crate::proc::{field, read_text};
use crate::seccomp;

/// Whether the kernel gives transparent huge pages to memory that asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thp {
    /// Memory that asks gets them.
    Available,
    /// `/sys/kernel/mm/transparent_hugepage/enabled` is `never`, or does not exist.
    Never,
    /// They were switched off for this process by `prctl(PR_SET_THP_DISABLE)`, its own or its parent's.
    OffForProcess,
}

impl Thp {
    /// Asks the kernel. Reads a file and a flag; allocates, and may change `errno`.
    #[must_use]
    pub fn detect() -> Self {
        if off_for_process() {
            return Self::OffForProcess;
        }
        let text = read_text("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        Self::from_setting(&text)
    }

    /// Reads a setting such as `always [madvise] never`.
    pub(crate) fn from_setting(text: &str) -> Self {
        if text.contains("[always]") || text.contains("[madvise]") { Self::Available } else { Self::Never }
    }
}

/// By procfs, since Linux 5.0; by the call, which a filter may kill, only where there is none.
fn off_for_process() -> bool {
    let told = read_text("/proc/self/status").ok().and_then(|status| Some(field(&status, "THP_enabled")? == "0"));
    // SAFETY: asks for a flag; the arguments that this request does not use must be 0.
    let ask = || !seccomp::is_filtered() && unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) } == 1;
    told.unwrap_or_else(ask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_the_word_in_brackets() {
        assert_eq!(Thp::from_setting("always [madvise] never\n"), Thp::Available);
        assert_eq!(Thp::from_setting("[always] madvise never\n"), Thp::Available);
        assert_eq!(Thp::from_setting("always madvise [never]\n"), Thp::Never);
        assert_eq!(Thp::from_setting(""), Thp::Never);
    }
}
