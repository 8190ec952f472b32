//! Writing the statistics to the file that `ZEN5TURBO_STATS` names.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::config;
use crate::log;
use crate::startup::{self, State};
use crate::stats;

/// Writes the file when `ZEN5TURBO_STATS` names one and this process used ggml. A failure is one
/// line on stderr, since the user asked for the file.
///
/// A forked child writes only what it counted itself, and nothing when it counted nothing: the file
/// is its parent's.
pub fn write_at_exit() {
    let Some(pattern) = &config().stats else {
        return;
    };
    if matches!(startup::state(), State::Disabled | State::Waiting) {
        return;
    }
    if startup::is_forked_child() && !stats::any() {
        return;
    }
    let pid = std::process::id();
    let path = expand(pattern, pid);
    let text = stats::json() + "\n";
    if let Err(error) = write(&path, pid, text.as_bytes()) {
        log::line(format_args!("ZEN5TURBO_STATS={} cannot be written: {error}", log::short(path.as_os_str())));
    }
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

/// Writes to a file beside `path` and renames it, so that a reader never sees half a report. What
/// exists and is not a regular file (`/dev/stderr`, a pipe) is written to, not replaced.
///
/// Neither overwrites what a link points to: the folder may be one where others make links, such as `/tmp`.
fn write(path: &Path, pid: u32, bytes: &[u8]) -> io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return write_into(path, bytes);
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(OsStr::new(&format!(".{pid}.tmp")));
    let mut file = new_file(Path::new(&temporary))?;
    let result = file.write_all(bytes).and_then(|()| std::fs::rename(&temporary, path));
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// A file that was not there, and no link either. What a process of the same number left behind is removed.
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

/// Writes to a pipe, a terminal or another device that is no disk. The program is about to end: a pipe that nobody
/// reads is an error, not a wait.
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
