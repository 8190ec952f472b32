//! What a fuzzer calls: every reader of a text or of memory that somebody else wrote. Plain functions that panic at a
//! defect.

use crate::cpuset::{CpuSet, MAX_CPUS, parse_list};
use crate::memory::thp::Thp;
use crate::numa::{self, NodeMask};
use crate::proc::{field_kib, xdg_folder};

/// Lists of CPUs and nodes, fields of `/proc`, sizes of caches, settings.
pub fn texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    if let Some(list) = parse_list(first) {
        let set = CpuSet::parse(first).expect("a set is read from the same lists");
        assert!(list.iter().all(|&cpu| cpu < MAX_CPUS && set.contains(cpu)) && set.len() <= list.len());
        assert_eq!(CpuSet::parse(&set.to_string()), Some(set), "{set}");
        assert!(NodeMask::parse(first).is_some_and(|mask| mask.len() <= set.len()));
    }
    for key in ["MemAvailable", "VmRSS", first] {
        if let Some(bytes) = field_kib(&text, key) {
            assert_eq!(bytes % 1024, 0);
        }
    }
    let _ = (numa::allowed_in(&text), Thp::from_setting(&text));
    // A kernel that would name caches without end.
    let files: Vec<&str> = rest.split('\n').collect();
    let _ = crate::caches::from_sysfs(|file| {
        let at: usize = file.bytes().map(usize::from).sum();
        files.get(at % (files.len() + 1)).map(|text| (*text).to_owned())
    });
    if let Some(folder) = xdg_folder(Some(first.into()), Some(rest.into()), ".cache") {
        assert!(folder.is_absolute());
    }
}
