//! Small readers of procfs, and of what the environment says of the user.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The name of the running program: the last part of `/proc/self/exe`, else of the command line;
/// `?` when neither can be read.
#[must_use]
pub fn program_name() -> String {
    let last_part = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    if let Ok(exe) = std::fs::read_link("/proc/self/exe") {
        return last_part(&exe.to_string_lossy());
    }
    match std::fs::read("/proc/self/cmdline") {
        Ok(line) => {
            let first = line.split(|&b| b == 0).next().unwrap_or_default();
            last_part(&String::from_utf8_lossy(first))
        }
        Err(_) => "?".to_owned(),
    }
}

/// A folder of the user's by the XDG base directory specification, from the values of its variable and of
/// `HOME`, below which it is by default: `XDG_CACHE_HOME` and `.cache`. Relative paths are ignored, as it says.
#[must_use]
pub fn xdg_folder(named: Option<OsString>, home: Option<OsString>, below_home: &str) -> Option<PathBuf> {
    let home = home.map(|home| PathBuf::from(home).join(below_home));
    [named.map(PathBuf::from), home].into_iter().flatten().find(|path| path.is_absolute())
}

/// Opens a regular file to read. What another process named may be a pipe, which would keep the reader waiting, or a
/// device without an end.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Bytes that this process has locked in memory; `None` when procfs does not tell.
#[must_use]
pub fn locked_bytes() -> Option<u64> {
    field_kib(&std::fs::read_to_string("/proc/self/status").ok()?, "VmLck")
}

/// Whether this process may lock as much memory as there is: no limit, whatever rights it has beside.
#[must_use]
pub fn may_lock_without_limit() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills the local.
    (unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) }) == 0 && limit.rlim_cur == libc::RLIM_INFINITY
}

/// Whether this process may write a file of this size: one that grows beyond RLIMIT_FSIZE is a signal, which ends the
/// program.
///
/// # Errors
/// EFBIG when it may not.
pub fn may_write(bytes: usize) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills the local.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < bytes as u64 {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(())
}

/// The value in bytes of a line such as `VmHWM:   123456 kB`, as `/proc/self/status` and
/// `/proc/meminfo` hold them; `None` when the key is absent or its line reads otherwise.
#[must_use]
pub fn field_kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let mut words = line.split_whitespace();
    let value: u64 = words.next()?.parse().ok()?;
    (words.next() == Some("kB")).then(|| value.checked_mul(1024))?
}

/// Page faults of the calling thread so far, those that needed no disk. Changes nothing, also not `errno`.
#[must_use]
pub fn thread_faults() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the record; zeroes are valid for all its fields, should it fail.
    crate::memory::map::keep_errno(|| unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init().ru_minflt
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_fields_are_read_by_their_whole_name() {
        let text = "Name:\tllama\nVmHWM:\t  123456 kB\nVmRSS:\t 1000 kB\nThreads:\t3\n";
        assert_eq!(field_kib(text, "VmHWM"), Some(123_456 * 1024));
        assert_eq!(field_kib(text, "VmRSS"), Some(1_024_000));
        assert_eq!(field_kib(text, "Vm"), None);
        assert_eq!(field_kib(text, "Threads"), None);
        assert_eq!(field_kib("", "VmRSS"), None);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), dir.path()] {
            assert!(open_regular(path).unwrap_err().to_string().contains("regular file"), "{}", path.display());
        }
        assert!(open_regular(Path::new("/proc/self/exe")).is_ok());
    }

    #[test]
    fn the_test_program_has_a_name() {
        assert!(program_name().starts_with("zen5turbo_host"), "{}", program_name());
    }
}
