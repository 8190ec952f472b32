//! A descriptor of our own inside somebody else's program.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use libc::{c_int, c_long};

use super::map::FileId;
use crate::proc::{self, FIRST_FD};
use crate::syscall::check;

/// A file that the program has open, opened once more, and known again by a position that nobody else gives it.
///
/// A program may close descriptors that it did not open (`closefrom`), and open files of its own, also the same one, under
/// their numbers. So nothing is done with the number, not even closing it, before the mark was seen.
#[derive(Clone, Copy, Debug)]
pub struct MarkedFile {
    fd: c_int,
    id: FileId,
    mark: i64,
}

impl MarkedFile {
    /// Opens the file behind the program's descriptor for reading. No call of it is a cancellation point.
    ///
    /// # Errors
    /// No procfs, no descriptor is free, or a file without positions.
    pub fn reopen(fd: c_int) -> io::Result<Self> {
        let opened = proc::open(Path::new(&format!("/proc/self/fd/{fd}")))?;
        // SAFETY: no memory is accessed.
        let high = check(unsafe { libc::syscall(libc::SYS_fcntl, opened.0, libc::F_DUPFD_CLOEXEC, FIRST_FD) });
        // Without a free number so high the low one is kept; else it is closed here.
        let fd = high.map_or_else(|_| opened.into_raw(), |fd| fd as c_int);
        let mark = new_mark();
        match FileId::of(fd) {
            Ok(id) if seek(fd, mark, libc::SEEK_SET) == Some(mark) => Ok(Self { fd, id, mark }),
            _ => {
                close(fd);
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }

    /// The descriptor, if it is still this one.
    #[must_use]
    pub fn get(&self) -> Option<BorrowedFd<'_>> {
        let same =
            seek(self.fd, 0, libc::SEEK_CUR) == Some(self.mark) && FileId::of(self.fd).is_ok_and(|id| id == self.id);
        // SAFETY: open, as was just seen; should the program close it now, calls with it fail, or read another file.
        same.then(|| unsafe { BorrowedFd::borrow_raw(self.fd) })
    }

    /// Closes it, if it is still this one.
    pub fn close(self) {
        if self.get().is_some() {
            close(self.fd);
        }
    }
}

fn close(fd: c_int) {
    // SAFETY: a descriptor of ours.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

fn seek(fd: c_int, to: i64, from: c_int) -> Option<i64> {
    // SAFETY: no memory is accessed.
    let at: c_long = unsafe { libc::syscall(libc::SYS_lseek, fd, to, from) };
    (at >= 0).then_some(at)
}

/// A position that no program comes to by reading: odd, about half a TiB, another one for each file and process.
fn new_mark() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    1 << 39 | i64::from(seed) << 8 | NEXT.fetch_add(2, Relaxed) & 0xff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::map::{read_into, tests::file};
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn it_is_known_again_until_its_number_is_another_files() {
        let program = file(4096);
        let ours = MarkedFile::reopen(program.as_raw_fd()).unwrap();
        let fd = ours.get().expect("open").as_raw_fd();
        assert!(fd >= FIRST_FD && fd != program.as_raw_fd());
        let mut bytes = [0_u8; 16];
        // SAFETY: a buffer of this function.
        unsafe { read_into(bytes.as_mut_ptr() as usize..bytes.as_mut_ptr() as usize + 16, fd, 7).unwrap() };
        assert_eq!(bytes[0], 1);
        // The program closes it and has the same file under the number.
        // SAFETY: both are descriptors of this test.
        assert_eq!(unsafe { libc::dup2(program.as_raw_fd(), fd) }, fd);
        assert!(ours.get().is_none());
        ours.close();
        assert!(FileId::of(fd).is_ok(), "the program's descriptor was closed");
        close(fd);
        assert!(ours.get().is_none() && MarkedFile::reopen(-1).is_err());
    }

    #[test]
    fn it_is_closed_once() {
        let program = file(4096);
        let ours = MarkedFile::reopen(program.into_raw_fd()).unwrap();
        let fd = ours.get().unwrap().as_raw_fd();
        ours.close();
        assert!(FileId::of(fd).is_err());
        ours.close();
    }
}
