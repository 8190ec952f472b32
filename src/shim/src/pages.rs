//! Which pages large memory is asked to lie on: the one place of the huge-page policy.

/// Which pages lie under the weights and under ggml's large buffers. Every kind falls back to the
/// smaller ones where the kernel refuses; the statistics hold the reason of each step down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// As [`Self::Thp`].
    #[default]
    Auto,
    /// Transparent huge pages (2 MiB), where `/sys/kernel/mm/transparent_hugepage/enabled` is
    /// `madvise` or `always`.
    Thp,
    /// Pages of 2 MiB reserved by the administrator (hugetlb), else transparent ones.
    Two,
    /// Pages of 1 GiB reserved by the administrator for weights, of 2 MiB for everything else.
    One,
    /// Whatever the program would have got by itself.
    Off,
}
