//! Defects made on purpose, for tests of what becomes of real ones.

/// The variable that has the shim panic in tests, at the place that it names.
pub const TEST_PANIC: &str = "ZEN5TURBO_TEST_PANIC";

/// What is allowed as a value of [`TEST_PANIC`].
pub const TEST_PANIC_VALUES: &str = "plan, product, attention, sgemm or barrier";

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// While a graph is planned: nothing was decided yet.
    Plan,
    /// In the first thread's part of a product that was taken over.
    Product,
    /// The same with attention.
    Attention,
    /// The same with `llamafile_sgemm`.
    Sgemm,
    /// At a barrier of the shim's own.
    Barrier,
}

impl Fault {
    /// Reads a value of [`TEST_PANIC`]; `None` for one that is not allowed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "plan" => Self::Plan,
            "product" => Self::Product,
            "attention" => Self::Attention,
            "sgemm" => Self::Sgemm,
            "barrier" => Self::Barrier,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_that_is_told_is_known() {
        for word in TEST_PANIC_VALUES.split([',', ' ']).filter(|word| !matches!(*word, "" | "or")) {
            assert!(Fault::parse(word).is_some(), "{word}");
        }
        assert_eq!(Fault::parse("1"), None);
    }
}
