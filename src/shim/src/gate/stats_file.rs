//! Writes the statistics to the file that `ZEN5TURBO_STATS` names.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

use zen5turbo_host::memory::map::keep_errno;
use zen5turbo_host::proc::may_write;

use super::guard::guarded;
use super::report;
use super::state::{self, State};
use crate::config::config;
use crate::log;
use crate::stats;

/// The least time between two writes while graphs are computed. The file of a program that is killed is at most this
/// old. One write takes 0.3 to 0.4 ms, with system calls traced (AMD EPYC, Zen 4, two virtual cores with other load,
/// 2026-11-30).
const INTERVAL: Duration = Duration::from_secs(2);

/// When the file is written next, in milliseconds since the first graph; [`NEVER`] when only the exit handler may write
/// it.
static DUE: AtomicU64 = AtomicU64::new(0);
const NEVER: u64 = u64::MAX;

/// Set while a thread writes: only that thread uses the temporary file. The exit handler leaves it set.
static WRITING: AtomicBool = AtomicBool::new(false);

/// Whether a failure was reported.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Held by the thread that calls `ggml_graph_compute`, while the graph is computed. When the graph ends, normally or by
/// a throw, the file is written if it is due.
pub struct WhenGraphEnds;

impl Drop for WhenGraphEnds {
    #[inline]
    fn drop(&mut self) {
        stats::graph_ended();
        write_when_due();
    }
}

/// Writes the file after the first graph, and again when [`INTERVAL`] has passed since the last write. The exit handler
/// alone is not enough: a program that its parent ends with SIGKILL never runs it.
#[inline]
fn write_when_due() {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let due = DUE.load(Relaxed);
    if due == NEVER {
        return;
    }
    let now = FIRST.get_or_init(Instant::now).elapsed().as_millis() as u64;
    let next = now + INTERVAL.as_millis() as u64;
    if now < due || DUE.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
        return; // not due, or another thread's turn
    }
    if !guarded(false, || keep_errno(write_while_running)) {
        DUE.store(NEVER, Relaxed);
    }
}

/// Writes the file while the program runs; returns whether to try again later. Two kinds of files are written only at
/// exit: one that is not a regular file, and one that a forked child shares with its parent.
#[cold]
fn write_while_running() -> bool {
    let Some(path) = wanted() else { return false };
    let shared = state::is_forked_child() && config().stats.as_ref() == Some(&path);
    if shared || std::fs::metadata(&path).is_ok_and(|m| !m.is_file()) {
        return false;
    }
    if WRITING.swap(true, Acquire) {
        return true;
    }
    let written = write_report(&path, &report::json());
    WRITING.store(false, Release);
    written
}

/// Writes the file when `ZEN5TURBO_STATS` names one and this process used ggml.
///
/// The file belongs to the parent of a forked child. So a child that has counted nothing writes nothing, and another
/// one writes only its own counts.
pub fn write_at_exit() {
    let Some(path) = wanted() else { return };
    if state::is_forked_child() && !stats::any() {
        return;
    }
    DUE.store(NEVER, Relaxed);
    // Another thread may be writing. It needs less than a millisecond.
    for _ in 0..1000 {
        if !WRITING.swap(true, Acquire) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    write_report(&path, &report::json());
}

/// In a forked child: no file was written yet, and no thread writes.
pub fn forget() {
    DUE.store(0, Relaxed);
    WRITING.store(false, Relaxed);
}

/// The path of this process's file; `None` when the user asks for no file, or ggml is not in use.
fn wanted() -> Option<PathBuf> {
    let pattern = config().stats.as_ref()?;
    let in_use = !matches!(state::current(), State::Disabled | State::Waiting);
    in_use.then(|| expand(pattern, std::process::id()))
}

/// Writes the file; returns whether that worked. The first failure is one line on stderr, since the user asked for the
/// file.
fn write_report(path: &Path, json: &str) -> bool {
    let Err(error) = write(path, std::process::id(), format!("{json}\n").as_bytes()) else { return true };
    if !TOLD.swap(true, Relaxed) {
        log::line(format_args!("ZEN5TURBO_STATS={} cannot be written: {error}", log::short(path.as_os_str())));
    }
    false
}

/// Replaces every `%p` by the process id.
pub fn expand(pattern: &Path, pid: u32) -> PathBuf {
    let bytes = pattern.as_os_str().as_bytes();
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i..].starts_with(b"%p") {
            out.extend_from_slice(pid.to_string().as_bytes());
            i += 2;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Writes to a file beside `path` and renames it to `path`, so that a reader never sees half a report. If `path` exists
/// and is not a regular file (`/dev/stderr`, a pipe), the report is written into it instead.
///
/// A file that a link points to is never overwritten, because other users can make links in a folder such as `/tmp`.
fn write(path: &Path, pid: u32, bytes: &[u8]) -> io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return write_into(path, bytes);
    }
    may_write(bytes.len())?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(OsStr::new(&format!(".{pid}.tmp")));
    let mut file = new_file(Path::new(&temporary))?;
    let result = file.write_all(bytes).and_then(|()| std::fs::rename(&temporary, path));
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Creates a file at a path where nothing is, not even a link. A file that an earlier process with the same id left
/// there is removed first.
fn new_file(path: &Path) -> io::Result<File> {
    let create = || File::options().write(true).create_new(true).open(path);
    match create() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            create()
        }
        other => other,
    }
}

/// Writes to a pipe, a terminal or another device that is not a disk. A pipe that nobody reads is an error; the program
/// is about to end and does not wait for a reader.
fn write_into(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.file_type().is_block_device() {
        return Err(io::Error::other("it is a disk; expected a file, a pipe or a terminal"));
    }
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_id_is_put_in() {
        assert_eq!(expand(Path::new("/a/%p-%p.json"), 42), Path::new("/a/42-42.json"));
        assert_eq!(expand(Path::new("/a/%d%"), 42), Path::new("/a/%d%"));
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let dir = std::env::temp_dir().join(format!("zen5turbo-file-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("s.json");
        write(&path, 1, b"a longer first text").unwrap();
        write(&path, 1, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        assert!(write(&dir.join("missing/s.json"), 1, b"x").is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_device_is_written_to_and_stays() {
        write(Path::new("/dev/null"), 1, b"x").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn links_are_replaced_and_what_they_point_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("s.json"));
        std::fs::write(&victim, "keep").unwrap();
        for link in [path.clone(), dir.path().join("s.json.7.tmp")] {
            std::os::unix::fs::symlink(&victim, &link).unwrap();
            write(&path, 7, b"report").unwrap();
            assert_eq!(std::fs::read(&victim).unwrap(), b"keep", "{link:?}");
            assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
            assert_eq!(std::fs::read(&path).unwrap(), b"report");
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(write(&pipe, 1, b"x").unwrap_err().raw_os_error(), Some(libc::ENXIO));
        let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
        write(&pipe, 1, b"report").unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "report");
    }
}
