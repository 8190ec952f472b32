//! Transparent huge pages: whether this kernel gives them.

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
        // SAFETY: asks for a flag; the arguments that this request does not use must be 0.
        if unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) } == 1 {
            return Self::OffForProcess;
        }
        let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        Self::from_setting(&text)
    }

    /// Reads a setting such as `always [madvise] never`.
    pub(crate) fn from_setting(text: &str) -> Self {
        if text.contains("[always]") || text.contains("[madvise]") { Self::Available } else { Self::Never }
    }
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
