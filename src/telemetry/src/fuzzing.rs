//! What a fuzzer calls: the reader of a segment that somebody else wrote. It panics at a defect.

use std::path::Path;

use crate::live;

/// The name of a descriptor's file.
pub fn name(data: &[u8]) {
    let _ = live::is_segment(Path::new(&*String::from_utf8_lossy(data)));
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
