//! The mappings of a process that have a file.

use std::path::Path;

use zen5turbo_ggml::LIBRARY_PREFIX;

use crate::interposition::file_name;

/// A line of `/proc/PID/maps` that has a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    pub path: String,
}

/// What the kernel puts behind the path of a file that was removed or replaced.
pub const DELETED: &str = " (deleted)";

impl Mapping {
    /// `None` for memory without a file.
    pub fn parse(line: &str) -> Option<Mapping> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let offset = words.nth(1)?;
        let path = words.nth(2)?.trim_start();
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let mapping = Mapping { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, path: path.to_owned() };
        path.starts_with('/').then_some(mapping)
    }

    /// The last part of the path.
    pub fn name(&self) -> String {
        file_name(Path::new(self.path.trim_end_matches(DELETED)))
    }

    /// Whether the file is a library of ggml, or of llama.cpp, which may have a ggml inside.
    pub fn is_ggml(&self) -> bool {
        let name = self.name();
        name.starts_with(LIBRARY_PREFIX) || name.starts_with("libllama")
    }

    /// Whether the file is our library, and not one that a compiler makes of it.
    pub fn is_shim(&self) -> bool {
        let name = self.name();
        name.starts_with("libzen5turbo") && name.contains(".so")
    }
}
