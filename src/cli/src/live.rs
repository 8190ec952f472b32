//! The live statistics of running programs: found through `/proc/PID/fd`, and put together as the file of
//! `ZEN5TURBO_STATS` would hold them.

mod assemble;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use zen5turbo_host::proc::open_regular;
use zen5turbo_telemetry::Document;
use zen5turbo_telemetry::live::{self, Snapshot, Unreadable};

use crate::maps::Mapping;
use crate::root::Root;

/// Why there are none.
#[derive(Debug)]
pub enum Absent {
    /// No such process, or it has ended.
    Gone,
    /// Another user's.
    Denied,
    /// It publishes nothing.
    Unpublished,
    /// It closed the descriptor through which others find them, and its memory may not be read.
    Closed,
    /// They are there, and are not those of this process or not readable.
    Unreadable(Unreadable),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "there is no such process; expected the number of a running one",
            Self::Denied => {
                "the kernel does not let this user look into the process; expected one of your own: run this as its user or as root"
            }
            Self::Unpublished => {
                "it publishes no live statistics; expected a program that runs ggml under a libzen5turbo.so with them, \
                 without ZEN5TURBO=0 or ZEN5TURBO_LIVE=off: start it with zen5turbo run -- PROGRAM ARGS"
            }
            Self::Closed => {
                "it has closed the descriptor of its live statistics; expected the right to read its memory instead: run \
                 this as root (kernel.yama.ptrace_scope)"
            }
            Self::Unreadable(why) => return why.fmt(f),
        })
    }
}

impl std::error::Error for Absent {}

/// The numbers of the processes that publish, of those that may be looked into, in order.
pub fn find(root: &Root) -> Vec<u32> {
    let pids = root.list("proc").into_iter().filter_map(|name| name.parse().ok());
    pids.filter(|&pid| descriptor(root, pid).is_ok_and(|found| found.is_some()))
        .filter(|&pid| is_own(root, pid))
        .collect()
}

/// Whether what the process shows is its own: a child that was forked past the C library has its parent's.
fn is_own(root: &Root, pid: u32) -> bool {
    !matches!(snapshot(root, pid), Err(Absent::Unpublished | Absent::Gone))
}

/// The statistics of process `pid`: what the file would hold, but for what only the process knows.
///
/// # Errors
/// [`Absent`].
pub fn statistics(root: &Root, pid: u32) -> Result<Document, Absent> {
    let snapshot = snapshot(root, pid)?;
    assemble::statistics(&snapshot).map_err(|found| Absent::Unreadable(Unreadable::Damaged(found)))
}

fn snapshot(root: &Root, pid: u32) -> Result<Snapshot, Absent> {
    let snapshot = match descriptor(root, pid)? {
        Some(path) => {
            let file = open(&path)?;
            let len = file.metadata().map_err(refused)?.len();
            live::read(&file, 0..len)
        }
        None => {
            let maps = fs::read_to_string(root.path(&format!("proc/{pid}/maps"))).map_err(refused)?;
            let mut maps = maps.lines().filter_map(Mapping::parse);
            let mapping = maps.find(|m| live::is_segment(Path::new(&m.path))).ok_or(Absent::Unpublished)?;
            let memory = File::open(root.path(&format!("proc/{pid}/mem"))).map_err(|_| Absent::Closed)?;
            live::read(&memory, mapping.start..mapping.end)
        }
    }
    .map_err(Absent::Unreadable)?;
    // A forked child that computes nothing may still show its parent's.
    let own = root.field(&format!("proc/{pid}/status"), "NSpid");
    let own = own.as_deref().and_then(|pids| pids.split_whitespace().last()?.parse().ok()).unwrap_or(u64::from(pid));
    if snapshot.pid == own { Ok(snapshot) } else { Err(Absent::Unpublished) }
}

/// The link that leads to the segment.
fn descriptor(root: &Root, pid: u32) -> Result<Option<PathBuf>, Absent> {
    let folder = fs::read_dir(root.path(&format!("proc/{pid}/fd"))).map_err(refused)?;
    let mut links = folder.flatten().map(|entry| entry.path());
    Ok(links.find(|link| {
        let Ok(to) = fs::read_link(link) else { return false };
        live::is_segment(&to)
            || live::may_be_segment(&to) && open_regular(link).is_ok_and(|file| live::begins_like_one(&file))
    }))
}

/// A regular file; another of that name is no segment.
fn open(path: &Path) -> Result<File, Absent> {
    open_regular(path).map_err(|error| match error.kind() {
        io::ErrorKind::Other if error.raw_os_error().is_none() => Absent::Unreadable(Unreadable::NotASegment),
        _ => refused(error),
    })
}

fn refused(error: io::Error) -> Absent {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::PermissionDenied, _) => Absent::Denied,
        (io::ErrorKind::NotFound, _) | (_, Some(libc::ESRCH)) => Absent::Gone,
        _ => Absent::Unreadable(Unreadable::Refused(error)),
    }
}

/// What a fuzzer calls: a segment that was read.
#[cfg(feature = "fuzzing")]
pub fn fuzz(snapshot: &Snapshot) {
    use zen5turbo_telemetry::Member;
    let _ = assemble::statistics(snapshot).map(|document| document.json());
}

#[cfg(test)]
pub mod tests;
