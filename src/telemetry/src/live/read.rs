//! Reading the shared memory of another process. Nothing in it is trusted: it may be cut, of another
//! version, or written by somebody who pretends.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::layout::{Counters, MAGIC, NAME, Segment, TEXT_BYTES, VERSION};

/// A segment as it was at one moment. Counters are each of their own moment.
pub struct Snapshot {
    /// The process that counts, by its number in its own namespace.
    pub pid: u64,
    /// JSON of the names and of what does not change often; as the process wrote it.
    pub text: String,
    /// What was counted.
    pub counters: Box<Counters<u64>>,
}

/// Why a segment cannot be used.
#[derive(Debug)]
pub enum Unreadable {
    /// It is being made, or is no segment.
    NotASegment,
    /// Of this other version of the layout.
    OtherVersion(u64),
    /// It is of this version, and not as that has it: what was found.
    Damaged(String),
    /// Its text is being written, for longer than that can take: the process is stopped, or died.
    Busy,
    /// The kernel refused.
    Refused(io::Error),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotASegment => {
                write!(f, "found no live statistics in the file; expected those of libzen5turbo.so: try again")
            }
            Self::OtherVersion(found) => write!(
                f,
                "found live statistics of layout {found}; expected layout {VERSION}: use the zen5turbo that came with its libzen5turbo.so"
            ),
            Self::Damaged(found) => {
                write!(
                    f,
                    "found {found} in live statistics of layout {VERSION}; expected them whole: do not trust them"
                )
            }
            Self::Busy => write!(f, "found live statistics half written; expected them whole: is the process stopped?"),
            Self::Refused(error) => write!(
                f,
                "cannot read the live statistics: {error}; expected a process of your own: run this as its user or as root"
            ),
        }
    }
}

impl std::error::Error for Unreadable {}

/// Whether a link of `/proc/PID/fd`, or a path of `/proc/PID/maps`, names a segment.
#[must_use]
pub fn is_segment(link: &Path) -> bool {
    let name = NAME.to_str().unwrap_or_default();
    link.to_str().and_then(|l| l.strip_prefix("/memfd:")).is_some_and(|l| l == name || l == format!("{name} (deleted)"))
}

/// Whether a link of `/proc/PID/fd` names a file without a name of its own, as a segment is under a seccomp filter. The
/// file tells whether it is one: [`begins_like_one`]. In another container the folder may be shown otherwise.
#[must_use]
pub fn may_be_segment(link: &Path) -> bool {
    let name = link.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix('#')?.strip_suffix(" (deleted)"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether the file begins as a segment of any version does.
#[must_use]
pub fn begins_like_one(file: &File) -> bool {
    let mut first = [0; 8];
    file.read_exact_at(&mut first, 0).is_ok() && u64::from_le_bytes(first) == MAGIC
}

const WORDS: usize = size_of::<Segment<u64>>() / 8;

/// How often a text that changes meanwhile is read again, and after how long.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);

/// Reads the segment that lies at these bytes of `file`: all of a memfd, addresses of `/proc/PID/mem`.
///
/// # Errors
/// [`Unreadable`].
pub fn read(file: &File, at: Range<u64>) -> Result<Snapshot, Unreadable> {
    let len = usize::try_from(at.end.saturating_sub(at.start)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(WORDS * 8)];
    for _ in 0..TRIES {
        file.read_exact_at(&mut bytes, at.start).map_err(Unreadable::Refused)?;
        if bytes.len() < TURN + 8 {
            return parse(&bytes);
        }
        let mut again = [0; 8];
        file.read_exact_at(&mut again, at.start + TURN as u64).map_err(Unreadable::Refused)?;
        if turn(&bytes) == u64::from_le_bytes(again) {
            match parse(&bytes) {
                Err(Unreadable::Busy) => {}
                parsed => return parsed,
            }
        }
        std::thread::sleep(PAUSE);
    }
    Err(Unreadable::Busy)
}

const TURN: usize = std::mem::offset_of!(Segment<u64>, turn);

fn turn(bytes: &[u8]) -> u64 {
    bytes.get(TURN..TURN + 8).and_then(|b| b.try_into().ok()).map_or(1, u64::from_le_bytes)
}

/// Takes the bytes of a segment apart.
///
/// # Errors
/// Every [`Unreadable`] but `Refused`.
pub fn parse(bytes: &[u8]) -> Result<Snapshot, Unreadable> {
    let words: Vec<u64> = bytes.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes)).collect();
    match words.as_slice() {
        [MAGIC, VERSION, rest @ ..] => {
            let said = rest.first().copied().unwrap_or(0);
            if said != (WORDS * 8) as u64 || words.len() < WORDS {
                return Err(Unreadable::Damaged(format!("{} bytes that say to be {said}", bytes.len())));
            }
        }
        [MAGIC, other, ..] => return Err(Unreadable::OtherVersion(*other)),
        _ => return Err(Unreadable::NotASegment),
    }
    // SAFETY: as many words as the structure, which is made of nothing else; any value is valid.
    let segment = unsafe { &*words.as_ptr().cast::<Segment<u64>>() };
    if segment.turn & 1 == 1 {
        return Err(Unreadable::Busy);
    }
    let len = usize::try_from(segment.text_len).unwrap_or(usize::MAX);
    if len > TEXT_BYTES {
        return Err(Unreadable::Damaged(format!("a text of {len} bytes")));
    }
    let text: Vec<u8> = segment.text.iter().flat_map(|word| word.to_le_bytes()).take(len).collect();
    let text = String::from_utf8(text).map_err(|_| Unreadable::Damaged("a text that is not UTF-8".into()))?;
    // SAFETY: a copy of plain integers into a box of their type.
    let counters = unsafe {
        let mut counters = Box::<Counters<u64>>::new_uninit();
        std::ptr::copy_nonoverlapping(&raw const segment.counters, counters.as_mut_ptr(), 1);
        counters.assume_init()
    };
    Ok(Snapshot { pid: segment.pid, text, counters })
}
