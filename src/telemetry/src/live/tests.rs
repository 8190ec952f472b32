//! The segment of this process, and segments that lie.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::layout::{MAGIC, TEXT_BYTES};
use super::*;

const BYTES: usize = size_of::<Segment<u64>>();

/// The file of a published segment, as `/proc/PID/fd` opens it.
fn opened(published: &Published) -> File {
    File::open(format!("/proc/self/fd/{}", publish::descriptor(published))).unwrap()
}

fn words(words: &[(usize, u64)]) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    for (word, value) in [(0, MAGIC), (1, VERSION), (2, BYTES as u64), (3, 7)].iter().chain(words) {
        bytes[word * 8..word * 8 + 8].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Whoever changes the layout has to raise the version.
#[test]
fn the_layout_of_version_7() {
    let offset = |n: usize| n / 8;
    assert_eq!(
        (VERSION, BYTES, size_of::<Counters<u64>>(), size_of::<Cell<u64>>()),
        (7, 169_240 + TEXT_BYTES, 169_176, 800)
    );
    assert_eq!(offset(std::mem::offset_of!(Segment<u64>, counters)), 8);
    assert_eq!(offset(std::mem::offset_of!(Counters<u64>, weights)), 28);
    assert_eq!(offset(std::mem::offset_of!(Counters<u64>, others)), 28 + 9 + 4 + 5 + 2 + 3 + REASONS);
    assert_eq!(offset(std::mem::offset_of!(Counters<u64>, cells)), 28 + 9 + 4 + 5 + 2 + 3 + REASONS + 15 * 100);
    assert_eq!(size_of::<Counters<AtomicU64>>(), size_of::<Counters<u64>>());
}

#[test]
fn what_is_published_is_read_by_others_of_this_user_only_and_cannot_be_cut_or_written() {
    let published = Published::new().unwrap();
    let segment = published.segment();
    segment.counters.graphs[1].count.store(3, Relaxed);
    segment.counters.cells[1][TYPES - 1].declined[REASONS - 1].store(9, Relaxed);
    assert!(segment.write_text("a text of some words"));
    let file = opened(&published);
    let snapshot = read(&file, 0..BYTES as u64).unwrap();
    assert_eq!((snapshot.pid, snapshot.text.as_str()), (std::process::id().into(), "a text of some words"));
    assert_eq!(snapshot.counters.graphs[1].count, 3);
    assert_eq!(snapshot.counters.cells[1][TYPES - 1].declined[REASONS - 1], 9);

    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o600, BYTES as u64));
    let fd = publish::descriptor(&published);
    assert!(fd >= 200 && is_segment(&std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap()));
    let write = File::options().write(true).open(format!("/proc/self/fd/{fd}")).unwrap();
    assert!(write.set_len(0).is_err() && write.set_len(1 << 30).is_err());
    assert!(write.write_at(&[1], 0).is_err(), "on Linux 5.1 and later");

    assert!(segment.write_text("shorter"));
    assert_eq!(read(&file, 0..BYTES as u64).unwrap().text, "shorter");
    assert!(!segment.write_text(&"x".repeat(TEXT_BYTES + 1)));
    assert_eq!(read(&file, 0..BYTES as u64).unwrap().text, "");
    assert!(segment.write_text(&"y".repeat(TEXT_BYTES)));
    assert_eq!(read(&file, 0..BYTES as u64).unwrap().text.len(), TEXT_BYTES);
}

#[test]
fn a_file_without_a_name_has_its_memory_and_is_told_by_its_first_bytes() {
    use std::os::fd::AsRawFd;
    let file = File::from(publish::nameless_file(BYTES).unwrap());
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.len(), metadata.nlink()), (0o600, BYTES as u64, 0));
    assert!(metadata.blocks() * 512 >= BYTES as u64);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    assert!(may_be_segment(&link) && !is_segment(&link), "{}", link.display());
    assert!(!begins_like_one(&file));
    file.write_at(&MAGIC.to_le_bytes(), 0).unwrap();
    assert!(begins_like_one(&file));
    for other in ["/dev/shm/#12", "/dev/shm/# (deleted)", "/dev/shm/a#1 (deleted)", "/dev/shm/#1a (deleted)"] {
        assert!(!may_be_segment(Path::new(other)), "{other}");
    }
}

#[test]
fn a_child_closes_its_descriptor_unless_it_has_become_another_file() {
    let published = Published::new().unwrap();
    let fd = publish::descriptor(&published);
    // SAFETY: a descriptor of this test's.
    unsafe { libc::dup2(0, fd) };
    published.leave_to_parent();
    // SAFETY: a descriptor of this test's, still open, so it is closed here.
    drop(unsafe { File::from_raw_fd(fd) });
    let other = Published::new().unwrap();
    other.leave_to_parent();
    assert!(!Path::new(&format!("/proc/self/fd/{}", publish::descriptor(&other))).exists());
}

#[test]
fn a_text_is_never_read_half_written() {
    let published = Published::new().unwrap();
    let (segment, file) = (published.segment(), opened(&published));
    let texts = ["a".repeat(5000), "b".repeat(3000)];
    assert!(segment.write_text(&texts[0]));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0.. {
                segment.write_text(&texts[i % 2]);
                if done.load(Relaxed) {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        let read: Vec<_> = (0..200).map(|_| read(&file, 0..BYTES as u64).map(|s| s.text)).collect();
        done.store(true, Relaxed); // before anything is asserted: the scope waits for the writer
        for text in read {
            let text = text.unwrap();
            assert!(texts.contains(&text), "{} bytes", text.len());
        }
    });
}

#[test]
fn what_is_cut_lies_or_is_of_another_version_is_refused_in_one_line() {
    let whole = words(&[]);
    assert_eq!(parse(&whole).unwrap().pid, 7);
    let said = |bytes: &[u8]| match parse(bytes) {
        Ok(_) => panic!("was read"),
        Err(error) => {
            let line = error.to_string();
            assert!(line.contains("expected") && !line.contains('\n'), "{line}");
            line
        }
    };
    for cut in [0, 1, 7, 8, 15] {
        assert!(said(&whole[..cut]).contains("no live statistics"), "{cut}");
    }
    for cut in [16, 24, 100, BYTES - 8, BYTES - 1] {
        assert!(said(&whole[..cut]).contains(&format!("{cut} bytes that say")), "{cut}");
    }
    assert!(said(&words(&[(0, 1)])).contains("no live statistics"));
    assert!(said(&words(&[(1, 1)])).contains("of layout 1; expected layout 7"));
    assert!(said(&words(&[(1, 1)])[..16]).contains("of layout 1"));
    assert!(said(&words(&[(2, BYTES as u64 + 8)])).contains("that say to be"));
    assert!(said(&words(&[(5, TEXT_BYTES as u64 + 1)])).contains("a text of"));
    assert!(said(&words(&[(5, u64::MAX)])).contains("a text of"));
    assert!(said(&words(&[(4, 1)])).contains("half written"));
    let mut text = words(&[(5, 2)]);
    text[BYTES - TEXT_BYTES] = 0xff;
    assert!(said(&text).contains("not UTF-8"));
}

#[test]
fn a_file_that_ends_early_is_an_error() {
    let file = File::open("/proc/self/exe").unwrap();
    assert!(matches!(read(&file, 0..BYTES as u64), Err(Unreadable::NotASegment)));
    let empty = File::open("/dev/null").unwrap();
    assert!(matches!(read(&empty, 0..BYTES as u64), Err(Unreadable::Refused(_))));
    assert!(matches!(read(&empty, 0..0), Err(Unreadable::NotASegment)));
}

#[test]
fn links_are_told_by_their_whole_name() {
    for yes in ["/memfd:zen5turbo-live", "/memfd:zen5turbo-live (deleted)"] {
        assert!(is_segment(Path::new(yes)));
    }
    for no in ["/memfd:zen5turbo-live2 (deleted)", "zen5turbo-live", "/tmp/memfd:zen5turbo-live", "pipe:[1]", ""] {
        assert!(!is_segment(Path::new(no)));
    }
}
