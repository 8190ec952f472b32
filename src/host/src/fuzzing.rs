//! What a fuzzer calls: every reader of a text or of memory that somebody else wrote. Plain functions that panic at a
//! defect.

use std::path::Path;

use crate::cpuset::{CpuSet, MAX_CPUS, parse_list};
use crate::live;
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
    let _ = live::is_segment(Path::new(&*text));
}

/// The live statistics of another process: the bytes as they are, and as the head, the text and some counters of a
/// segment of the right size.
pub fn segment(data: &[u8]) -> Vec<live::Snapshot> {
    let plain = live::parse(data);
    let mut whole = vec![0; live::BYTES];
    let (head, rest) = data.split_at(data.len().min(64));
    whole[..head.len()].copy_from_slice(head);
    if let [kind, rest @ ..] = rest {
        // the words that an honest one has
        if kind & 1 == 0 {
            whole[..24].copy_from_slice(&live::HONEST.map(u64::to_le_bytes).concat());
        }
        let text = rest.len().min(live::TEXT_BYTES);
        let at = live::BYTES - live::TEXT_BYTES;
        whole[at..at + text].copy_from_slice(&rest[..text]);
        for counter in rest.chunks_exact(10).take(20) {
            let at = usize::from(u16::from_le_bytes([counter[0], counter[1]])) * 8 % (at - 64) + 64;
            whole[at..at + 8].copy_from_slice(&counter[2..]);
        }
    }
    [plain, live::parse(&whole)].into_iter().flatten().collect()
}
