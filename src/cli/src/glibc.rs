//! Which glibc a library needs.

use std::fs;
use std::path::Path;

/// The highest version of glibc whose symbols a library asks for, such as (2, 28); `None` where it names none.
pub fn needed(library: &Path) -> Option<(u32, u32)> {
    highest(&fs::read(library).ok()?)
}

/// The loader compares names such as `GLIBC_2.28`, which stand in the table of strings.
fn highest(bytes: &[u8]) -> Option<(u32, u32)> {
    let texts = bytes.split(|&byte| byte == 0).filter_map(|text| text.strip_prefix(b"GLIBC_"));
    texts.filter_map(|text| version(std::str::from_utf8(text).ok()?)).max()
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_counts_as_a_number() {
        assert_eq!(highest(b"x\0GLIBC_2.9\0GLIBC_2.28\0GLIBC_2.2.5\0GLIBC_PRIVATE\0"), Some((2, 28)));
        assert_eq!(highest(b"nothing"), None);
    }
}
