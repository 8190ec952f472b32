//! Small readers of procfs, and of what the environment says of the user.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use libc::c_int;

use crate::syscall::check;

/// The name of the running program: the last part of `/proc/self/exe`, else of the command line;
/// `?` when neither can be read.
#[must_use]
pub fn program_name() -> String {
    let last_part = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    if let Ok(exe) = std::fs::read_link("/proc/self/exe") {
        return last_part(&exe.to_string_lossy());
    }
    read_text("/proc/self/cmdline")
        .map_or("?".to_owned(), |line| last_part(line.split('\0').next().unwrap_or_default()))
}

/// Descriptors below this one belong to the program: to those that it numbers itself, as with dup2, and to shells, which
/// keep theirs from 10 on.
pub const FIRST_FD: c_int = 200;

/// A descriptor of our own, by the system calls themselves.
pub(crate) struct Opened(pub(crate) c_int);

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: ours, and nobody else knows it.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }
}

/// No file of procfs or sysfs is longer.
const LONGEST: usize = 64 << 20;

/// The text of a small file, such as those of procfs and sysfs; bytes that are not UTF-8 are replaced.
///
/// Unlike the standard library's, this makes no call but `openat`, `read` and `close`, which every program makes (a
/// seccomp filter may kill at `statx`), and none of the C library's functions that would act on a pending
/// `pthread_cancel`: the caller may be a hook in a function that never did.
///
/// # Errors
/// The kernel's, or a path with a zero byte, or an absurdly long file.
pub fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    let text = open(path.as_ref())?.read(LONGEST)?;
    text.ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))
}

/// The same of a regular file of at most so many bytes, with `fstat` besides. What another process or a user named may be a
/// pipe, or a device without an end.
///
/// # Errors
/// As [`read_text`]; it is no regular file, or larger.
pub fn read_regular(path: &Path, most: usize) -> io::Result<String> {
    let file = open(path)?;
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: fstat fills the record; zeroes are valid for all its fields.
    let (result, stat) = unsafe { (libc::fstat(file.0, stat.as_mut_ptr()), stat.assume_init()) };
    check(result.into())?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.read(most)?.ok_or_else(|| io::Error::other(format!("it is larger than {} KiB", most >> 10)))
}

/// Opens a file to be read.
pub(crate) fn open(path: &Path) -> io::Result<Opened> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // It may be a pipe, which would keep the reader waiting.
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: a C string.
    let opened = check(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    Ok(Opened(opened as c_int))
}

impl Opened {
    /// The number; whoever takes it closes it.
    pub(crate) fn into_raw(self) -> c_int {
        std::mem::ManuallyDrop::new(self).0
    }

    /// All of it, as text; `None` when there are more bytes.
    fn read(&self, most: usize) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        let mut part = [0_u8; 4096];
        loop {
            // SAFETY: the kernel writes no more than the buffer has room for.
            match check(unsafe { libc::syscall(libc::SYS_read, self.0, part.as_mut_ptr(), part.len()) }) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if bytes.len() > most {
                return Ok(None);
            }
        }
        Ok(Some(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())))
    }
}

/// Whether there is something at this path, by `access`, which the loader itself calls at the start of every program.
#[must_use]
pub fn exists(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: a C string.
    unsafe { libc::access(path.as_ptr(), libc::F_OK) == 0 }
}

/// Whether the kernel started this program with more rights than its caller has, as a set-user-ID program: it must not
/// do what its environment says ("secure-execution mode" in ld.so(8)).
#[must_use]
pub fn is_secure_execution() -> bool {
    // SAFETY: getauxval reads the auxiliary vector, which the kernel always supplies.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
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
    field_kib(&read_text("/proc/self/status").ok()?, "VmLck")
}

/// Whether this process may lock as much memory as there is: no limit, whatever rights it has beside.
#[must_use]
pub fn may_lock_without_limit() -> bool {
    limit(libc::RLIMIT_MEMLOCK).is_ok_and(|limit| limit == libc::RLIM_INFINITY)
}

/// A limit of this process's resources, as it is in force.
fn limit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlim_t> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills the local.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) }.into())?;
    Ok(limit.rlim_cur)
}

/// Whether this process may write a file of this size: one that grows beyond RLIMIT_FSIZE is a signal, which ends the
/// program.
///
/// # Errors
/// EFBIG when it may not.
pub fn may_write(bytes: usize) -> io::Result<()> {
    if limit(libc::RLIMIT_FSIZE)? < bytes as u64 {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(())
}

/// The first word of a line such as `Seccomp: 2`, as `/proc/self/status` holds them; `None` when there is none.
#[must_use]
pub fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.split_whitespace().next()
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
    fn files_are_read_to_their_end_and_whatever_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for bytes in [b"".to_vec(), b"a\xFFb".to_vec(), vec![b'x'; 4096], vec![b'y'; 10_000]] {
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read_text(&path).unwrap(), String::from_utf8_lossy(&bytes));
        }
        assert!(exists(&path) && !exists(&dir.path().join("none")));
        assert_eq!(read_text(dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(read_text(dir.path()).is_err() && read_text("a\0b").is_err());
        assert_eq!(read_regular(&path, 10_000).unwrap().len(), 10_000);
        assert!(read_regular(&path, 9_999).unwrap_err().to_string().contains("larger than 9 KiB"));
        assert_eq!(field("Seccomp_filters:\t1\nSeccomp:\t2 x\n", "Seccomp"), Some("2"));
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), dir.path()] {
            assert!(open_regular(path).unwrap_err().to_string().contains("regular file"), "{}", path.display());
            assert!(read_regular(path, 9).unwrap_err().to_string().contains("regular file"), "{}", path.display());
        }
        assert!(open_regular(Path::new("/proc/self/exe")).is_ok());
    }

    #[test]
    fn the_test_program_has_a_name() {
        assert!(program_name().starts_with("zen5turbo_host"), "{}", program_name());
    }
}
