//! What a running process uses of memory, by kind of page, from /proc/PID/smaps_rollup.

use std::fs;

use serde::Serialize;
use zen5turbo_host::proc::field_kib;

/// The largest value of each kind that was seen, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Peaks {
    /// All that is resident.
    pub rss: u64,
    /// Not of a file: heap, KV cache, copies of weights.
    pub anonymous: u64,
    /// Of files, which is the model where it is mapped.
    pub file: u64,
    /// Anonymous memory on transparent huge pages.
    pub anonymous_huge: u64,
    /// File pages mapped as huge pages.
    pub file_huge: u64,
    /// Reserved huge pages (hugetlbfs).
    pub reserved_huge: u64,
}

impl Peaks {
    /// Takes in what process `pid` uses now; nothing when it cannot be read.
    pub fn sample(&mut self, pid: u32) {
        if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            self.take_in(&text);
        }
    }

    fn take_in(&mut self, smaps: &str) {
        let of = |name: &str| field_kib(smaps, name).unwrap_or(0);
        let now = Peaks {
            rss: of("Rss"),
            anonymous: of("Anonymous"),
            file: of("Rss").saturating_sub(of("Anonymous")),
            anonymous_huge: of("AnonHugePages"),
            file_huge: of("FilePmdMapped"),
            reserved_huge: of("Private_Hugetlb") + of("Shared_Hugetlb"),
        };
        *self = Peaks {
            rss: self.rss.max(now.rss),
            anonymous: self.anonymous.max(now.anonymous),
            file: self.file.max(now.file),
            anonymous_huge: self.anonymous_huge.max(now.anonymous_huge),
            file_huge: self.file_huge.max(now.file_huge),
            reserved_huge: self.reserved_huge.max(now.reserved_huge),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_each_kind_is_kept() {
        let mut peaks = Peaks::default();
        peaks.take_in("55-7f [rollup]\nRss:  100 kB\nAnonymous: 30 kB\nAnonHugePages:  20 kB\nPrivate_Hugetlb: 4 kB\n");
        peaks.take_in("Rss:  90 kB\nAnonymous: 60 kB\nFilePmdMapped: 8 kB\n");
        assert_eq!(
            peaks,
            Peaks {
                rss: 102_400,
                anonymous: 61_440,
                file: 71_680,
                anonymous_huge: 20_480,
                file_huge: 8_192,
                reserved_huge: 4_096
            }
        );
    }

    #[test]
    fn this_process_has_memory_and_a_gone_one_changes_nothing() {
        let mut peaks = Peaks::default();
        peaks.sample(std::process::id());
        assert!(peaks.rss > 0 && peaks.anonymous > 0, "{peaks:?}");
        let before = peaks;
        peaks.sample(u32::MAX);
        assert_eq!(peaks, before);
    }
}
