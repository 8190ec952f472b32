//! Segments of this process, and of made ones.

use std::os::unix::fs::symlink;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_telemetry::live::Published;

use super::*;
use crate::root::tests::tree;

/// The segment of this test program, of which there can be but one.
pub fn published() -> &'static Published {
    static PUBLISHED: OnceLock<Published> = OnceLock::new();
    PUBLISHED.get_or_init(|| {
        let published = Published::new().unwrap();
        assert!(published.segment().write_text(r#"{"program": "test"}"#));
        published.segment().counters.events[0].store(4, Relaxed);
        published
    })
}

#[test]
fn a_segment_of_this_process_is_found_and_read() {
    let (root, pid) = (Root::new(Path::new("/")), std::process::id());
    published();
    let document = statistics(&root, pid).unwrap();
    assert_eq!((document.about.program.as_str(), document.events["0"]), ("test", 4));
    assert!(find(&root).contains(&pid));
}

#[test]
fn what_is_not_there_is_told_with_what_to_do() {
    let (_folder, root) = tree(&[("proc/7/fd/x", ""), ("proc/7/maps", ""), ("proc/cpuinfo", "")]);
    assert!(matches!(statistics(&root, 7), Err(Absent::Unpublished)));
    assert!(matches!(statistics(&root, 8), Err(Absent::Gone)));
    assert_eq!(find(&root), [0; 0]);
    let maps = "7f0000000000-7f0000001000 rw-s 00000000 00:01 7     /memfd:zen5turbo-live (deleted)\n";
    let (_folder, root) = tree(&[("proc/7/fd/x", ""), ("proc/7/maps", maps)]);
    assert!(matches!(statistics(&root, 7), Err(Absent::Closed)));
    for absent in [Absent::Gone, Absent::Denied, Absent::Unpublished, Absent::Closed] {
        let line = absent.to_string();
        assert!(line.contains("expected") && !line.contains('\n'), "{line}");
    }
}

#[test]
fn a_link_that_only_has_the_name_is_no_segment() {
    let (folder, root) = tree(&[("proc/7/status", "NSpid:\t9\t7\n")]);
    std::fs::create_dir(folder.path().join("proc/7/fd")).unwrap();
    symlink("/memfd:zen5turbo-live (deleted)", folder.path().join("proc/7/fd/200")).unwrap();
    assert!(statistics(&root, 7).is_err());
    assert_eq!(find(&root), [0; 0]);
}
