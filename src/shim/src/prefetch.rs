//! What is read before it is needed.

/// What is read ahead of the products that need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefetch {
    /// What was measured to pay.
    #[default]
    Auto,
    /// Nothing.
    Off,
    /// Pages of the model file that are not resident: a part of `auto` (figures in `memory/reader.rs`).
    Pages,
    /// So many bytes of the weights of each thread's next product, into its level-2 cache.
    Cache(usize),
}

impl Prefetch {
    /// `cache` without a size: the best of 2 KiB to 1 MiB, by little (see `graph/ahead.rs`).
    pub const CACHE_BYTES: usize = 512 << 10;

    /// The largest size: the next product's weights must not push out what is in use.
    pub const MOST_CACHE_BYTES: usize = 4 << 20;

    /// Whether pages of the model file are read ahead.
    #[must_use]
    pub fn reads_pages(self) -> bool {
        matches!(self, Self::Auto | Self::Pages)
    }

    /// Bytes for each thread to prefetch into its cache; 0: none.
    #[must_use]
    pub fn cache_bytes(self) -> usize {
        match self {
            Self::Cache(bytes) => bytes,
            Self::Auto | Self::Off | Self::Pages => 0,
        }
    }
}
